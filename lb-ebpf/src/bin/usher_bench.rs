//! The benchmark's programs: one makes the frame that the program under test gets, and calls it; the other
//! stands in for the program under test to measure what the first costs.
//!
//! `BPF_PROG_TEST_RUN` with `repeat` gives every run the frame as the last one left it, and the called
//! program's return ends the run. So the wrapper mends the frame at the start of each.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_TX},
    btf_maps::{Array, ProgramArray},
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::bench::{COVERED, MAX_ANSWERS, Plan, WORDS, offset};

#[btf_map]
static PLAN: Array<Plan, 1> = Array::new();
#[btf_map]
static TARGET: ProgramArray<1> = ProgramArray::new();
#[btf_map]
static ANSWERS: Array<u32, MAX_ANSWERS> = Array::new();

#[xdp(frags)]
fn usher_bench(ctx: XdpContext) -> u32 {
    if prepare(&ctx).is_some() {
        // SAFETY: nothing here is left to be dropped.
        unsafe { TARGET.tail_call(&ctx, 0) };
    }
    XDP_ABORTED
}

#[xdp(frags)]
fn usher_null(_: XdpContext) -> u32 {
    XDP_TX
}

/// Makes the next frame of the plan.
#[inline(always)]
fn prepare(ctx: &XdpContext) -> Option<()> {
    // SAFETY: the pointer is to the map's one element; the benchmark runs one program at a time.
    let plan = unsafe { &mut *PLAN.get_ptr_mut(0)? };
    let index = plan.advance();
    let (address, port) =
        if plan.answers != 0 { plan.answer(*ANSWERS.get(index)?) } else { plan.client(index) };
    restore_length(ctx, plan.length)?;
    write(ctx, &plan.headers(address, port))
}

/// Takes away what the last run put in front of the frame, or lengthens it again if it was cut.
#[inline(always)]
fn restore_length(ctx: &XdpContext, length: u32) -> Option<()> {
    let grown = length_of(ctx) as i32 - length as i32;
    if grown == 0 {
        return Some(());
    }
    // SAFETY: helpers that check what they are given; the context is this call's.
    let result = unsafe {
        if grown > 0 { bpf_xdp_adjust_head(ctx.ctx, grown) } else { bpf_xdp_adjust_tail(ctx.ctx, -grown) }
    };
    if result == 0 { Some(()) } else { None }
}

/// Bytes between start and end. By assembly: the compiler would move the subtraction elsewhere, and
/// reckon with pointers in a way that the verifier refuses.
#[inline(always)]
fn length_of(ctx: &XdpContext) -> u64 {
    let mut length = ctx.data_end() as u64;
    // SAFETY: a subtraction of two registers.
    unsafe { core::arch::asm!("{end} -= {start}", end = inout(reg) length, start = in(reg) ctx.data()) };
    length
}

#[inline(always)]
fn write(ctx: &XdpContext, words: &[u64; WORDS]) -> Option<()> {
    let start = ctx.data();
    if start + COVERED > ctx.data_end() {
        return None;
    }
    let at = |word| (start + offset(word)) as *mut u64;
    // SAFETY: the words lie within the first `COVERED` bytes, which are there.
    unsafe {
        // Word 1 overlaps word 0; only what follows that is written.
        ((start + 8) as *mut u32).write_unaligned((words[1] >> 16) as u32);
        ((start + 12) as *mut u16).write_unaligned((words[1] >> 48) as u16);
        at(0).write_unaligned(words[0]);
        at(2).write_unaligned(words[2]);
        at(3).write_unaligned(words[3]);
        at(4).write_unaligned(words[4]);
        at(5).write_unaligned(words[5]);
        at(6).write_unaligned(words[6]);
        at(7).write_unaligned(words[7]);
        at(8).write_unaligned(words[8]);
        at(9).write_unaligned(words[9]);
    }
    Some(())
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Never linked: `cargo xtask build-ebpf` refuses an object in which a panic is reachable.
    loop {}
}
