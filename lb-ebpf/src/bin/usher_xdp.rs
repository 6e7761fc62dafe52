//! The XDP program: maps, clock, and the one `match` from outcome to action. Everything that decides is
//! in the library.
//!
//! Two programs over the same maps: `usher` is attached to interfaces; `usher_explain` is the same code
//! without side effects, run by `BPF_PROG_TEST_RUN` to tell what would become of a packet.

#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup, xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX},
    },
    btf_maps::{Array, ArrayOfMaps, HashMap, PerCpuArray},
    helpers::generated::{bpf_fib_lookup, bpf_ktime_get_coarse_ns, bpf_redirect},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    Address, Backend, BackendCounters, Bucket, Fate, Hop, MAX_BACKENDS, MAX_SERVICE_KEYS, MAX_SERVICES, NatSet,
    Reason, Service, ServiceKey, Settings, SlotTable, Trace, flow::TICK_SHIFT,
};
use lb_ebpf::{Frame, Outcome, Tables, parse::Packet, process};

/// BPF_F_MMAPABLE: the daemon maps the table too, and the kernel aligns it to a page, so that a bucket
/// is one cache line.
const MMAPABLE: usize = 1 << 10;

/// BPF_F_NO_PREALLOC: services are few, the limit is high.
const NO_PREALLOC: usize = 1;

#[btf_map]
static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map]
static SERVICES: HashMap<ServiceKey, Service, MAX_SERVICE_KEYS, NO_PREALLOC> = HashMap::new();
#[btf_map]
static SLOT_TABLES: ArrayOfMaps<Array<SlotTable, 1>, MAX_SERVICES> = ArrayOfMaps::new();
#[btf_map]
static BACKENDS: Array<Backend, MAX_BACKENDS> = Array::new();
#[btf_map]
static FLOWS: Array<Bucket, 1, MMAPABLE> = Array::new();
#[btf_map]
static NAT: Array<NatSet, 1, MMAPABLE> = Array::new();
#[btf_map]
static REASONS: PerCpuArray<u64, { Reason::COUNT }> = PerCpuArray::new();
#[btf_map]
static COUNTERS: PerCpuArray<BackendCounters, MAX_BACKENDS> = PerCpuArray::new();
#[btf_map]
static TRACE: Array<Trace, 1> = Array::new();

#[xdp(frags)]
fn usher(ctx: XdpContext) -> u32 {
    let outcome = decide(&ctx, &Maps::<false> { ctx: &ctx });
    count(&outcome);
    match outcome.reason.fate() {
        Fate::Pass => XDP_PASS,
        Fate::Drop => XDP_DROP,
        Fate::Forward => send(&ctx, outcome.interface),
    }
}

#[xdp(frags)]
fn usher_explain(ctx: XdpContext) -> u32 {
    let outcome = decide(&ctx, &Maps::<true> { ctx: &ctx });
    if let Some(trace) = TRACE.get_ptr_mut(0) {
        // SAFETY: the pointer is to the map's one element; the daemon runs one explanation at a time.
        unsafe { *trace = outcome.trace() };
    }
    match outcome.reason.fate() {
        Fate::Pass => XDP_PASS,
        Fate::Drop => XDP_DROP,
        Fate::Forward => XDP_REDIRECT,
    }
}

#[inline(always)]
fn decide<const DRY_RUN: bool>(ctx: &XdpContext, maps: &Maps<DRY_RUN>) -> Outcome {
    // SAFETY: data and data_end of this call's packet; nothing below moves them.
    let mut frame = unsafe { Frame::from_raw(ctx.data(), ctx.data_end()) };
    process(&mut frame, ctx.ingress_ifindex() as u32, maps)
}

#[inline(always)]
fn send(ctx: &XdpContext, interface: u32) -> u32 {
    if interface == ctx.ingress_ifindex() as u32 {
        return XDP_TX;
    }
    // SAFETY: a helper without pointers.
    unsafe { bpf_redirect(interface, 0) as u32 }
}

#[inline(always)]
fn count(outcome: &Outcome) {
    if let Some(packets) = REASONS.get_ptr_mut(outcome.reason as u32) {
        // SAFETY: a per-CPU element; no other program runs on this CPU meanwhile.
        unsafe { *packets += 1 };
    }
    if outcome.backend != 0 && let Some(counters) = COUNTERS.get_ptr_mut(outcome.backend as u32) {
        // SAFETY: as above.
        unsafe {
            (*counters).packets += 1;
            (*counters).bytes += outcome.length as u64;
        }
    }
}

/// The maps as the library wants them.
struct Maps<'a, const DRY_RUN: bool> {
    ctx: &'a XdpContext,
}

impl<const DRY_RUN: bool> Tables for Maps<'_, DRY_RUN> {
    const DRY_RUN: bool = DRY_RUN;

    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        SETTINGS.get(0)
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        // SAFETY: an element may be replaced while it is read, which for 8 bytes written at once by
        // the daemon means the old or the new service.
        unsafe { SERVICES.get(key) }
    }

    #[inline(always)]
    fn slot(&self, service: u32, slot: u32) -> Option<u16> {
        let table = SLOT_TABLES.get_value(service, &0)?;
        table.get(slot as usize).copied()
    }

    #[inline(always)]
    fn backend(&self, number: u16) -> Option<&Backend> {
        BACKENDS.get(number as u32)
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&Bucket> {
        FLOWS.get(index)
    }

    #[inline(always)]
    fn nat_set(&self, index: u32) -> Option<&NatSet> {
        NAT.get(index)
    }

    #[inline(always)]
    fn tick(&self) -> u16 {
        // SAFETY: a helper without arguments (kernel 5.11, commit d05512618056).
        (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u16
    }

    #[inline(always)]
    fn route(&self, source: &Address, destination: &Address, packet: &Packet) -> Option<Hop> {
        let mut hop = Hop::default();
        fib_lookup(self.ctx, source, destination, packet, &mut hop);
        hop.is_known().then_some(hop)
    }
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Asks the kernel's routing tables. A function of its own, so that its 64-byte query is on the stack
/// only while it runs: 512 bytes are all there is.
#[inline(never)]
fn fib_lookup(ctx: &XdpContext, source: &Address, destination: &Address, packet: &Packet, hop: &mut Hop) {
    // SAFETY: a C struct of integers and unions of integers; all zero is a value of it.
    let mut query: FibLookup = unsafe { core::mem::zeroed() };
    query.family = if packet.v6 { AF_INET6 } else { AF_INET };
    query.l4_protocol = packet.protocol;
    query.ifindex = ctx.ingress_ifindex() as u32;
    // The helper refuses what is longer than the MTU of the way out.
    query.__bindgen_anon_1.tot_len = packet.length;
    let (source, destination) = (network_words(source), network_words(destination));
    if packet.v6 {
        query.__bindgen_anon_3.ipv6_src = source;
        query.__bindgen_anon_4.ipv6_dst = destination;
    } else {
        query.__bindgen_anon_3.ipv4_src = source[3];
        query.__bindgen_anon_4.ipv4_dst = destination[3];
    }
    // SAFETY: the context is this call's, the struct and its size belong together.
    let found =
        unsafe { bpf_fib_lookup(ctx.ctx.cast(), &raw mut query, size_of::<FibLookup>() as i32, 0) };
    if found == BPF_FIB_LKUP_RET_SUCCESS as i64 {
        *hop = Hop::new(query.ifindex, query.dmac, query.smac);
    }
}

/// An address as four words in network order in memory, as the kernel's structs hold it.
#[inline(always)]
fn network_words(address: &Address) -> [u32; 4] {
    // `words32` reads memory as little endian, which this target is.
    address.words32()
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Never linked: `cargo xtask build-ebpf` refuses an object in which a panic is reachable.
    loop {}
}
