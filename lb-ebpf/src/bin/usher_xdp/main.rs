//! The XDP programs: maps, clock, and the one `match` from fate to action. Everything that decides is in
//! the library.
//!
//! `usher` is attached to interfaces and hands odd packets on to `usher_odd` by a tail call. Both exist
//! once more without side effects, run by `BPF_PROG_TEST_RUN` to tell what would become of a packet.

#![no_std]
#![no_main]

mod maps;

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX},
    helpers::generated::bpf_redirect,
    macros::xdp,
    programs::XdpContext,
};
use lb_common::{Fate, program::next};
use lb_ebpf::{Frame, Outcome, process, process_odd};

use crate::maps::{COUNTERS, Maps, PROGRAMS, REASONS, TRACE, tick};

#[xdp(frags)]
fn usher(ctx: XdpContext) -> u32 {
    let outcome = process(&mut frame(&ctx), ingress(&ctx), &Maps::<false> { ctx: &ctx });
    hand_on(&ctx, &outcome, next::ODD);
    act(&ctx, &outcome)
}

#[xdp(frags)]
fn usher_odd(ctx: XdpContext) -> u32 {
    let outcome = process_odd(&mut frame(&ctx), ingress(&ctx), &Maps::<false> { ctx: &ctx });
    act(&ctx, &outcome)
}

#[xdp(frags)]
fn usher_explain(ctx: XdpContext) -> u32 {
    let outcome = process(&mut frame(&ctx), ingress(&ctx), &Maps::<true> { ctx: &ctx });
    hand_on(&ctx, &outcome, next::EXPLAIN_ODD);
    tell(&outcome)
}

#[xdp(frags)]
fn usher_explain_odd(ctx: XdpContext) -> u32 {
    tell(&process_odd(&mut frame(&ctx), ingress(&ctx), &Maps::<true> { ctx: &ctx }))
}

/// Returns the clock's tick: for the daemon, which judges ages too.
#[xdp(frags)]
fn usher_clock(_: XdpContext) -> u32 {
    tick() as u32
}

#[inline(always)]
fn frame(ctx: &XdpContext) -> Frame<'_> {
    // SAFETY: data and data_end of this call's packet; nothing moves them while the frame lives.
    unsafe { Frame::from_raw(ctx.data(), ctx.data_end()) }
}

#[inline(always)]
fn ingress(ctx: &XdpContext) -> u32 {
    ctx.ingress_ifindex() as u32
}

/// Leaves an odd packet to the program at this place. Returns only for other packets, or when that program
/// is missing.
#[inline(always)]
fn hand_on(ctx: &XdpContext, outcome: &Outcome, next: u32) {
    if outcome.reason.fate() == Fate::Odd {
        // SAFETY: nothing here waits to be dropped.
        unsafe { PROGRAMS.tail_call(ctx, next) };
    }
}

/// Counts a packet's end, and says so to the kernel.
#[inline(always)]
fn act(ctx: &XdpContext, outcome: &Outcome) -> u32 {
    count(outcome);
    match outcome.reason.fate() {
        Fate::Pass | Fate::Odd => XDP_PASS,
        Fate::Drop => XDP_DROP,
        Fate::Forward if outcome.interface == ingress(ctx) => XDP_TX,
        // SAFETY: a helper without pointers.
        Fate::Forward => unsafe { bpf_redirect(outcome.interface, 0) as u32 },
    }
}

#[inline(always)]
fn count(outcome: &Outcome) {
    if let Some(packets) = REASONS.get_ptr_mut(outcome.reason.counter(outcome.service)) {
        // SAFETY: a per-CPU element; no other program runs on this CPU meanwhile.
        unsafe { *packets += 1 };
    }
    if let Some(backend) = outcome.sent_to()
        && let Some(counters) = COUNTERS.get_ptr_mut(backend as u32)
    {
        // SAFETY: as above.
        unsafe {
            (*counters).packets += 1;
            (*counters).bytes += outcome.length as u64;
        }
    }
}

/// Leaves the outcome for the daemon to read.
#[inline(always)]
fn tell(outcome: &Outcome) -> u32 {
    if let Some(trace) = TRACE.get_ptr_mut(0) {
        // SAFETY: the pointer is to the map's one element; the daemon runs one explanation at a time.
        unsafe { *trace = outcome.trace() };
    }
    match outcome.reason.fate() {
        Fate::Pass | Fate::Odd => XDP_PASS,
        Fate::Drop => XDP_DROP,
        Fate::Forward => XDP_REDIRECT,
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Never linked: `cargo xtask build-ebpf` refuses an object in which a panic is reachable.
    loop {}
}
