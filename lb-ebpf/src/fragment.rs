//! Later fragments have no ports: they follow the first one of their packet.

use lb_common::{Address, FragmentKey, FragmentPath, Hop, Reason, ServiceKey};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{Frame, Outcome, Tables, parse::Packet, translate::translate_rest};

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
    let reason = if path.is(Reason::Nat) {
        Reason::Nat
    } else if path.is(Reason::NatReply) {
        Reason::NatReply
    } else if path.is(Reason::DsrL2) {
        Reason::DsrL2
    } else {
        return Err(Reason::Fragment);
    };
    outcome.service = path.service;
    outcome.backend = path.backend;
    outcome.length = packet.length;
    outcome.known = true;
    if reason != Reason::DsrL2 {
        if packet.hops <= 1 {
            return Err(Reason::HopLimit);
        }
        translate_rest(frame, packet, &path.source, &path.destination)?;
    }
    Ok((path.hop, reason))
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
    let Ok((source, destination)) = addresses(frame, packet) else { return };
    let path = FragmentPath {
        source,
        destination,
        hop: *hop,
        service: (what >> 32) as u32,
        backend: (what >> 16) as u16,
        tick,
        reason: what & 0xff,
    };
    tables.remember_fragment(&key(packet), &path);
}

#[inline(always)]
fn is_sent(reason: Reason) -> bool {
    matches!(reason, Reason::Nat | Reason::NatReply | Reason::DsrL2)
}

/// The addresses that the frame has now.
#[inline(always)]
fn addresses(frame: &mut Frame, packet: &Packet) -> Result<(Address, Address), Reason> {
    if packet.v6() {
        let ip = frame.at::<Ipv6Hdr>(packet.l3())?;
        Ok((Address::v6(ip.src_addr), Address::v6(ip.dst_addr)))
    } else {
        let ip = frame.at::<Ipv4Hdr>(packet.l3())?;
        Ok((Address::v4(ip.src_addr), Address::v4(ip.dst_addr)))
    }
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
