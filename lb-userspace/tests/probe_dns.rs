//! Checks of DNS servers, against BIND.

mod name_server;

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use lb_userspace::{
    config::CheckKind,
    core::check::{CheckResult, Code},
    probe::Probe,
};
use name_server::{NameServer, Place};

/// For checks that are meant to end by themselves.
const LONG: Duration = Duration::from_secs(20);
/// For checks that are meant to time out.
const SHORT: Duration = Duration::from_millis(200);

const ZONE: &str = r#"$TTL 60
@ IN SOA ns.example.test. hostmaster.example.test. 1 60 60 60 60
@ IN NS ns
ns IN A 127.0.0.1
www IN A 192.0.2.11
www IN A 192.0.2.12
"#;

/// Answers for `example.test`, and refuses everything else.
async fn named() -> NameServer {
    let place = Place::new();
    // More than fits into a datagram.
    let long: String =
        (0..20).map(|number| format!("long IN TXT \"{number} {}\"\n", "x".repeat(200))).collect();
    place.write("zone", &format!("{ZONE}{long}"));
    name_server::bind(place, "zone \"example.test\" { type primary; file \"zone\"; };\n").await
}

async fn dns(
    target: SocketAddr,
    query: &str,
    record: &'static str,
    expect: Option<&str>,
    timeout: Duration,
) -> CheckResult {
    let kind = CheckKind::Dns { query: query.to_owned(), record, expect: expect.map(str::to_owned) };
    Probe::new(kind, target, timeout).run_once().await
}

#[tokio::test]
async fn a_name_server_is_judged_by_what_it_answers() {
    if !name_server::can_run("named", "bind9") {
        return;
    }
    let named = named().await;
    for (query, record, expect, code, detail) in [
        ("www.example.test", "A", Some("192.0.2.12"), Code::L7Ok, "NOERROR, A 192.0.2.1"),
        ("example.test", "SOA", None, Code::L7Ok, "NOERROR, SOA ns.example.test"),
        ("long.example.test", "TXT", Some("19 xxx"), Code::L7Ok, "NOERROR, TXT "),
        ("www.example.test", "AAAA", None, Code::L7Rsp, "no AAAA record for www.example.test"),
        ("www.example.test", "A", Some("192.0.2.99"), Code::L7Rsp, "www.example.test A is 192.0.2.1"),
        ("gone.example.test", "A", None, Code::L7Sts, "NXDOMAIN for gone.example.test A"),
        ("www.example.org", "A", None, Code::L7Sts, "REFUSED for www.example.org A"),
    ] {
        let result = dns(named.address(), query, record, expect, LONG).await;
        assert_eq!(result.code, code, "{query} {record}: {result:?}");
        assert!(result.detail.starts_with(detail), "{query} {record}: {result:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_or_says_nothing() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let result = dns(address, "www.example.test", "A", None, SHORT).await;
    assert_eq!((result.code, &*result.detail), (Code::L7Tout, "timeout after 200ms"));
    drop(silent);
    let result = dns(address, "www.example.test", "A", None, LONG).await;
    assert_eq!((result.code, &*result.detail), (Code::L4Con, "Connection refused"));
}
