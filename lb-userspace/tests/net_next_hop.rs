//! `net::watch` against real links, routes and neighbours in network namespaces.

#![allow(clippy::unwrap_used)] // Clippy takes helper functions here for ordinary code.

mod net_lab;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use lb_userspace::net::{
    NextHop,
    watch::{NextHopTable, NextHops},
};
use net_lab::{Namespace, privileged};
use tokio::{sync::watch, time::timeout};

const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x21];
const SECOND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x22];

const BACKEND: [&str; 2] = ["192.0.2.21", "2001:db8:1::21"];
const SECOND: [&str; 2] = ["198.51.100.21", "2001:db8:2::21"];
/// Behind a gateway.
const FAR: [&str; 2] = ["203.0.113.99", "2001:db8:3::99"];

/// Longer than anything takes (the kernel gives a neighbour up after 3 s), and shorter than the watch's own
/// periodic look (10 s), so that notifications have to do it.
const DEADLINE: Duration = Duration::from_secs(8);

/// A node with two cables: `back` to a backend, `side` to a second one.
struct Lab {
    node: Namespace,
    backend: Namespace,
    second: Namespace,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { node: Namespace::new(), backend: Namespace::new(), second: Namespace::new() };
        lab.node.connect("back", &lab.backend, "eth0");
        lab.node.connect("side", &lab.second, "eth0");
        lab.node.ip("link set back address 02:00:00:00:00:11");
        lab.node.ip("link set side address 02:00:00:00:00:11");
        lab.backend.ip("link set eth0 address 02:00:00:00:00:21");
        lab.second.ip("link set eth0 address 02:00:00:00:00:22");
        lab.node.address("back", &["192.0.2.11/24", "2001:db8:1::11/64"]);
        lab.node.address("side", &["198.51.100.11/24", "2001:db8:2::11/64"]);
        lab.backend.address("eth0", &["192.0.2.21/24", "2001:db8:1::21/64"]);
        lab.second.address("eth0", &["198.51.100.21/24", "2001:db8:2::21/64"]);
        lab
    }

    fn index(&self, interface: &str) -> u32 {
        let line = self.node.ip(&format!("-o link show {interface}"));
        line.split(':').next().unwrap().parse().unwrap()
    }

    fn on(&self, interface: &str, mac: [u8; 6], gateway: Option<&str>) -> Option<NextHop> {
        Some(NextHop {
            interface_index: self.index(interface),
            source_mac: NODE_MAC,
            destination_mac: mac,
            gateway: gateway.map(ip),
            source: None,
            mtu: 1_500,
        })
    }

    /// Routes to `FAR`, through one of the two.
    fn route_far(&self, gateways: [&str; 2]) {
        self.node.ip(&format!("route replace 203.0.113.0/24 via {}", gateways[0]));
        self.node.ip(&format!("-6 route replace 2001:db8:3::/64 via {}", gateways[1]));
    }
}

/// The watch under test, seen from inside the node.
struct Watched {
    next_hops: NextHops,
    table: watch::Receiver<NextHopTable>,
}

impl Watched {
    async fn start<'a>(destinations: impl IntoIterator<Item = &'a str>) -> Self {
        let (next_hops, table) = NextHops::watch(destinations.into_iter().map(ip)).await.unwrap();
        Self { next_hops, table }
    }

    /// Waits until every destination has this next hop, whatever its source.
    async fn until(&mut self, what: &str, destinations: [&str; 2], expected: [Option<NextHop>; 2]) {
        let has = |table: &NextHopTable, destination| {
            table.get(&ip(destination)).map(|hop| hop.map(|hop| NextHop { source: None, ..hop }))
        };
        let fits = |table: &NextHopTable| {
            destinations.iter().zip(expected).all(|(destination, hop)| has(table, destination) == Some(hop))
        };
        if timeout(DEADLINE, self.table.wait_for(fits)).await.is_err() {
            panic!("{what}: wanted {expected:?}, have {:?}", *self.table.borrow());
        }
    }

    async fn until_none(&mut self, what: &str, destinations: [&str; 2]) {
        self.until(what, destinations, [None, None]).await;
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Makes `from` speak to `to`, so that it asks for the other's MAC and thereby tells its own.
fn speak(from: &Namespace, to: &str) {
    from.inside(|| {
        let to = ip(to);
        let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        UdpSocket::bind(any).unwrap().send_to(b"hello", (to, 9)).unwrap();
    });
}

/// Waits for something that only the kernel's tables show.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let poll = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(DEADLINE, poll).await.is_ok(), "{what}");
}

#[test]
fn a_neighbour_on_the_same_network() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    lab.node.inside_runtime(|| async {
        let mut watched = Watched::start(BACKEND).await;
        watched.until("resolved", BACKEND, [lab.on("back", BACKEND_MAC, None); 2]).await;
    });
}

#[test]
fn through_a_gateway_and_over_to_another() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    lab.route_far(BACKEND);
    lab.node.inside_runtime(|| async {
        let via =
            |interface, mac, gateways: [&'static str; 2]| gateways.map(|g| lab.on(interface, mac, Some(g)));
        let mut watched = Watched::start(FAR).await;
        watched.until("gateway", FAR, via("back", BACKEND_MAC, BACKEND)).await;
        lab.route_far(SECOND);
        watched.until("other gateway", FAR, via("side", SECOND_MAC, SECOND)).await;
        // IPv4 over an IPv6 gateway (RFC 5549).
        lab.node.ip("route replace 203.0.113.0/24 via inet6 2001:db8:1::21 dev back");
        let mixed =
            [lab.on("back", BACKEND_MAC, Some(BACKEND[1])), lab.on("side", SECOND_MAC, Some(SECOND[1]))];
        watched.until("IPv6 gateway", FAR, mixed).await;
        lab.node.ip("route del 203.0.113.0/24");
        lab.node.ip("-6 route del 2001:db8:3::/64");
        watched.until_none("no route", FAR).await;
    });
}

#[test]
fn the_address_to_connect_from_is_followed() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    lab.route_far(BACKEND);
    lab.node.address("back", &["192.0.2.12/24", "2001:db8:1::12/64"]);
    lab.node.inside_runtime(|| async {
        let mut watched = Watched::start(FAR).await;
        for own in [["192.0.2.11", "2001:db8:1::12"], ["192.0.2.12", "2001:db8:1::11"]] {
            lab.node.ip(&format!("route replace 203.0.113.0/24 via {} src {}", BACKEND[0], own[0]));
            lab.node.ip(&format!("-6 route replace 2001:db8:3::/64 via {} src {}", BACKEND[1], own[1]));
            let sources = |table: &NextHopTable| {
                FAR.map(|destination| {
                    table.get(&ip(destination)).copied().flatten().and_then(|hop| hop.source)
                })
            };
            let expected = own.map(|own| Some(ip(own)));
            let waiting = watched.table.wait_for(|table| sources(table) == expected);
            let found = timeout(DEADLINE, waiting).await.is_ok();
            assert!(found, "wanted {expected:?}, have {:?}", sources(&watched.table.borrow()));
        }
    });
}

#[test]
fn a_new_mac_is_followed() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    lab.node.inside_runtime(|| async {
        let mut watched = Watched::start(BACKEND).await;
        watched.until("resolved", BACKEND, [lab.on("back", BACKEND_MAC, None); 2]).await;
        lab.backend.ip("link set eth0 address 02:00:00:00:00:77");
        speak(&lab.backend, "192.0.2.11");
        speak(&lab.backend, "2001:db8:1::11");
        watched.until("new MAC", BACKEND, [lab.on("back", [2, 0, 0, 0, 0, 0x77], None); 2]).await;
        // Our own, too: frames must carry the interface's address.
        lab.node.ip("link set back address 02:00:00:00:00:33");
        let own = lab
            .on("back", [2, 0, 0, 0, 0, 0x77], None)
            .map(|hop| NextHop { source_mac: [2, 0, 0, 0, 0, 0x33], ..hop });
        watched.until("own MAC", BACKEND, [own; 2]).await;
    });
}

#[test]
fn a_new_mac_that_nobody_announces_is_found() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    lab.node.inside_runtime(|| async {
        // A kernel that doubts its neighbours within a second; by default it takes about a minute.
        for family in ["ipv4", "ipv6"] {
            let set = |key: &str, value| {
                lb_userspace::net::sysctl::write(&format!("net/{family}/neigh/back/{key}"), value).unwrap();
            };
            set("base_reachable_time_ms", "500");
            set("delay_first_probe_time", "1");
            set("retrans_time_ms", "100");
        }
        let mut watched = Watched::start(BACKEND).await;
        watched.until("resolved", BACKEND, [lab.on("back", BACKEND_MAC, None); 2]).await;
        lab.backend.ip("link set eth0 address 02:00:00:00:00:77");
        watched.until("new MAC", BACKEND, [lab.on("back", [2, 0, 0, 0, 0, 0x77], None); 2]).await;
    });
}

#[test]
fn a_link_goes_down_and_comes_back() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    lab.node.inside_runtime(|| async {
        let resolved = [lab.on("back", BACKEND_MAC, None); 2];
        let mut watched = Watched::start(BACKEND).await;
        watched.until("resolved", BACKEND, resolved).await;

        // The other end: we lose the carrier, the routes stay.
        lab.backend.ip("link set eth0 down");
        watched.until_none("no carrier", BACKEND).await;
        lab.backend.ip("link set eth0 up");
        lab.backend.address("eth0", &["2001:db8:1::21/64"]);
        watched.until("carrier back", BACKEND, resolved).await;

        // Our end: the routes go, and IPv6 addresses with them.
        lab.node.ip("link set back down");
        watched.until_none("switched off", BACKEND).await;
        lab.node.ip("link set back up");
        lab.node.address("back", &["2001:db8:1::11/64"]);
        watched.until("switched on", BACKEND, resolved).await;
    });
}

#[test]
fn nobody_answers() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    lab.node.inside_runtime(|| async {
        let silent = ["192.0.2.77", "2001:db8:1::77"];
        let mut watched = Watched::start(silent).await;
        // The kernel was made to ask, and gave up.
        eventually("neighbours failed", || {
            silent.iter().all(|address| lab.node.ip(&format!("neigh show {address}")).contains("FAILED"))
        })
        .await;
        watched.until_none("silent", silent).await;
        // It comes to life without a word.
        lab.backend.address("eth0", &["192.0.2.77/24", "2001:db8:1::77/64"]);
        watched.until("alive", silent, [lab.on("back", BACKEND_MAC, None); 2]).await;
    });
}

#[test]
fn a_neighbour_that_fails_is_lost() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    lab.node.inside_runtime(|| async {
        let mut watched = Watched::start(BACKEND).await;
        watched.until("resolved", BACKEND, [lab.on("back", BACKEND_MAC, None); 2]).await;
        lab.backend.ip("address flush dev eth0");
        for address in BACKEND {
            lab.node.ip(&format!("neigh replace {address} dev back lladdr 02:00:00:00:00:21 nud probe"));
        }
        watched.until_none("gone", BACKEND).await;
    });
}

#[test]
fn a_removed_entry_is_no_reason_to_stop() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    lab.node.inside_runtime(|| async {
        let mut watched = Watched::start(BACKEND).await;
        watched.until("resolved", BACKEND, [lab.on("back", BACKEND_MAC, None); 2]).await;
        for address in BACKEND {
            lab.node.ip(&format!("neigh del {address} dev back"));
        }
        eventually("entries are back", || {
            BACKEND.iter().all(|address| lab.node.ip(&format!("neigh show {address}")).contains("02:00"))
        })
        .await;
        assert!(!watched.table.has_changed().unwrap(), "{:?}", *watched.table.borrow());
    });
}

#[test]
fn a_removed_entry_that_nobody_replaces_is_lost() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    lab.node.inside_runtime(|| async {
        let mut watched = Watched::start(BACKEND).await;
        watched.until("resolved", BACKEND, [lab.on("back", BACKEND_MAC, None); 2]).await;
        lab.backend.ip("address flush dev eth0");
        for address in BACKEND {
            lab.node.ip(&format!("neigh del {address} dev back"));
        }
        watched.until_none("gone", BACKEND).await;
    });
}

#[test]
fn a_permanent_entry_stays_permanent() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    lab.node.ip("neigh add 192.0.2.77 dev back lladdr 02:00:00:00:00:77 nud permanent");
    lab.node.ip("neigh add 2001:db8:1::77 dev back lladdr 02:00:00:00:00:77 nud permanent");
    lab.node.inside_runtime(|| async {
        let fixed = ["192.0.2.77", "2001:db8:1::77"];
        let mut watched = Watched::start(fixed).await;
        watched.until("fixed", fixed, [lab.on("back", [2, 0, 0, 0, 0, 0x77], None); 2]).await;
        for address in fixed {
            assert!(lab.node.ip(&format!("neigh show {address}")).contains("PERMANENT"));
        }
    });
}

#[test]
fn destinations_are_replaced() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    lab.node.inside_runtime(|| async {
        let mut watched = Watched::start(BACKEND).await;
        watched.until("first", BACKEND, [lab.on("back", BACKEND_MAC, None); 2]).await;
        watched.next_hops.set_destinations(SECOND.map(ip));
        watched.until("second", SECOND, [lab.on("side", SECOND_MAC, None); 2]).await;
        assert_eq!(watched.table.borrow().len(), 2, "the first are gone");
        // The host's own addresses, and those without a route, are in the table without a next hop.
        let unreachable = ["192.0.2.11", "2001:db8:99::1"];
        watched.next_hops.set_destinations(unreachable.map(ip));
        watched.until_none("unreachable", unreachable).await;
    });
}

#[test]
fn dropping_the_handle_ends_the_watch() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    lab.node.inside_runtime(|| async {
        let Watched { next_hops, mut table } = Watched::start(BACKEND).await;
        drop(next_hops);
        let closed = async { while table.changed().await.is_ok() {} };
        assert!(timeout(DEADLINE, closed).await.is_ok());
    });
}
