//! `http`: `GET path` is answered with an expected status, on a connection of its own.

use std::{error::Error, io, ops::RangeInclusive};

use http_body_util::{BodyExt, Empty};
use hyper::{
    StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Endpoints, Finding, Limit, exchanged, io_detail, tcp, tls};
use crate::{config, core::check::Code};

/// HTTP/1.1, as handshakes name it.
const PROTOCOL: &[u8] = b"http/1.1";

/// Bytes of the body after which the answer is taken for complete.
const MAX_BODY: usize = 64 * 1024;
/// Bytes of the status line and headers; more is no answer.
const MAX_HEAD: usize = 64 * 1024;

/// What is asked, and what should come back.
pub(super) struct Request<'a> {
    pub(super) path: &'a str,
    pub(super) host: Option<&'a str>,
    pub(super) expect: &'a [RangeInclusive<u16>],
}

/// Connects, asks, and reads the answer to its end or `MAX_BODY`.
pub(super) async fn check(
    endpoints: &Endpoints<'_>,
    request: &Request<'_>,
    limit: Limit,
) -> Result<Finding, Finding> {
    let stream = tcp::connect(endpoints, limit).await?;
    exchange(stream, endpoints, request, limit).await
}

/// The same over TLS.
pub(super) async fn check_over_tls(
    endpoints: &Endpoints<'_>,
    request: &Request<'_>,
    client: &mut tls::Client,
    tls: &config::Tls,
    limit: Limit,
) -> Result<Finding, Finding> {
    let tls::Shaken { stream, warning } = tls::connect(endpoints, client, tls, Some(PROTOCOL), limit).await?;
    let finding = exchange(stream, endpoints, request, limit).await?;
    Ok(Finding { warning, ..finding })
}

async fn exchange<S>(
    stream: S,
    endpoints: &Endpoints<'_>,
    request: &Request<'_>,
    limit: Limit,
) -> Result<Finding, Finding>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let message = message(endpoints, request)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| no_answer(&error))?;
    let exchange = async {
        let answer = sender.send_request(message).await.map_err(|error| no_answer(&error))?;
        judge(answer.status(), request.expect)?;
        let status = described(answer.status());
        read(answer.into_body()).await.map_err(|error| no_answer(&error))?;
        Ok(Finding::new(Code::L7Ok, status))
    };
    limit.or(Code::L7Tout, exchanged(connection, exchange)).await?
}

fn message(
    endpoints: &Endpoints<'_>,
    request: &Request<'_>,
) -> Result<hyper::Request<Empty<Bytes>>, Finding> {
    let target = endpoints.target.to_string();
    hyper::Request::get(request.path)
        .header(header::HOST, request.host.unwrap_or(&target))
        .header(header::USER_AGENT, concat!("usher/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| Finding::new(Code::Sockerr, format!("cannot ask for {}: {error}", request.path)))
}

fn judge(status: StatusCode, expect: &[RangeInclusive<u16>]) -> Result<(), Finding> {
    if expect.iter().any(|range| range.contains(&status.as_u16())) {
        return Ok(());
    }
    let expected: Vec<String> = expect
        .iter()
        .map(|range| match (range.start(), range.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        })
        .collect();
    Err(Finding::new(Code::L7Sts, format!("{}, expected {}", described(status), expected.join(","))))
}

/// `404 Not Found`, or the bare number where it has no name.
fn described(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

async fn read(mut body: Incoming) -> Result<(), hyper::Error> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, Bytes::len);
        if length >= MAX_BODY {
            break;
        }
    }
    Ok(())
}

fn no_answer(error: &hyper::Error) -> Finding {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    let detail = match cause {
        Some(cause) if cause.raw_os_error().is_some() => io_detail(cause),
        _ if error.is_parse() => format!("not an HTTP answer: {error}"),
        _ => "connection closed before the answer was complete".to_owned(),
    };
    Finding::new(Code::L7Rsp, detail)
}
