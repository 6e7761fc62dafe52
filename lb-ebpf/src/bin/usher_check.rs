//! The programs that take checks of backends along the data path: what a socket that the daemon has told of sends to a
//! backend is aimed at the VIP on its way out, and put into the tunnel; the answer is mapped back on its way in.
//! They run at the interface's egress and ingress (TCX, or clsact before Linux 6.6).

#![no_std]
#![no_main]

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT,
        TC_ACT_UNSPEC, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    btf_maps::{HashMap, LruHashMap},
    cty::c_long,
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns},
    macros::{btf_map, classifier},
    programs::TcContext,
};
use lb_common::{
    Address,
    check_path::{Asked, MAX_REFUSALS, MAX_SOCKETS, Refusal, Way},
};
use lb_ebpf::{
    parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP, ICMPV6, TCP, UDP},
    tunnel,
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

#[btf_map]
static WAYS: LruHashMap<u64, Way, MAX_SOCKETS> = LruHashMap::new();
#[btf_map]
static ASKED: LruHashMap<Asked, Address, MAX_SOCKETS> = LruHashMap::new();
#[btf_map]
static REFUSALS: HashMap<Address, Refusal, MAX_REFUSALS, { aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// What comes after us decides.
const NEXT: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT as i32;

#[classifier]
fn usher_check_out(ctx: TcContext) -> i32 {
    // SAFETY: the context is this call's.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: the loader writes an element once, before the socket sends.
    let Some(way) = (unsafe { WAYS.get(cookie) }) else { return NEXT };
    let Some(packet) = Packet::read(&ctx) else { return NEXT };
    // What is changed by half must not be sent.
    if send(&ctx, &packet, way).is_ok() { NEXT } else { DROP }
}

#[classifier]
fn usher_check_in(ctx: TcContext) -> i32 {
    let Some(packet) = Packet::read(&ctx) else { return NEXT };
    match packet.protocol {
        TCP | UDP => take_answer(&ctx, &packet).map_or(DROP, |()| NEXT),
        ICMP | ICMPV6 => {
            note_refusal(&ctx, &packet);
            NEXT
        }
        _ => NEXT,
    }
}

/// An IP packet without options, extension headers or fragments: what sockets like these send.
struct Packet {
    /// Where its IP header begins.
    l3: usize,
    from: Address,
    to: Address,
    /// IP protocol number.
    protocol: u8,
    /// DSCP and ECN.
    class: u8,
    /// Of the whole packet.
    length: u16,
    v6: bool,
}

impl Packet {
    #[inline(always)]
    fn read(ctx: &TcContext) -> Option<Packet> {
        // SAFETY: the context is this call's. (Volatile, or only half of the field is read, which the verifier refuses.)
        let ether_type = unsafe { (&raw const (*ctx.skb.skb).protocol).read_volatile() } as u16;
        // VLAN tags are not in the packet here, but beside it. Nor is the Ethernet header where a program in generic mode
        // has had the packet copied: the kernel has forgotten its length then (Linux 6.18, `skb_pp_cow_data`).
        let l3 = match ctx.load::<u16>(EthHdr::LEN - size_of::<u16>()) {
            Ok(found) if found == ether_type => EthHdr::LEN,
            _ => 0,
        };
        match ether_type {
            ETHERTYPE_IPV4 => Packet::v4(ctx, l3),
            ETHERTYPE_IPV6 => Packet::v6(ctx, l3),
            _ => None,
        }
    }

    #[inline(always)]
    fn v4(ctx: &TcContext, at: usize) -> Option<Packet> {
        /// "More fragments", and the fragment's offset.
        const FRAGMENT: u16 = 0x3fff;
        // Word by word: of a whole header the compiler would read parts from odd places of the stack, which is refused.
        let word = |offset: usize| ctx.load::<u32>(at + offset).map(u32::to_ne_bytes).ok();
        let [version, class, length @ ..] = word(0)?;
        let [_, _, fragments @ ..] = word(4)?;
        if version != 0x45 || u16::from_be_bytes(fragments) & FRAGMENT != 0 {
            return None;
        }
        Some(Packet {
            l3: at,
            from: Address::v4(word(12)?),
            to: Address::v4(word(16)?),
            protocol: word(8)?[1],
            class,
            length: u16::from_be_bytes(length),
            v6: false,
        })
    }

    #[inline(always)]
    fn v6(ctx: &TcContext, at: usize) -> Option<Packet> {
        let first = ctx.load::<u64>(at).ok()?.to_ne_bytes();
        Some(Packet {
            l3: at,
            from: Address::from_words(ctx.load(at + 8).ok()?),
            to: Address::from_words(ctx.load(at + 24).ok()?),
            protocol: first[6],
            class: first[0] << 4 | first[1] >> 4,
            length: u16::from_be_bytes([first[4], first[5]]).wrapping_add(Ipv6Hdr::LEN as u16),
            v6: true,
        })
    }

    #[inline(always)]
    fn header(&self) -> usize {
        if self.v6 { Ipv6Hdr::LEN } else { Ipv4Hdr::LEN }
    }

    #[inline(always)]
    fn l4(&self) -> usize {
        self.l3 + self.header()
    }
}

/// The ports of a TCP or UDP header, in network order.
#[inline(always)]
fn ports(ctx: &TcContext, l4: usize) -> Result<[[u8; 2]; 2], c_long> {
    let [a, b, c, d] = ctx.load::<u32>(l4)?.to_ne_bytes();
    Ok([[a, b], [c, d]])
}

/// Aims a packet to a backend at the VIP; a tunnel's goes on in another.
#[inline(always)]
fn send(ctx: &TcContext, packet: &Packet, way: &Way) -> Result<(), c_long> {
    let [source_port, port] = ports(ctx, packet.l4())?;
    let asked = Asked {
        vip: way.vip,
        source: packet.from,
        ports: [port, source_port],
        protocol: packet.protocol.into(),
    };
    ASKED.insert(&asked, &packet.to, 0).map_err(c_long::from)?;
    readdress(ctx, packet, &packet.to, &way.vip, packet.header() - address_length(packet))?;
    if way.tunnel == 0 { Ok(()) } else { encapsulate(ctx, packet, way) }
}

/// Gives an answer to a check the backend's address again; other packets stay as they are.
#[inline(always)]
fn take_answer(ctx: &TcContext, packet: &Packet) -> Result<(), c_long> {
    let Ok(ports) = ports(ctx, packet.l4()) else { return Ok(()) };
    let asked = Asked { vip: packet.from, source: packet.to, ports, protocol: packet.protocol.into() };
    // SAFETY: a socket's packets are all to the same backend.
    let Some(backend) = (unsafe { ASKED.get(&asked) }) else { return Ok(()) };
    readdress(ctx, packet, &packet.from, backend, packet.header() - 2 * address_length(packet))
}

#[inline(always)]
fn address_length(packet: &Packet) -> usize {
    if packet.v6 { 16 } else { 4 }
}

/// Writes an address of the IP header, `at` so many bytes from its begin, and mends the checksums.
#[inline(always)]
fn readdress(
    ctx: &TcContext,
    packet: &Packet,
    old: &Address,
    new: &Address,
    at: usize,
) -> Result<(), c_long> {
    const IPV4_CHECKSUM: usize = 10;
    const TCP_CHECKSUM: usize = 16;
    const UDP_CHECKSUM: usize = 6;
    let (checksum, none_stays) = match packet.protocol {
        TCP => (TCP_CHECKSUM, 0),
        _ => (UDP_CHECKSUM, BPF_F_MARK_MANGLED_0),
    };
    let flags = (BPF_F_PSEUDO_HDR | none_stays) as u64 | size_of::<u32>() as u64;
    for (old, new) in old.words32().into_iter().zip(new.words32()) {
        if old != new {
            ctx.l4_csum_replace(packet.l4() + checksum, old.into(), new.into(), flags)?;
        }
    }
    if packet.v6 {
        // Where the NIC has summed up the whole packet, its sum changes by the address, and the call above has taken the
        // checksum's change for one more. (BPF_F_IPV6, since 6.16, is for that.)
        return ctx.store(packet.l3 + at, &new.octets_v6(), BPF_F_RECOMPUTE_CSUM.into());
    }
    let [.., old] = old.words32();
    let [.., new] = new.words32();
    ctx.l3_csum_replace(packet.l3 + IPV4_CHECKSUM, old.into(), new.into(), size_of::<u32>() as u64)?;
    ctx.store(packet.l3 + at, &new.to_le_bytes(), 0)
}

/// Puts the packet into one to its backend. The MAC addresses are right: it was on its way there.
#[inline(always)]
fn encapsulate(ctx: &TcContext, packet: &Packet, way: &Way) -> Result<(), c_long> {
    let gue = way.gue_port != [0; 2];
    let udp = if gue { UdpHdr::LEN } else { 0 };
    let family = if packet.v6 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 };
    let kind = if gue { BPF_F_ADJ_ROOM_ENCAP_L4_UDP } else { 0 };
    let flags = family | kind | BPF_F_ADJ_ROOM_FIXED_GSO;
    ctx.adjust_room((packet.header() + udp) as i32, BPF_ADJ_ROOM_MAC, flags.into())?;

    let in_ip = if packet.v6 { tunnel::IPV6_IN_IP } else { tunnel::IPV4_IN_IP };
    let protocol = if gue { UDP } else { in_ip };
    let length = packet.length.wrapping_add(udp as u16);
    let (from, to) = (&way.outer_source, &packet.to);
    if packet.v6 {
        ctx.store(packet.l3, &tunnel::ipv6(from, to, packet.class, protocol, length), 0)?;
    } else {
        let whole = length.wrapping_add(Ipv4Hdr::LEN as u16);
        let ip = tunnel::ipv4(from, to, packet.class, tunnel::DONT_FRAGMENT, protocol, 0, whole);
        ctx.store(packet.l3, &ip, 0)?;
    }
    if gue {
        let header =
            UdpHdr { src: way.gue_source, dst: way.gue_port, len: length.to_be_bytes(), check: [0, 0] };
        ctx.store(packet.l4(), &header, 0)?;
    }
    Ok(())
}

/// Notes an ICMP error about a packet to one of the backends behind tunnels: such packets have no socket.
#[inline(always)]
fn note_refusal(ctx: &TcContext, packet: &Packet) -> Option<()> {
    /// ICMP's header before the packet that it is about.
    const HEADER: usize = 8;
    /// "Destination unreachable" (RFC 792), and of ICMPv6 "parameter problem" too, which an unknown next header is
    /// (RFC 4443 sections 3.1 and 3.4).
    const UNREACHABLE: u8 = 3;
    const UNREACHABLE_V6: u8 = 1;
    const PARAMETER_PROBLEM_V6: u8 = 4;
    let kind: u8 = ctx.load(packet.l4()).ok()?;
    let about = packet.l4() + HEADER;
    let refused = match (packet.v6, kind) {
        (false, UNREACHABLE) => Packet::v4(ctx, about),
        (true, UNREACHABLE_V6 | PARAMETER_PROBLEM_V6) => Packet::v6(ctx, about),
        _ => None,
    }?;
    let refusal = REFUSALS.get_ptr_mut(&refused.to)?;
    let [_, port] = ports(ctx, about + refused.header()).ok()?;
    // SAFETY: this call's.
    let at = unsafe { bpf_ktime_get_ns() };
    // SAFETY: an element of the map; of two at once, either is right.
    unsafe { *refusal = Refusal { at, protocol: refused.protocol.into(), port, zero: 0 } };
    Some(())
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Never linked: `cargo xtask build-ebpf` refuses an object in which a panic is reachable.
    loop {}
}
