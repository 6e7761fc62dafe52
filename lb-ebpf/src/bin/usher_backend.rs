//! The XDP program of backend hosts: maps, and the one `match` from verdict to action. Everything that
//! decides is in the library's `decap`.

#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, lpm_trie::Key},
    helpers::generated::bpf_xdp_adjust_head,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    Address, DecapSettings, Verdict,
    decap::{Action, MAX_ADDRESSES, MAX_SOURCES},
};
use lb_ebpf::{
    Frame,
    decap::{DecapTables, decapsulate},
};

#[btf_map]
static DECAP_SETTINGS: Array<DecapSettings, 1> = Array::new();
#[btf_map]
static ADDRESSES: HashMap<Address, u8, MAX_ADDRESSES> = HashMap::new();
#[btf_map]
static SOURCES: LpmTrie<[u32; 4], u32, MAX_SOURCES> = LpmTrie::new();
#[btf_map]
static VERDICTS: PerCpuArray<u64, { Verdict::COUNT }> = PerCpuArray::new();

#[xdp(frags)]
fn usher_backend(ctx: XdpContext) -> u32 {
    // SAFETY: data and data_end of this call's packet; nothing moves them until the frame was read.
    let mut frame = unsafe { Frame::from_raw(ctx.data(), ctx.data_end()) };
    let decapsulated = decapsulate(&mut frame, &Maps);
    count(decapsulated.verdict);
    match decapsulated.verdict.action() {
        Action::Pass => XDP_PASS,
        Action::Drop => XDP_DROP,
        Action::Unpack => cut(&ctx, decapsulated.cut),
    }
}

/// The stack looks at the EtherType anew after the program, in native and in generic mode.
#[inline(always)]
fn cut(ctx: &XdpContext, bytes: usize) -> u32 {
    // SAFETY: the context is this call's; the frame is not touched any more.
    match unsafe { bpf_xdp_adjust_head(ctx.ctx, bytes as i32) } {
        0 => XDP_PASS,
        // What is left would be shorter than an Ethernet header, which it never is.
        _ => XDP_DROP,
    }
}

#[inline(always)]
fn count(verdict: Verdict) {
    if let Some(packets) = VERDICTS.get_ptr_mut(verdict as u32) {
        // SAFETY: a per-CPU element; no other program runs on this CPU meanwhile.
        unsafe { *packets += 1 };
    }
}

const ADDRESS_BITS: u32 = 128;

/// A trie's key is a word of 32 bits, then the address. Words of 64 bits are written to the stack at
/// aligned places only, so the address must begin at one.
#[repr(C, align(8))]
struct AlignedKey {
    _padding: u32,
    key: Key<[u32; 4]>,
}

/// The maps as the library wants them.
struct Maps;

impl DecapTables for Maps {
    #[inline(always)]
    fn settings(&self) -> Option<DecapSettings> {
        DECAP_SETTINGS.get(0).copied()
    }

    #[inline(always)]
    fn roles(&self, address: &Address) -> u8 {
        // SAFETY: one byte, read once.
        unsafe { ADDRESSES.get(address) }.copied().unwrap_or(0)
    }

    #[inline(always)]
    fn is_source(&self, address: &Address) -> bool {
        let key = Key::new(ADDRESS_BITS, address.words32().map(u32::to_le));
        let aligned = AlignedKey { _padding: 0, key };
        SOURCES.get(&aligned.key).is_some()
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Never linked: `cargo xtask build-ebpf` refuses an object in which a panic is reachable.
    loop {}
}
