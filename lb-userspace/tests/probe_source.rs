//! Every kind of check that opens sockets leaves from the address that it is told.

#![expect(clippy::unwrap_used, reason = "the lint spares tests, but not their helpers")]

use std::{net::IpAddr, time::Duration};

use lb_userspace::{
    config::{CheckKind, Http, Tls},
    probe::{Probe, Source},
};
use tokio::net::{TcpListener, UdpSocket};

/// Another address of the loopback interface than the kernel would choose.
const SOURCE: &str = "127.0.0.9";

/// Nobody answers: where a check comes from is seen before that.
const LIMIT: Duration = Duration::from_secs(20);

fn probe(kind: CheckKind, target: std::net::SocketAddr) -> Probe {
    let source = SOURCE.parse::<IpAddr>().unwrap();
    Probe { source: Some(Source::address(source)), ..Probe::new(kind, target, LIMIT) }
}

#[tokio::test]
async fn over_tcp() {
    let tls = || Tls { server_name: None, ca_file: None, verify: false };
    let http = |tls| CheckKind::Http(Box::new(Http { tls, ..Http::default() }));
    let grpc = |tls| CheckKind::Grpc { service: String::new(), tls };
    let kinds = [
        CheckKind::Tcp,
        http(None),
        http(Some(tls())),
        CheckKind::Tls(tls()),
        grpc(None),
        grpc(Some(tls())),
        CheckKind::Agent,
    ];
    for kind in kinds {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut probe = probe(kind.clone(), listener.local_addr().unwrap());
        let check = tokio::spawn(async move { probe.run_once().await });
        let (_stream, from) = listener.accept().await.unwrap();
        assert_eq!(from.ip().to_string(), SOURCE, "{kind:?}");
        check.abort();
    }
}

#[tokio::test]
async fn over_udp() {
    let dns = CheckKind::Dns { query: "www.example.test".to_owned(), record: "A", expect: None };
    for kind in [CheckKind::Udp { send: "ping".to_owned(), expect: None }, dns] {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut probe = probe(kind.clone(), socket.local_addr().unwrap());
        let check = tokio::spawn(async move { probe.run_once().await });
        let (_, from) = socket.recv_from(&mut [0; 512]).await.unwrap();
        assert_eq!(from.ip().to_string(), SOURCE, "{kind:?}");
        check.abort();
    }
}
