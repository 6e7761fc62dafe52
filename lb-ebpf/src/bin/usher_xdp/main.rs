//! The XDP programs: maps, clock, and the one `match` from fate to action. Everything that decides is in
//! the library.
//!
//! `usher` is attached to interfaces and hands odd packets on to `usher_odd` by a tail call. Both exist
//! once more without side effects, run by `BPF_PROG_TEST_RUN` to tell what would become of a packet.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod capture;
mod maps;
mod sum;

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX},
    helpers::generated::bpf_redirect,
    macros::xdp,
    programs::XdpContext,
};
use lb_common::{
    Fate, Features,
    chunk::{LINES, LINES_PER_SET},
    program::next,
};
use lb_ebpf::{Frame, Outcome, answer, process, process_icmp, process_odd, read::read};

use crate::maps::{
    BEGUN, COUNTERS, HANDOFF, Maps, PROGRAMS, READING, REASONS, TRACE, chunk_lines, features, tick,
};

// Inlined into its entry point, like the others: a call takes 32 bytes of the stack in Linux 6.1.
#[xdp(frags)]
#[inline(always)]
fn usher(ctx: XdpContext) -> u32 {
    if features().has(Features::CAPTURE) {
        capture::capture_begin(ctx.ctx);
    }
    let outcome = process(&mut frame(&ctx), ingress(&ctx), &Maps::<false> { ctx: &ctx });
    hand_on(&ctx, &outcome, next::ODD, next::ICMP);
    hand_over(&ctx, &outcome);
    act(&ctx, &outcome)
}

#[xdp(frags)]
#[inline(always)]
fn usher_odd(ctx: XdpContext) -> u32 {
    let outcome = process_odd(&mut frame(&ctx), ingress(&ctx), &Maps::<false> { ctx: &ctx });
    hand_on(&ctx, &outcome, next::ODD, next::ICMP);
    hand_over(&ctx, &outcome);
    act(&ctx, &outcome)
}

#[xdp(frags)]
#[inline(always)]
fn usher_icmp(ctx: XdpContext) -> u32 {
    let outcome = process_icmp(&mut frame(&ctx), ingress(&ctx), &Maps::<false> { ctx: &ctx });
    hand_over(&ctx, &outcome);
    act(&ctx, &outcome)
}

/// Goes on where the others left a packet that is to be answered.
#[xdp(frags)]
#[inline(always)]
fn usher_answer(ctx: XdpContext) -> u32 {
    let Some(handoff) = HANDOFF.get(0) else { return XDP_DROP };
    let so_far = Outcome::from_handoff(handoff);
    let mut outcome = answer(&mut frame(&ctx), &so_far, &Maps::<false> { ctx: &ctx });
    if outcome.reason != so_far.reason {
        return end(&ctx, &outcome, XDP_DROP);
    }
    outcome.interface = ingress(&ctx);
    end(&ctx, &outcome, XDP_TX)
}

#[xdp(frags)]
#[inline(always)]
fn usher_explain(ctx: XdpContext) -> u32 {
    let outcome = process(&mut frame(&ctx), ingress(&ctx), &Maps::<true> { ctx: &ctx });
    hand_on(&ctx, &outcome, next::EXPLAIN_ODD, next::EXPLAIN_ICMP);
    tell(&outcome)
}

#[xdp(frags)]
#[inline(always)]
fn usher_explain_odd(ctx: XdpContext) -> u32 {
    let outcome = process_odd(&mut frame(&ctx), ingress(&ctx), &Maps::<true> { ctx: &ctx });
    hand_on(&ctx, &outcome, next::EXPLAIN_ODD, next::EXPLAIN_ICMP);
    tell(&outcome)
}

#[xdp(frags)]
#[inline(always)]
fn usher_explain_icmp(ctx: XdpContext) -> u32 {
    tell(&process_icmp(&mut frame(&ctx), ingress(&ctx), &Maps::<true> { ctx: &ctx }))
}

/// Returns the clock's tick: for the daemon, which judges ages too.
#[xdp(frags)]
#[inline(always)]
fn usher_clock(_: XdpContext) -> u32 {
    tick() as u32
}

/// Reads a chunk of a table for the daemon. 1 when there is no such chunk.
#[xdp(frags)]
#[inline(always)]
fn usher_read(_: XdpContext) -> u32 {
    let mut first = 0;
    while first < LINES {
        if read_part(first as u32) != 0 {
            return 1;
        }
        first += LINES_PER_SET;
    }
    0
}

/// A global function, which the verifier walks once and not for each part.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_part(first: u32) -> u32 {
    let Some(reading) = READING.get(0) else { return 1 };
    let request = reading.request();
    let Some(chunk) = chunk_lines(&request) else { return 1 };
    let now = tick();
    let freed = read(chunk, reading, &request, now, first as usize);
    reading.tick.store(now as u64);
    reading.freed.store(reading.freed.load() + freed);
    0
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

/// Leaves odd packets and ICMP to the programs at these places. Returns only for other packets, or when that
/// program is missing.
#[inline(always)]
fn hand_on(ctx: &XdpContext, outcome: &Outcome, odd: u32, icmp: u32) {
    let next = match outcome.reason.fate() {
        Fate::Odd => odd,
        Fate::Icmp => icmp,
        _ => return,
    };
    // SAFETY: nothing here waits to be dropped.
    unsafe { PROGRAMS.tail_call(ctx, next) };
}

/// Leaves a packet that is to be answered to the program for that, and tells it what was decided. Returns as above.
#[inline(always)]
fn hand_over(ctx: &XdpContext, outcome: &Outcome) {
    if matches!(outcome.reason.fate(), Fate::Refuse | Fate::TooBig | Fate::Expired)
        && let Some(handoff) = HANDOFF.get_ptr_mut(0)
    {
        // SAFETY: a per-CPU element, and the next program runs on this CPU before any other.
        unsafe { *handoff = outcome.handoff() };
        // SAFETY: nothing here waits to be dropped.
        unsafe { PROGRAMS.tail_call(ctx, next::ANSWER) };
    }
}

/// Ends a packet as its fate wants it.
#[inline(always)]
fn act(ctx: &XdpContext, outcome: &Outcome) -> u32 {
    let action = match outcome.reason.fate() {
        Fate::Pass | Fate::Odd | Fate::Icmp | Fate::Refuse => XDP_PASS,
        Fate::Drop | Fate::TooBig | Fate::Expired => XDP_DROP,
        Fate::Forward if outcome.interface == ingress(ctx) => XDP_TX,
        // SAFETY: a helper without pointers.
        Fate::Forward => unsafe { bpf_redirect(outcome.interface, 0) as u32 },
    };
    end(ctx, outcome, action)
}

/// Counts a packet's end, and says so to the kernel.
#[inline(always)]
fn end(ctx: &XdpContext, outcome: &Outcome, action: u32) -> u32 {
    count(outcome);
    if features().has(Features::CAPTURE) {
        capture::end(ctx.ctx, outcome, action);
    }
    #[cfg(feature = "debug-log")]
    log(ctx, outcome, action);
    action
}

/// Tells developers of every decision; not in the ordinary object.
#[cfg(feature = "debug-log")]
fn log(ctx: &XdpContext, outcome: &Outcome, action: u32) {
    let (reason, known) = (outcome.reason as u8, outcome.known as u8);
    aya_log_ebpf::trace!(
        ctx,
        "reason={} service={} backend={} known={} interface={} action={}",
        reason,
        outcome.service,
        outcome.backend,
        known,
        outcome.interface,
        action
    );
}

#[inline(always)]
fn count(outcome: &Outcome) {
    if let Some(packets) = REASONS.get_ptr_mut(outcome.reason.counter(outcome.service)) {
        // SAFETY: a per-CPU element; no other program runs on this CPU meanwhile.
        unsafe { *packets += 1 };
    }
    let Some(backend) = outcome.sent_to() else { return };
    if let Some(counters) = COUNTERS.get_ptr_mut(backend as u32) {
        // SAFETY: as above.
        unsafe {
            (*counters).packets += 1;
            (*counters).bytes += outcome.length as u64;
        }
    }
    if outcome.begins_flow()
        && let Some(begun) = BEGUN.get_ptr_mut(backend as u32)
    {
        // SAFETY: as above.
        unsafe { *begun += 1 };
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
        Fate::Pass | Fate::Odd | Fate::Icmp | Fate::Refuse => XDP_PASS,
        Fate::Drop | Fate::TooBig | Fate::Expired => XDP_DROP,
        Fate::Forward => XDP_REDIRECT,
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Never linked: `cargo xtask build-ebpf` refuses an object in which a panic is reachable.
    loop {}
}
