//! What a good configuration means: defaults, the ways to write a value, and what only warns.

use std::{fmt::Display, net::IpAddr, path::Path, time::Duration};

use lb_userspace::{
    config::{
        AllDown, CheckKind, Config, ConfigError, Forward, Http, Loaded, NodeAddress, Passive, Protocol,
        Reply, Require, Timing, Tls, XdpMode,
    },
    core::ids::Family,
};

const MINIMAL: &str = r#"version = 1
[node]
name = "node1"
interfaces = ["eth0"]
addresses = ["192.0.2.11"]
[nat]
source = ["203.0.113.11"]
[dns]
zone = "Example.TEST."
[[service]]
name = "web"
dns_name = "www.example.test"
protocol = "tcp"
port = 80
[[service.backend]]
name = "b1"
address = "203.0.113.21"
"#;

fn load(text: &str) -> Loaded {
    Loaded::parse(text, Path::new("usher.toml")).unwrap_or_else(|error| panic!("{error}"))
}

fn edit(from: &str, to: &str) -> Loaded {
    assert!(MINIMAL.contains(from), "no {from:?}");
    load(&MINIMAL.replacen(from, to, 1))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn same(address: &str) -> NodeAddress {
    NodeAddress { address: ip(address), publish: ip(address), check_address: ip(address) }
}

#[test]
fn what_is_left_out_has_its_default() {
    let Loaded { config, warnings, .. } = load(MINIMAL);
    assert_eq!(warnings, []);

    let node = &config.node;
    assert_eq!((node.xdp_mode, node.socket.to_str().unwrap()), (XdpMode::Auto, "/run/usher/usher.sock"));
    assert_eq!(node.addresses, [same("192.0.2.11")]);
    assert_eq!(node.secret_file, None);
    assert_eq!((&config.nat.ports, config.nat.reply), (&(1_024..=32_767), Reply::LastHop));

    let flows = &config.flows;
    let seconds = [flows.tcp_timeout, flows.udp_timeout, flows.closing_timeout].map(|time| time.as_secs());
    assert_eq!((flows.max, flows.fragments, seconds), (1_000_000, 16_384, [3_600, 120, 60]));

    let dns = config.dns.as_ref().unwrap();
    assert_eq!(dns.listen, ["192.0.2.11:53".parse().unwrap()]);
    assert_eq!((&*dns.zone, &*dns.contact), ("example.test", "hostmaster.example.test"));
    let ttls = [dns.ttl, dns.ttl_in_doubt, dns.negative_ttl].map(|ttl| ttl.as_secs());
    assert_eq!((ttls, dns.all_down), ([30, 5, 5], AllDown::All));

    let quick = Duration::from_millis(500);
    let peers =
        Timing { interval: quick, fast_interval: quick, timeout: quick, rise: 2, fall: 3, jitter: 0.1 };
    assert_eq!(config.peer_check.timing, peers);

    let service = &config.services[0];
    assert_eq!((service.protocol, service.forward), (Protocol::Tcp, Forward::Nat));
    assert_eq!(service.addresses, [ip("192.0.2.11")]);
    let (interval, timeout) = (Duration::from_secs(2), Duration::from_secs(1));
    assert_eq!(service.check.timing, Timing { interval, fast_interval: interval, timeout, ..peers });
    assert_eq!((&*service.check.kind, service.check.port), (&CheckKind::Tcp, None));
    assert_eq!((service.backends[0].port, service.backends[0].weight), (80, 1));
}

#[test]
fn a_shorter_interval_shortens_the_default_timeout() {
    let loaded = edit("port = 80\n", "port = 80\ncheck = { interval = \"200ms\" }\n");
    assert_eq!(loaded.config.services[0].check.timing.timeout, Duration::from_millis(200));
}

#[test]
fn a_backend_whose_state_may_change_is_checked_at_the_fast_interval() {
    let timing = |check: &str| {
        let loaded = edit("port = 80\n", &format!("port = 80\ncheck = {check}\n"));
        let timing = loaded.config.services[0].check.timing;
        [timing.interval, timing.fast_interval, timing.timeout].map(|time| time.as_millis())
    };
    assert_eq!(timing("{ interval = \"5s\" }"), [5_000, 5_000, 1_000], "nothing is fast unless wanted");
    assert_eq!(timing("{ fast_interval = \"500ms\" }"), [2_000, 500, 1_000]);
}

#[test]
fn checks_may_leave_from_an_address_of_each_family() {
    let source = |check: &str, target: &str| {
        let loaded = edit("port = 80\n", &format!("port = 80\ncheck = {check}\n"));
        loaded.config.services[0].check.source(ip(target))
    };
    let [v4, v6] = ["203.0.113.12", "2001:db8:2::12"];
    assert_eq!(source("{ port = 81 }", "203.0.113.21"), None);
    assert_eq!(source(&format!("{{ source = \"{v4}\" }}"), "203.0.113.21"), Some(ip(v4)));
    assert_eq!(source(&format!("{{ source = \"{v4}\" }}"), "2001:db8:2::21"), None);
    assert_eq!(source(&format!("{{ source = [\"{v4}\", \"{v6}\"] }}"), "2001:db8:2::21"), Some(ip(v6)));
}

#[test]
fn backends_are_watched_by_default_where_that_is_possible() {
    let passive = |more: &str| {
        let loaded = edit("port = 80\n", &format!("port = 80\n{more}"));
        loaded.config.services[0].check.passive
    };
    assert_eq!([passive(""), passive("check = { port = 81 }\n")], [Passive::Check; 2]);
    assert_eq!(passive("check = { passive = \"fail\" }\n"), Passive::Fail);
    assert_eq!(passive("check = { passive = \"off\" }\n"), Passive::Off);
    assert_eq!(passive("forward = \"dsr-l2\"\n"), Passive::Off);
    assert_eq!(passive("forward = \"dsr-l2\"\ncheck = { passive = \"off\" }\n"), Passive::Off);
}

#[test]
fn nat_may_have_several_source_addresses() {
    let loaded = edit("source = [\"203.0.113.11\"]", "source = [\"203.0.113.11\", \"203.0.113.12\"]");
    assert_eq!(loaded.config.nat.source, [ip("203.0.113.11"), ip("203.0.113.12")]);
}

#[test]
fn an_http_check_has_defaults_and_lists_of_statuses() {
    let kind = |check: &str| {
        let edited = edit("port = 80\n", &format!("port = 80\ncheck = {check}\n"));
        (*edited.config.services[0].check.kind).clone()
    };
    let http = |path: &str, host: Option<&str>, expect| {
        let (path, host) = (path.to_owned(), host.map(str::to_owned));
        CheckKind::Http(Box::new(Http { path, host, expect, ..Http::default() }))
    };
    assert_eq!(kind("{ kind = \"http\" }"), http("/", None, vec![200..=399]));
    assert_eq!(
        kind("{ kind = \"http\", path = \"/h?q=1\", host = \"w:81\", expect = \"200, 204,300-302\" }"),
        http("/h?q=1", Some("w:81"), vec![200..=200, 204..=204, 300..=302])
    );
}

#[test]
fn an_http_check_may_send_headers_and_expect_more_than_a_status() {
    let loaded = edit(
        "port = 80\n",
        "port = 80\n[service.check]\nkind = \"http\"\nmethod = \"POST\"\nheaders = { \"X-Probe\" = \"usher\" }\n\
         expect_header = { \"X-State\" = \"ready\", Server = \"\" }\nexpect_body = \"all \\u00e4\"\n",
    );
    let CheckKind::Http(http) = &*loaded.config.services[0].check.kind else { panic!("no http check") };
    let headers = |all: &[(_, String)]| -> Vec<String> { all.iter().map(header_line).collect() };
    assert_eq!((http.method, headers(&http.headers)), ("POST", vec!["x-probe: usher".to_owned()]));
    assert_eq!(headers(&http.expect_header), ["server: ", "x-state: ready"]);
    assert_eq!(http.expect_body.as_deref(), Some("all ä"));
}

fn header_line((name, value): &(impl Display, String)) -> String {
    format!("{name}: {value}")
}

#[test]
fn a_tls_check_asks_for_the_host_and_trusts_whom_it_is_told() {
    let kind = |check: &str| {
        let edited = edit("port = 80\n", &format!("port = 80\ncheck = {check}\n"));
        (*edited.config.services[0].check.kind).clone()
    };
    let tls = |server_name: Option<&str>, ca_file: Option<&str>, verify| Tls {
        server_name: server_name.map(str::to_owned),
        ca_file: ca_file.map(Into::into),
        verify,
    };
    assert_eq!(kind("{ kind = \"tls\" }"), CheckKind::Tls(tls(None, None, true)));
    assert_eq!(
        kind("{ kind = \"tls\", server_name = \"w.example.test\", ca_file = \"/ca.pem\" }"),
        CheckKind::Tls(tls(Some("w.example.test"), Some("/ca.pem"), true))
    );
    let of_https = |check: &str| match kind(check) {
        CheckKind::Http(http) => http.tls,
        other => panic!("{other:?}"),
    };
    let https = |more: &str| of_https(&format!("{{ kind = \"https\"{more} }}"));
    assert_eq!(https(", host = \"w.example.test:81\""), Some(tls(Some("w.example.test"), None, true)));
    assert_eq!(https(", host = \"w\", server_name = \"x\""), Some(tls(Some("x"), None, true)));
    assert_eq!(https(", host = \"[2001:db8::1]:81\""), Some(tls(Some("2001:db8::1"), None, true)));
    assert_eq!(https(", host = \"[2001:db8::1]\""), Some(tls(Some("2001:db8::1"), None, true)));
    assert_eq!(https(", verify = false"), Some(tls(None, None, false)));
    assert_eq!(of_https("{ kind = \"http\" }"), None);
    let grpc = |service: &str, tls| CheckKind::Grpc { service: service.to_owned(), tls };
    assert_eq!(kind("{ kind = \"grpc\" }"), grpc("", None));
    assert_eq!(kind("{ kind = \"grpcs\" }"), grpc("", Some(tls(None, None, true))));
    assert_eq!(
        kind(
            "{ kind = \"grpcs\", grpc_service = \"shop.Orders\", server_name = \"o\", ca_file = \"/ca.pem\" }"
        ),
        grpc("shop.Orders", Some(tls(Some("o"), Some("/ca.pem"), true)))
    );
    assert_eq!(kind("{ kind = \"grpcs\", verify = false }"), grpc("", Some(tls(None, None, false))));
}

#[test]
fn a_udp_check_sends_and_may_expect() {
    let kind = |check: &str| {
        let edited = edit("port = 80\n", &format!("port = 80\ncheck = {check}\n"));
        (*edited.config.services[0].check.kind).clone()
    };
    let udp = |send: &str, expect: Option<&str>| CheckKind::Udp {
        send: send.to_owned(),
        expect: expect.map(str::to_owned),
    };
    assert_eq!(kind("{ kind = \"udp\", send = \"a\\u0000\" }"), udp("a\0", None));
    assert_eq!(kind("{ kind = \"udp\", send = \"a\", expect = \"b\" }"), udp("a", Some("b")));
}

#[test]
fn a_check_may_be_a_section_of_its_own() {
    let line = edit("port = 80\n", "port = 80\ncheck = { fall = 5 }\n");
    let section = edit("port = 80\n", "port = 80\n[service.check]\nfall = 5\n");
    assert_eq!(line.config, section.config);
}

#[test]
fn what_a_name_requires_is_written_in_any_of_its_services() {
    let tls =
        "[[service]]\nname = \"tls\"\ndns_name = \"WWW.example.test.\"\nprotocol = \"tcp\"\nport = 443\n";
    let backend = "[[service.backend]]\nname = \"b1\"\naddress = \"203.0.113.21\"\n";
    let other =
        "[[service]]\nname = \"other\"\ndns_name = \"other.example.test\"\nprotocol = \"tcp\"\nport = 81\n";
    let text = format!("{MINIMAL}{tls}require = \"any\"\n{backend}{other}{backend}");
    let requires: Vec<_> = load(&text).config.services.iter().map(|service| service.require).collect();
    assert_eq!(requires, [Require::Any, Require::Any, Require::All]);

    let both = text.replacen("port = 80\n", "port = 80\nrequire = \"all\"\n", 1);
    let refused = Config::parse(&both, Path::new("usher.toml")).unwrap_err().to_string();
    assert_eq!(
        refused,
        "usher.toml:24: service \"tls\": require: is another one for www.example.test than in service \"web\"; write it in \
         one of the name's services, or the same in all"
    );
}

#[test]
fn an_address_may_be_published_as_another() {
    let written = |address: &str| {
        let loaded = edit("[\"192.0.2.11\"]", &format!("[{{ address = \"10.0.0.11\", {address} }}]"));
        assert_eq!(loaded.config.services[0].addresses, [ip("10.0.0.11")], "packets carry the local one");
        loaded.config.node.addresses[0]
    };
    let found = |publish, check_address| NodeAddress { address: ip("10.0.0.11"), publish, check_address };
    let (local, public, other) = (ip("10.0.0.11"), ip("192.0.2.11"), ip("10.1.0.11"));
    assert_eq!(written("publish = \"192.0.2.11\""), found(public, public));
    assert_eq!(written("check_address = \"10.1.0.11\""), found(local, other));
    let both = "publish = \"192.0.2.11\", check_address = \"10.1.0.11\"";
    assert_eq!(written(both), found(public, other));
}

#[test]
fn equal_content_is_equal_wherever_it_stands() {
    let spaced = MINIMAL.replace('\n', "\n\n# a comment\n");
    assert_eq!(load(&spaced).config, load(MINIMAL).config);
    let windows = MINIMAL.replace('\n', "\r\n");
    assert_eq!(load(&windows).config, load(MINIMAL).config);
}

/// An edit of the minimal file and the warnings it brings.
const WARNINGS: &[(&str, &str, &[&str])] = &[
    (
        "addresses = [\"192.0.2.11\"]",
        "addresses = [\"192.0.2.11\", \"2001:db8:1::11\"]",
        &[
            "usher.toml:10: service \"web\": is not offered over IPv6: no backend has an IPv6 address; give a \
           backend an IPv6 address, or name only the other addresses in `addresses`",
        ],
    ),
    (
        "\"203.0.113.21\"",
        "[\"203.0.113.21\", \"2001:db8:2::21\"]",
        &["usher.toml:10: service \"web\": never uses its backends' IPv6 addresses: it has no IPv6 address \
           itself; add an IPv6 address to [node] addresses, or remove those of the backends"],
    ),
    (
        "dns_name = \"www.example.test\"\n",
        "",
        &["usher.toml:8: dns: names no service; give a service a dns_name, or remove [dns]"],
    ),
    (
        "port = 80\n",
        "port = 80\nforward = \"dsr-l2\"\n",
        &["usher.toml:7: nat: source: is used by no service; remove it, or use forward = \"nat\""],
    ),
    (
        "[nat]\n",
        "secret_file = \"/etc/usher/secret\"\n[peer_check]\npeer_probe_rate = 3\n[[peer]]\nname = \"node2\"\naddresses = \
         [\"192.0.2.12\", \"192.0.2.22\"]\n[nat]\n",
        &[
            "usher.toml:8: peer_check: peer_probe_rate: is too low to connect to each of the 2 addresses of peers \
           every 500ms: a dead one is found later; use 4 or more, or a longer interval",
        ],
    ),
    (
        "\"tcp\"\nport = 80",
        "\"udp\"\nport = 80",
        &[
            "usher.toml:10: service \"web\": check: is left at its default, a TCP connection to each backend's \
           port, but the service is UDP; let a datagram be answered: check = { kind = \"udp\", send = \"…\" }; \
           or name a TCP port that tells of the backend's health: check = { kind = \"tcp\", port = … }",
        ],
    ),
    (
        "port = 80\n",
        "port = 22\n",
        &[
            "usher.toml:14: service \"web\": port: 22 takes ssh to 192.0.2.11 away from the node itself; keep \
           another way in",
        ],
    ),
];

#[test]
fn what_is_probably_not_meant_is_accepted_with_a_warning() {
    for (from, to, expected) in WARNINGS {
        let warnings: Vec<String> = edit(from, to).warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings, *expected, "{from:?} -> {to:?}");
    }
}

#[test]
fn a_family_without_backends_is_not_offered() {
    let loaded = edit("[\"192.0.2.11\"]", "[\"192.0.2.11\", \"2001:db8:1::11\"]");
    assert_eq!(loaded.config.services[0].families().collect::<Vec<_>>(), [Family::V4]);
}

#[test]
fn a_configuration_that_fills_the_maps_is_refused_by_number() {
    let service = |index: usize, backends: usize| {
        let backends: String = (0..backends)
            .map(|backend| {
                let (high, low) = (backend / 250, backend % 250 + 1);
                format!(
                    "[[service.backend]]\nname = \"b{backend}\"\naddress = \"10.{}.{high}.{low}\"\n",
                    index % 250
                )
            })
            .collect();
        format!("[[service]]\nname = \"s{index}\"\nprotocol = \"tcp\"\nport = {}\n{backends}", 30_000 + index)
    };
    let head = &MINIMAL[..MINIMAL.find("[[service]]").unwrap()]
        .replace("[nat]\n", "[nat]\nports = \"1024-29999\"\n");
    let refusal = |services: usize, backends: usize| {
        let services: String = (0..services).map(|index| service(index, backends)).collect();
        match Config::parse(&format!("{head}{services}"), Path::new("usher.toml")) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    };
    assert_eq!(refusal(4_095, 1), "");
    assert_eq!(
        refusal(4_096, 1),
        "usher.toml:1: service: takes 4096 tables (one per service and family), more than 4095; spread the \
         services over more groups of nodes"
    );
    assert_eq!(refusal(1, 65_000 / 10), "");
    assert_eq!(
        refusal(10, 6_501),
        "usher.toml:1: service: takes 65010 backends (counted per service and family), more than 65000; spread \
         the services over more groups of nodes"
    );
}

#[test]
fn a_file_that_cannot_be_read_says_which_and_why() {
    let error = Config::load(Path::new("/nonexistent/usher.toml")).unwrap_err();
    assert!(
        matches!(&error, ConfigError::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    );
    assert_eq!(error.to_string(), "/nonexistent/usher.toml: cannot read the configuration");
    assert!(error.problems().is_empty());
}

#[test]
fn a_nat_source_from_which_peers_are_probed_is_used() {
    let file = MINIMAL
        .replace("port = 80\n", "port = 80\nforward = \"dsr-l2\"\n")
        .replace("[nat]", "secret_file = \"/etc/usher/secret\"\n[nat]")
        .replace("[dns]", "[[peer]]\nname = \"node2\"\naddresses = [\"192.0.2.12\"]\n[dns]");
    assert_eq!(load(&file).warnings, []);
}
