//! What another configuration changes, and what of that a running daemon cannot.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use lb_common::Features;

use super::plan;
use crate::config::{Backend, Config, Node, Service};

/// What makes tables of another size.
pub const ANEW: &str =
    "to make them anew, stop usher, run `usher detach`, and start it: that ends all connections";

/// Where settings of `[node]` differ: the key, whether it does, and whether only a restart can change it.
fn node(old: &Node, new: &Node) -> [(&'static str, bool, bool); 12] {
    [
        ("name", old.name != new.name, true),
        ("interfaces", old.interfaces != new.interfaces, true),
        ("xdp_mode", old.xdp_mode != new.xdp_mode, true),
        ("addresses", old.addresses != new.addresses, false),
        ("socket", old.socket != new.socket, true),
        ("secret_file", old.secret_file != new.secret_file, true),
        ("state_file", old.state_file != new.state_file, true),
        ("pin_dir", old.pin_dir != new.pin_dir, true),
        ("on_stop", old.on_stop != new.on_stop, false),
        ("reload_on_change", old.reload_on_change != new.reload_on_change, false),
        ("icmp_rate", old.icmp_rate != new.icmp_rate, false),
        ("metrics_listen", old.metrics_listen != new.metrics_listen, true),
    ]
}

/// What of it a reload cannot do, and what can; empty when it can do it all.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let listen = |config: &Config| config.dns.as_ref().map(|dns| (dns.listen.clone(), dns.zone.clone()));
    // Tables that are one element long as long as nothing needs them.
    let table = |feature| {
        let has = |config| plan::features(config).has(feature);
        !has(old) && has(new)
    };
    // They outlive the daemon, so that connections do.
    let sizes = [
        (old.flows.max != new.flows.max, "[flows] max"),
        (old.flows.fragments != new.flows.fragments, "[flows] fragments"),
        (old.flows.affinity != new.flows.affinity, "[flows] affinity"),
    ];
    let others = [
        // Flows are found by these: other ones would find no record.
        (old.nat.source != new.nat.source, "[nat] source"),
        (old.nat.ports != new.nat.ports, "[nat] ports"),
        (listen(old) != listen(new), "[dns] listen or zone"),
        (table(Features::NAT), "the first service with forward = \"nat\""),
        (table(Features::AFFINITY), "the first service with affinity"),
        (table(Features::RATE_LIMIT), "the first service with rate_limit"),
    ];
    let of_node = node(&old.node, &new.node).into_iter().filter(|(_, changed, fixed)| *changed && *fixed);
    let changed = |(changed, what): (bool, &'static str)| changed.then(|| what.to_owned());
    let restart =
        of_node.map(|(key, ..)| format!("[node] {key}")).chain(others.into_iter().filter_map(changed));
    let restart = restart.map(|what| format!("{what}: only a restart can change it"));
    let sizes = sizes.into_iter().filter_map(changed);
    restart.chain(sizes.map(|what| format!("{what}: the tables stay as they are; {ANEW}"))).collect()
}

/// What is different, one line each, in the order of the new file; what is gone comes last of its kind.
pub fn differences(old: &Config, new: &Config) -> Vec<String> {
    let of_node = node(&old.node, &new.node).into_iter().filter(|(_, changed, _)| *changed);
    let sections = [
        ("nat", old.nat != new.nat),
        ("tunnel", old.tunnel != new.tunnel),
        ("flows", old.flows != new.flows),
        ("defence", old.defence != new.defence),
        ("dns", old.dns != new.dns),
        ("peer_check", old.peer_check != new.peer_check),
    ];
    let sections = sections.into_iter().filter(|(_, changed)| *changed);
    let mut lines: Vec<String> = of_node
        .map(|(key, ..)| format!("[node] {key}: changed"))
        .chain(sections.map(|(name, _)| format!("[{name}] settings: changed")))
        .collect();
    lines.extend(named(
        &old.peers,
        &new.peers,
        "peer",
        |peer| &peer.name,
        |_, _, name| vec![format!("{name}: changed")],
    ));
    lines.extend(named(&old.services, &new.services, "service", |service| &service.name, service));
    lines
}

/// The differences of two lists of named things; `changed` tells those of two that have one name.
fn named<T: PartialEq>(
    old: &[T],
    new: &[T],
    kind: &str,
    name: impl Fn(&T) -> &str,
    changed: impl Fn(&T, &T, &str) -> Vec<String>,
) -> Vec<String> {
    let mut lines = Vec::new();
    let before: BTreeMap<&str, &T> = old.iter().map(|one| (name(one), one)).collect();
    for one in new {
        let title = format!("{kind} {}", name(one));
        match before.get(name(one)).copied() {
            None => lines.push(format!("{title}: added")),
            Some(before) if before != one => lines.extend(changed(before, one, &title)),
            Some(_) => {}
        }
    }
    let kept: BTreeSet<&str> = new.iter().map(&name).collect();
    let gone = old.iter().map(&name).filter(|name| !kept.contains(name));
    lines.extend(gone.map(|name| format!("{kind} {name}: removed")));
    lines
}

fn service(old: &Service, new: &Service, title: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |what: Option<String>| lines.extend(what.map(|what| format!("{title}: {what}")));
    line(values("dns_name", &old.dns_name, &new.dns_name));
    line(values("require", &old.require, &new.require));
    line(values("protocol", &old.protocol, &new.protocol));
    line(values("port", &old.port, &new.port));
    line(values("addresses", &old.addresses, &new.addresses));
    line(values("forward", &old.forward, &new.forward));
    line(values("options", &old.flows, &new.flows));
    line(values("withdraw_below", &old.withdraw_below, &new.withdraw_below));
    line(values("panic_below", &old.panic_below, &new.panic_below));
    line(values("slow_start", &old.slow_start, &new.slow_start));
    line(values("all_down", &old.all_down, &new.all_down));
    line(values("check", &old.check, &new.check));
    let backends = named(&old.backends, &new.backends, "backend", |backend| &backend.name, backend);
    backends.into_iter().for_each(|change| line(Some(change)));
    if lines.is_empty() {
        lines.push(format!("{title}: its backends are in another order"));
    }
    lines
}

fn backend(old: &Backend, new: &Backend, title: &str) -> Vec<String> {
    let changes = [
        values("addresses", &old.addresses, &new.addresses),
        values("port", &old.port, &new.port),
        values("weight", &old.weight, &new.weight),
        values("backup", &old.backup, &new.backup),
        values("quic_server_id", &old.quic_server_id, &new.quic_server_id),
    ];
    changes.into_iter().flatten().map(|change| format!("{title}: {change}")).collect()
}

/// Both values, if they are short enough to be read.
fn values<T: PartialEq + Debug>(key: &str, old: &T, new: &T) -> Option<String> {
    /// Of both together.
    const LONGEST: usize = 80;
    if old == new {
        return None;
    }
    let values = format!("{old:?} -> {new:?}");
    Some(if values.len() <= LONGEST { format!("{key} {values}") } else { format!("{key} changed") })
}

/// Whether what is probed of the peers, or how, is another.
pub fn peers_differ(old: &Config, new: &Config) -> bool {
    let probed = |service: &Service| {
        (service.name.clone(), service.protocol, service.port, service.addresses.clone(), service.flows.hash)
    };
    let services = |config: &Config| config.services.iter().map(probed).collect::<Vec<_>>();
    let families = |config: &Config| plan::pools(config).map(|(_, pool)| pool).collect::<Vec<_>>();
    old.peers != new.peers
        || old.peer_check != new.peer_check
        || old.node.addresses != new.node.addresses
        || services(old) != services(new)
        || families(old) != families(new)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const FILE: &str = r#"
version = 1
[node]
name = "node1"
interfaces = ["front"]
addresses = ["192.0.2.11"]
[flows]
max = 1000
[[service]]
name = "web"
protocol = "tcp"
port = 80
forward = "dsr-l2"
check = { kind = "tcp", interval = "2s" }
backend = [{ name = "b1", address = "203.0.113.21" }, { name = "b2", address = "203.0.113.22", weight = 3 }]
[[service]]
name = "echo"
protocol = "udp"
port = 7
forward = "dsr-l2"
check = { kind = "tcp", port = 80 }
backend = [{ name = "b1", address = "203.0.113.21" }]
"#;

    /// The file with a part of it replaced.
    fn changed(from: &str, to: &str) -> Config {
        assert!(FILE.contains(from), "{from}");
        Config::parse(&FILE.replace(from, to), Path::new("usher.toml")).unwrap()
    }

    fn file() -> Config {
        changed("", "")
    }

    #[test]
    fn every_difference_is_a_line() {
        assert_eq!(differences(&file(), &file()), Vec::<String>::new());
        let cases: &[(&str, &str, &[&str])] = &[
            ("weight = 3", "weight = 1", &["service web: backend b2: weight 3 -> 1"]),
            (
                r#", { name = "b2", address = "203.0.113.22", weight = 3 }"#,
                "",
                &["service web: backend b2: removed"],
            ),
            (
                r#"backend = [{ name = "b1", address = "203.0.113.21" }]"#,
                r#"backend = [{ name = "b9", address = "203.0.113.29" }]"#,
                &["service echo: backend b9: added", "service echo: backend b1: removed"],
            ),
            (
                r#"address = "203.0.113.22""#,
                r#"address = "203.0.113.23""#,
                &["service web: backend b2: addresses [203.0.113.22] -> [203.0.113.23]"],
            ),
            (
                "port = 80\nforward",
                "port = 81\nforward",
                &[
                    "service web: port 80 -> 81",
                    "service web: backend b1: port 80 -> 81",
                    "service web: backend b2: port 80 -> 81",
                ],
            ),
            (r#"interval = "2s""#, r#"interval = "3s""#, &["service web: check changed"]),
            (
                r#"name = "node1""#,
                "name = \"node1\"\nreload_on_change = true",
                &["[node] reload_on_change: changed"],
            ),
            ("max = 1000", "max = 2000", &["[flows] settings: changed"]),
            (r#"name = "echo""#, r#"name = "dns""#, &["service dns: added", "service echo: removed"]),
        ];
        for (from, to, expected) in cases {
            assert_eq!(differences(&file(), &changed(from, to)), *expected, "{to}");
        }
    }

    #[test]
    fn what_is_made_at_the_start_needs_a_restart() {
        assert!(needs_restart(&file(), &file()).is_empty());
        for (from, to, expected) in [
            (
                "max = 1000",
                "max = 2000",
                "[flows] max: the tables stay as they are; to make them anew, stop usher, run `usher detach`, and start it: \
                 that ends all connections",
            ),
            (
                r#"interfaces = ["front"]"#,
                r#"interfaces = ["front", "back"]"#,
                "[node] interfaces: only a restart can change it",
            ),
            (r#"name = "node1""#, r#"name = "node2""#, "[node] name: only a restart can change it"),
            (
                r#"name = "node1""#,
                "name = \"node1\"\nmetrics_listen = [\"127.0.0.1:9464\"]",
                "[node] metrics_listen: only a restart can change it",
            ),
            (
                "check = { kind = \"tcp\", port = 80 }",
                "affinity = \"10m\"\ncheck = { kind = \"tcp\", port = 80 }",
                "the first service with affinity: only a restart can change it",
            ),
        ] {
            assert_eq!(needs_restart(&file(), &changed(from, to)), [expected]);
        }
        for (from, to) in [("weight = 3", "weight = 1"), (r#"interval = "2s""#, r#"interval = "3s""#)] {
            assert!(needs_restart(&file(), &changed(from, to)).is_empty(), "{to}");
        }
    }

    #[test]
    fn peers_are_probed_anew_only_for_what_concerns_them() {
        assert!(!peers_differ(&file(), &changed("weight = 3", "weight = 1")));
        assert!(peers_differ(&file(), &changed(r#"name = "echo""#, r#"name = "dns""#)));
        assert!(peers_differ(&file(), &changed("port = 80\nforward", "port = 81\nforward")));
    }
}
