//! The client that the command line uses: one connection per request.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{net::UnixStream, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{ErrorBody, LOOP_TIMEOUT, RELOAD_TIMEOUT};
use crate::{
    admin::{NodeChange, NodeChanged, ServerChange, ServerChanged},
    capture::CaptureQuery,
    config::Edit,
    deny::{Denied, DenyChange, DenyChanged, DenyQuery},
    explain::{ExplainQuery, Explanation},
    flows::{Flows, FlowsQuery},
    reload::{ReloadQuery, Reloaded},
    status::Status,
};

/// Beyond the server's own limit, so that its account of what hangs arrives first.
const MORE: Duration = Duration::from_secs(3);

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
        self.request(Method::GET, "/v1/status", Bytes::new(), LOOP_TIMEOUT).await
    }

    /// What would happen to a flow.
    ///
    /// # Errors
    /// When the daemon cannot be reached, refuses or answers with something else.
    pub async fn explain(&self, query: &ExplainQuery) -> Result<Explanation, ClientError> {
        self.post("/v1/explain", &query).await
    }

    /// Which flows there are.
    ///
    /// # Errors
    /// When the daemon cannot be reached, refuses or answers with something else.
    pub async fn flows(&self, query: &FlowsQuery) -> Result<Flows, ClientError> {
        self.post("/v1/flows", &query).await
    }

    /// Changes who is denied.
    ///
    /// # Errors
    /// When the daemon cannot be reached, refuses or answers with something else.
    pub async fn deny(&self, change: &DenyChange) -> Result<DenyChanged, ClientError> {
        self.post("/v1/deny", &change).await
    }

    /// Who is denied.
    ///
    /// # Errors
    /// When the daemon cannot be reached, refuses or answers with something else.
    pub async fn denied(&self, query: &DenyQuery) -> Result<Denied, ClientError> {
        self.post("/v1/denied", &query).await
    }

    /// Changes what is wanted of a backend.
    ///
    /// # Errors
    /// When the daemon cannot be reached, refuses or answers with something else.
    pub async fn change_server(&self, change: &ServerChange) -> Result<ServerChanged, ClientError> {
        self.post("/v1/server", &change).await
    }

    /// Takes the node out of DNS, or back in.
    ///
    /// # Errors
    /// When the daemon cannot be reached, or answers with something else.
    pub async fn change_node(&self, change: NodeChange) -> Result<NodeChanged, ClientError> {
        self.post("/v1/node", &change).await
    }

    /// Has the configuration read again.
    ///
    /// # Errors
    /// When the daemon cannot be reached, or answers with something else. A file that is refused is no error.
    pub async fn reload(&self, query: ReloadQuery) -> Result<Reloaded, ClientError> {
        self.request(Method::POST, "/v1/reload", json(&query)?, RELOAD_TIMEOUT).await
    }

    /// Adds a service or a backend beside those of the file, or takes one away.
    ///
    /// # Errors
    /// When the daemon cannot be reached, or answers with something else. A change that is refused is no error.
    pub async fn edit(&self, edit: &Edit) -> Result<Reloaded, ClientError> {
        self.request(Method::POST, "/v1/edit", json(edit)?, RELOAD_TIMEOUT).await
    }

    /// Packets as they come and go. Dropping the stream ends the capture.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub async fn capture(&self, query: &CaptureQuery) -> Result<Stream, ClientError> {
        let body = json(query)?;
        let (mut sender, connection) = self.connect().await?;
        // The connection moves bytes only while it is polled; the stream ends it.
        let driver = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = request(Method::POST, "/v1/capture", body)?;
        let failed = |source| ClientError::Http { socket: self.socket.clone(), source };
        let limit = LOOP_TIMEOUT + MORE;
        let answer = timeout(limit, sender.send_request(request));
        let response = answer
            .await
            .map_err(|_| ClientError::Timeout { socket: self.socket.clone(), limit })?
            .map_err(failed)?;
        if response.status().is_success() {
            return Ok(Stream { socket: self.socket.clone(), body: response.into_body(), _driver: driver });
        }
        let status = response.status();
        Err(refusal(status, &response.into_body().collect().await.map_err(failed)?.to_bytes()))
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.request(Method::POST, path, json(body)?, LOOP_TIMEOUT).await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<T, ClientError> {
        let limit = limit + MORE;
        let (status, answer) = timeout(limit, self.exchange(method, path, body))
            .await
            .map_err(|_| ClientError::Timeout { socket: self.socket.clone(), limit })??;
        if status.is_success() {
            return serde_json::from_slice(&answer).map_err(|source| ClientError::Json { source });
        }
        Err(refusal(status, &answer))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let (mut sender, connection) = self.connect().await?;
        let failed = |source| ClientError::Http { socket: self.socket.clone(), source };
        let request = request(method, path, body)?;
        let answer = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        // The connection moves bytes only while it is polled; what ends it also ends the answer.
        let (answer, _) = tokio::join!(answer, connection);
        answer.map_err(failed)
    }

    async fn connect(&self) -> Result<(http1::SendRequest<Full<Bytes>>, Connection), ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Connect { socket: self.socket.clone(), source })?;
        let failed = |source| ClientError::Http { socket: self.socket.clone(), source };
        http1::handshake(TokioIo::new(stream)).await.map_err(failed)
    }
}

/// What moves a connection's bytes.
type Connection = http1::Connection<TokioIo<UnixStream>, Full<Bytes>>;

fn json(body: &impl Serialize) -> Result<Bytes, ClientError> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|source| ClientError::Json { source })
}

fn request(method: Method, path: &str, body: Bytes) -> Result<hyper::Request<Full<Bytes>>, ClientError> {
    hyper::Request::builder()
        .method(method)
        .uri(path)
        // HTTP/1.1 requires a host; a Unix socket has none.
        .header(header::HOST, "usher")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(body))
        .map_err(|source| ClientError::Request { source })
}

/// What an answer that is no success says.
fn refusal(status: StatusCode, answer: &[u8]) -> ClientError {
    let message = match serde_json::from_slice::<ErrorBody>(answer) {
        Ok(body) => body.error,
        Err(_) => format!("HTTP status {status}"),
    };
    ClientError::Refused { status: status.as_u16(), message }
}

/// An answer that comes piece by piece.
pub struct Stream {
    socket: PathBuf,
    body: Incoming,
    _driver: AbortOnDropHandle<hyper::Result<()>>,
}

impl Stream {
    /// The next piece; `None` at the end. Cancelling loses nothing.
    ///
    /// # Errors
    /// When the daemon breaks off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await.transpose() {
                Ok(None) => return Ok(None),
                // Other frames are trailers, which say nothing here.
                Ok(Some(frame)) => match frame.into_data() {
                    Ok(piece) => return Ok(Some(piece)),
                    Err(_) => continue,
                },
                Err(source) => return Err(ClientError::Http { socket: self.socket.clone(), source }),
            }
        }
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
    #[error("the daemon at {} did not answer within {} s", socket.display(), limit.as_secs())]
    Timeout {
        /// The control socket.
        socket: PathBuf,
        /// How long it had.
        limit: Duration,
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
