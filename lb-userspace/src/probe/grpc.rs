//! `grpc`: a gRPC server says by grpc.health.v1 that it serves (the specification:
//! <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).

use std::net::IpAddr;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Endpoints, Finding, Limit, exchanged, tcp, tls};
use crate::{config::Tls, core::check::Code};

const PATH: &str = "/grpc.health.v1.Health/Check";

/// HTTP/2, as handshakes name it.
const PROTOCOL: &[u8] = b"h2";

/// A message's length comes behind a byte that says whether it is compressed.
const PREFIX: usize = 5;

/// The longest answer in bytes: two of them are enough.
const MAX_ANSWER: usize = 1_024;

/// Codes of `grpc-status` that tell more than that something went wrong
/// (<https://github.com/grpc/grpc/blob/master/doc/statuscodes.md>).
const NOT_FOUND: &str = "5";
const UNIMPLEMENTED: &str = "12";

/// Asks how a service is, or the whole server when `service` is empty.
pub(super) async fn check(
    endpoints: &Endpoints<'_>,
    service: &str,
    limit: Limit,
) -> Result<Finding, Finding> {
    let stream = tcp::connect(endpoints, limit).await?;
    let server = format!("http://{}", endpoints.target);
    limit.or(Code::L7Tout, exchange(stream, &server, service)).await?
}

/// The same over TLS.
pub(super) async fn check_over_tls(
    endpoints: &Endpoints<'_>,
    service: &str,
    client: &mut tls::Client,
    tls: &Tls,
    limit: Limit,
) -> Result<Finding, Finding> {
    let tls::Shaken { stream, warning } = tls::connect(endpoints, client, tls, Some(PROTOCOL), limit).await?;
    // Clients of gRPC insist on it.
    if stream.get_ref().1.alpn_protocol() != Some(PROTOCOL) {
        return Err(Finding::new(Code::L6Rsp, "does not choose HTTP/2 in the handshake (ALPN h2)"));
    }
    let server = format!("https://{}", authority(endpoints, tls));
    let finding = limit.or(Code::L7Tout, exchange(stream, &server, service)).await??;
    Ok(Finding { warning, ..finding })
}

/// Who is asked. Servers may insist that it is the name that the handshake asked for.
fn authority(endpoints: &Endpoints<'_>, tls: &Tls) -> String {
    let is_name = |name: &&String| name.parse::<IpAddr>().is_err();
    tls.server_name.as_ref().filter(is_name).cloned().unwrap_or_else(|| endpoints.target.to_string())
}

async fn exchange<S>(stream: S, server: &str, service: &str) -> Result<Finding, Finding>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| no_answer(&error))?;
    let exchange = async {
        let answer = sender.send_request(question(server, service)?).await;
        read(answer.map_err(|error| no_answer(&error))?, service).await
    };
    exchanged(connection, exchange).await
}

/// `server` is the beginning of a URL.
fn question(server: &str, service: &str) -> Result<Request<Full<Bytes>>, Finding> {
    Request::post(format!("{server}{PATH}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", concat!("usher/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::from(framed(service))))
        .map_err(|error| Finding::new(Code::Sockerr, format!("cannot ask: {error}")))
}

/// `HealthCheckRequest { service: string = 1 }`. A name is 255 bytes long at most, so two bytes are enough for its length.
fn framed(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        let length = service.len();
        message.push(1 << 3 | 2);
        match length {
            ..128 => message.push(length as u8),
            _ => message.extend([length as u8 | 0x80, (length >> 7) as u8]),
        }
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend((message.len() as u32).to_be_bytes());
    framed.extend(message);
    framed
}

async fn read(answer: hyper::Response<Incoming>, service: &str) -> Result<Finding, Finding> {
    let (head, body) = answer.into_parts();
    if head.status != StatusCode::OK {
        return Err(Finding::new(Code::L7Sts, format!("HTTP status {}", head.status.as_u16())));
    }
    // An answer without a message says it all in its head.
    if head.headers.contains_key("grpc-status") {
        expect_ok(&head.headers, service)?;
    }
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let body = body.map_err(|error| Finding::new(Code::L7Rsp, format!("no whole answer: {error}")))?;
    if let Some(trailers) = body.trailers() {
        expect_ok(trailers, service)?;
    }
    judge(status(&body.to_bytes()))
}

fn expect_ok(headers: &HeaderMap, service: &str) -> Result<(), Finding> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text("grpc-status") {
        "0" => Ok(()),
        NOT_FOUND => Err(Finding::new(Code::L7Sts, format!("it does not know the service \"{service}\""))),
        UNIMPLEMENTED => Err(Finding::new(Code::L7Rsp, "it does not answer grpc.health.v1")),
        code => Err(Finding::new(Code::L7Sts, format!("grpc-status {code} {}", text("grpc-message")))),
    }
}

/// `HealthCheckResponse { status: enum = 1 }`, of which 0 is left out; `None` when it is none.
fn status(framed: &[u8]) -> Option<u8> {
    let (prefix, message) = framed.split_at_checked(PREFIX)?;
    match (prefix[0], message) {
        (0, []) => Some(0),
        (0, [tag, status, ..]) if *tag == 1 << 3 => Some(*status),
        _ => None,
    }
}

fn judge(status: Option<u8>) -> Result<Finding, Finding> {
    let said = match status {
        Some(1) => return Ok(Finding::new(Code::L7Ok, "SERVING")),
        Some(0) => "UNKNOWN",
        Some(2) => "NOT_SERVING",
        Some(3) => "SERVICE_UNKNOWN",
        _ => return Err(Finding::new(Code::L7Rsp, "not an answer of grpc.health.v1")),
    };
    Err(Finding::new(Code::L7Sts, said))
}

fn no_answer(error: &hyper::Error) -> Finding {
    Finding::new(Code::L7Rsp, format!("no gRPC answer: {}", root(error)))
}

/// The cause of all causes: hyper's own words are "http2 error".
fn root(error: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_called_by_its_name_or_by_its_address() {
        let target = "[2001:db8::21]:50051".parse().unwrap();
        let endpoints = Endpoints { target, source: None, source_port: None, through: None };
        for (server_name, expected) in [
            (Some("orders.example.test"), "orders.example.test"),
            (Some("2001:db8::21"), "[2001:db8::21]:50051"),
            (None, "[2001:db8::21]:50051"),
        ] {
            let tls = Tls { server_name: server_name.map(str::to_owned), ca_file: None, verify: true };
            assert_eq!(authority(&endpoints, &tls), expected);
            assert!(question(&format!("https://{expected}"), "").is_ok());
        }
    }
}
