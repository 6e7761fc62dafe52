//! Bad configurations, and what usher says about each: a good file, one edit, the exact message.

use std::path::Path;

use lb_userspace::config::Config;

/// Good; every edit below spoils one thing in it. Messages name its lines.
const GOOD: &str = r#"version = 1
[node]
name = "node1"
interfaces = ["front", "back"]
addresses = ["192.0.2.11", "2001:db8:1::11"]
secret_file = "/etc/usher/secret"
[nat]
source = ["203.0.113.11", "2001:db8:2::11"]
[flows]
max = 1000000
[dns]
zone = "example.test"
[peer_check]
interval = "500ms"
[[peer]]
name = "node2"
addresses = ["192.0.2.12", "2001:db8:1::12"]
[[service]]
name = "web"
dns_name = "www.example.test"
protocol = "tcp"
port = 80
forward = "nat"
check = { kind = "http", path = "/healthz", interval = "1s" }
[[service.backend]]
name = "b1"
address = ["203.0.113.21", "2001:db8:2::21"]
port = 8080
weight = 1
[[service.backend]]
name = "b2"
address = ["203.0.113.22", "2001:db8:2::22"]
port = 8080
[[service]]
name = "mail"
protocol = "tcp"
port = 25
forward = "dsr-l2"
[[service.backend]]
name = "m1"
address = ["203.0.113.31", "2001:db8:2::31"]
"#;

/// What is replaced, by what, and the whole refusal.
const CASES: &[(&str, &str, &str)] = &[
    ("[node]\n", "[node\n", "usher.toml:2:6: unclosed table; expected `]`"),
    (
        r#"name = "node1""#,
        "name = node1",
        r#"usher.toml:3:8: `node1` is not a number; if it is a text, write "node1""#,
    ),
    ("port = 80\n", "port = 80\nport = 81\n", "usher.toml:23:1: duplicate key `port`; keep one of the two"),
    (
        r#"interfaces = ["front", "back"]"#,
        r#"interfaces = ["front", "back""#,
        "usher.toml:5:1: missing comma between array elements; put a `,` between the values, or the `]` that ends the list before this line",
    ),
    (
        r#"interval = "1s""#,
        "interval = 1s",
        r#"usher.toml:24:56: `1s` is not a number; if it is a text, write "1s""#,
    ),
    (
        r#"interval = "500ms""#,
        "interval = 500ms",
        r#"usher.toml:14:12: `500ms` is not a number; if it is a text, write "500ms""#,
    ),
    (
        r#"["203.0.113.11", "#,
        "[203.0.113.11, ",
        r#"usher.toml:8:16: `203.0.113.11` is not a number; if it is a text, write "203.0.113.11""#,
    ),
    (
        r#"zone = "example.test""#,
        "zone = example.test",
        r#"usher.toml:12:8: `example.test` is not a number; if it is a text, write "example.test""#,
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"#,
        r#"usher.toml:12:21: invalid basic string; expected `"`"#,
    ),
    (r#"zone = "example.test""#, "zone =", "usher.toml:12:7: a value is missing; write it after the `=`"),
    (
        r#"zone = "example.test""#,
        r#"zone "example.test""#,
        "usher.toml:12:6: key with no value; expected `=`",
    ),
    (
        r#"secret_file = "/etc/usher/secret""#,
        "secret_file = /etc/usher/secret",
        r#"usher.toml:6:15: `/etc/usher/secret` is not a number; if it is a text, write "/etc/usher/secret""#,
    ),
    (
        "max = 1000000",
        "max = 1 000 000",
        r#"usher.toml:10:7: `1 000 000` is not a number; if it is a text, write "1 000 000""#,
    ),
    (
        "weight = 1",
        "weight = yes",
        r#"usher.toml:29:10: `yes` is not a number; if it is a text, write "yes""#,
    ),
    ("version = 1\n", "", "usher.toml:1: version: is missing; write `version = 1` above the first section"),
    (
        "version = 1\n",
        "version = 2\nfuture = true\n",
        "usher.toml:1: version: 2 is not a version that this usher reads; write `version = 1` above the first section",
    ),
    (
        r#"protocol = "tcp""#,
        r#"prot = "tcp""#,
        r#"usher.toml:21: service "web": prot: is not a known key; did you mean `protocol`?"#,
    ),
    (
        "port = 80\n",
        "port = 80\nweight = 5\n",
        r#"usher.toml:23: service "web": weight: is not a known key; it belongs to [[service.backend]]"#,
    ),
    (
        "port = 80\n",
        "port = 80\nbanana = 5\n",
        r#"usher.toml:23: service "web": banana: is not a known key; [[service]] knows name, dns_name, protocol, port, addresses, forward, check and backend"#,
    ),
    (
        r#"kind = "http""#,
        r#"kinds = "http""#,
        r#"usher.toml:24: service "web": check: kinds: is not a known key; did you mean `kind`?"#,
    ),
    ("[flows]", "[flow]", "usher.toml:9: flow: is not a known key; did you mean `flows`?"),
    (
        "port = 80\n",
        r#"port = "80"
"#,
        r#"usher.toml:22: service "web": port: "80" is a text; write a port without quotes, such as 80"#,
    ),
    (
        r#"interval = "1s""#,
        "interval = 1",
        r#"usher.toml:24: service "web": check: interval: 1 is a whole number; write a duration in quotes, such as "2s""#,
    ),
    (
        r#"interfaces = ["front", "back"]"#,
        r#"interfaces = "front""#,
        r#"usher.toml:4: node: interfaces: "front" is a text; write a list of names, such as ["eth0"]"#,
    ),
    (
        r#"interfaces = ["front", "back"]"#,
        r#"interfaces = ["front", 7]"#,
        r#"usher.toml:4: node: interfaces: 7 is a whole number; write a list of names, such as ["eth0"]"#,
    ),
    (
        "[[peer]]",
        "[peer]",
        "usher.toml:15: peer: [peer] is a table; write `[[peer]]`, in double brackets, above each peer's settings",
    ),
    (
        r#"addresses = ["192.0.2.12", "2001:db8:1::12"]"#,
        r#"addresses = ["192.0.2.12", { adress = "2001:db8:1::12" }]"#,
        r#"usher.toml:17: peer "node2": addresses: adress: is not a known key; did you mean `address`?"#,
    ),
    (
        "max = 1000000",
        "max = 99999999999999999999",
        "usher.toml:10: flows: max: 99999999999999999999 is too large a number; write a whole number without quotes, such as 1000000",
    ),
    (
        r#"name = "b1"
address = ["203.0.113.21", "2001:db8:2::21"]
port = 8080
weight = 1"#,
        r#"nam = "b1"
address = 7
port = 8080
weight = "1""#,
        r#"usher.toml:26: service "web": backend #1: nam: is not a known key; did you mean `name`?
usher.toml:27: service "web": backend #1: address: 7 is a whole number; write an address in quotes, such as "203.0.113.21"
usher.toml:29: service "web": backend #1: weight: "1" is a text; write a whole number without quotes, such as 1 or 100"#,
    ),
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
        r#"secret_file = "/etc/usher/secret""#,
        r#"secret_file = "secret""#,
        r#"usher.toml:6: node: secret_file: "secret" is not an absolute path; write the whole path, such as "/etc/usher/secret""#,
    ),
    (
        r#"secret_file = "/etc/usher/secret"
"#,
        "",
        r#"usher.toml:2: node: secret_file: is missing, but there are peers: all nodes must choose the same backend for a flow; run `head -c 32 /dev/urandom | base64 > /etc/usher/secret; chmod 600 /etc/usher/secret`, copy the file to every node, and write secret_file = "/etc/usher/secret""#,
    ),
    (
        r#"name = "node1""#,
        r#"name = "node1"
socket = "/run/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx""#,
        r#"usher.toml:4: node: socket: is longer than 107 bytes, the most that a socket's path can have; use a shorter path, such as "/run/usher/usher.sock""#,
    ),
    (
        r#""203.0.113.11", "#,
        r#""203.0.113.11", "203.0.113.12", "#,
        "usher.toml:8: nat: source: 203.0.113.12: is a second IPv4 address beside 203.0.113.11; keep one per family",
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
        r#"max = 1000000
tcp_timeout = "forever""#,
        r#"usher.toml:11: flows: tcp_timeout: "forever" is not a duration; write a number and its unit, such as "500ms", "2s", "5m" or "1h""#,
    ),
    (
        "max = 1000000",
        r#"max = 1000000
udp_timeout = "10ms""#,
        r#"usher.toml:11: flows: udp_timeout: "10ms" is less than 1s; use 1s to 1day"#,
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
        "usher.toml:13: dns: listen: 192.0.2.11:0: has port 0; name the port, which peers and resolvers must know: 53",
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
        "usher.toml:13: dns: listen: 0.0.0.0:53: takes the same address and port as 192.0.2.11:53; listen on every address or on chosen ones, not on both",
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
        r#""192.0.2.12""#,
        r#""203.0.113.11""#,
        r#"usher.toml:17: peer "node2": addresses: 203.0.113.11: is also an address of this node ([nat] source); give every node addresses of its own"#,
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
    (
        r#"[[service]]
name = "web"
dns_name = "www.example.test"
protocol = "tcp"
port = 80
forward = "nat"
check = { kind = "http", path = "/healthz", interval = "1s" }
[[service.backend]]
name = "b1"
address = ["203.0.113.21", "2001:db8:2::21"]
port = 8080
weight = 1
[[service.backend]]
name = "b2"
address = ["203.0.113.22", "2001:db8:2::22"]
port = 8080
[[service]]
name = "mail"
protocol = "tcp"
port = 25
forward = "dsr-l2"
[[service.backend]]
name = "m1"
address = ["203.0.113.31", "2001:db8:2::31"]
"#,
        "",
        "usher.toml:1: service: is missing: there is nothing to balance; write `[[service]]`, in double brackets, above each service's settings",
    ),
    (
        r#"name = "mail""#,
        r#"name = "web""#,
        r#"usher.toml:35: service "web": name: "web" is already the name of the service in line 19; give each its own name"#,
    ),
    (
        r#"name = "mail"
"#,
        "",
        r#"usher.toml:34: service #2: name: is missing; write a name in quotes, such as "web1""#,
    ),
    (
        r#"name = "mail""#,
        r#"name = "mail/imap""#,
        r#"usher.toml:35: service "mail/imap": name: "mail/imap" is not a name; use 1 to 63 letters, digits, "-", "_" and ".": it stands in commands, logs and metrics"#,
    ),
    (
        r#"protocol = "tcp""#,
        r#"protocol = "sctp""#,
        r#"usher.toml:21: service "web": protocol: "sctp" is not possible here; use "tcp" or "udp""#,
    ),
    (
        r#"protocol = "tcp"
"#,
        "",
        r#"usher.toml:18: service "web": protocol: is missing; write "tcp" or "udp""#,
    ),
    (
        "port = 80\n",
        "",
        r#"usher.toml:18: service "web": port: is missing; write a port without quotes, such as 80"#,
    ),
    (
        "port = 80\n",
        "port = 70000\n",
        r#"usher.toml:22: service "web": port: 70000 is more than 65535; use a port from 1 to 65535"#,
    ),
    (
        "port = 80\n",
        r#"port = 80
addresses = ["192.0.2.99"]
"#,
        r#"usher.toml:23: service "web": addresses: 192.0.2.99: is not an address of this node; add it to [node] addresses, or use 192.0.2.11 and 2001:db8:1::11"#,
    ),
    (
        "port = 80\n",
        r#"port = 80
addresses = ["192.0.2.11", "192.0.2.11"]
"#,
        r#"usher.toml:23: service "web": addresses: 192.0.2.11: is given twice; remove one of the two"#,
    ),
    (
        "port = 25",
        "port = 80",
        r#"usher.toml:37: service "mail": port: tcp port 80 on 192.0.2.11 is service "web"'s already; use another port, or give the two services different addresses"#,
    ),
    (
        r#"forward = "dsr-l2""#,
        r#"forward = "dsr""#,
        r#"usher.toml:38: service "mail": forward: "dsr" is not possible here; did you mean "dsr-l2"?"#,
    ),
    (
        r#"forward = "dsr-l2""#,
        r#"forward = "tunnel""#,
        r#"usher.toml:38: service "mail": forward: "tunnel" is not possible here; use "nat" or "dsr-l2""#,
    ),
    (
        r#"forward = "nat""#,
        r#"forward = "dsr-l2""#,
        r#"usher.toml:28: service "web": backend "b1": port: 8080 differs from the service's port 80, and dsr-l2 cannot change ports; remove it and let the backend listen on 80, or use forward = "nat"
usher.toml:33: service "web": backend "b2": port: 8080 differs from the service's port 80, and dsr-l2 cannot change ports; remove it and let the backend listen on 80, or use forward = "nat""#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "https""#,
        r#"usher.toml:24: service "web": check: kind: "https" is not possible here; did you mean "http"?"#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "ping""#,
        r#"usher.toml:24: service "web": check: kind: "ping" is not possible here; use "tcp" or "http""#,
    ),
    (
        r#"kind = "http""#,
        r#"kind = "tcp""#,
        r#"usher.toml:24: service "web": check: path: means nothing to a check of kind "tcp"; set kind = "http", or remove it"#,
    ),
    (
        r#"path = "/healthz""#,
        r#"path = "healthz""#,
        r#"usher.toml:24: service "web": check: path: "healthz" does not begin with /; write it as in a URL after the host, such as "/healthz""#,
    ),
    (
        r#"path = "/healthz""#,
        r#"path = "/health z""#,
        r#"usher.toml:24: service "web": check: path: "/health z" has a space, a control character or one that is not ASCII; write it as in a URL after the host, such as "/healthz""#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", timeout = "2s""#,
        r#"usher.toml:24: service "web": check: timeout: 2s is longer than the interval, 1s; use 1s or less, or a longer interval"#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1""#,
        r#"usher.toml:24: service "web": check: interval: "1" is not a duration; write a number and its unit, such as "500ms", "2s", "5m" or "1h""#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", rise = 0"#,
        r#"usher.toml:24: service "web": check: rise: 0 is less than 1; use 1 to 1000 results in a row, such as 3"#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", fall = -1"#,
        r#"usher.toml:24: service "web": check: fall: -1 is less than 1; use 1 to 1000 results in a row, such as 3"#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", jitter = 0.6"#,
        r#"usher.toml:24: service "web": check: jitter: 0.6 is not a share from 0 to 0.5; use 0.1 to vary each interval by a tenth"#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", jitter = nan"#,
        r#"usher.toml:24: service "web": check: jitter: NaN is not a share from 0 to 0.5; use 0.1 to vary each interval by a tenth"#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", expect = "2xx""#,
        r#"usher.toml:24: service "web": check: expect: "2xx" is not an HTTP status from 100 to 599, nor a range of them; write "200", "200-399" or "200,204,300-302""#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", expect = "399-200""#,
        r#"usher.toml:24: service "web": check: expect: "399-200" is not an HTTP status from 100 to 599, nor a range of them; write "200", "200-399" or "200,204,300-302""#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", host = "www example""#,
        r#"usher.toml:24: service "web": check: host: "www example" is not a host; write a name or address, with a port if need be: "www.example.test""#,
    ),
    (
        r#"interval = "1s""#,
        r#"interval = "1s", port = 0"#,
        r#"usher.toml:24: service "web": check: port: 0 is less than 1; use a port from 1 to 65535"#,
    ),
    (
        r#"[[service.backend]]
name = "m1"
address = ["203.0.113.31", "2001:db8:2::31"]
"#,
        "",
        r#"usher.toml:34: service "mail": backend: is missing; write `[[service.backend]]`, in double brackets, above each backend's settings"#,
    ),
    (
        r#"name = "b2""#,
        r#"name = "b1""#,
        r#"usher.toml:31: service "web": backend "b1": name: "b1" is already the name of the backend in line 26; give each its own name"#,
    ),
    (
        "weight = 1",
        "weight = 70000",
        r#"usher.toml:29: service "web": backend "b1": weight: 70000 is more than 65535; use a share such as 1 or 100"#,
    ),
    (
        "weight = 1",
        "weight = -1",
        r#"usher.toml:29: service "web": backend "b1": weight: -1 is less than 0; use a share such as 1 or 100"#,
    ),
    (
        r#"weight = 1
[[service.backend]]
name = "b2"
"#,
        r#"weight = 0
[[service.backend]]
name = "b2"
weight = 0
"#,
        r#"usher.toml:18: service "web": has only backends of weight 0, so no flow can go anywhere; give one a weight of 1; to empty a backend for a while, leave its weight and use `usher drain`"#,
    ),
    (
        r#"weight = 1
[[service.backend]]
name = "b2"
address = ["203.0.113.22", "2001:db8:2::22"]"#,
        r#"weight = 0
[[service.backend]]
name = "b2"
address = ["203.0.113.22"]"#,
        r#"usher.toml:18: service "web": has only backends of weight 0 for IPv6; give one a weight of 1; to empty a backend for a while, leave its weight and use `usher drain`"#,
    ),
    (
        r#""203.0.113.22", "2001:db8:2::22""#,
        r#""203.0.113.22", "203.0.113.23""#,
        r#"usher.toml:32: service "web": backend "b2": address: 203.0.113.23: is a second IPv4 address of this backend; write a [[service.backend]] of its own for it"#,
    ),
    (
        r#""203.0.113.22""#,
        r#""203.0.113.21""#,
        r#"usher.toml:32: service "web": backend "b2": address: 203.0.113.21: is given twice, first in line 27; remove one of the two"#,
    ),
    (
        r#""203.0.113.22""#,
        r#""192.0.2.11""#,
        r#"usher.toml:32: service "web": backend "b2": address: 192.0.2.11: is this node itself; use the address of the server behind it; a node cannot balance to nodes"#,
    ),
    (
        r#""203.0.113.22""#,
        r#""203.0.113.11""#,
        r#"usher.toml:32: service "web": backend "b2": address: 203.0.113.11: is this node itself; use the address of the server behind it; a node cannot balance to nodes"#,
    ),
    (
        r#""203.0.113.22""#,
        r#""192.0.2.12""#,
        r#"usher.toml:32: service "web": backend "b2": address: 192.0.2.12: is peer "node2"; use the address of the server behind it; a node cannot balance to nodes"#,
    ),
    (
        r#""203.0.113.22""#,
        r#""::1""#,
        r#"usher.toml:32: service "web": backend "b2": address: ::1: is a loopback address; use an address that other hosts can reach
usher.toml:32: service "web": backend "b2": address: 2001:db8:2::22: is a second IPv6 address of this backend; write a [[service.backend]] of its own for it"#,
    ),
    (
        r#"address = ["203.0.113.22", "2001:db8:2::22"]
"#,
        "",
        r#"usher.toml:30: service "web": backend "b2": address: is missing; write an address in quotes, such as "203.0.113.21""#,
    ),
    (
        r#"address = ["203.0.113.22", "2001:db8:2::22"]"#,
        "address = []",
        r#"usher.toml:32: service "web": backend "b2": address: is an empty list; write an address in quotes, such as "203.0.113.21""#,
    ),
    (
        r#"name = "m1""#,
        r#"name = "m1"
port = 2525"#,
        r#"usher.toml:41: service "mail": backend "m1": port: 2525 differs from the service's port 25, and dsr-l2 cannot change ports; remove it and let the backend listen on 25, or use forward = "nat""#,
    ),
    (
        r#"name = "m1"
address = ["203.0.113.31", "2001:db8:2::31"]"#,
        r#"name = "m1"
address = "2001:db8:2::31"
[nat2]"#,
        "usher.toml:42: nat2: is not a known key; did you mean `nat`?",
    ),
    (
        r#"port = 80
forward = "nat"
check = { kind = "http", path = "/healthz", interval = "1s" }"#,
        r#"port = 0
forward = "na"
check = { kind = "http", path = "healthz", interval = "0s" }"#,
        r#"usher.toml:22: service "web": port: 0 is less than 1; use a port from 1 to 65535
usher.toml:23: service "web": forward: "na" is not possible here; did you mean "nat"?
usher.toml:24: service "web": check: path: "healthz" does not begin with /; write it as in a URL after the host, such as "/healthz"
usher.toml:24: service "web": check: interval: "0s" is less than 10ms; use 10ms to 1day"#,
    ),
];

#[test]
fn the_good_file_is_good() {
    let loaded = lb_userspace::config::Loaded::parse(GOOD, Path::new("usher.toml")).unwrap();
    assert_eq!(loaded.warnings, []);
}

#[test]
fn every_bad_configuration_is_refused_with_place_reason_and_remedy() {
    let mut wrong = Vec::new();
    for (from, to, expected) in CASES {
        let text = spoil(from, to);
        let found = match Config::parse(&text, Path::new("usher.toml")) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        };
        if found != *expected {
            wrong.push(format!("{from:?} -> {to:?}\n  expected: {expected}\n  found:    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
}

fn spoil(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "the good file has no {from:?}");
    GOOD.replacen(from, to, 1)
}
