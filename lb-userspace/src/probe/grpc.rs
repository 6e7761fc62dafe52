//! `grpc`: a gRPC server says by grpc.health.v1 that it serves (the specification:
//! <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>). Without TLS.

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::{Endpoints, Finding, Limit, exchanged, tcp};
use crate::core::check::Code;

const PATH: &str = "/grpc.health.v1.Health/Check";

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
    limit.or(Code::L7Tout, exchange(stream, endpoints, service)).await?
}

async fn exchange(stream: TcpStream, endpoints: &Endpoints<'_>, service: &str) -> Result<Finding, Finding> {
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| no_answer(&error))?;
    let exchange = async {
        let answer = sender.send_request(question(endpoints, service)?).await;
        read(answer.map_err(|error| no_answer(&error))?, service).await
    };
    exchanged(connection, exchange).await
}

fn question(endpoints: &Endpoints<'_>, service: &str) -> Result<Request<Full<Bytes>>, Finding> {
    Request::post(format!("http://{}{PATH}", endpoints.target))
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
