//! B22: the nodes of a cluster choose alike.

use std::net::{IpAddr, SocketAddr};

use lb_common::Forward;
use lb_userspace::core::maglev::{Candidate, build};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use usher_tests::{
    host::{AlignedFrame, HostTables},
    packet::NatPorts,
    world::{BACKEND_PORT, Case, FRONT, Flow, PORT, TCP4, UDP6, World, hash_key, settings_of},
};

const NODES: u8 = 5;
const FLOWS: usize = 10_000;
/// Weights of the service's backends.
const WEIGHTS: [u32; 7] = [1, 1, 2, 1, 5, 1, 3];

/// A node with its own VIP, which numbers the backends in an order of its own.
struct Node {
    vip: SocketAddr,
    tables: HostTables,
    /// Which backend a number means here.
    meaning: Vec<usize>,
}

impl Node {
    fn new(case: Case, number: u8) -> Node {
        let vip = SocketAddr::new(case.client(100 + number), PORT);
        let mut order: Vec<usize> = (0..WEIGHTS.len()).collect();
        order.shuffle(&mut StdRng::seed_from_u64(u64::from(number)));
        let mut world = World::empty()
            .with_service(case, vip, u32::from(number) + 1, Forward::DsrL2)
            // The secret is the same on all nodes.
            .with(|image| settings_of(image).hash_key = hash_key(22));
        let mut candidates = Vec::new();
        for (number_here, &backend) in (1..).zip(&order) {
            world = world.with_backend(case, number_here, u32::from(number) + 1);
            let mut identity = [0; 18];
            identity[..16].copy_from_slice(&ipv6_octets(case.backend(backend as u16)));
            identity[16..].copy_from_slice(&BACKEND_PORT.to_be_bytes());
            candidates.push(Candidate { number: number_here, identity, weight: WEIGHTS[backend] });
        }
        world.image.tables.insert(u32::from(number) + 1, build(&candidates));
        let tables = HostTables::new(&world.image).unwrap();
        Node { vip, tables, meaning: order }
    }

    /// The backend that a client's flow to this node goes to.
    fn choice(&self, case: Case, client: SocketAddr) -> usize {
        let flow = Flow { client, service: self.vip, ..case.flow(0) };
        let mut frame = AlignedFrame::new(&flow.opens().bytes(&NatPorts::new()));
        let outcome = self.tables.explain(frame.bytes(), FRONT);
        assert!(!outcome.known);
        self.meaning[usize::from(outcome.backend) - 1]
    }
}

#[test]
fn b22_nodes_with_one_secret_choose_alike_whatever_the_vip() {
    for case in [TCP4, UDP6] {
        let nodes: Vec<Node> = (0..NODES).map(|number| Node::new(case, number)).collect();
        let mut random = StdRng::seed_from_u64(7);
        let mut counts = [0; WEIGHTS.len()];
        for _ in 0..FLOWS {
            let client = SocketAddr::new(case.client(random.random_range(0..90)), random.random());
            let choice = nodes[0].choice(case, client);
            counts[choice] += 1;
            for node in &nodes[1..] {
                assert_eq!(node.choice(case, client), choice, "{client} to {}", node.vip);
            }
        }
        // They do not all choose the same one, but as the weights say: three standard deviations.
        for (count, weight) in counts.into_iter().zip(WEIGHTS) {
            let expected = FLOWS as f64 * f64::from(weight) / f64::from(WEIGHTS.iter().sum::<u32>());
            assert!((f64::from(count) - expected).abs() < 3.0 * expected.sqrt(), "{counts:?}");
        }
    }
}

/// Another secret, another choice: else the secret would keep nothing secret.
#[test]
fn b22_nodes_with_different_secrets_choose_independently() {
    let node = Node::new(TCP4, 0);
    let mut other = Node::new(TCP4, 0);
    other.tables.settings.hash_key = hash_key(23);
    let alike = (0..2_000).filter(|port| {
        let client = SocketAddr::new(TCP4.client(0), 1_024 + port);
        node.choice(TCP4, client) == other.choice(TCP4, client)
    });
    // Two independent choices with these weights agree in 42 of 196 cases.
    let share = alike.count() as f64 / 2_000.0;
    assert!((0.15..0.28).contains(&share), "{share}");
}

fn ipv6_octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
