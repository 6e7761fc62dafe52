//! Later fragments have no ports: they follow the first one of their packet.

use lb_common::{Address, FragmentKey, FragmentPath, Hop, Reason, ServiceKey};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    Frame, Outcome, Tables,
    parse::Packet,
    translate::translate_rest,
    tunnel::{self, Outer, Tunnel},
};

/// Sends a later fragment where the first one went; where that is, and why.
#[inline(always)]
pub fn follow<T: Tables>(
    frame: &mut Frame,
    packet: &Packet,
    tables: &T,
    outcome: &mut Outcome,
) -> Result<(Hop, Reason), Reason> {
    let path = match tables.fragment(&key(packet)) {
        Some(path) if path.is_live(tables.tick()) => *path,
        _ if is_ours(packet, tables) => return Err(Reason::FragmentEarly),
        _ => return Err(Reason::Fragment),
    };
    outcome.service = path.service;
    outcome.backend = path.backend;
    if !path.is(Reason::NatReply) {
        outcome.length = packet.length;
    }
    outcome.known = true;
    let reason = if path.is(Reason::Nat) {
        translated(frame, packet, &path)?;
        Reason::Nat
    } else if path.is(Reason::NatReply) {
        translated(frame, packet, &path)?;
        Reason::NatReply
    } else if path.is(Reason::DsrL2) {
        Reason::DsrL2
    } else if path.is(Reason::DsrIpip) {
        tunnelled(frame, packet, &path, tables, &tunnel::IPIP)?;
        Reason::DsrIpip
    } else if path.is(Reason::DsrGue) {
        tunnelled(frame, packet, &path, tables, &tunnel::GUE)?;
        Reason::DsrGue
    } else if path.is(Reason::FragmentEarly) {
        return Err(Reason::FragmentEarly);
    } else {
        return Err(Reason::Fragment);
    };
    Ok((path.hop, reason))
}

#[inline(always)]
fn translated(frame: &mut Frame, packet: &Packet, path: &FragmentPath) -> Result<(), Reason> {
    if packet.hops <= 1 {
        return Err(Reason::HopLimit);
    }
    translate_rest(frame, packet, &path.source, &path.destination)
}

/// Puts it into a packet like the one that took the first fragment.
#[inline(always)]
fn tunnelled<T: Tables>(
    frame: &mut Frame,
    packet: &Packet,
    path: &FragmentPath,
    tables: &T,
    tunnel: &Tunnel,
) -> Result<(), Reason> {
    if T::DRY_RUN {
        return Ok(());
    }
    let settings = tables.settings().ok_or(Reason::NotReady)?;
    let outer = Outer { from: path.source, to: path.destination, mark: path.port() as u32 };
    tunnel::encapsulate(frame, packet, &outer, settings, tables, tunnel)
}

/// Remembers what became of a first fragment, whose addresses are rewritten by now. One that the host's stack
/// gets is remembered where its rest would be taken for a service's.
///
/// A function of its own in BPF: key and path would take stack from the whole program.
#[inline(always)]
pub fn remember<T: Tables>(
    frame: &mut Frame,
    packet: &Packet,
    hop: &Hop,
    reason: Reason,
    tables: &T,
    outcome: &Outcome,
) {
    if !T::DRY_RUN && (is_sent(reason) || is_ours(packet, tables)) {
        let what = (outcome.service as u64) << 32 | (outcome.backend as u64) << 16 | reason as u64;
        store(frame, packet, hop, tables, what);
    }
}

/// `what` holds service, backend and reason: an outcome that is passed on in memory is written there with
/// misaligned stores, which the verifier refuses.
#[inline(never)]
fn store<T: Tables>(frame: &mut Frame, packet: &Packet, hop: &Hop, tables: &T, what: u64) {
    // Asked first, so that nothing has to be kept meanwhile: each word of stack counts.
    let tick = tables.tick();
    let Ok(Ends { source, destination, port }) = ends(frame, packet) else { return };
    let path = FragmentPath {
        source,
        destination,
        hop: *hop,
        service: (what >> 32) as u32,
        backend: (what >> 16) as u16,
        tick,
        reason_and_port: (port as u64) << 32 | what & 0xff,
    };
    tables.remember_fragment(&key(packet), &path);
}

#[inline(always)]
fn is_sent(reason: Reason) -> bool {
    matches!(reason, Reason::Nat | Reason::NatReply | Reason::DsrL2 | Reason::DsrIpip | Reason::DsrGue)
}

/// Addresses and source port that the frame has now, which may be those of a tunnel of another family.
struct Ends {
    source: Address,
    destination: Address,
    port: u16,
}

#[inline(always)]
fn ends(frame: &mut Frame, packet: &Packet) -> Result<Ends, Reason> {
    let l3 = packet.l3();
    if frame.at::<[u8; 2]>(l3)?[0] >> 4 == 6 {
        let ip = frame.at::<Ipv6Hdr>(l3)?;
        let (source, destination) = (Address::v6(ip.src_addr), Address::v6(ip.dst_addr));
        Ok(Ends { source, destination, port: port(frame, l3 + Ipv6Hdr::LEN)? })
    } else {
        let ip = frame.at::<Ipv4Hdr>(l3)?;
        let (source, destination) = (Address::v4(ip.src_addr), Address::v4(ip.dst_addr));
        Ok(Ends { source, destination, port: port(frame, l3 + Ipv4Hdr::LEN)? })
    }
}

#[inline(always)]
fn port(frame: &mut Frame, l4: usize) -> Result<u16, Reason> {
    Ok(u16::from_be_bytes(*frame.at::<[u8; 2]>(l4)?))
}

/// Whether packets to this address may be for a service, or answers to one. A function of its own, for the
/// stack that its key takes.
#[inline(never)]
fn is_ours<T: Tables>(packet: &Packet, tables: &T) -> bool {
    tables.service(&ServiceKey::any(packet.destination)).is_some()
}

#[inline(always)]
fn key(packet: &Packet) -> FragmentKey {
    let protocol = if packet.v6() { 0 } else { packet.protocol };
    FragmentKey::new(packet.source, packet.destination, packet.id, protocol)
}
