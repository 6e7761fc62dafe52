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
    ("[node]\n", "[node\n", ""),
    (r#"name = "node1""#, "name = node1", ""),
    ("port = 80\n", "port = 80\nport = 81\n", ""),
    (r#"interfaces = ["front", "back"]"#, r#"interfaces = ["front", "back""#, ""),
    ("version = 1\n", "", ""),
    ("version = 1\n", "version = 2\nfuture = true\n", ""),
    (r#"protocol = "tcp""#, r#"prot = "tcp""#, ""),
    ("port = 80\n", "port = 80\nweight = 5\n", ""),
    ("port = 80\n", "port = 80\nbanana = 5\n", ""),
    (r#"kind = "http""#, r#"kinds = "http""#, ""),
    ("[flows]", "[flow]", ""),
    (
        "port = 80\n",
        r#"port = "80"
"#,
        "",
    ),
    (r#"interval = "1s""#, "interval = 1", ""),
    (r#"interfaces = ["front", "back"]"#, r#"interfaces = "front""#, ""),
    (r#"interfaces = ["front", "back"]"#, r#"interfaces = ["front", 7]"#, ""),
    ("[[peer]]", "[peer]", ""),
    (
        r#"addresses = ["192.0.2.12", "2001:db8:1::12"]"#,
        r#"addresses = ["192.0.2.12", { adress = "2001:db8:1::12" }]"#,
        "",
    ),
    ("max = 1000000", "max = 99999999999999999999", ""),
    (
        r#"name = "b1"
address = ["203.0.113.21", "2001:db8:2::21"]
port = 8080
weight = 1"#,
        r#"nam = "b1"
address = 7
port = 8080
weight = "1""#,
        "",
    ),
    (
        r#"[node]
name = "node1"
interfaces = ["front", "back"]
addresses = ["192.0.2.11", "2001:db8:1::11"]
secret_file = "/etc/usher/secret"
"#,
        "",
        "",
    ),
    (
        r#"name = "node1"
"#,
        "",
        "",
    ),
    (r#"name = "node1""#, r#"name = "node1.example.test""#, ""),
    (
        r#"interfaces = ["front", "back"]
"#,
        "",
        "",
    ),
    (r#"["front", "back"]"#, "[]", ""),
    (r#"["front", "back"]"#, r#"["front", "front"]"#, ""),
    (r#"["front", "back"]"#, r#"["front", "a/very/long/interface"]"#, ""),
    (
        r#"name = "node1""#,
        r#"name = "node1"
xdp_mode = "nativ""#,
        "",
    ),
    (
        r#"addresses = ["192.0.2.11", "2001:db8:1::11"]
secret"#,
        "addresses = []\nsecret",
        "",
    ),
    (r#""192.0.2.11", "#, r#""192.0.2.11", "192.0.2.11", "#, ""),
    (r#""192.0.2.11", "#, r#""192.0.2.11/24", "#, ""),
    (r#""192.0.2.11", "#, r#""192.0.2.11:80", "#, ""),
    (r#""192.0.2.11", "#, r#""node1.example.test", "#, ""),
    (r#""192.0.2.11", "#, r#""127.0.0.1", "#, ""),
    (r#""192.0.2.11", "#, r#""0.0.0.0", "#, ""),
    (r#""192.0.2.11", "#, r#""224.0.0.1", "#, ""),
    (r#""192.0.2.11", "#, r#""::ffff:192.0.2.11", "#, ""),
    (r#""192.0.2.11", "#, r#""fe80::1", "#, ""),
    (r#""192.0.2.11", "#, r#"{ address = "192.0.2.11", publish = "2001:db8::1" }, "#, ""),
    (r#""192.0.2.11", "#, r#"{ publish = "192.0.2.11" }, "#, ""),
    (r#""192.0.2.11", "#, r#"{ address = "192.0.2.11", publish = "192.0.2.12" }, "#, ""),
    (r#"secret_file = "/etc/usher/secret""#, r#"secret_file = "secret""#, ""),
    (
        r#"secret_file = "/etc/usher/secret"
"#,
        "",
        "",
    ),
    (
        r#"name = "node1""#,
        r#"name = "node1"
socket = "/run/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx""#,
        "",
    ),
    (r#""203.0.113.11", "#, r#""203.0.113.11", "203.0.113.12", "#, ""),
    (
        r#"[nat]
source = ["203.0.113.11", "2001:db8:2::11"]
"#,
        "",
        "",
    ),
    (r#""203.0.113.11", "#, "", ""),
    (
        "[nat]\n",
        r#"[nat]
ports = "1024"
"#,
        "",
    ),
    (
        "[nat]\n",
        r#"[nat]
ports = "32767-1024"
"#,
        "",
    ),
    (
        "[nat]\n",
        r#"[nat]
ports = "1000-32767"
"#,
        "",
    ),
    (
        "[nat]\n",
        r#"[nat]
ports = "1030-32000"
"#,
        "",
    ),
    (
        "[nat]\n",
        r#"[nat]
ports = "1024-70000"
"#,
        "",
    ),
    (r#"source = ["203.0.113.11""#, r#"source = ["192.0.2.11""#, ""),
    ("max = 1000000", "max = 500", ""),
    (
        "max = 1000000",
        r#"max = 1000000
tcp_timeout = "forever""#,
        "",
    ),
    (
        "max = 1000000",
        r#"max = 1000000
udp_timeout = "10ms""#,
        "",
    ),
    (
        r#"zone = "example.test"
"#,
        "",
        "",
    ),
    (r#"zone = "example.test""#, r#"zone = "example..test""#, ""),
    (r#"zone = "example.test""#, r#"zone = "exa mple.test""#, ""),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"
ttl = "0s""#,
        "",
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"
ttl = "8d""#,
        "",
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"
ttl = "1500ms""#,
        "",
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"
contact = "hostmaster@example.test""#,
        "",
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"
all_down = "some""#,
        "",
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"
listen = ["192.0.2.11"]"#,
        "",
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"
listen = ["192.0.2.11:0"]"#,
        "",
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"
listen = ["192.0.2.11:53", "192.0.2.11:53"]"#,
        "",
    ),
    (
        r#"zone = "example.test""#,
        r#"zone = "example.test"
listen = ["192.0.2.11:53", "0.0.0.0:53"]"#,
        "",
    ),
    (r#"dns_name = "www.example.test""#, r#"dns_name = "www.example.org""#, ""),
    (r#"dns_name = "www.example.test""#, r#"dns_name = "node2.example.test""#, ""),
    (r#"dns_name = "www.example.test""#, r#"dns_name = "-www.example.test""#, ""),
    (
        r#"[dns]
zone = "example.test"
"#,
        "",
        "",
    ),
    ("port = 25", "port = 53", ""),
    (r#"name = "node2""#, r#"name = "node1""#, ""),
    (
        r#"addresses = ["192.0.2.12", "2001:db8:1::12"]
"#,
        "",
        "",
    ),
    (r#""192.0.2.12""#, r#""192.0.2.11""#, ""),
    (
        r#"[[service]]
name = "web""#,
        r#"[[peer]]
name = "node2"
addresses = ["192.0.2.13"]
[[service]]
name = "web""#,
        "",
    ),
    (
        r#"[[service]]
name = "web""#,
        r#"[[peer]]
name = "node3"
addresses = ["192.0.2.12"]
[[service]]
name = "web""#,
        "",
    ),
    (
        r#"name = "node2""#,
        r#"name = "node2"
dns_port = 0"#,
        "",
    ),
    (r#"interval = "500ms""#, r#"interval = "5ms""#, ""),
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
        "",
    ),
    (r#"name = "mail""#, r#"name = "web""#, ""),
    (
        r#"name = "mail"
"#,
        "",
        "",
    ),
    (r#"name = "mail""#, r#"name = "mail/imap""#, ""),
    (r#"protocol = "tcp""#, r#"protocol = "sctp""#, ""),
    (
        r#"protocol = "tcp"
"#,
        "",
        "",
    ),
    ("port = 80\n", "", ""),
    ("port = 80\n", "port = 70000\n", ""),
    (
        "port = 80\n",
        r#"port = 80
addresses = ["192.0.2.99"]
"#,
        "",
    ),
    (
        "port = 80\n",
        r#"port = 80
addresses = ["192.0.2.11", "192.0.2.11"]
"#,
        "",
    ),
    ("port = 25", "port = 80", ""),
    (r#"forward = "dsr-l2""#, r#"forward = "dsr""#, ""),
    (r#"forward = "dsr-l2""#, r#"forward = "tunnel""#, ""),
    (r#"forward = "nat""#, r#"forward = "dsr-l2""#, ""),
    (r#"kind = "http""#, r#"kind = "https""#, ""),
    (r#"kind = "http""#, r#"kind = "ping""#, ""),
    (r#"kind = "http""#, r#"kind = "tcp""#, ""),
    (r#"path = "/healthz""#, r#"path = "healthz""#, ""),
    (r#"path = "/healthz""#, r#"path = "/health z""#, ""),
    (r#"interval = "1s""#, r#"interval = "1s", timeout = "2s""#, ""),
    (r#"interval = "1s""#, r#"interval = "1""#, ""),
    (r#"interval = "1s""#, r#"interval = "1s", rise = 0"#, ""),
    (r#"interval = "1s""#, r#"interval = "1s", fall = -1"#, ""),
    (r#"interval = "1s""#, r#"interval = "1s", jitter = 0.6"#, ""),
    (r#"interval = "1s""#, r#"interval = "1s", jitter = nan"#, ""),
    (r#"interval = "1s""#, r#"interval = "1s", expect = "2xx""#, ""),
    (r#"interval = "1s""#, r#"interval = "1s", expect = "399-200""#, ""),
    (r#"interval = "1s""#, r#"interval = "1s", host = "www example""#, ""),
    (r#"interval = "1s""#, r#"interval = "1s", port = 0"#, ""),
    (
        r#"[[service.backend]]
name = "m1"
address = ["203.0.113.31", "2001:db8:2::31"]
"#,
        "",
        "",
    ),
    (r#"name = "b2""#, r#"name = "b1""#, ""),
    ("weight = 1", "weight = 70000", ""),
    ("weight = 1", "weight = -1", ""),
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
        "",
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
        "",
    ),
    (r#""203.0.113.22", "2001:db8:2::22""#, r#""203.0.113.22", "203.0.113.23""#, ""),
    (r#""203.0.113.22""#, r#""203.0.113.21""#, ""),
    (r#""203.0.113.22""#, r#""192.0.2.11""#, ""),
    (r#""203.0.113.22""#, r#""203.0.113.11""#, ""),
    (r#""203.0.113.22""#, r#""192.0.2.12""#, ""),
    (r#""203.0.113.22""#, r#""::1""#, ""),
    (
        r#"address = ["203.0.113.22", "2001:db8:2::22"]
"#,
        "",
        "",
    ),
    (r#"address = ["203.0.113.22", "2001:db8:2::22"]"#, "address = []", ""),
    (
        r#"name = "m1""#,
        r#"name = "m1"
port = 2525"#,
        "",
    ),
    (
        r#"name = "m1"
address = ["203.0.113.31", "2001:db8:2::31"]"#,
        r#"name = "m1"
address = "2001:db8:2::31"
[nat2]"#,
        "",
    ),
    (
        r#"port = 80
forward = "nat"
check = { kind = "http", path = "/healthz", interval = "1s" }"#,
        r#"port = 0
forward = "na"
check = { kind = "http", path = "healthz", interval = "0s" }"#,
        "",
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
