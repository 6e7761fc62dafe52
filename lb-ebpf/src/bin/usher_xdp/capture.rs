//! Capturing packets: how a frame came in, what became of it, and how it was in the end.
//!
//! [`capture_begin`] and [`end`] are called with the feature [`CAPTURE`](lb_common::Features::CAPTURE) only. What
//! `capture_begin` notes outlives tail calls, since it is in a per-CPU element: an XDP program is not interrupted by
//! another one. (One that `BPF_PROG_TEST_RUN` runs may be, on kernels before 6.10; those are tests.)

use core::hint::black_box;

use aya_ebpf::{
    bindings::xdp_md,
    btf_maps::{Array, PerCpuArray, RingBuf},
    helpers::generated::{bpf_ktime_get_ns, bpf_ringbuf_output, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    macros::btf_map,
};
use lb_common::capture::{Filter, HEAD, MOST_BYTES, RECORD_HEAD, RING_BYTES, Record, ends};
use lb_ebpf::Outcome;

#[btf_map]
static CAPTURE_FILTER: Array<Filter, 1> = Array::new();
#[btf_map]
static CAPTURE_RECORD: PerCpuArray<Record, 1> = PerCpuArray::new();
#[btf_map]
static CAPTURE_RING: RingBuf<Record, { RING_BYTES as usize }> = RingBuf::new();
#[btf_map]
static CAPTURE_LOST: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Notes a frame as it came in. (A global function, like [`capture_send`]: the verifier looks at it once, and not
/// again for each way that leads there.)
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn capture_begin(ctx: *mut xdp_md) -> u32 {
    let (Some(filter), Some(record)) = (CAPTURE_FILTER.get(0), CAPTURE_RECORD.get_ptr_mut(0)) else {
        return 0;
    };
    // SAFETY: a per-CPU element; no other program runs on this CPU meanwhile.
    let record = unsafe { &mut *record };
    // SAFETY: helpers and the context of this call.
    let (now, length) = unsafe { (bpf_ktime_get_ns(), bpf_xdp_get_buff_len(ctx)) };
    record.head.arrived_ns = now;
    // SAFETY: the context of this call.
    record.head.ingress = unsafe { (*ctx).ingress_ifindex };
    record.head.before = length as u32;
    copy(ctx, &raw mut record.came, length, HEAD);
    let wanted = length.min(filter.bytes);
    record.head.before_bytes = copy(ctx, &raw mut record.bytes, wanted, MOST_BYTES) as u32;
    0
}

/// Sends a packet, if the filter wants it. `action` is what the program is about to return.
#[inline(always)]
pub fn end(ctx: *mut xdp_md, outcome: &Outcome, action: u32) {
    let parts =
        (outcome.service as u64) << 32 | (outcome.backend as u64) << 16 | (outcome.reason as u64) << 8;
    capture_send(ctx, parts | action as u64 & 0xff, outcome.interface);
}

/// Takes the outcome in registers: a reference would keep it on the stack of every program.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn capture_send(ctx: *mut xdp_md, parts: u64, egress: u32) -> u32 {
    let (Some(filter), Some(record)) = (CAPTURE_FILTER.get(0), CAPTURE_RECORD.get_ptr_mut(0)) else {
        return 0;
    };
    // SAFETY: a per-CPU element; no other program runs on this CPU meanwhile.
    let record = unsafe { &mut *record };
    // SAFETY: helpers and the context of this call.
    let (now, length) = unsafe { (bpf_ktime_get_ns(), bpf_xdp_get_buff_len(ctx)) };
    let (service, backend, reason) = ((parts >> 32) as u32, (parts >> 16) as u16, (parts >> 8) as u8);
    copy(ctx, &raw mut record.left, length, HEAD);
    let ([source, _], [_, target]) = (ends(&record.came), ends(&record.left));
    if !filter.matches(service, backend, reason, source, target) {
        return 0;
    }
    let before = record.head.before_bytes as u64;
    if before > MOST_BYTES as u64 {
        return 0;
    }
    // SAFETY: there is as much room behind as before.
    let behind = unsafe { (&raw mut record.bytes).cast::<u8>().add(before as usize) };
    let after = copy(ctx, behind, length.min(filter.bytes), MOST_BYTES);
    let head = &mut record.head;
    (head.left_ns, head.after, head.after_bytes) = (now, length as u32, after as u32);
    (head.service, head.egress, head.backend) = (service, egress, backend);
    (head.reason, head.action) = (reason, parts as u8);
    let size = RECORD_HEAD as u64 + before + after;
    // SAFETY: the record begins with its head, directly followed by as many bytes as were copied.
    let sent = unsafe {
        bpf_ringbuf_output((&raw const CAPTURE_RING).cast_mut().cast(), (&raw mut *record).cast(), size, 0)
    };
    if sent < 0
        && let Some(lost) = CAPTURE_LOST.get_ptr_mut(0)
    {
        // SAFETY: as above.
        unsafe { *lost += 1 };
    }
    0
}

/// Copies the beginning of a frame, `length` or `most` bytes of it; returns how many.
#[inline(always)]
fn copy<T>(ctx: *mut xdp_md, to: *mut T, length: u64, most: usize) -> u64 {
    // The verifier wants to see the bounds on the very register that the helper gets: the compiler must not
    // know them already. One less, because Linux 6.1 learns nothing from "not 0".
    let last = black_box(length.min(most as u64).wrapping_sub(1));
    if last >= most as u64 {
        return 0;
    }
    let length = last + 1;
    // SAFETY: the caller's memory has room for `most` bytes.
    let copied = unsafe { bpf_xdp_load_bytes(ctx, 0, to.cast(), length as u32) };
    if copied < 0 { 0 } else { length }
}
