//! `http`: a request is answered as expected, on a connection of its own.

use std::{error::Error, io};

use http_body_util::{BodyExt, Empty};
use hyper::{
    HeaderMap, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Endpoints, Finding, Limit, contains, exchanged, io_detail, shown, tcp, tls};
use crate::{
    config::{Http, Tls},
    core::check::Code,
};

/// HTTP/1.1, as handshakes name it.
const PROTOCOL: &[u8] = b"http/1.1";

/// Bytes of the body after which the answer is taken for complete.
const MAX_BODY: usize = 64 * 1024;
/// Bytes of the status line and headers; more is no answer.
const MAX_HEAD: usize = 64 * 1024;

/// Connects, asks, and reads the answer to its end or `MAX_BODY`.
pub(super) async fn check(endpoints: &Endpoints<'_>, http: &Http, limit: Limit) -> Result<Finding, Finding> {
    let stream = tcp::connect(endpoints, limit).await?;
    exchange(stream, endpoints, http, limit).await
}

/// The same over TLS.
pub(super) async fn check_over_tls(
    endpoints: &Endpoints<'_>,
    http: &Http,
    client: &mut tls::Client,
    tls: &Tls,
    limit: Limit,
) -> Result<Finding, Finding> {
    let tls::Shaken { stream, warning } = tls::connect(endpoints, client, tls, Some(PROTOCOL), limit).await?;
    let finding = exchange(stream, endpoints, http, limit).await?;
    Ok(Finding { warning, ..finding })
}

async fn exchange<S>(
    stream: S,
    endpoints: &Endpoints<'_>,
    http: &Http,
    limit: Limit,
) -> Result<Finding, Finding>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let message = message(endpoints, http)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| no_answer(&error))?;
    let exchange = async {
        let answer = sender.send_request(message).await.map_err(|error| no_answer(&error))?;
        judge_status(answer.status(), http)?;
        judge_headers(answer.headers(), http)?;
        let status = described(answer.status());
        let body =
            read(answer.into_body(), http.expect_body.is_some()).await.map_err(|error| no_answer(&error))?;
        judge_body(&body, http)?;
        Ok(Finding::new(Code::L7Ok, status))
    };
    limit.or(Code::L7Tout, exchanged(connection, exchange)).await?
}

fn message(endpoints: &Endpoints<'_>, http: &Http) -> Result<hyper::Request<Empty<Bytes>>, Finding> {
    let target = endpoints.target.to_string();
    let cannot =
        |error: &dyn Error| Finding::new(Code::Sockerr, format!("cannot ask for {}: {error}", http.path));
    let mut message = hyper::Request::builder()
        .method(http.method)
        .uri(&http.path)
        .header(header::HOST, http.host.as_deref().unwrap_or(&target))
        .header(header::USER_AGENT, concat!("usher/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| cannot(&error))?;
    for (name, value) in &http.headers {
        let value = HeaderValue::from_str(value).map_err(|error| cannot(&error))?;
        message.headers_mut().insert(name, value);
    }
    Ok(message)
}

fn judge_status(status: StatusCode, Http { expect, .. }: &Http) -> Result<(), Finding> {
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

fn judge_headers(headers: &HeaderMap, http: &Http) -> Result<(), Finding> {
    for (name, expect) in &http.expect_header {
        let mut values = headers.get_all(name).iter();
        let Some(first) = values.next() else {
            return Err(Finding::new(
                Code::L7Rsp,
                format!("no header {name}, expected {}", shown(expect.as_bytes())),
            ));
        };
        let is_there = |value: &HeaderValue| contains(value.as_bytes(), expect);
        if !is_there(first) && !values.any(is_there) {
            let came = shown(first.as_bytes());
            let detail = format!("header {name} is {came}, expected {}", shown(expect.as_bytes()));
            return Err(Finding::new(Code::L7Rsp, detail));
        }
    }
    Ok(())
}

fn judge_body(body: &[u8], http: &Http) -> Result<(), Finding> {
    match &http.expect_body {
        Some(expect) if !contains(body, expect) => {
            let (came, bytes) = (shown(body), body.len());
            let detail = format!("body {came} ({bytes} bytes) does not contain {}", shown(expect.as_bytes()));
            Err(Finding::new(Code::L7Rsp, detail))
        }
        _ => Ok(()),
    }
}

/// Reads the body, or its first `MAX_BODY` bytes, and returns it if it is to be kept: there may be thousands of checks at once.
async fn read(mut body: Incoming, keep: bool) -> Result<Vec<u8>, hyper::Error> {
    let mut kept = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        let Some(data) = frame.data_ref() else { continue };
        length += data.len();
        if keep {
            kept.extend_from_slice(data);
        }
        if length >= MAX_BODY {
            break;
        }
    }
    kept.truncate(MAX_BODY);
    Ok(kept)
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
