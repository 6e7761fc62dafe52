//! Checks by grpc.health.v1, against tonic's server.

#![expect(clippy::unwrap_used, reason = "the lint spares tests, but not their helpers")]

use std::{net::SocketAddr, time::Duration};

use lb_userspace::{
    config::CheckKind,
    core::check::{CheckResult, Code},
    probe::Probe,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
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
    let kind = CheckKind::Grpc { service: service.to_owned() };
    Probe::new(kind, target, timeout).run_once().await
}

#[track_caller]
fn assert_result(result: &CheckResult, code: Code, detail: &str) {
    assert_eq!((result.code, result.detail.as_str()), (code, detail));
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
    let result = grpc(address, "", LONG).await;
    assert_eq!(result.code, Code::L7Rsp);
    assert!(result.detail.starts_with("no gRPC answer: "), "{result:?}");
    assert_result(&grpc(address, "", SHORT).await, Code::L7Tout, "timeout after 200ms");
    drop(task.await.unwrap());
    assert_result(&grpc(address, "", LONG).await, Code::L4Con, "Connection refused");
}
