//! The sum of a long part of a frame, for the checksum of an ICMP error that quotes it.
//!
//! The kernel sums up, and only what is in its own memory: so the part is copied there first. A loop of our own is
//! one jump for each word, and Linux 6.1 refuses the 8,193rd on a way.

use core::{hint::black_box, ptr};

use aya_ebpf::{
    bindings::xdp_md,
    btf_maps::PerCpuArray,
    helpers::generated::{bpf_csum_diff, bpf_xdp_load_bytes},
    macros::btf_map,
};

/// Longest part in bytes: longer than anything that an ICMP error over IPv6 may quote.
const MOST: u64 = 1_280;

/// Bytes that one call sums up at most, before Linux 6.13 (`struct bpf_scratchpad`, net/core/filter.c).
const STEP: u64 = 512;

/// A number of bytes from 0 to [`STEP`] has no other bits than these.
const STEP_BITS: u64 = 2 * STEP - 1;

/// [`MOST`] in whole steps, and the most that the verifier believes of the last step.
const ROOM: usize = (2 * STEP + STEP_BITS + 1) as usize;

#[btf_map]
static QUOTED: PerCpuArray<[u8; ROOM], 1> = PerCpuArray::new();

/// The sum of `length` bytes of the frame from `from` on, in one's complement, in memory order; 0 when they are not
/// there. A global function, which the verifier walks once, with any arguments.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sum_of_frame(ctx: *mut xdp_md, from: u32, length: u32) -> u32 {
    let Some(room) = QUOTED.get_ptr_mut(0) else { return 0 };
    // The verifier wants to see the bounds on the very register that the helper gets. One less, because Linux 6.1
    // learns nothing from "not 0".
    let last = black_box((length as u64).wrapping_sub(1));
    if last >= MOST {
        return 0;
    }
    let room = room.cast::<u8>();
    // SAFETY: the element has room for `MOST` bytes, and three more.
    let copied = unsafe { bpf_xdp_load_bytes(ctx, from, room.cast(), last as u32 + 1) };
    if copied < 0 {
        return 0;
    }
    // SAFETY: as above. The sum is over whole words.
    unsafe {
        let end = room.add(last as usize + 1);
        end.write(0);
        end.add(1).write(0);
        end.add(2).write(0);
    }
    let bytes = (last + 4) & !3;
    let first = step(room, bytes.min(STEP), 0);
    // SAFETY: the element is larger than two steps.
    let (second, third) = unsafe { (room.add(STEP as usize), room.add(2 * STEP as usize)) };
    let so_far = step(second, bytes.saturating_sub(STEP).min(STEP), first);
    step(third, bytes.saturating_sub(2 * STEP).min(STEP), so_far)
}

/// Adds up to [`STEP`] bytes to a sum.
#[inline(always)]
fn step(from: *mut u8, bytes: u64, sum: u32) -> u32 {
    // The compiler must not know that this changes nothing.
    let bytes = black_box(bytes) & STEP_BITS;
    // SAFETY: a per-CPU element of `ROOM` bytes, of which at least so many follow.
    unsafe { bpf_csum_diff(ptr::null_mut(), 0, from.cast(), bytes as u32, sum) as u32 }
}
