//! The data path as a pure library: a frame and the tables in, a changed frame and an outcome out.
//!
//! The same code is compiled for BPF, where [`Tables`] are maps and a [`Frame`] is packet memory, and
//! for the host, where tests run it on ordinary memory. The XDP programs in `src/bin` add only the
//! maps, the clock and the one `match` from outcome to action.
//!
//! One packet: [`parse`](parse::parse) → service lookup → flow table or Maglev slot
//! ([`select`](select::select)) → next hop → [`nat`] or [`dsr`] → outcome.
//!
//! [`decap`] is another program's: it runs on backend hosts, at the other end of the tunnels.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod checksum;
pub mod decap;
mod dsr;
pub mod flow_table;
pub mod frame;
pub mod nat;
pub mod parse;
pub mod select;
pub mod tables;
mod translate;

use lb_common::{Forward, Hop, Reason, ServiceKey, Trace};

pub use frame::Frame;
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
    /// Number of the flow's backend; 0 when it has none.
    pub backend: u16,
    /// Maglev slot; [`Trace::NO_SLOT`] when none was looked at.
    pub slot: u32,
    /// Whether the flow table knew the flow.
    pub known: bool,
    /// Length of the IP packet in bytes.
    pub length: u16,
}

impl Outcome {
    /// The backend that gets the packet. (A packet that is dropped, or that finds no NAT port, has one too.)
    #[inline(always)]
    pub fn sent_to(&self) -> Option<u16> {
        let sent = matches!(self.reason, Reason::Nat | Reason::DsrL2 | Reason::ViaKernel);
        if sent && self.backend != 0 { Some(self.backend) } else { None }
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
#[inline(always)]
pub fn process<T: Tables>(frame: &mut Frame, ingress: u32, tables: &T) -> Outcome {
    let mut outcome = Outcome {
        reason: Reason::NotService,
        interface: 0,
        service: 0,
        backend: 0,
        slot: Trace::NO_SLOT,
        known: false,
        length: 0,
    };
    outcome.reason = match steps(frame, ingress, tables, &mut outcome) {
        Ok(reason) | Err(reason) => reason,
    };
    outcome
}

#[inline(always)]
fn steps<T: Tables>(
    frame: &mut Frame,
    ingress: u32,
    tables: &T,
    outcome: &mut Outcome,
) -> Result<Reason, Reason> {
    let packet = parse::parse(frame)?;
    let key = ServiceKey::new(packet.destination, packet.destination_port, packet.protocol);
    let Some(service) = tables.service(&key) else {
        let hop = nat::reply(frame, &packet, tables)?;
        return send(frame, &hop, Reason::NatReply, outcome);
    };
    outcome.service = service.number;
    outcome.length = packet.length;
    let choice = select::select(&packet, service, tables, outcome)?;
    outcome.backend = choice.number;
    if service.forward == Forward::Nat as u8 {
        let hop = nat::forward(frame, &packet, &choice, ingress, tables)?;
        send(frame, &hop, Reason::Nat, outcome)
    } else {
        let hop = dsr::forward::<T>(&packet, &choice)?;
        send(frame, &hop, Reason::DsrL2, outcome)
    }
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
