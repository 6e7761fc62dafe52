//! The frames of each kind of traffic, as plans for the wrapper program.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::bench::{COVERED, Plan, WORDS, offset};

use super::matrix::{DENIED, Traffic};
use crate::{
    packet::{NatPorts, Packet, Port, flag},
    world::{BACKEND_PORT, Case, Flow, PORT},
};

/// Bytes of payload: enough that the shortest headers fill what a plan covers.
const PAYLOAD: usize = 64;

/// A port of the host itself.
const OWN_PORT: u16 = 22;

/// The end of the first address of a network of denied clients, in both families: 10.0.0.0/13 and the /109 in
/// the same place.
const DENIED_NETWORK: u32 = 0x0a00_0000;

/// How the next flow's index is made.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    /// From this one on, one after the other.
    From(u32),
    /// At random among this many, from a seed.
    Random(u64, u64),
}

/// A plan, and one of its frames for the payload and the length.
pub(super) struct Frames {
    pub(super) plan: Plan,
    pub(super) frame: Vec<u8>,
}

/// Frames of a kind of traffic.
pub(super) fn frames(case: Case, traffic: Traffic, order: Order) -> Frames {
    let mut frame = packet(case, traffic).bytes(&NatPorts::new());
    let answers = traffic == Traffic::Reply;
    let (address_at, port_at) = if case.v6 { (34, 54) } else { (26, 34) };
    let port_at = if answers { port_at + 2 } else { port_at };
    let first: [u8; 4] = std::array::from_fn(|byte| frame[address_at + byte]);
    frame[address_at..address_at + 4].fill(0);
    frame[port_at..port_at + 2].fill(0);
    debug_assert!(frame.len() >= COVERED);
    let words: [u64; WORDS] = std::array::from_fn(|word| {
        u64::from_ne_bytes(std::array::from_fn(|byte| frame[offset(word) + byte]))
    });
    // Of the clients' network the last bits vary, of a flood's sources all.
    let (address, mask) = match traffic {
        Traffic::Flood => (0, u32::MAX),
        // At least as many addresses as are denied.
        Traffic::Denied => (DENIED_NETWORK, (1 << 19) - 1),
        _ => (u32::from_be_bytes(first), (1 << 17) - 1),
    };
    let (state, multiplier, increment, shift, population) = match order {
        Order::From(first) => (u64::from(first).wrapping_sub(1), 1, 1, 0, 1 << 32),
        // Knuth's MMIX generator.
        Order::Random(flows, seed) => (seed, 6_364_136_223_846_793_005, 1_442_695_040_888_963_407, 32, flows),
    };
    let length = frame.len() as u32;
    let (v6, answers) = (u32::from(case.v6), u32::from(answers));
    let plan =
        Plan { words, length, v6, state, multiplier, increment, shift, mask, population, address, answers };
    Frames { plan, frame }
}

impl Frames {
    /// The whole frame of the flow with this index.
    pub(super) fn frame_of(&self, index: u32) -> Vec<u8> {
        let (address, port) = self.plan.client(index);
        let mut frame = self.frame.clone();
        for (word, value) in self.plan.headers(address, port).iter().enumerate() {
            frame[offset(word)..offset(word) + 8].copy_from_slice(&value.to_ne_bytes());
        }
        frame
    }
}

/// The denied clients.
pub(super) fn denied_clients(case: Case) -> impl Iterator<Item = IpAddr> {
    let plan = frames(case, Traffic::Denied, Order::From(0)).plan;
    (0..DENIED).map(move |index| {
        let (last, _) = plan.client(index);
        match first_client(case) {
            IpAddr::V4(_) => Ipv4Addr::from(last).into(),
            IpAddr::V6(first) => Ipv6Addr::from(u128::from(first) | u128::from(last)).into(),
        }
    })
}

fn packet(case: Case, traffic: Traffic) -> Packet {
    let service = SocketAddr::new(case.vip(), PORT);
    let client = SocketAddr::new(first_client(case), 0);
    let flow = Flow { client, service, ..case.flow(0) };
    let payload = [b'u'; PAYLOAD];
    match traffic {
        Traffic::Known(_) => flow.from_client(flag::ACK, &payload),
        Traffic::New | Traffic::Flood | Traffic::Denied => flow.from_client(flag::SYN, &payload),
        Traffic::NotOurs => {
            let service = SocketAddr::new(case.vip(), OWN_PORT);
            Flow { service, ..flow }.from_client(flag::ACK, &payload)
        }
        Traffic::Reply => {
            let answer = Flow { service: SocketAddr::new(case.backend(0), BACKEND_PORT), ..flow };
            let mut packet = answer.from_client(flag::ACK, &payload);
            (packet.from, packet.to) = (packet.to, packet.from);
            packet.to.address = case.nat();
            packet.to.port = Port::Number(0);
            packet
        }
    }
}

/// The first address of the networks for benchmarks: 198.18.0.0/15 (RFC 2544), 2001:2::/48 (RFC 5180).
fn first_client(case: Case) -> IpAddr {
    if case.v6 {
        Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0).into()
    } else {
        Ipv4Addr::new(198, 18, 0, 0).into()
    }
}
