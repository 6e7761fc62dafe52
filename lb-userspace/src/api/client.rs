//! The client that the command line uses: one connection per request.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{Method, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::{net::UnixStream, time::timeout};

use super::ErrorBody;
use crate::{
    explain::{ExplainQuery, Explanation},
    flows::{Flows, FlowsQuery},
    status::Status,
};

/// Above the server's own 5 s, so that its account of what hangs arrives first.
const TIMEOUT: Duration = Duration::from_secs(8);

/// Talks to the daemon that listens on one control socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client for the daemon at `socket`; connects with the first request.
    pub fn new(socket: &Path) -> Self {
        Client { socket: socket.to_owned() }
    }

    /// The node's state now.
    ///
    /// # Errors
    /// When the daemon cannot be reached, refuses or answers with something else.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.request(Method::GET, "/v1/status", Bytes::new()).await
    }

    /// What would happen to a flow.
    ///
    /// # Errors
    /// When the daemon cannot be reached, refuses or answers with something else.
    pub async fn explain(&self, query: &ExplainQuery) -> Result<Explanation, ClientError> {
        let body = serde_json::to_vec(query).map_err(|source| ClientError::Json { source })?;
        self.request(Method::POST, "/v1/explain", body.into()).await
    }

    /// Which flows there are.
    ///
    /// # Errors
    /// When the daemon cannot be reached, refuses or answers with something else.
    pub async fn flows(&self, query: &FlowsQuery) -> Result<Flows, ClientError> {
        let body = serde_json::to_vec(query).map_err(|source| ClientError::Json { source })?;
        self.request(Method::POST, "/v1/flows", body.into()).await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let (status, answer) = timeout(TIMEOUT, self.exchange(method, path, body))
            .await
            .map_err(|_| ClientError::Timeout { socket: self.socket.clone() })??;
        if status.is_success() {
            return serde_json::from_slice(&answer).map_err(|source| ClientError::Json { source });
        }
        let message = match serde_json::from_slice::<ErrorBody>(&answer) {
            Ok(body) => body.error,
            Err(_) => format!("HTTP status {status}"),
        };
        Err(ClientError::Refused { status: status.as_u16(), message })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Connect { socket: self.socket.clone(), source })?;
        let failed = |source| ClientError::Http { socket: self.socket.clone(), source };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            // HTTP/1.1 requires a host; a Unix socket has none.
            .header(header::HOST, "usher")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(body))
            .map_err(|source| ClientError::Request { source })?;
        let answer = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        // The connection moves bytes only while it is polled; what ends it also ends the answer.
        let (answer, _) = tokio::join!(answer, connection);
        answer.map_err(failed)
    }
}

/// Why the daemon gave no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens, or the socket is not for this user.
    #[error("cannot reach the daemon at {}", socket.display())]
    Connect {
        /// The control socket.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("the daemon at {} broke off", socket.display())]
    Http {
        /// The control socket.
        socket: PathBuf,
        /// What the HTTP library said.
        source: hyper::Error,
    },
    /// No answer in time.
    #[error("the daemon at {} did not answer within {} s", socket.display(), TIMEOUT.as_secs())]
    Timeout {
        /// The control socket.
        socket: PathBuf,
    },
    /// An answer, but an error.
    #[error("the daemon refused: {message}")]
    Refused {
        /// HTTP's status code.
        status: u16,
        /// The daemon's words.
        message: String,
    },
    /// The request could not be put into HTTP.
    #[error("cannot form the request")]
    Request {
        /// What the HTTP library said.
        source: hyper::http::Error,
    },
    /// Daemon and client are of versions that do not understand each other.
    #[error("cannot read the daemon's answer; is it of another version than this command?")]
    Json {
        /// Where and why.
        source: serde_json::Error,
    },
}
