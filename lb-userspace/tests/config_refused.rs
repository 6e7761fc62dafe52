//! Bad configurations, and what usher says about each: a good file, one edit, the exact message.

#[path = "config_refused/sections.rs"]
mod sections;
#[path = "config_refused/services.rs"]
mod services;
#[path = "config_refused/text.rs"]
mod text;

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

/// What is replaced in the good file, by what, and the whole refusal.
type Case = (&'static str, &'static str, &'static str);

#[test]
fn the_good_file_is_good() {
    let loaded = lb_userspace::config::Loaded::parse(GOOD, Path::new("usher.toml")).unwrap();
    assert_eq!(loaded.warnings, []);
}

#[test]
fn every_bad_configuration_is_refused_with_place_reason_and_remedy() {
    let mut wrong = Vec::new();
    let cases = || [text::CASES, sections::CASES, services::CASES].into_iter().flatten();
    for (from, to, expected) in cases() {
        let text = spoil(from, to);
        let found = match Config::parse(&text, Path::new("usher.toml")) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        };
        if found != *expected {
            wrong.push(format!("{from:?} -> {to:?}\n  expected: {expected}\n  found:    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases().count(), wrong.join("\n"));
}

#[test]
fn a_node_with_one_address_keeps_its_service_ports_out_of_the_nat_ports() {
    let text = r#"version = 1
[node]
name = "node1"
interfaces = ["eth0"]
addresses = ["192.0.2.11"]
[nat]
source = ["192.0.2.11"]
[[service]]
name = "web"
protocol = "tcp"
port = 8080
[[service.backend]]
name = "b1"
address = "203.0.113.21"
"#;
    let refusal =
        |text: &str| Config::parse(text, Path::new("usher.toml")).map_err(|error| error.to_string());
    assert_eq!(
        refusal(text).unwrap_err(),
        "usher.toml:11: service \"web\": port: 8080 on 192.0.2.11 lies in the NAT ports 1024-32767 of the same \
         address; choose [nat] ports without it, or another [nat] source"
    );
    assert!(refusal(&text.replace("8080", "80")).is_ok());
}

fn spoil(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "the good file has no {from:?}");
    GOOD.replacen(from, to, 1)
}
