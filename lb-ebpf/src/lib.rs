//! The data path as a pure library: a frame and the tables in, a changed frame and an outcome out.
//!
//! The same code is compiled for BPF, where [`Tables`] are maps and a [`Frame`] is packet memory, and
//! for the host, where tests run it on ordinary memory. The XDP programs in `src/bin` add only the
//! maps, the clock and the one `match` from outcome to action.
//!
//! One packet: [`parse`](parse::plain) → service lookup → flow table or Maglev slot
//! ([`select`](select::select)) → next hop → [`nat`], [`dsr`] or `tunnel` → outcome.
//!
//! Packets whose headers are not the usual ones take the same way in a program of their own
//! ([`process_odd`]): so the program that every packet meets is small and reads headers at fixed places.
//!
//! [`decap`] is another program's: it runs on backend hosts, at the other end of the tunnels. [`mod@read`] serves the daemon.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod affinity;
mod answer;
mod checksum;
pub mod decap;
mod dsr;
pub mod flow_table;
mod fragment;
pub mod frame;
mod icmp;
mod mtu;
pub mod nat;
pub mod parse;
mod quic;
pub mod read;
pub mod select;
pub mod tables;
mod tags;
mod translate;
pub mod tunnel;

use lb_common::{Address, Fate, Features, Forward, Handoff, Hop, Reason, ServiceKey, Trace};

pub use answer::answer;
pub use frame::Frame;
use parse::{Packet, Part, TAG};
use select::Flow;
pub use tables::Tables;

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Why, and with it what to do: pass, forward or drop.
    pub reason: Reason,
    /// Interface on which a forwarded packet leaves; 0 for every other.
    pub interface: u32,
    /// Number of the service; 0 when the packet belongs to none.
    pub service: u32,
    /// Number of the flow's backend: the one that gets the packet, or that answers; 0 when there is none.
    pub backend: u16,
    /// Maglev slot; [`Trace::NO_SLOT`] when none was looked at.
    pub slot: u32,
    /// Whether the flow table knew the flow.
    pub known: bool,
    /// Length of a client's IP packet in bytes, as it came; 0 for a backend's answer.
    pub length: u16,
    /// The longest IP packet in bytes that would not have been [`Reason::TooBig`]; 0 for other reasons.
    pub mtu: u16,
}

impl Outcome {
    const UNDECIDED: Outcome = Outcome {
        reason: Reason::NotService,
        interface: 0,
        service: 0,
        backend: 0,
        slot: Trace::NO_SLOT,
        known: false,
        length: 0,
        mtu: 0,
    };

    /// The backend that gets the packet. (A packet that is dropped, or that finds no NAT port, has one too.)
    #[inline(always)]
    pub fn sent_to(&self) -> Option<u16> {
        let sent = matches!(
            self.reason,
            Reason::Nat
                | Reason::DsrL2
                | Reason::DsrIpip
                | Reason::DsrGue
                | Reason::ViaKernel
                | Reason::IcmpToBackend
        );
        let from_client = self.length != 0;
        if sent && from_client && self.backend != 0 { Some(self.backend) } else { None }
    }

    /// Whether a packet that is sent to a backend is the first one of its flow, as far as the flow table knows. (An ICMP
    /// error about a flow begins none.)
    #[inline(always)]
    pub fn begins_flow(&self) -> bool {
        !self.known && !matches!(self.reason, Reason::IcmpToBackend)
    }

    /// The outcome for the program for answers.
    #[inline(always)]
    pub fn handoff(&self) -> Handoff {
        Handoff { trace: self.trace(), length: self.length, mtu: self.mtu }
    }

    /// The reverse of [`Outcome::handoff`].
    #[inline(always)]
    pub fn from_handoff(handoff: &Handoff) -> Outcome {
        let Handoff { trace, length, mtu } = *handoff;
        Outcome {
            reason: Reason::from_number(trace.reason).unwrap_or(Reason::Unanswered),
            interface: trace.interface,
            service: trace.service,
            backend: trace.backend,
            slot: trace.slot,
            known: trace.known != 0,
            length,
            mtu,
        }
    }

    /// The outcome as the explain program reports it.
    #[inline(always)]
    pub fn trace(&self) -> Trace {
        Trace {
            service: self.service,
            slot: self.slot,
            interface: self.interface,
            backend: self.backend,
            known: self.known as u8,
            reason: self.reason as u8,
        }
    }
}

/// Decides about one frame that came in on interface `ingress`, and rewrites it if it is to be sent on.
/// With the fate [`Odd`](lb_common::Fate::Odd) nothing is decided yet: [`process_odd`] has to go on.
#[inline(always)]
pub fn process<T: Tables>(frame: &mut Frame, ingress: u32, tables: &T) -> Outcome {
    decide::<T, false>(frame, ingress, tables)
}

/// Goes on with a frame that [`process`] found odd.
#[inline(always)]
pub fn process_odd<T: Tables>(frame: &mut Frame, ingress: u32, tables: &T) -> Outcome {
    decide::<T, true>(frame, ingress, tables)
}

/// Goes on with a frame that [`process`] found to be ICMP.
#[inline(always)]
pub fn process_icmp<T: Tables>(frame: &mut Frame, ingress: u32, tables: &T) -> Outcome {
    let mut outcome = Outcome::UNDECIDED;
    outcome.reason = match icmp::steps(frame, ingress, tables, &mut outcome) {
        Ok(reason) | Err(reason) => reason,
    };
    outcome
}

#[inline(always)]
fn decide<T: Tables, const ODD: bool>(frame: &mut Frame, ingress: u32, tables: &T) -> Outcome {
    let mut outcome = Outcome::UNDECIDED;
    outcome.reason = match steps::<T, ODD>(frame, ingress, tables, &mut outcome) {
        Ok(reason) | Err(reason) => reason,
    };
    outcome
}

#[inline(always)]
fn steps<T: Tables, const ODD: bool>(
    frame: &mut Frame,
    ingress: u32,
    tables: &T,
    outcome: &mut Outcome,
) -> Result<Reason, Reason> {
    if !ODD {
        let packet = parse::plain(frame)?;
        let (hop, reason) = treat::<T, ODD>(frame, &packet, ingress, tables, outcome)?;
        return send(frame, &hop, reason, outcome);
    }
    let packet = tables.keep(parse::odd(frame)?).ok_or(Reason::NotReady)?;
    let treated = match packet.part {
        Part::Later => fragment::follow(frame, packet, tables, outcome),
        _ => treat::<T, ODD>(frame, packet, ingress, tables, outcome),
    };
    let (hop, reason) = match treated {
        Ok((hop, reason)) => (hop, reason),
        Err(reason) => (Hop::default(), reason),
    };
    if packet.part == Part::First && reason.fate() != Fate::Drop {
        // What was answered ends here, and its rest too.
        let goes_on = matches!(reason.fate(), Fate::Pass | Fate::Forward);
        let reason = if goes_on { reason } else { Reason::FragmentEarly };
        fragment::remember(frame, packet, &hop, reason, tables, outcome);
    }
    treated?;
    if hop.is_known() {
        tags::set(frame, packet, &hop, ingress, tables)?;
    }
    send(frame, &hop, reason, outcome)
}

/// Decides about a packet and rewrites it; where it goes, and why.
#[inline(always)]
fn treat<T: Tables, const ODD: bool>(
    frame: &mut Frame,
    packet: &Packet,
    ingress: u32,
    tables: &T,
    outcome: &mut Outcome,
) -> Result<(Hop, Reason), Reason> {
    let key = ServiceKey::new(packet.destination, packet.destination_port, packet.protocol);
    let Some((place, service)) = tables.service(&key) else {
        if !tables.features().has(Features::NAT) {
            return Err(Reason::NotService);
        }
        return Ok((nat::reply::<T, ODD>(frame, packet, ingress, tables, outcome)?, Reason::NatReply));
    };
    outcome.service = service.number;
    outcome.length = packet.length;
    if tables.features().has(Features::DENY) {
        let [a, b] = packet.source.words();
        if is_denied(tables, a, b) {
            return Err(Reason::Denied);
        }
    }
    let by = |forward: Forward, feature| tables.features().has(feature) && service.forward == forward as u8;
    let flow = Flow::of(packet, place, service, tables)?;
    if !ODD
        && by(Forward::Nat, Features::NAT)
        && let Some(known) = nat::known_at_once(packet, service, &flow, tables)
    {
        let hop = nat::forward_known(frame, packet, &known, &flow, ingress, tables, outcome)?;
        return Ok((tags::on_link(hop, packet, ingress), Reason::Nat));
    }
    let choice = select::select(Some(frame), packet, service, flow, tables, outcome)?;
    outcome.backend = choice.number;
    if by(Forward::Nat, Features::NAT) {
        if packet.tags() > TAG && choice.backend.hop.interface() != ingress {
            return Err(Reason::TwoTags);
        }
        let hop = nat::forward::<T, ODD>(frame, packet, &choice, ingress, tables, outcome)?;
        Ok((tags::on_link(hop, packet, ingress), Reason::Nat))
    } else if by(Forward::DsrL2, Features::DSR_L2) {
        let hop = dsr::forward::<T>(packet, &choice)?;
        Ok((tags::on_link(hop, packet, ingress), Reason::DsrL2))
    } else if by(Forward::DsrIpip, Features::DSR_IPIP) {
        let hop = tunnel::forward(frame, packet, &choice, tables, &tunnel::IPIP, outcome)?;
        Ok((tags::on_link(hop, packet, ingress), Reason::DsrIpip))
    } else if by(Forward::DsrGue, Features::DSR_GUE) {
        let hop = tunnel::forward(frame, packet, &choice, tables, &tunnel::GUE, outcome)?;
        Ok((tags::on_link(hop, packet, ingress), Reason::DsrGue))
    } else {
        Err(Reason::NotReady)
    }
}

/// Whether the deny list names the client with this address, in words: so it need not be in memory. A function
/// of its own in BPF for the stack's sake.
#[inline(never)]
fn is_denied<T: Tables>(tables: &T, a: u64, b: u64) -> bool {
    tables.is_denied(&Address::from_words([a, b]))
}

/// Addresses the frame to the next hop; without one, leaves it to the host's stack.
#[inline(always)]
fn send(frame: &mut Frame, hop: &Hop, reason: Reason, outcome: &mut Outcome) -> Result<Reason, Reason> {
    if !hop.is_known() {
        return Err(Reason::ViaKernel);
    }
    *frame.mac_addresses()? = hop.to_frame();
    outcome.interface = hop.interface();
    Ok(reason)
}
