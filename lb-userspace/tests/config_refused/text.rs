//! Text that is no configuration: TOML syntax, the version, unknown keys, values of the wrong kind.

use super::Case;

pub(super) const CASES: &[Case] = &[
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
        r#"usher.toml:23: service "web": banana: is not a known key; [[service]] knows name, dns_name, require, protocol, port, addresses, forward, idle_timeout, on_backend_down, drain_timeout, on_drain_end, hash, affinity, rate_limit, quic, withdraw_below, panic_below, slow_start, all_down, check and backend"#,
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
];
