//! Everything but the services: node, NAT, flows, DNS, peers.

use super::Case;

pub(super) const CASES: &[Case] = &[
    (
        r#"[node]
name = "node1"
interfaces = ["front", "back"]
addresses = ["192.0.2.11", "2001:db8:1::11"]
secret_file = "/etc/usher/secret"
"#,
        "",
        "usher.toml:1: node: is missing; write `[node]` on a line of its own, and its settings below",
    ),
    (
        r#"name = "node1"
"#,
        "",
        r#"usher.toml:2: node: name: is missing; write a name in quotes, such as "web1""#,
    ),
    (
        r#"name = "node1""#,
        r#"name = "node1.example.test""#,
        r#"usher.toml:3: node: name: "node1.example.test" is not a host name without dots; use 1 to 63 letters, digits and inner "-", such as "node1": it becomes a name in the zone"#,
    ),
    (
        r#"interfaces = ["front", "back"]
"#,
        "",
        r#"usher.toml:2: node: interfaces: is missing; write a list of names, such as ["eth0"]"#,
    ),
    (
        r#"["front", "back"]"#,
        "[]",
        r#"usher.toml:4: node: interfaces: is an empty list; write a list of names, such as ["eth0"]"#,
    ),
    (
        r#"["front", "back"]"#,
        r#"["front", "front"]"#,
        "usher.toml:4: node: interfaces: front: is given twice; remove one of the two",
    ),
    (
        r#"["front", "back"]"#,
        r#"["front", "a/very/long/interface"]"#,
        "usher.toml:4: node: interfaces: a/very/long/interface: is not an interface name; use a name of at most 15 characters, as `ip link` shows it",
    ),
    (
        r#"name = "node1""#,
        r#"name = "node1"
metrics_listen = ["192.0.2.11"]"#,
        r#"usher.toml:4: node: metrics_listen: 192.0.2.11: is not an address with a port; write "192.0.2.11:9464""#,
    ),
    (
        r#"name = "node1""#,
        r#"name = "node1"
xdp_mode = "nativ""#,
        r#"usher.toml:4: node: xdp_mode: "nativ" is not possible here; did you mean "native"?"#,
    ),
    (
        r#"addresses = ["192.0.2.11", "2001:db8:1::11"]
secret"#,
        "addresses = []\nsecret",
        r#"usher.toml:5: node: addresses: is an empty list; write a list of addresses, such as ["192.0.2.11", "2001:db8:1::11"]"#,
    ),
    (
        r#""192.0.2.11", "#,
        r#""192.0.2.11", "192.0.2.11", "#,
        "usher.toml:5: node: addresses: 192.0.2.11: is given twice; remove one of the two",
    ),
    (
        r#""192.0.2.11", "#,
        r#""192.0.2.11/24", "#,
        "usher.toml:5: node: addresses: 192.0.2.11/24: is not an IP address; write the address alone, without a prefix length",
    ),
    (
        r#""192.0.2.11", "#,
        r#""192.0.2.11:80", "#,
        "usher.toml:5: node: addresses: 192.0.2.11:80: is not an IP address; write the address alone; the port has a key of its own",
    ),
    (
        r#""192.0.2.11", "#,
        r#""node1.example.test", "#,
        r#"usher.toml:5: node: addresses: node1.example.test: is not an IP address; write one such as "192.0.2.11" or "2001:db8::11"; names are not looked up"#,
    ),
    (
        r#""192.0.2.11", "#,
        r#""127.0.0.1", "#,
        "usher.toml:5: node: addresses: 127.0.0.1: is a loopback address; use an address that other hosts can reach",
    ),
    (
        r#""192.0.2.11", "#,
        r#""0.0.0.0", "#,
        "usher.toml:5: node: addresses: 0.0.0.0: is the unspecified address; use an address that other hosts can reach",
    ),
    (
        r#""192.0.2.11", "#,
        r#""224.0.0.1", "#,
        "usher.toml:5: node: addresses: 224.0.0.1: is a multicast address; use an address that other hosts can reach",
    ),
    (
        r#""192.0.2.11", "#,
        r#""::ffff:192.0.2.11", "#,
        r#"usher.toml:5: node: addresses: ::ffff:192.0.2.11: is an IPv4 address mapped into IPv6; write "192.0.2.11""#,
    ),
    (
        r#""192.0.2.11", "#,
        r#""fe80::1", "#,
        "usher.toml:5: node: addresses: fe80::1: is link-local, which means nothing without an interface; use an address that other hosts can reach",
    ),
    (
        r#""192.0.2.11", "#,
        r#"{ address = "192.0.2.11", publish = "2001:db8::1" }, "#,
        "usher.toml:5: node: addresses: 192.0.2.11: publish: 2001:db8::1 is of the other family; publish an IPv4 address for an IPv4 address, an IPv6 address for an IPv6 address",
    ),
    (
        r#""192.0.2.11", "#,
        r#"{ publish = "192.0.2.11" }, "#,
        r#"usher.toml:5: node: addresses: { }: address: is missing; write an address in quotes, such as "203.0.113.21""#,
    ),
    (
        r#""192.0.2.11", "#,
        r#"{ address = "192.0.2.11", publish = "192.0.2.12" }, "#,
        r#"usher.toml:17: peer "node2": addresses: 192.0.2.12: publishes 192.0.2.12, which node "node1" publishes too; publish an address that leads to this node only"#,
    ),
    (
        r#""192.0.2.11", "#,
        r#"{ address = "192.0.2.11", check_address = "2001:db8::1" }, "#,
        "usher.toml:5: node: addresses: 192.0.2.11: check_address: 2001:db8::1 is of the other family; use an IPv4 address for an IPv4 address, an IPv6 address for an IPv6 address",
    ),
    (
        r#""192.0.2.11", "#,
        r#"{ address = "192.0.2.11", check_address = "192.0.2.0/24" }, "#,
        "usher.toml:5: node: addresses: 192.0.2.11: check_address: is not an IP address; write the address alone, without a prefix length",
    ),
    (
        r#""192.0.2.11", "#,
        r#"{ address = "192.0.2.11", check_address = "192.0.2.12" }, "#,
        r#"usher.toml:17: peer "node2": addresses: 192.0.2.12: is checked at 192.0.2.12, where node "node1" is checked, too; use a check_address that leads to this node only"#,
    ),
    (
        r#"addresses = ["192.0.2.12", "2001:db8:1::12"]"#,
        r#"addresses = [{ address = "192.0.2.12", publish = "198.51.100.12" }]
[[peer]]
name = "node3"
addresses = [{ address = "192.0.2.13", publish = "198.51.100.13", check_address = "192.0.2.12" }]"#,
        r#"usher.toml:20: peer "node3": addresses: 192.0.2.13: is checked at 192.0.2.12, which is an address of peer "node2"; use an address that leads to this node only"#,
    ),
    (
        r#""192.0.2.11", "#,
        r#"{ address = "192.0.2.10", check_address = "192.0.2.11" }, "192.0.2.11", "#,
        "usher.toml:5: node: addresses: 192.0.2.11: check_address: is given twice; remove one of the two",
    ),
    (
        r#"secret_file = "/etc/usher/secret""#,
        r#"secret_file = "secret""#,
        r#"usher.toml:6: node: secret_file: "secret" is not an absolute path; write the whole path, such as "/etc/usher/secret""#,
    ),
    (
        r#"secret_file = "/etc/usher/secret""#,
        "secret_file = \"/etc/usher/secret\"\nstate_file = \"state.json\"",
        r#"usher.toml:7: node: state_file: "state.json" is not an absolute path; write the whole path, such as "/var/lib/usher/state.json""#,
    ),
    (
        r#"secret_file = "/etc/usher/secret""#,
        "secret_file = \"/etc/usher/secret\"\npin_dir = \"/sys/fs/bpf/usher.1\"",
        r#"usher.toml:7: node: pin_dir: has a dot in it, which the BPF file system refuses; use a name without, such as "/sys/fs/bpf/usher""#,
    ),
    (
        r#"secret_file = "/etc/usher/secret""#,
        "secret_file = \"/etc/usher/secret\"\non_stop = \"leave\"",
        r#"usher.toml:7: node: on_stop: "leave" is not possible here; use "keep" or "detach""#,
    ),
    (
        r#"secret_file = "/etc/usher/secret""#,
        "secret_file = \"/etc/usher/secret\"\nreload_on_change = \"yes\"",
        r#"usher.toml:7: node: reload_on_change: "yes" is a text; write true or false"#,
    ),
    (
        r#"secret_file = "/etc/usher/secret"
"#,
        "",
        r#"usher.toml:2: node: secret_file: is missing, but there are peers: all nodes must choose the same backend for a flow; run `usher init` on one node and `usher init --join` on the others, and write secret_file = "/etc/usher/secret""#,
    ),
    (
        r#"name = "node1""#,
        r#"name = "node1"
socket = "/run/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx""#,
        r#"usher.toml:4: node: socket: is longer than 107 bytes, the most that a socket's path can have; use a shorter path, such as "/run/usher/usher.sock""#,
    ),
    (
        r#""203.0.113.11", "#,
        r#""203.0.113.11", "203.0.113.12", "203.0.113.13", "203.0.113.14", "203.0.113.15", "203.0.113.16", "203.0.113.17", "203.0.113.18", "203.0.113.19", "#,
        "usher.toml:8: nat: source: 203.0.113.19: is one IPv4 address more than 8; keep 8 per family",
    ),
    (
        "[flows]",
        "[defence]\ndeny = [\"192.0.2.1/24\"]\n[flows]",
        r#"usher.toml:10: defence: deny: 192.0.2.1/24: has bits set beyond its 24 bits; write "192.0.2.0/24" for the network, "192.0.2.1" for the one address"#,
    ),
    (
        "[flows]",
        "[defence]\ndeny = [\"example.test\"]\n[flows]",
        r#"usher.toml:10: defence: deny: example.test: is not an address or prefix; write one such as "198.51.100.0/24" or, for what is allowed, "!198.51.100.7""#,
    ),
    (
        "[flows]",
        "[defence]\ndeny_file = \"deny\"\n[flows]",
        r#"usher.toml:10: defence: deny_file: "deny" is not an absolute path; write the whole path, such as "/etc/usher/deny""#,
    ),
    (
        "max = 1000000",
        "max = 1000000\naffinity = 1",
        "usher.toml:11: flows: affinity: 1 is less than 1000; use 1000 to 16000000; 100000 suits most",
    ),
    (
        "max = 1000000",
        "max = 1000000\nnew_per_second = -1",
        "usher.toml:11: flows: new_per_second: -1 is less than 0; use 0 for no limit, or up to 1000000000",
    ),
    (
        r#""203.0.113.11", "#,
        r#""203.0.113.11", "203.0.113.11", "#,
        "usher.toml:8: nat: source: 203.0.113.11: is given twice; remove one of the two",
    ),
    (
        r#"[nat]
source = ["203.0.113.11", "2001:db8:2::11"]
"#,
        "",
        r#"usher.toml:21: service "web": forward: is "nat", but [nat] names no IPv4 source address; add an IPv4 address of this node to [nat] source, or use forward = "dsr-l2"
usher.toml:21: service "web": forward: is "nat", but [nat] names no IPv6 source address; add an IPv6 address of this node to [nat] source, or use forward = "dsr-l2""#,
    ),
    (
        r#""203.0.113.11", "#,
        "",
        r#"usher.toml:23: service "web": forward: is "nat", but [nat] names no IPv4 source address; add an IPv4 address of this node to [nat] source, or use forward = "dsr-l2""#,
    ),
    (
        "[nat]\n",
        r#"[nat]
ports = "1024"
"#,
        r#"usher.toml:8: nat: ports: "1024" is not a range of ports; write the first and the last port, up to 65535, such as "1024-32767""#,
    ),
    (
        "[nat]\n",
        r#"[nat]
ports = "32767-1024"
"#,
        r#"usher.toml:8: nat: ports: "32767-1024" begins with the greater port; write "1024-32767""#,
    ),
    (
        "[nat]\n",
        r#"[nat]
ports = "1000-32767"
"#,
        r#"usher.toml:8: nat: ports: "1000-32767" has ports below 1024, which belong to the host's own servers; use "1024-32767""#,
    ),
    (
        "[nat]\n",
        r#"[nat]
ports = "1030-32000"
"#,
        r#"usher.toml:8: nat: ports: "1030-32000" is not a whole number of groups of 8 ports; use "1032-31999""#,
    ),
    (
        "[nat]\n",
        r#"[nat]
ports = "1024-70000"
"#,
        r#"usher.toml:8: nat: ports: "1024-70000" is not a range of ports; write the first and the last port, up to 65535, such as "1024-32767""#,
    ),
    (
        r#"source = ["203.0.113.11""#,
        r#"source = ["192.0.2.11""#,
        r#"usher.toml:8: nat: source: 192.0.2.11: is also an address of the dsr-l2 service "mail"; use another address of the node: that service's backends hold this one and drop what comes from it"#,
    ),
    (
        "max = 1000000",
        "max = 500",
        "usher.toml:10: flows: max: 500 is less than 1000; use 1000 to 16000000; 1000000 suits most",
    ),
    (
        "max = 1000000",
        "max = 1000000\nfragments = 999",
        "usher.toml:11: flows: fragments: 999 is less than 1000; use 1000 to 1000000; 16384 suits most",
    ),
    (
        "max = 1000000",
        "max = 1000000\nfragments = 1000001",
        "usher.toml:11: flows: fragments: 1000001 is more than 1000000; use 1000 to 1000000; 16384 suits most",
    ),
    (
        "max = 1000000",
        r#"max = 1000000
tcp_timeout = "forever""#,
        r#"usher.toml:11: flows: tcp_timeout: "forever" is not a duration; write a number and its unit, such as "500ms", "2s", "5m" or "1h""#,
    ),
    (
        "max = 1000000",
        r#"max = 1000000
udp_timeout = "10ms""#,
        r#"usher.toml:11: flows: udp_timeout: "10ms" is less than 1s; use 1s to 17h"#,
    ),
    (
        r#"zone = "example.test"
"#,
        "",
        r#"usher.toml:11: dns: zone: is missing; write a DNS name in quotes, such as "example.test""#,
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example..test""#,
        r#"usher.toml:12: dns: zone: "example..test" is not a DNS name: a label is empty; write one such as "example.test""#,
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "exa mple.test""#,
        r#"usher.toml:12: dns: zone: "exa mple.test" is not a DNS name: "exa mple" has a character that cannot stand there; write one such as "example.test""#,
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"
ttl = "0s""#,
        r#"usher.toml:13: dns: ttl: "0s" is less than 1s; use 1s to 7days"#,
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"
ttl = "8d""#,
        r#"usher.toml:13: dns: ttl: "8d" is more than 7days; use 1s to 7days"#,
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"
ttl = "10s"
ttl_in_doubt = "11s""#,
        r#"usher.toml:14: dns: ttl_in_doubt: "11s" is more than 10s; use 1s to 10s"#,
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"
ttl = "1500ms""#,
        r#"usher.toml:13: dns: ttl: "1500ms" is not a whole number of seconds; use "1s""#,
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"
contact = "hostmaster@example.test""#,
        r#"usher.toml:13: dns: contact: "hostmaster@example.test" has an @; write "hostmaster.example.test", as in a SOA record"#,
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"
all_down = "some""#,
        r#"usher.toml:13: dns: all_down: "some" is not possible here; use "all" or "none""#,
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"
listen = ["192.0.2.11"]"#,
        r#"usher.toml:13: dns: listen: 192.0.2.11: is not an address with a port; write "192.0.2.11:53""#,
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"
listen = ["192.0.2.11:0"]"#,
        "usher.toml:13: dns: listen: 192.0.2.11:0: has port 0; name the port, which others must know: 53",
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"
listen = ["192.0.2.11:53", "192.0.2.11:53"]"#,
        "usher.toml:13: dns: listen: 192.0.2.11:53: is given twice; remove one of the two",
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"
listen = ["192.0.2.11:53", "0.0.0.0:53"]"#,
        "usher.toml:13: dns: listen: 0.0.0.0:53: is the unspecified address: answers would leave from whatever address the kernel picks; list this node's addresses one by one",
    ),
    (
        r#"dns_name = "www.example.test""#,
        r#"dns_name = "www.example.org""#,
        r#"usher.toml:20: service "web": dns_name: "www.example.org" is outside the zone "example.test"; use a name that ends with .example.test"#,
    ),
    (
        r#"dns_name = "www.example.test""#,
        r#"dns_name = "node2.example.test""#,
        r#"usher.toml:20: service "web": dns_name: "node2.example.test" is the name of a node in the zone; use a name that is no node's"#,
    ),
    (
        r#"dns_name = "www.example.test""#,
        r#"dns_name = "-www.example.test""#,
        r#"usher.toml:20: service "web": dns_name: "-www.example.test" is not a DNS name: "-www" has a character that cannot stand there; write one such as "www.example.test""#,
    ),
    (
        r#"[dns]
zone = "example.test"
"#,
        "",
        r#"usher.toml:18: service "web": dns_name: needs a [dns] section; add [dns] with the zone that the name is in, or remove the name"#,
    ),
    (
        "port = 25",
        "port = 53",
        r#"usher.toml:37: service "mail": port: 53 on 192.0.2.11 is where this node's own DNS server listens (192.0.2.11:53); offer the service on another address, or name other addresses in [dns] listen
usher.toml:37: service "mail": port: 53 on 2001:db8:1::11 is where this node's own DNS server listens ([2001:db8:1::11]:53); offer the service on another address, or name other addresses in [dns] listen"#,
    ),
    (
        r#"name = "node1""#,
        r#"name = "node1"
metrics_listen = ["0.0.0.0:25"]"#,
        r#"usher.toml:38: service "mail": port: 25 on 192.0.2.11 is where this node's metrics are (0.0.0.0:25); offer the service on another address, or name other addresses in [node] metrics_listen"#,
    ),
    (
        r#"name = "node2""#,
        r#"name = "node1""#,
        r#"usher.toml:16: peer "node1": name: "node1" is this node's own name; list the other nodes only, each under its own name"#,
    ),
    (
        r#"addresses = ["192.0.2.12", "2001:db8:1::12"]
"#,
        "",
        r#"usher.toml:15: peer "node2": addresses: is missing; write a list of addresses, such as ["192.0.2.11", "2001:db8:1::11"]"#,
    ),
    (
        r#""192.0.2.12""#,
        r#""192.0.2.11""#,
        r#"usher.toml:17: peer "node2": addresses: 192.0.2.11: is also an address of node "node1"; give every node addresses of its own"#,
    ),
    (
        r#"[[service]]
name = "web""#,
        r#"[[peer]]
name = "node2"
addresses = ["192.0.2.13"]
[[service]]
name = "web""#,
        r#"usher.toml:19: peer "node2": name: "node2" is already the name of the peer in line 16; give each its own name"#,
    ),
    (
        r#"[[service]]
name = "web""#,
        r#"[[peer]]
name = "node3"
addresses = ["192.0.2.12"]
[[service]]
name = "web""#,
        r#"usher.toml:20: peer "node3": addresses: 192.0.2.12: is also an address of peer "node2"; give every node addresses of its own"#,
    ),
    (
        r#"name = "node2""#,
        r#"name = "node2"
dns_port = 0"#,
        r#"usher.toml:17: peer "node2": dns_port: 0 is less than 1; use a port from 1 to 65535"#,
    ),
    (
        r#"interval = "500ms""#,
        r#"interval = "5ms""#,
        r#"usher.toml:14: peer_check: interval: "5ms" is less than 10ms; use 10ms to 1day"#,
    ),
    (
        r#"interval = "500ms""#,
        "peer_probe_rate = 0",
        "usher.toml:14: peer_check: peer_probe_rate: 0 is less than 1; use 1 to 100000; 50 suits most",
    ),
    (
        r#""192.0.2.12""#,
        r#""203.0.113.11""#,
        r#"usher.toml:17: peer "node2": addresses: 203.0.113.11: is also an address of this node ([nat] source); give every node addresses of its own"#,
    ),
    (
        r#"zone = "example.test"
[peer_check]
interval = "500ms"
[[peer]]
name = "node2""#,
        r#"zone = "example.test"
[[dns.publish]]
kind = "rfc2136"
primaries = ["192.0.2.53:53"]
key_file = "/etc/usher/publish.key"
[peer_check]
interval = "500ms"
[[peer]]
name = "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn""#,
        r#"usher.toml:24: service "web": dns_name: has no room for the record "_usher-nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn.www.example.test" beside it: DNS names have at most 253 characters, and 63 between dots; use a shorter name here, or for the node"#,
    ),
    (
        r#"interfaces = ["front", "back"]"#,
        r#"interfaces = [
  "front",
  "back",
  "front",
]"#,
        "usher.toml:7: node: interfaces: front: is given twice, first in line 5; remove one of the two",
    ),
];
