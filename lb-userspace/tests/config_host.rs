//! The configuration against a host: what is refused there, with place and remedy, and what only warns.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use lb_userspace::config::{
    Loaded,
    host::{HostFacts, Kernel, Lack, Route, Settings},
};

const FILE: &str = r#"version = 1
[node]
name = "node1"
interfaces = ["front", "back"]
addresses = ["192.0.2.11"]
[nat]
source = ["203.0.113.11"]
[dns]
zone = "example.test"
listen = ["192.0.2.11:53", "203.0.113.11:53"]
[[service]]
name = "web"
dns_name = "www.example.test"
protocol = "tcp"
port = 80
[[service.backend]]
name = "b1"
address = "203.0.113.21"
[[service]]
name = "mail"
protocol = "tcp"
port = 25
forward = "dsr-l2"
[[service.backend]]
name = "m1"
address = "203.0.113.31"
"#;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A host that fits `FILE`.
fn host() -> HostFacts {
    HostFacts {
        interfaces: vec![
            ("lo".to_owned(), vec![ip("127.0.0.1"), ip("::1")]),
            ("front".to_owned(), vec![ip("192.0.2.11")]),
            ("back".to_owned(), vec![ip("203.0.113.11")]),
        ],
        settings: BTreeMap::new(),
        ip_local_port_range: 32_768..=60_999,
        ip_local_reserved_ports: Vec::new(),
        check_route: ["203.0.113.21", "203.0.113.31"]
            .into_iter()
            .map(|backend| (ip(backend), over_back("203.0.113.11")))
            .collect(),
        kernel: Kernel::default(),
    }
}

fn over_back(source: &str) -> Route {
    Route { source: ip(source), interface: "back".to_owned(), gateway: None }
}

fn judge(file: &str, host: &HostFacts) -> String {
    match Loaded::parse(file, Path::new("usher.toml")).expect("a good file").check_host(host) {
        Ok(warnings) => warnings.iter().map(|warning| format!("warning: {warning}\n")).collect(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn g65_what_the_kernel_lacks_is_named_with_the_version_that_has_it() {
    let lack = |what: &str, since| Lack { what: what.to_owned(), since };
    let lacks = vec![lack("one thing", "5.11"), lack("another", "5.19")];
    let host = HostFacts { kernel: Kernel { release: "5.10.0-9".to_owned(), lacks }, ..host() };
    let expected = ": node: cannot run on this kernel, Linux 5.10.0-9, which lacks one thing (Linux 5.11), another \
                    (Linux 5.19); boot Linux 5.19 or newer; usher is tested on 6.1 and 6.12";
    let found = judge(FILE, &host);
    assert!(found.contains(expected), "{found}");
}

#[test]
fn a_host_that_fits_is_accepted_without_a_word() {
    assert_eq!(judge(FILE, &host()), "");
}

#[test]
fn an_interface_that_does_not_exist() {
    let mut host = host();
    host.interfaces[1].0 = "frint".to_owned();
    assert_eq!(
        judge(FILE, &host),
        "usher.toml:4: node: interfaces: front: is no interface of this host; did you mean \"frint\"? this \
         host has lo, frint and back"
    );
}

#[test]
fn addresses_that_no_interface_has() {
    let mut host = host();
    host.interfaces[1].1 = vec![ip("192.0.2.99")];
    host.interfaces[2].1.clear();
    assert_eq!(
        judge(FILE, &host),
        "usher.toml:5: node: addresses: 192.0.2.11: is on no interface of this host; add it (`ip address add \
         192.0.2.11/32 dev front`), or use one that this host has\n\
         usher.toml:7: nat: source: 203.0.113.11: is on no interface of this host; add it (`ip address add \
         203.0.113.11/32 dev front`), or use one that this host has\n\
         usher.toml:10: dns: listen: 203.0.113.11:53: is on no interface of this host; add it (`ip address \
         add 203.0.113.11/32 dev front`), or use one that this host has"
    );
}

#[test]
fn a_backend_that_is_the_host_itself() {
    let mut host = host();
    host.interfaces[2].1.push(ip("203.0.113.21"));
    assert_eq!(
        judge(FILE, &host),
        "usher.toml:18: service \"web\": backend \"b1\": address: 203.0.113.21: is this host's own address, \
         on back; use the address of another host: packets to it never leave this one"
    );
}

#[test]
fn nat_ports_that_the_kernel_hands_out_too() {
    // (the file's ports, the host's range, the remedy)
    let cases = [
        (
            "",
            1_024..=65_535,
            "usher.toml:6: nat: ports: 1024-32767 overlaps 1024-65535, the ports of this host's own connections \
             (net.ipv4.ip_local_port_range); run `sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\"`",
        ),
        (
            "ports = \"1024-40959\"",
            32_768..=60_999,
            "usher.toml:7: nat: ports: 1024-40959 overlaps 32768-60999, the ports of this host's own connections \
             (net.ipv4.ip_local_port_range); write ports = \"1024-32767\", or run `sysctl -w \
             net.ipv4.ip_local_port_range=\"40960 60999\"`",
        ),
        (
            "ports = \"32768-65535\"",
            1_024..=40_000,
            "usher.toml:7: nat: ports: 32768-65535 overlaps 1024-40000, the ports of this host's own connections \
             (net.ipv4.ip_local_port_range); write ports = \"40008-65535\", or run `sysctl -w \
             net.ipv4.ip_local_port_range=\"1024 32767\"`",
        ),
        (
            "ports = \"1024-65535\"",
            1_024..=65_535,
            "usher.toml:7: nat: ports: 1024-65535 overlaps 1024-65535, the ports of this host's own connections \
             (net.ipv4.ip_local_port_range); write ports = \"1024-32767\", and run `sysctl -w \
             net.ipv4.ip_local_port_range=\"32768 60999\"`",
        ),
    ];
    for (ports, range, expected) in cases {
        let file = FILE.replace("[nat]\n", &format!("[nat]\n{ports}\n")).replace("[nat]\n\n", "[nat]\n");
        let host = HostFacts { ip_local_port_range: range, ..host() };
        assert_eq!(judge(&file, &host), expected);
    }
}

#[test]
fn a_dsr_backend_that_is_checked_from_the_address_it_holds() {
    let mut host = host();
    host.check_route.insert(ip("203.0.113.31"), over_back("192.0.2.11"));
    assert_eq!(
        judge(FILE, &host),
        "usher.toml:26: service \"mail\": backend \"m1\": address: 203.0.113.31: would be checked from \
         192.0.2.11, which it holds itself for the dsr-l2 service \"mail\": it would answer itself; offer \
         \"mail\" on another address, or let this host use another source towards it (`ip route replace \
         203.0.113.31/32 … src 203.0.113.11`)"
    );
    // A NAT backend holds no VIP: any source will do.
    let mut host = self::host();
    host.check_route.insert(ip("203.0.113.21"), over_back("192.0.2.11"));
    assert_eq!(judge(FILE, &host), "");
}

#[test]
fn an_address_that_checks_leave_from() {
    let from = |service: &str, source: &str| {
        FILE.replace(service, &format!("{service}check = {{ source = \"{source}\" }}\n"))
    };
    let mut host = host();
    assert_eq!(
        judge(&from("port = 80\n", "203.0.113.12"), &host),
        "usher.toml:16: service \"web\": check: source: 203.0.113.12: is on no interface of this host; add it \
         (`ip address add 203.0.113.12/32 dev front`), or use one that this host has"
    );
    host.interfaces[2].1.push(ip("203.0.113.12"));
    assert_eq!(judge(&from("port = 80\n", "203.0.113.12"), &host), "");
    assert_eq!(
        judge(&from("port = 25\n", "192.0.2.11"), &host),
        "usher.toml:23: service \"mail\": check: source: 192.0.2.11: is held by the backend 203.0.113.31 for the \
         dsr-l2 service \"mail\": it would answer itself; use an address of this node that is no service's"
    );
    // A good source makes up for the kernel's choice.
    host.check_route.insert(ip("203.0.113.31"), over_back("192.0.2.11"));
    assert_eq!(judge(&from("port = 25\n", "203.0.113.12"), &host), "");
}

/// It takes this service's packets when that one's backends are down, so it holds this one's address.
#[test]
fn a_dsr_backend_that_stands_in_for_another_services() {
    let file =
        FILE.replace("addresses = [\"192.0.2.11\"]", "addresses = [\"192.0.2.11\", \"192.0.2.13\"]").replace(
            "port = 25\n",
            "port = 25\naddresses = [\"192.0.2.11\"]\nall_down = { service = \"sorry\" }\n",
        );
    let sorry = "[[service]]\nname = \"sorry\"\nprotocol = \"tcp\"\nport = 25\naddresses = [\"192.0.2.13\"]\n\
                 forward = \"dsr-l2\"\nbackend = [{ name = \"s1\", address = \"203.0.113.41\" }]\n";
    let mut host = host();
    host.interfaces[1].1.push(ip("192.0.2.13"));
    host.check_route.insert(ip("203.0.113.41"), over_back("192.0.2.11"));
    let found = judge(&format!("{file}{sorry}"), &host);
    let expected = "would be checked from 192.0.2.11, which it holds itself for the dsr-l2 service \"mail\"";
    assert!(found.contains(expected), "{found}");
    host.check_route.insert(ip("203.0.113.41"), over_back("203.0.113.11"));
    assert_eq!(judge(&format!("{file}{sorry}"), &host), "");
}

#[test]
fn a_backend_without_a_route_warns() {
    let host = HostFacts { check_route: BTreeMap::new(), ..host() };
    assert_eq!(
        judge(FILE, &host),
        "warning: usher.toml:18: service \"web\": backend \"b1\": address: 203.0.113.21: cannot be reached: \
         this host has no route to it; add a route, or correct the address\n\
         warning: usher.toml:26: service \"mail\": backend \"m1\": address: 203.0.113.31: cannot be reached: \
         this host has no route to it; add a route, or correct the address\n"
    );
}

#[test]
fn backends_over_an_interface_without_the_program() {
    let file = FILE.replace("[\"front\", \"back\"]", "[\"front\"]");
    assert_eq!(
        judge(&file, &host()),
        "usher.toml:18: service \"web\": backend \"b1\": address: 203.0.113.21: is reached over \"back\", an \
         interface without the XDP program: packets to it or its answers would be lost; add \"back\" to [node] \
         interfaces\n\
         usher.toml:26: service \"mail\": backend \"m1\": address: 203.0.113.31: is reached over \"back\", an \
         interface without the XDP program: packets to it or its answers would be lost; add \"back\" to [node] \
         interfaces"
    );
}

#[test]
fn a_dsr_backend_behind_a_gateway() {
    let mut host = host();
    for route in host.check_route.values_mut() {
        route.gateway = Some(ip("203.0.113.1"));
    }
    // A NAT backend may be anywhere.
    assert_eq!(
        judge(FILE, &host),
        "usher.toml:26: service \"mail\": backend \"m1\": address: 203.0.113.31: is reached through the gateway \
         203.0.113.1, which would send the packets back to this node; dsr-l2 needs the backend on the same \
         link; use forward = \"nat\""
    );
    // Also when another service, by NAT, has the same backend.
    let shared = FILE.replace("203.0.113.31", "203.0.113.21");
    assert!(judge(&shared, &host).starts_with("usher.toml:26: service \"mail\""));
}

#[test]
fn replies_by_route_where_the_kernel_may_not_forward() {
    let file = FILE.replace("[nat]\n", "[nat]\nreply = \"route\"\n");
    let mut host = host();
    let settings = Settings { forwarding_v4: Some(true), forwarding_v6: Some(false), rp_filter: Some(0) };
    host.settings = [("front".to_owned(), settings), ("back".to_owned(), settings)].into();
    assert_eq!(judge(&file, &host), "", "no service is offered over IPv6");
    host.settings.insert("back".to_owned(), Settings { forwarding_v4: Some(false), ..settings });
    assert_eq!(
        judge(&file, &host),
        "usher.toml:7: nat: reply: is \"route\", but net.ipv4.conf.back.forwarding is 0: the kernel gives no \
         route for answers there; run `sysctl -w net.ipv4.conf.back.forwarding=1`, or use reply = \"last-hop\""
    );
    assert_eq!(judge(FILE, &host), "", "the last hop needs no route");
}

#[test]
fn replies_by_route_over_ipv6() {
    let file = FILE
        .replace("[nat]\n", "[nat]\nreply = \"route\"\n")
        .replace("\"203.0.113.11\"]\n[dns]", "\"203.0.113.11\", \"2001:db8:2::11\"]\n[dns]")
        .replace("[\"192.0.2.11\"]\n[nat]", "[\"192.0.2.11\", \"2001:db8:1::11\"]\n[nat]")
        .replace("\"203.0.113.21\"", "[\"203.0.113.21\", \"2001:db8:2::21\"]");
    let mut host = host();
    host.interfaces[1].1.push(ip("2001:db8:1::11"));
    host.interfaces[2].1.push(ip("2001:db8:2::11"));
    let settings = Settings { forwarding_v4: Some(true), forwarding_v6: Some(false), rp_filter: Some(0) };
    host.settings.insert("front".to_owned(), settings);
    let said = judge(&file, &host);
    assert!(said.contains("run `sysctl -w net.ipv6.conf.front.forwarding=1`, or"), "{said}");
}

/// `FILE` with a peer; both nodes offer "mail" by dsr-l2 on their one front address.
fn with_peer() -> String {
    FILE.replace("name = \"node1\"", "name = \"node1\"\nsecret_file = \"/etc/usher/secret\"").replace(
        "[[service]]\nname = \"web\"",
        "[[peer]]\nname = \"node2\"\naddresses = [\"192.0.2.12\"]\n[[service]]\nname = \"web\"",
    )
}

fn host_with_peer() -> HostFacts {
    let mut host = host();
    let way = Route { source: ip("192.0.2.11"), interface: "front".to_owned(), gateway: None };
    host.check_route.insert(ip("192.0.2.12"), way);
    host
}

#[test]
fn a_peer_that_could_only_be_probed_from_addresses_that_backends_hold() {
    assert_eq!(judge(&with_peer(), &host_with_peer()), "", "[nat] source is free");
    let (start, rest) = FILE.split_once("[nat]").expect("a section");
    let dsr_only = rest.split_once("[[service]]\nname = \"mail\"").expect("a service").1;
    let file = format!(
        "{start}secret_file = \"/etc/usher/secret\"\n[[peer]]\nname = \"node2\"\naddresses = \
         [\"192.0.2.12\"]\n[[service]]\nname = \"mail\"{dsr_only}"
    );
    assert_eq!(judge(&file, &host_with_peer()), "", "203.0.113.11 is free");
    let mut host = host_with_peer();
    host.interfaces[2].1 = vec![ip("169.254.1.1")];
    assert_eq!(
        judge(&file, &host),
        "usher.toml:9: peer \"node2\": addresses: 192.0.2.12: cannot be probed through the dsr-l2 service \
         \"mail\": that service's backends hold every IPv4 address of this node's interfaces and would answer \
         themselves; give one of the interfaces an IPv4 address that no dsr-l2 service uses"
    );
    let udp = file.replace("\"tcp\"", "\"udp\"").replace("port = 25\n", "port = 25\ncheck = { port = 25 }\n");
    assert_eq!(judge(&udp, &host), "", "the peer's DNS server is asked");
}

#[test]
fn strict_rp_filter_where_answers_to_probes_come_in() {
    let mut host = host_with_peer();
    let strict = Settings { rp_filter: Some(1), ..Settings::default() };
    host.settings.insert("front".to_owned(), strict);
    assert_eq!(judge(&with_peer(), &host), "", "the way to the peer is that interface");
    host.settings.insert("back".to_owned(), strict);
    assert_eq!(judge(FILE, &host), "", "no peers");
    assert_eq!(
        judge(&with_peer(), &host),
        "warning: usher.toml:5: node: interfaces: back: drops the answers to probes of peers that dsr-l2 \
         backends send here: net.ipv4.conf.back.rp_filter is in effect 1 (strict), and the way to 192.0.2.12 \
         is \"front\"; run `sysctl -w net.ipv4.conf.back.rp_filter=2`\n"
    );
}

#[test]
fn reserved_ports_do_not_clash_with_nat() {
    let mut host = host();
    host.ip_local_port_range = 30_000..=60_999;
    host.ip_local_reserved_ports = vec![30_000..=32_766];
    assert!(judge(FILE, &host).contains("overlaps 30000-60999"), "32767 is still handed out");
    host.ip_local_reserved_ports = vec![30_000..=32_000, 32_001..=32_767];
    assert_eq!(judge(FILE, &host), "");
}

#[test]
fn service_ports_that_the_kernel_hands_out_too() {
    let file = FILE.replace("port = 80", "port = 40000").replace("port = 25", "port = 41000");
    let mut host = host();
    host.ip_local_reserved_ports = vec![5_000..=5_000, 41_000..=41_005];
    assert_eq!(
        judge(&file, &host),
        "warning: usher.toml:15: service \"web\": port: 40000 is one of the ports 32768-60999 of this host's own \
         connections (net.ipv4.ip_local_port_range): answers to one from there on 192.0.2.11 would go to a \
         backend; run `sysctl -w net.ipv4.ip_local_reserved_ports=5000,41000-41005,40000`\n"
    );
    host.ip_local_reserved_ports.push(40_000..=40_000);
    assert_eq!(judge(&file, &host), "");
}
