//! The packet table: the specification of the data path.
//!
//! Every scenario begins with empty tables and a [`World`](crate::world::World) of one service with two
//! backends, unless it says otherwise. A step names the packet that comes in and what must become of it,
//! to the last byte; each step also checks that exactly its reason is counted and that the dry run
//! foretells it. Numbers such as A5 are those of the project's list of acceptance scenarios.

mod answer;
mod choose;
mod deliver;
mod fragments;
mod icmp;
mod leave_alone;
mod nat;
mod odd;
mod remember;
mod tunnel;

use answer::{refused, too_big};
use lb_common::{Reason, State};

use crate::{
    packet::{NatPorts, Packet},
    scenario::{After, Frame, Out, Scenario, Sent, Step, Verdict},
    world::{Case, FRONT, Flow, TCP4, TCP6, UDP4, UDP6, addressed, hop, set_slots},
};

/// Every scenario.
pub fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for case in [TCP4, TCP6, UDP4, UDP6] {
        all.extend(choose::scenarios(case));
        all.extend(deliver::scenarios(case));
        all.extend(deliver::cut_anywhere(case));
        all.extend(fragments::scenarios(case));
        all.extend(leave_alone::scenarios(case));
        all.extend(nat::scenarios(case));
        all.extend(odd::scenarios(case));
        all.extend(remember::scenarios(case));
        all.extend(tunnel::scenarios(case));
        all.extend(answer::scenarios(case));
        all.extend(icmp::scenarios(case));
    }
    for case in [TCP4, TCP6] {
        all.extend(choose::tcp_scenarios(case));
        all.extend(nat::tcp_scenarios(case));
        all.extend(remember::tcp_scenarios(case));
    }
    for case in [UDP4, UDP6] {
        all.extend(choose::udp_scenarios(case));
        all.extend(deliver::udp_scenarios(case));
        all.extend(nat::udp_scenarios(case));
        all.extend(remember::udp_scenarios(case));
    }
    all.extend(leave_alone::other_frames());
    all
}

/// A client's packet goes to a backend by NAT.
fn nat(flow: &Flow, packet: Packet, backend: u16) -> Step {
    sent(Reason::Nat, out_of(backend), flow.translated(&packet, backend), packet)
}

/// A backend's packet goes to the client by NAT.
fn nat_reply(flow: &Flow, packet: Packet) -> Step {
    sent(Reason::NatReply, Verdict::Tx, flow.translated_back(&packet), packet)
}

/// A client's packet goes to a backend as it is; only the frame is addressed to it.
fn direct(packet: Packet, backend: u16) -> Step {
    sent(Reason::DsrL2, out_of(backend), addressed(packet.clone(), hop(backend)), packet)
}

/// A packet is rewritten, but the host's own stack must send it on.
fn via_kernel(packet: Packet, rewritten: Packet) -> Step {
    let out = Packet { mac_to: packet.mac_to, mac_from: packet.mac_from, ..rewritten };
    sent(Reason::ViaKernel, Verdict::Pass, out, packet)
}

fn sent(reason: Reason, verdict: Verdict, out: Packet, packet: Packet) -> Step {
    Step::Packet { frame: packet.into(), verdict, reason, out: Out::Packet(Box::new(out)) }
}

/// The host's stack gets the frame as it came.
fn passed(frame: impl Into<Frame>, reason: Reason) -> Step {
    Step::Packet { frame: frame.into(), verdict: Verdict::Pass, reason, out: Out::Untouched }
}

/// The frame ends here.
fn dropped(frame: impl Into<Frame>, reason: Reason) -> Step {
    Step::Packet { frame: frame.into(), verdict: Verdict::Drop, reason, out: Out::Untouched }
}

/// How a packet leaves for a backend.
fn out_of(backend: u16) -> Verdict {
    match hop(backend).interface() {
        FRONT => Verdict::Tx,
        other => Verdict::Redirect(other),
    }
}

/// New flows go to another backend: weights or health have changed.
fn new_flows_go_to(backend: u16) -> Step {
    Step::Configure(Box::new(move |image| set_slots(image, 1, backend)))
}

/// What is left: these flows without NAT.
fn flows(flows: &[(State, u16)]) -> After {
    After { flows: flows.to_vec(), ..After::default() }
}

/// What is left: these flows, and for each a NAT record that says the same.
fn nat_flows(flows: &[(State, u16)]) -> After {
    After { flows: flows.to_vec(), nat: flows.to_vec(), ..After::default() }
}

/// What is known of a flow that has been opened and answered within a tick.
fn answered(case: Case) -> State {
    if case.udp { State::New } else { State::Proven }
}

/// What is left: nothing.
fn nothing() -> After {
    After::default()
}

/// What a backend is sent with so many flows of these packets.
fn sent_with(packets: &[Packet], flows: u64) -> Sent {
    let bytes: u64 = packets.iter().map(Packet::ip_length).sum();
    Sent { packets: flows * packets.len() as u64, bytes: flows * bytes, begun: flows }
}

/// The first bytes of a packet's frame. It bears no NAT port.
fn cut(packet: &Packet, length: usize) -> Frame {
    Frame::Bytes(packet.bytes(&NatPorts::new())[..length].to_vec())
}

/// `first`, then more steps.
fn steps(first: Vec<Step>, more: impl IntoIterator<Item = Step>) -> Vec<Step> {
    first.into_iter().chain(more).collect()
}

fn scenario(case: Case, id: &str) -> String {
    format!("{id} ({case})")
}

impl After {
    /// The NAT records have another state than the flows.
    fn with_nat(self, state: State) -> After {
        After { nat: self.nat.iter().map(|(_, backend)| (state, *backend)).collect(), ..self }
    }
}
