//! Checks by grpc.health.v1, against tonic's server, in plain text and over TLS.

#![expect(clippy::unwrap_used, reason = "the lint spares tests, but not their helpers")]

mod certificates;

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use certificates::{Issuer, NAME, careless, ending, expired, issuer, trusting};
use lb_userspace::{
    config::{CheckKind, Tls},
    core::check::{CheckResult, Code},
    probe::Probe,
};
use rcgen::{CertificateParams, KeyPair};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring},
};
use tonic::{
    service::Routes,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};
use tonic_health::{ServingStatus, server::health_reporter};

/// For checks that are meant to end by themselves.
const LONG: Duration = Duration::from_secs(20);
/// For checks that are meant to time out.
const SHORT: Duration = Duration::from_millis(200);

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn grpc(target: SocketAddr, service: &str, timeout: Duration) -> CheckResult {
    let kind = CheckKind::Grpc { service: service.to_owned(), tls: None };
    Probe::new(kind, target, timeout).run_once().await
}

async fn grpcs(target: SocketAddr, tls: Tls, timeout: Duration) -> CheckResult {
    let kind = CheckKind::Grpc { service: String::new(), tls: Some(tls) };
    Probe::new(kind, target, timeout).run_once().await
}

async fn shake(target: SocketAddr, tls: Tls) -> CheckResult {
    Probe::new(CheckKind::Tls(tls), target, LONG).run_once().await
}

/// tonic's server, which serves, with a certificate or in plain text.
async fn serving(identity: Option<Identity>) -> SocketAddr {
    let (listener, address) = listener().await;
    let mut server = Server::builder();
    if let Some(identity) = identity {
        server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
    }
    let (_, health) = health_reporter();
    tokio::spawn(server.add_service(health).serve_with_incoming(TcpIncoming::from(listener)));
    address
}

fn identity(wanted: &CertificateParams, issuer: &Issuer) -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = wanted.signed_by(&key, issuer).unwrap();
    Identity::from_pem(certificate.pem(), key.serialize_pem())
}

/// A server that shakes hands, knows the protocols that are given, and then says nothing.
async fn shaking_hands(issuer: &Issuer, protocols: &[&str]) -> SocketAddr {
    let key = KeyPair::generate().unwrap();
    let certificate = ending(NAME, 90).signed_by(&key, issuer).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            held.push(acceptor.accept(stream).await);
        }
    });
    address
}

#[track_caller]
fn assert_result(result: &CheckResult, code: Code, detail: &str) {
    assert_eq!((result.code, result.detail.as_str()), (code, detail));
}

#[track_caller]
fn assert_begins(result: &CheckResult, code: Code, detail: &str) {
    assert!(result.code == code && result.detail.starts_with(detail), "{result:?}, expected {code} {detail}");
}

#[tokio::test]
async fn a_server_is_judged_by_what_it_says_of_the_service() {
    let (reporter, health) = health_reporter();
    // A name that needs two bytes for its length.
    let long = "x".repeat(200);
    for (service, status) in [
        ("shop.Orders", ServingStatus::Serving),
        (&long, ServingStatus::Serving),
        ("shop.Returns", ServingStatus::NotServing),
        ("shop.New", ServingStatus::Unknown),
    ] {
        reporter.set_service_status(service, status).await;
    }
    let (listener, address) = listener().await;
    tokio::spawn(Server::builder().add_service(health).serve_with_incoming(TcpIncoming::from(listener)));
    for (service, code, detail) in [
        ("", Code::L7Ok, "SERVING"),
        ("shop.Orders", Code::L7Ok, "SERVING"),
        (&long, Code::L7Ok, "SERVING"),
        ("shop.Returns", Code::L7Sts, "NOT_SERVING"),
        ("shop.New", Code::L7Sts, "UNKNOWN"),
        ("shop.Gone", Code::L7Sts, "it does not know the service \"shop.Gone\""),
    ] {
        assert_result(&grpc(address, service, LONG).await, code, detail);
    }
    reporter.set_service_status("shop.Orders", ServingStatus::NotServing).await;
    assert_result(&grpc(address, "shop.Orders", LONG).await, Code::L7Sts, "NOT_SERVING");
}

#[tokio::test]
async fn a_grpc_server_without_health() {
    let (listener, address) = listener().await;
    let server = Server::builder().add_routes(Routes::default());
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    assert_result(&grpc(address, "", LONG).await, Code::L7Rsp, "it does not answer grpc.health.v1");
}

#[tokio::test]
async fn what_is_no_grpc_server() {
    let (listener, address) = listener().await;
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        drop(stream);
        // The next one gets no word.
        let (stream, _): (TcpStream, _) = listener.accept().await.unwrap();
        (listener, stream)
    });
    assert_begins(&grpc(address, "", LONG).await, Code::L7Rsp, "no gRPC answer: ");
    assert_result(&grpc(address, "", SHORT).await, Code::L7Tout, "timeout after 200ms");
    drop(task.await.unwrap());
    assert_result(&grpc(address, "", LONG).await, Code::L4Con, "Connection refused");
}

#[tokio::test]
async fn a_server_is_asked_over_tls_when_its_certificate_is_good() {
    let issuer = issuer("ours");
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    fs::write(&ca_file, issuer.pem()).unwrap();
    let tls = trusting(&ca_file);
    let server = async |wanted: CertificateParams| serving(Some(identity(&wanted, &issuer))).await;

    let good = server(ending(NAME, 90)).await;
    let result = grpcs(good, tls.clone(), LONG).await;
    assert_result(&result, Code::L7Ok, "SERVING");
    assert_eq!(result.warning, None);
    let soon = server(ending(NAME, 6)).await;
    let result = grpcs(soon, tls.clone(), LONG).await;
    assert_result(&result, Code::L7Ok, "SERVING");
    assert_eq!(result.warning.as_deref(), Some("its certificate expires in 6 days"));

    let expired = server(expired(NAME)).await;
    let other = server(ending("other.example.test", 90)).await;
    for (address, detail) in [
        (expired, "its certificate has expired"),
        (other, "its certificate is for another name: "),
        (serving(None).await, "does not speak TLS: "),
    ] {
        assert_begins(&grpcs(address, tls.clone(), LONG).await, Code::L6Rsp, detail);
    }
    // Whoever does not look sees no fault; but a date that has passed is worth a word.
    for (address, warning) in [(other, None), (expired, Some("its certificate has expired"))] {
        let result = grpcs(address, careless(), LONG).await;
        assert_result(&result, Code::L7Ok, "SERVING");
        assert_eq!(result.warning.as_deref(), warning);
    }
    // And in plain text nothing is to be had.
    assert_begins(&grpc(good, "", LONG).await, Code::L7Rsp, "no gRPC answer: ");
}

#[tokio::test]
async fn a_server_over_tls_must_choose_http_2() {
    let issuer = issuer("ours");
    let result = grpcs(shaking_hands(&issuer, &["http/1.1"]).await, careless(), LONG).await;
    assert_result(&result, Code::L6Rsp, "refuses the handshake: NoApplicationProtocol");
    let result = grpcs(shaking_hands(&issuer, &[]).await, careless(), LONG).await;
    assert_result(&result, Code::L6Rsp, "does not choose HTTP/2 in the handshake (ALPN h2)");
    let result = grpcs(shaking_hands(&issuer, &["http/1.1", "h2"]).await, careless(), SHORT).await;
    assert_result(&result, Code::L7Tout, "timeout after 200ms");
}

/// A `tls` check asks for no protocol above TLS.
#[tokio::test]
async fn a_handshake_succeeds_whatever_the_server_speaks() {
    let issuer = issuer("ours");
    for protocols in [&[][..], &["h2"], &["http/1.1"], &["dot"]] {
        let server = shaking_hands(&issuer, protocols).await;
        assert_result(&shake(server, careless()).await, Code::L6Ok, "TLSv1_3");
    }
}
