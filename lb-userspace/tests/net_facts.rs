//! `net::facts` and `net::sysctl` against namespaces made for the purpose.

#![allow(clippy::unwrap_used)] // Clippy takes helper functions here for ordinary code.

mod net_lab;

use std::{collections::BTreeMap, net::IpAddr};

use lb_userspace::net::{
    NextHop,
    facts::{HostFacts, Interface, gather},
    source, sysctl,
};
use net_lab::{Namespace, privileged};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn interface<'a>(facts: &'a HostFacts, name: &str) -> &'a Interface {
    facts.interfaces.iter().find(|interface| interface.link.name == name).unwrap()
}

#[test]
fn facts_of_a_host() {
    if !privileged() {
        return;
    }
    let (host, peer) = (Namespace::new(), Namespace::new());
    host.connect("front", &peer, "front");
    host.ip("link add off type veth peer name other");
    host.ip("link set front mtu 1400 address 02:00:00:00:00:11");
    host.address("front", &["192.0.2.11/24", "192.0.2.12/24", "2001:db8:1::11/64"]);
    host.address("lo", &["198.51.100.80/32", "2001:db8:80::80/128"]);
    host.ip("route add 203.0.113.0/24 via 192.0.2.1 src 192.0.2.12");
    host.inside(|| {
        sysctl::write("net/ipv4/conf/front/forwarding", "0").unwrap();
        sysctl::write("net/ipv6/conf/front/forwarding", "1").unwrap();
        sysctl::write("net/ipv4/conf/all/rp_filter", "1").unwrap();
        sysctl::write("net/ipv4/conf/front/rp_filter", "2").unwrap();
        sysctl::write("net/ipv4/conf/off/rp_filter", "0").unwrap();
    });
    host.ip("route add unreachable 198.51.100.0/24");

    let wanted =
        ["192.0.2.21", "203.0.113.21", "2001:db8:1::21", "192.0.2.11", "198.51.100.7", "2001:db8:9::9"];
    let facts = host.inside_runtime(|| async {
        sysctl::write("net/ipv4/ip_local_port_range", "40000 50000").unwrap();
        sysctl::write("net/ipv4/ip_local_reserved_ports", "40010,40020-40030").unwrap();
        gather(wanted.map(ip), &BTreeMap::new()).await.unwrap()
    });

    let front = interface(&facts, "front");
    assert_eq!(front.link.mac, Some([2, 0, 0, 0, 0, 0x11]));
    assert_eq!((front.link.mtu, front.link.up), (1400, true));
    assert_eq!(front.driver().as_deref(), Some("veth"));
    for address in ["192.0.2.11", "192.0.2.12", "2001:db8:1::11"] {
        assert!(front.addresses.contains(&ip(address)), "{address} in {:?}", front.addresses);
    }
    let lo = interface(&facts, "lo");
    assert_eq!((lo.link.mac, lo.link.up), (None, true));
    for address in ["127.0.0.1", "::1", "198.51.100.80", "2001:db8:80::80"] {
        assert!(lo.addresses.contains(&ip(address)), "{address} in {:?}", lo.addresses);
    }
    let off = interface(&facts, "off");
    assert_eq!((off.link.up, off.addresses.len()), (false, 0));

    assert_eq!(facts.ip_local_port_range, 40000..=50000);
    assert_eq!(facts.ip_local_reserved_ports, [40010..=40010, 40020..=40030]);

    let source = |destination| facts.check_route.get(&ip(destination)).map(|route| route.source.to_string());
    assert_eq!(source("192.0.2.21").as_deref(), Some("192.0.2.11"));
    assert_eq!(source("203.0.113.21").as_deref(), Some("192.0.2.12"));
    assert_eq!(source("2001:db8:1::21").as_deref(), Some("2001:db8:1::11"));
    assert_eq!(source("192.0.2.11").as_deref(), Some("192.0.2.11"));
    assert_eq!(source("198.51.100.7"), None);
    assert_eq!(source("2001:db8:9::9"), None);

    let way = |destination| {
        let route = facts.check_route.get(&ip(destination)).unwrap();
        (route.interface.as_str(), route.gateway)
    };
    assert_eq!(way("192.0.2.21"), ("front", None));
    assert_eq!(way("203.0.113.21"), ("front", Some(ip("192.0.2.1"))));

    let settings = facts.settings["front"];
    assert_eq!((settings.rp_filter, facts.settings["off"].rp_filter), (Some(2), Some(1)), "the greater");
    assert_eq!((settings.forwarding_v4, settings.forwarding_v6), (Some(false), Some(true)));
}

#[test]
fn ways_that_are_known_are_not_asked_for() {
    if !privileged() {
        return;
    }
    let (host, peer) = (Namespace::new(), Namespace::new());
    host.connect("front", &peer, "front");
    host.address("front", &["192.0.2.11/24"]);
    let index = host.ip("-o link show front").split(':').next().unwrap().parse().unwrap();
    // None of it is what the kernel would say.
    let elsewhere = NextHop {
        interface_index: index,
        source_mac: [2; 6],
        destination_mac: [4; 6],
        gateway: Some(ip("192.0.2.77")),
        source: Some(ip("192.0.2.78")),
        mtu: 1_500,
    };
    let known = BTreeMap::from([
        (ip("192.0.2.21"), Some(elsewhere)),
        (ip("192.0.2.22"), None),
        (ip("192.0.2.23"), Some(NextHop { source: None, ..elsewhere })),
        (ip("192.0.2.24"), Some(NextHop { interface_index: 9_999, ..elsewhere })),
        (ip("192.0.2.99"), Some(elsewhere)),
    ]);
    let wanted = ["192.0.2.21", "192.0.2.22", "192.0.2.23", "192.0.2.24", "192.0.2.25"].map(ip);
    let facts = host.inside_runtime(|| async { gather(wanted, &known).await.unwrap() });
    let ways: Vec<_> = facts.check_route.iter().map(|(to, way)| (*to, way.source, way.gateway)).collect();
    let asked = |destination| (destination, ip("192.0.2.11"), None);
    let expected = [
        (wanted[0], ip("192.0.2.78"), Some(ip("192.0.2.77"))),
        asked(wanted[1]),
        asked(wanted[2]),
        asked(wanted[3]),
        asked(wanted[4]),
    ];
    assert_eq!(ways, expected);
}

#[test]
fn source_address_is_one_that_the_host_has_now() {
    if !privileged() {
        return;
    }
    let (host, peer) = (Namespace::new(), Namespace::new());
    host.connect("front", &peer, "front");
    host.address("front", &["192.0.2.11/24", "192.0.2.12/24", "2001:db8:1::11/64"]);
    host.ip("route add 203.0.113.0/24 dev front src 192.0.2.12");
    let choice = |to: &str| host.inside(|| source::kernels_choice((ip(to), 80).into()));
    let is_here = |address: &str| host.inside(|| source::is_here(ip(address)));
    assert_eq!(choice("203.0.113.21"), Some(ip("192.0.2.12")));
    assert_eq!(choice("2001:db8:1::21"), Some(ip("2001:db8:1::11")));
    assert_eq!((choice("198.51.100.1"), choice("2001:db8:9::9")), (None, None));
    assert!(is_here("192.0.2.12") && is_here("2001:db8:1::11") && !is_here("192.0.2.13"));

    host.ip("address delete 192.0.2.12/24 dev front");
    host.ip("route add 203.0.113.0/24 dev front");
    assert_eq!(choice("203.0.113.21"), Some(ip("192.0.2.11")));
    assert!(!is_here("192.0.2.12"));
}
