//! The maps, and the library's view of them.

use core::mem::{MaybeUninit, offset_of};

use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_SUCCESS, xdp_md},
    btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, lpm_trie::Key},
    helpers::generated::{
        bpf_check_mtu, bpf_fib_lookup, bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_xdp_adjust_head,
        bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
    },
    macros::btf_map,
    programs::XdpContext,
};
use lb_common::{
    Address, Backend, BackendCounters, Bucket, Budget, Features, FragmentKey, FragmentPath, Handoff, Hop,
    MAX_BACKENDS, MAX_SERVICES, NatSet, NewFlows, Openings, QuicKey, Reason, Service, ServiceKey, Settings,
    SlotTable, SourceKey, Tokens, Trace, Word,
    chunk::{self, LINES, Reading, Request, split},
    flow::TICK_SHIFT,
    program,
    service::{PROBES, ServicePlace},
};
use lb_ebpf::{
    Frame, Tables,
    flow_table::{Place, find_idle, next},
    parse::Packet,
};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::sum::sum_of_frame;

/// What is configured: set before the object is loaded, and so a constant to the verifier, which removes the
/// code for everything else.
#[unsafe(no_mangle)]
static FEATURES: u64 = u64::MAX;

/// See [`lb_common::constants`].
#[unsafe(no_mangle)]
static SERVICE_BITS: u32 = 6;

/// See [`lb_common::constants`]. Not 0, or the compiler would put it among what may change.
#[unsafe(no_mangle)]
static JIFFY: u64 = 1_000_000;

/// BPF_F_MMAPABLE: the daemon maps it too, and the kernel aligns it to a page, so that 64 bytes are one cache line.
const MMAPABLE: usize = 1 << 10;

/// BPF_F_NO_PREALLOC: elements are few, the limit is high.
const NO_PREALLOC: usize = 1;

#[btf_map]
pub static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map]
pub static SERVICES: Array<ServicePlace, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static SLOT_TABLES: ArrayOfMaps<Array<SlotTable, 1>, MAX_SERVICES> = ArrayOfMaps::new();
#[btf_map]
pub static BACKENDS: Array<Backend, MAX_BACKENDS> = Array::new();
#[btf_map]
pub static FLOWS: ArrayOfMaps<Array<ChunkWords, 1>, 1> = ArrayOfMaps::new();
#[btf_map]
pub static NAT: ArrayOfMaps<Array<ChunkWords, 1>, 1> = ArrayOfMaps::new();
#[btf_map]
pub static READING: Array<Reading, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentPath, 1> = LruHashMap::new();
/// The odd packet that a CPU is just treating; and the one that is explained.
#[btf_map]
pub static PACKETS: PerCpuArray<Packet, 2> = PerCpuArray::new();
#[btf_map]
pub static AFFINITY: Array<Bucket, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static DENY: LpmTrie<[u8; 16], u32, 1> = LpmTrie::new();
#[btf_map]
pub static SOURCES: LruHashMap<SourceKey, Tokens, 1> = LruHashMap::new();
#[btf_map]
pub static NEW_FLOWS: PerCpuArray<NewFlows, 1> = PerCpuArray::new();
#[btf_map]
pub static QUIC_IDS: HashMap<QuicKey, u32, MAX_BACKENDS, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static REASONS: PerCpuArray<u64, { Reason::COUNT * (MAX_SERVICES + 1) }> = PerCpuArray::new();
#[btf_map]
pub static COUNTERS: PerCpuArray<BackendCounters, MAX_BACKENDS> = PerCpuArray::new();
#[btf_map]
pub static BEGUN: PerCpuArray<u64, MAX_BACKENDS> = PerCpuArray::new();
#[btf_map]
pub static OPENINGS: PerCpuArray<Openings, MAX_BACKENDS> = PerCpuArray::new();
#[btf_map]
pub static PROGRAMS: ProgramArray<{ program::NEXT.len() }> = ProgramArray::new();
#[btf_map]
pub static HANDOFF: PerCpuArray<Handoff, 1> = PerCpuArray::new();
#[btf_map]
pub static BUDGETS: PerCpuArray<Word, { Budget::COUNT }> = PerCpuArray::new();
#[btf_map]
pub static TRACE: Array<Trace, 1> = Array::new();

/// A chunk as the kernel knows it. Not the struct: Linux before 6.2 notes of a map whether its struct was searched for
/// locks, and would refuse the daemon's chunks, which are made without a description, as being of another kind.
type ChunkWords = [u64; chunk::WORDS];

/// An item of a chunk; the first one for an index that no shape gives.
#[inline(always)]
fn item<T>(chunk: &ChunkWords, index: usize) -> &T {
    const ITEMS: usize = chunk::LINES * size_of::<Bucket>();
    // SAFETY: the items begin behind the head.
    let mut item = unsafe { chunk.as_ptr().add(chunk::HEAD_WORDS) };
    // SAFETY: adds to the pointer no more than the last item's offset. By assembly: the compiler keeps the offset in memory
    // before it compares it, and Linux 6.1 would not know the bound of what is read back.
    unsafe {
        core::arch::asm!(
            "if {offset} > {last} goto +1",
            "{item} += {offset}",
            item = inout(reg) item,
            offset = in(reg) index * size_of::<T>(),
            last = const ITEMS - size_of::<T>(),
        );
    }
    // SAFETY: within the chunk, whose items are words of which any value is good.
    unsafe { &*item.cast() }
}

/// What is configured.
#[inline(always)]
pub fn features() -> Features {
    Features(constant(&raw const FEATURES))
}

/// The maps as the library wants them.
pub struct Maps<'a, const DRY_RUN: bool> {
    pub ctx: &'a XdpContext,
}

impl<const DRY_RUN: bool> Tables for Maps<'_, DRY_RUN> {
    const DRY_RUN: bool = DRY_RUN;

    #[inline(always)]
    fn features(&self) -> Features {
        features()
    }

    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        SETTINGS.get(0)
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<(u32, &Service)> {
        let mut place = key.place(constant(&raw const SERVICE_BITS));
        let mut probe = 0;
        while probe < PROBES {
            let found = SERVICES.get(place)?;
            if found.has(key) {
                return Some((place, found.service()));
            }
            if found.is_unused() {
                return None;
            }
            place += 1;
            probe = next(probe);
        }
        None
    }

    #[inline(always)]
    fn service_key(&self, place: u32) -> Option<ServiceKey> {
        Some(SERVICES.get(place)?.key())
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
    fn bucket(&self, place: u32) -> Option<&Bucket> {
        let (chunk, index) = split(place);
        Some(item(FLOWS.get_value(chunk, &0)?, index))
    }

    #[inline(always)]
    fn nat_set(&self, place: u32) -> Option<&NatSet> {
        let (chunk, index) = split(place);
        Some(item(NAT.get_value(chunk, &0)?, index))
    }

    #[inline(always)]
    fn find_idle(&self, bucket: &Bucket, now: u16, place: &mut Place) {
        find_idle_entry(bucket, now as u32, place);
    }

    #[inline(always)]
    fn affinity_bucket(&self, index: u32) -> Option<&Bucket> {
        AFFINITY.get(index)
    }

    #[inline(always)]
    fn is_denied(&self, client: &Address) -> bool {
        let query = DenyQuery { zero: 0, length: 128, client: *client };
        // SAFETY: length and client lie behind each other, as in the packed key, which any address may hold.
        let key =
            unsafe { &*(&raw const query).byte_add(offset_of!(DenyQuery, length)).cast::<Key<[u8; 16]>>() };
        DENY.get(key) == Some(&1)
    }

    #[inline(always)]
    fn stores_new(&self, tick: u16, limit: u32) -> bool {
        let Some(flows) = NEW_FLOWS.get_ptr_mut(0) else { return true };
        // SAFETY: a per-CPU element; no other program runs on this CPU meanwhile.
        unsafe { (*flows).admit(tick, limit) }
    }

    #[inline(always)]
    fn take_token(&self, source: &SourceKey, rate: u32, burst: u32) -> bool {
        let now = milliseconds();
        // SAFETY: the element is one word; another source's, if it is given away meanwhile.
        if let Some(tokens) = unsafe { SOURCES.get(source) } {
            return tokens.take(now, rate, burst, DRY_RUN);
        }
        if !DRY_RUN {
            // The token for this flow is taken. A table that is full of sources forgets one.
            let _ = SOURCES.insert(source, Tokens::full(now, burst - 1), 0);
        }
        true
    }

    #[inline(always)]
    fn quic_backend(&self, id: &QuicKey) -> Option<u16> {
        // SAFETY: the element is one word.
        unsafe { QUIC_IDS.get(id) }.map(|number| *number as u16)
    }

    #[inline(always)]
    fn tick(&self) -> u16 {
        tick()
    }

    #[inline(always)]
    fn keep(&self, packet: Packet) -> Option<&Packet> {
        let place = PACKETS.get_ptr_mut(DRY_RUN as u32)?;
        // SAFETY: a per-CPU element, of which nobody else holds a reference while this packet is treated.
        unsafe {
            place.write(packet);
            Some(&*place)
        }
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<&FragmentPath> {
        // SAFETY: read at once. An element that another packet takes over meanwhile sends one fragment astray.
        unsafe { FRAGMENTS.get(key) }
    }

    #[inline(always)]
    fn remember_fragment(&self, key: &FragmentKey, path: &FragmentPath) {
        // A full map gives up its oldest elements; should it fail all the same, the rest is dropped.
        let _ = FRAGMENTS.insert(key, path, 0);
    }

    #[inline(always)]
    fn route(&self, _: &mut Frame, l3: usize) -> Hop {
        let mut hop = Hop::default();
        fib_lookup(self.ctx.ctx, l3, &mut hop);
        hop
    }

    #[inline(always)]
    fn mtu(&self, interface: u32) -> u16 {
        let mtu = mtu_of(self.ctx.ctx, interface);
        if mtu > u16::MAX as u32 { u16::MAX } else { mtu as u16 }
    }

    #[inline(always)]
    fn grow(&self, frame: &mut Frame, bytes: usize) -> bool {
        self.adjust(frame, -(bytes as i32))
    }

    #[inline(always)]
    fn shrink(&self, frame: &mut Frame, bytes: usize) -> bool {
        self.adjust(frame, bytes as i32)
    }

    #[inline(always)]
    fn cut(&self, frame: &mut Frame, length: usize) -> bool {
        // SAFETY: the context is this call's; all pointers into the packet are taken anew.
        unsafe {
            let change = length as i64 - bpf_xdp_get_buff_len(self.ctx.ctx) as i64;
            let cut = change <= 0 && bpf_xdp_adjust_tail(self.ctx.ctx, change as i32) == 0;
            frame.moved(self.ctx.data(), self.ctx.data_end());
            cut
        }
    }

    #[inline(always)]
    fn sum(&self, _: &mut Frame, from: u32, length: u32) -> u32 {
        sum_of_frame(self.ctx.ctx, from, length)
    }

    #[inline(always)]
    fn count_opened(&self, backend: u16) {
        count_opening(backend as u32, 0);
    }

    #[inline(always)]
    fn count_answered(&self, backend: u16) {
        count_opening(backend as u32, 1);
    }

    #[inline(always)]
    fn budget(&self, kind: Budget) -> Option<&Word> {
        BUDGETS.get(kind as u32)
    }
}

/// A global function, which the verifier walks once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_idle_entry(bucket: *const Bucket, now: u32, place: *mut Place) -> u32 {
    // SAFETY: both come from references; the verifier wants to see that they are not null.
    let (Some(bucket), Some(place)) = (unsafe { bucket.as_ref() }, unsafe { place.as_mut() }) else {
        return 1;
    };
    let Some(settings) = SETTINGS.get(0) else { return 1 };
    let backend = |number: u16| BACKENDS.get(number as u32);
    find_idle(bucket, now as u16, settings.closing_idle, backend, place);
    0
}

/// A global function, which the verifier walks once, and not with all that comes after it once more for each way that leads
/// there.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_opening(backend: u32, answered: u32) -> u32 {
    let Some(openings) = OPENINGS.get(backend) else { return 0 };
    Openings::count(if answered == 0 { &openings.opened } else { &openings.answered });
    0
}

impl<const DRY_RUN: bool> Maps<'_, DRY_RUN> {
    /// Moves the frame's start by this many bytes.
    #[inline(always)]
    fn adjust(&self, frame: &mut Frame, by: i32) -> bool {
        // SAFETY: the context is this call's; all pointers into the packet are taken anew.
        unsafe {
            let moved = bpf_xdp_adjust_head(self.ctx.ctx, by) == 0;
            frame.moved(self.ctx.data(), self.ctx.data_end());
            moved
        }
    }
}

/// The clock. The kernel compiles reading its counter of timer ticks into the program, where asking for the
/// coarse time is a call of 12 ns.
#[inline(always)]
pub fn tick() -> u16 {
    // SAFETY: a helper without arguments (kernel 5.6, commit 5576b991e9c1).
    let jiffies = unsafe { bpf_jiffies64() };
    (jiffies.wrapping_mul(constant(&raw const JIFFY)) >> TICK_SHIFT) as u16
}

/// One of the object's constants.
#[inline(always)]
fn constant<T: Copy>(constant: *const T) -> T {
    // SAFETY: only called with pointers to the statics above; volatile, because the value is another one
    // when the program runs.
    unsafe { constant.read_volatile() }
}

/// The clock in milliseconds; it wraps.
#[inline(always)]
fn milliseconds() -> u32 {
    // SAFETY: a helper without arguments (kernel 5.11, commit d05512618056).
    (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000) as u32
}

/// The cache lines of a chunk of the flow table or of the NAT records.
#[inline(always)]
pub fn chunk_lines(request: &Request) -> Option<&'static [Bucket; LINES]> {
    let table = if request.nat { &NAT } else { &FLOWS };
    let words = table.get_value(request.chunk, &0)?;
    // SAFETY: the lines begin behind the head, and are as many words as follow.
    Some(unsafe { &*words.as_ptr().add(chunk::HEAD_WORDS).cast() })
}

/// A key of the deny list with four bytes before it, so that the address is aligned: the verifier refuses
/// words on the stack that are not.
#[repr(C)]
struct DenyQuery {
    zero: u32,
    length: u32,
    client: Address,
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `struct bpf_fib_lookup` (include/uapi/linux/bpf.h) in words: reading its unaligned MAC addresses as
/// such is refused on the stack.
#[repr(C, align(8))]
struct FibQuery {
    family: u8,
    protocol: u8,
    ports: [u16; 2],
    /// The helper refuses what is longer than the MTU of the way out.
    length: u16,
    interface: u32,
    class: u32,
    source: [u32; 4],
    destination: [u32; 4],
    table: u32,
    /// Source MAC address, then destination MAC address.
    macs: [u32; 3],
}

const _: () = assert!(size_of::<FibQuery>() == 64);

impl FibQuery {
    /// Makes it all zero, in place and word by word: the compiler makes of `Default` a call of memset, which is
    /// a loop over bytes and one more frame on the stack.
    #[inline(always)]
    fn zero(place: &mut MaybeUninit<FibQuery>) -> &mut FibQuery {
        let words: *mut u64 = place.as_mut_ptr().cast();
        // SAFETY: eight aligned words are all of it, and zero is a value of each of its fields.
        unsafe {
            words.write_volatile(0);
            words.add(1).write_volatile(0);
            words.add(2).write_volatile(0);
            words.add(3).write_volatile(0);
            words.add(4).write_volatile(0);
            words.add(5).write_volatile(0);
            words.add(6).write_volatile(0);
            words.add(7).write_volatile(0);
            place.assume_init_mut()
        }
    }
}

/// Asks the kernel's routing tables about the packet as it now is. A function of its own that takes no
/// more than the context and an offset: its 64-byte query, and whatever was passed to it, would take stack from the
/// whole program, and 512 bytes are all there is.
#[inline(never)]
fn fib_lookup(ctx: *mut xdp_md, l3: usize, hop: &mut Hop) {
    let ctx = XdpContext::new(ctx);
    // SAFETY: data and data_end of this call's packet; nothing below moves them.
    let mut frame = unsafe { Frame::from_raw(ctx.data(), ctx.data_end()) };
    let mut place = MaybeUninit::uninit();
    let query = FibQuery::zero(&mut place);
    query.interface = ctx.ingress_ifindex() as u32;
    if let Ok(ip) = frame.at::<Ipv4Hdr>(l3)
        && ip.version() == 4
    {
        query.family = AF_INET;
        query.protocol = ip.proto;
        query.length = ip.tot_len();
        query.source[0] = u32::from_ne_bytes(ip.src_addr);
        query.destination[0] = u32::from_ne_bytes(ip.dst_addr);
    } else if let Ok(ip) = frame.at::<Ipv6Hdr>(l3) {
        query.family = AF_INET6;
        query.protocol = ip.next_hdr;
        query.length = ip.payload_len().saturating_add(Ipv6Hdr::LEN as u16);
        query.source = Address::v6(ip.src_addr).words32();
        query.destination = Address::v6(ip.dst_addr).words32();
    }
    let size = size_of::<FibQuery>() as i32;
    // SAFETY: the context is this call's; the struct has the kernel's layout and size.
    let found = unsafe { bpf_fib_lookup(ctx.ctx.cast(), (&raw mut *query).cast(), size, 0) };
    if found == BPF_FIB_LKUP_RET_SUCCESS as i64 && query.interface <= Hop::MAX_INTERFACE {
        let [a, b, c] = query.macs.map(u64::from);
        *hop = Hop::from_macs(query.interface, b >> 16 | c << 16, a | (b & 0xffff) << 32);
    }
}

/// The MTU of an interface, 0 when there is none of this number. A function of its own for the stack's sake.
#[inline(never)]
fn mtu_of(ctx: *mut xdp_md, interface: u32) -> u32 {
    let mut mtu = 0;
    // SAFETY: the context is this call's; the kernel writes the MTU (5.12, commit 34b2021cc616).
    unsafe { bpf_check_mtu(ctx.cast(), interface, &raw mut mtu, 0, 0) };
    mtu
}
