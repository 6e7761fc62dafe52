//! A configuration for tests: three nodes, two names, one of them shared by two services.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use crate::{
    config::{
        Aim, AllDown, Backend, Check, CheckKind, Config, Dns, FlowOptions, Flows, Forward, Nat, NoBackend,
        Node, NodeAddress, OnStop, Passive, Peer, PeerCheck, Protocol, Publish, Reply, Require, Service,
        Timing, Tunnel, XdpMode,
    },
    core::{
        ids::{Family, PoolId},
        peers::{PeerId, PeerState},
        publish::PeerStates,
        shared::TwoNodes,
    },
};

/// `www` is shared by `web` (both families) and `tls` (IPv4 only); `echo` is UDP; `internal` has no name.
/// node1's IPv4 address is published as another one; node3 has no IPv6.
pub(crate) fn config(all_down: AllDown) -> Config {
    let timing = Timing {
        interval: Duration::from_millis(500),
        fast_interval: Duration::from_millis(500),
        timeout: Duration::from_millis(500),
        rise: 2,
        fall: 3,
        jitter: 0.1,
    };
    let vips = ["10.0.0.11", "2001:db8:1::11"];
    let service = |name: &str, dns_name: Option<&str>, protocol, port, families: &[&str]| Service {
        name: name.into(),
        dns_name: dns_name.map(Arc::from),
        require: Require::All,
        protocol,
        port,
        addresses: vips.map(ip).to_vec(),
        forward: Forward::Nat,
        flows: FlowOptions::new(Duration::from_secs(60)),
        withdraw_below: 0,
        panic_below: 0,
        slow_start: None,
        all_down: NoBackend::Reset,
        check: Check {
            kind: CheckKind::Tcp.into(),
            port: None,
            aim: Aim::Address,
            source: Vec::new(),
            passive: Passive::Off,
            timing,
        },
        backends: vec![Backend {
            name: "backend1".into(),
            addresses: families.iter().copied().map(ip).collect(),
            port,
            weight: 1,
            backup: false,
            quic_server_id: None,
        }],
    };
    let both: &[&str] = &["203.0.113.21", "2001:db8:2::21"];
    Config {
        node: Node {
            name: "node1".into(),
            interfaces: vec!["front".to_owned()],
            xdp_mode: XdpMode::Auto,
            addresses: vec![
                NodeAddress {
                    address: ip("10.0.0.11"),
                    publish: ip("192.0.2.11"),
                    check_address: ip("192.0.2.11"),
                },
                same("2001:db8:1::11"),
            ],
            socket: "/run/usher/usher.sock".into(),
            secret_file: None,
            state_file: "/var/lib/usher/state.json".into(),
            pin_dir: "/sys/fs/bpf/usher".into(),
            on_stop: OnStop::Keep,
            reload_on_change: false,
            icmp_rate: 1_000,
            metrics_listen: vec![],
        },
        nat: Nat { source: Vec::new(), ports: 1024..=32767, reply: Reply::LastHop },
        tunnel: Tunnel { source: Vec::new(), gue_port: 6_080 },
        flows: Flows {
            max: 1000,
            fragments: 16_384,
            tcp_timeout: Duration::from_secs(60),
            udp_timeout: Duration::from_secs(60),
            closing_timeout: Duration::from_secs(60),
            affinity: 1000,
            new_per_second: 0,
        },
        defence: None,
        dns: Some(Dns {
            listen: Vec::new(),
            zone: "example.test".into(),
            ttl: Duration::from_secs(30),
            ttl_in_doubt: Duration::from_secs(5),
            negative_ttl: Duration::from_secs(5),
            contact: "hostmaster.example.test".into(),
            all_down,
            publish: Vec::new(),
        }),
        peer_check: PeerCheck { timing, restart_grace: Duration::from_secs(60), peer_probe_rate: 50 },
        peers: vec![peer("node2", &["192.0.2.12", "2001:db8:1::12"]), peer("node3", &["192.0.2.13"])],
        services: vec![
            service("web", Some("www.example.test"), Protocol::Tcp, 80, both),
            service("tls", Some("www.example.test"), Protocol::Tcp, 443, &both[..1]),
            service("echo", Some("echo.udp.example.test"), Protocol::Udp, 7, both),
            service("internal", None, Protocol::Tcp, 9000, &both[..1]),
        ],
    }
}

/// A zone on another server.
pub(crate) fn publish() -> Publish {
    Publish {
        zone: "example.test".into(),
        primaries: vec!["192.0.2.53:53".parse().unwrap()],
        key_file: "/etc/usher/publish.key".into(),
        lease: Duration::from_secs(60),
        renew: Duration::from_secs(20),
        share_rrset: false,
        two_nodes: TwoNodes::RemoveAfterLease,
        witness: false,
    }
}

pub(crate) fn peer(name: &str, addresses: &[&str]) -> Peer {
    Peer { name: name.into(), addresses: addresses.iter().copied().map(same).collect(), dns_port: 53 }
}

pub(crate) fn same(address: &str) -> NodeAddress {
    NodeAddress { address: ip(address), publish: ip(address), check_address: ip(address) }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `web/v4` and the like.
pub(crate) fn pool(text: &str) -> PoolId {
    let (service, family) = text.split_once('/').unwrap();
    let family = if family == "v4" { Family::V4 } else { Family::V6 };
    PoolId { service: service.into(), family }
}

/// Every pool of [`config`].
pub(crate) const POOLS: [&str; 6] = ["web/v4", "web/v6", "tls/v4", "echo/v4", "echo/v6", "internal/v4"];

/// The same for all pools.
pub(crate) fn all<S: Copy>(state: S) -> BTreeMap<PoolId, S> {
    POOLS.iter().map(|name| (pool(name), state)).collect()
}

/// A peer of the configuration whose pools are in these states on each of its addresses.
pub(crate) fn peer_states(config: &Config, peer: &str, states: &BTreeMap<PoolId, PeerState>) -> PeerStates {
    let addresses =
        config.peers.iter().filter(|found| &*found.name == peer).flat_map(|found| &found.addresses);
    let of_address = |address: IpAddr| {
        let in_family = states.iter().filter(move |(pool, _)| pool.family == Family::of(address));
        in_family
            .map(move |(pool, &state)| (PeerId { peer: peer.into(), address, pool: pool.clone() }, state))
    };
    addresses.flat_map(|have| of_address(have.address)).collect()
}
