//! Checks of DNS servers, against BIND.

#![expect(clippy::unwrap_used, reason = "the lint spares tests, but not their helpers")]

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use lb_userspace::{
    config::CheckKind,
    core::check::{CheckResult, Code},
    probe::Probe,
};
use tempfile::TempDir;

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
struct Named {
    process: Child,
    _directory: TempDir,
    address: SocketAddr,
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn can_run_named() -> bool {
    let found = Command::new("named").arg("-v").stdout(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("skipped: named is missing (Debian: bind9)");
        assert!(std::env::var_os("USHER_NO_SKIP").is_none(), "this test must not be skipped");
    }
    found
}

async fn named() -> Named {
    let directory = TempDir::new().unwrap();
    let path = directory.path().display();
    // Both protocols use the port, which is free a moment ago.
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let port = address.port();
    let config = format!(
        r#"options {{
    directory "{path}";
    listen-on port {port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    pid-file none;
    session-keyfile none;
    managed-keys-directory "{path}";
    recursion no;
    dnssec-validation no;
}};
controls {{}};
zone "example.test" {{ type primary; file "zone"; }};
"#
    );
    // More than fits into a datagram.
    let long: String =
        (0..20).map(|number| format!("long IN TXT \"{number} {}\"\n", "x".repeat(200))).collect();
    fs::write(directory.path().join("zone"), format!("{ZONE}{long}")).unwrap();
    fs::write(directory.path().join("named.conf"), config).unwrap();
    let log = fs::File::create(directory.path().join("log")).unwrap();
    let process = Command::new("named")
        .args(["-g", "-n", "1", "-c"])
        .arg(directory.path().join("named.conf"))
        .stderr(log)
        .spawn()
        .unwrap();
    let named = Named { process, _directory: directory, address };
    let start = Instant::now();
    loop {
        let result = dns(named.address, "ns.example.test", "A", None, SHORT).await;
        if result.code == Code::L7Ok {
            return named;
        }
        let log = fs::read_to_string(named._directory.path().join("log")).unwrap_or_default();
        assert!(start.elapsed() < LONG, "named does not answer: {result:?}\n{log}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
    if !can_run_named() {
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
        let result = dns(named.address, query, record, expect, LONG).await;
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
