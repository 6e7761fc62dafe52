//! The routes, and the way from a request to the daemon loop and back.

use std::{
    convert::Infallible,
    fs,
    future::{Future, IntoFuture},
    io,
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{State, rejection::JsonRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{ControlSocket, ErrorBody, LOOP_TIMEOUT, RELOAD_TIMEOUT, Refusal, Request};
use crate::{
    admin::{NodeChange, NodeChanged, ServerChange, ServerChanged},
    capture::CaptureQuery,
    config::Edit,
    deny::{Denied, DenyChange, DenyChanged, DenyQuery},
    explain::{ExplainQuery, Explanation, MixedFamilies},
    flows::{Flows, FlowsQuery},
    metrics,
    reload::{ReloadQuery, Reloaded},
    status::Status,
};

/// How long answers under way may take once the daemon stops.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Answers on `socket`, and with nothing but figures on `metrics`, until `shutdown` is done; then removes the socket's file and
/// lets answers under way finish, for one second at most.
///
/// # Errors
/// When a listener fails for good.
pub async fn serve(
    socket: ControlSocket,
    metrics: Vec<TcpListener>,
    requests: mpsc::Sender<Request>,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let ControlSocket { listener, path } = socket;
    let daemon = Daemon { requests, patience: LOOP_TIMEOUT };
    let stop = CancellationToken::new();
    let mut servers = JoinSet::new();
    let stopped = || stop.clone().cancelled_owned();
    let control = axum::serve(listener, router(daemon.clone()));
    servers.spawn(control.with_graceful_shutdown(stopped()).into_future());
    for listener in metrics {
        let figures = axum::serve(listener, metrics_router(daemon.clone()));
        servers.spawn(figures.with_graceful_shutdown(stopped()).into_future());
    }
    tokio::select! {
        Some(ended) = servers.join_next() => return ended.map_err(io::Error::other)?,
        () = shutdown => {}
    }
    // While this daemon still listens nobody else can have replaced the file, so it is ours.
    if let Err(error) = fs::remove_file(&path) {
        tracing::debug!(socket = %path.display(), %error, "cannot remove the control socket");
    }
    stop.cancel();
    let last_answers = async {
        while let Some(ended) = servers.join_next().await {
            ended.map_err(io::Error::other)??;
        }
        Ok(())
    };
    timeout(STOP_GRACE, last_answers).await.unwrap_or(Ok(()))
}

/// What may be asked, for whoever asks for something else.
const PATHS: &str = "GET /metrics, GET /v1/status, POST /v1/explain, POST /v1/flows, POST /v1/deny, POST /v1/denied, POST \
                     /v1/server, POST /v1/reload, POST /v1/edit, POST \
                     /v1/node and POST /v1/capture";

fn router(daemon: Daemon) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/explain", post(explain))
        .route("/v1/flows", post(flows))
        .route("/v1/deny", post(deny))
        .route("/v1/denied", post(denied))
        .route("/v1/server", post(server))
        .route("/v1/reload", post(reload))
        .route("/v1/edit", post(edit))
        .route("/v1/node", post(node))
        .route("/v1/capture", post(capture))
        .fallback(async || Problem::NoSuchPath)
        .method_not_allowed_fallback(async || Problem::NoSuchMethod)
        .with_state(daemon)
}

/// What anybody may ask who reaches it.
fn metrics_router(daemon: Daemon) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .fallback(async || (StatusCode::NOT_FOUND, "there is GET /metrics\n"))
        .with_state(daemon)
}

async fn metrics(State(daemon): State<Daemon>) -> Result<Response, Problem> {
    let status = daemon.ask(Request::Status).await?.map_err(Problem::Failed)?;
    let text = metrics::text(status).map_err(|error| Problem::Failed(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn status(State(daemon): State<Daemon>) -> Result<Json<Status>, Problem> {
    daemon.ask(Request::Status).await?.map(Json).map_err(Problem::Failed)
}

async fn explain(
    State(daemon): State<Daemon>,
    query: Result<Json<ExplainQuery>, JsonRejection>,
) -> Result<Json<Explanation>, Problem> {
    let Json(query) = query?;
    query.check()?;
    let answer = daemon.ask(|reply| Request::Explain(query, reply)).await?;
    answer.map(Json).map_err(Problem::Failed)
}

async fn flows(
    State(daemon): State<Daemon>,
    query: Result<Json<FlowsQuery>, JsonRejection>,
) -> Result<Json<Flows>, Problem> {
    let Json(query) = query?;
    Ok(Json(daemon.ask(|reply| Request::Flows(query, reply)).await??))
}

async fn deny(
    State(daemon): State<Daemon>,
    change: Result<Json<DenyChange>, JsonRejection>,
) -> Result<Json<DenyChanged>, Problem> {
    let Json(change) = change?;
    Ok(Json(daemon.ask(|reply| Request::DenyChange(change, reply)).await??))
}

async fn denied(
    State(daemon): State<Daemon>,
    query: Result<Json<DenyQuery>, JsonRejection>,
) -> Result<Json<Denied>, Problem> {
    let Json(query) = query?;
    Ok(Json(daemon.ask(|reply| Request::Denied(query, reply)).await?))
}

async fn server(
    State(daemon): State<Daemon>,
    change: Result<Json<ServerChange>, JsonRejection>,
) -> Result<Json<ServerChanged>, Problem> {
    let Json(change) = change?;
    Ok(Json(daemon.ask(|reply| Request::ServerChange(change, reply)).await??))
}

async fn node(
    State(daemon): State<Daemon>,
    change: Result<Json<NodeChange>, JsonRejection>,
) -> Result<Json<NodeChanged>, Problem> {
    let Json(change) = change?;
    Ok(Json(daemon.ask(|reply| Request::NodeChange(change, reply)).await?))
}

async fn reload(
    State(daemon): State<Daemon>,
    query: Result<Json<ReloadQuery>, JsonRejection>,
) -> Result<Json<Reloaded>, Problem> {
    let Json(query) = query?;
    Ok(Json(daemon.for_a_reload().ask(|reply| Request::Reload(query, reply)).await??))
}

async fn edit(
    State(daemon): State<Daemon>,
    edit: Result<Json<Edit>, JsonRejection>,
) -> Result<Json<Reloaded>, Problem> {
    let Json(edit) = edit?;
    Ok(Json(daemon.for_a_reload().ask(|reply| Request::Edit(edit, reply)).await??))
}

async fn capture(
    State(daemon): State<Daemon>,
    query: Result<Json<CaptureQuery>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(query) = query?;
    let pieces = daemon.ask(|reply| Request::Capture(query, reply)).await??;
    let stream = futures_util::stream::unfold(pieces, async |mut pieces| {
        let piece = pieces.recv().await?;
        Some((Ok::<_, Infallible>(Bytes::from(piece)), pieces))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-pcapng")], Body::from_stream(stream)).into_response())
}

/// The way to the daemon loop.
#[derive(Clone)]
struct Daemon {
    requests: mpsc::Sender<Request>,
    /// For one answer.
    patience: Duration,
}

impl Daemon {
    fn for_a_reload(self) -> Daemon {
        Daemon { patience: RELOAD_TIMEOUT, ..self }
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.requests.send(request(reply)).await.map_err(|_| Problem::Stopping)?;
            answer.await.map_err(|_| Problem::Stopping)
        };
        timeout(self.patience, exchange).await.unwrap_or(Err(Problem::NoAnswer(self.patience)))
    }
}

/// Why a request has no answer.
#[derive(Debug, Error)]
enum Problem {
    #[error("no such path; there are {PATHS}")]
    NoSuchPath,
    #[error("this path takes another method; there are {PATHS}")]
    NoSuchMethod,
    #[error("{}", .0.body_text())]
    Body(#[from] JsonRejection),
    #[error(transparent)]
    Query(#[from] MixedFamilies),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{0}")]
    Failed(String),
    #[error("the daemon is stopping")]
    Stopping,
    #[error("the daemon's loop did not answer within {0:?}")]
    NoAnswer(Duration),
}

impl Problem {
    fn code(&self) -> StatusCode {
        match self {
            Problem::NoSuchPath => StatusCode::NOT_FOUND,
            Problem::NoSuchMethod => StatusCode::METHOD_NOT_ALLOWED,
            // axum tells syntax (400), type of content (415) and missing fields (422) apart.
            Problem::Body(rejection) => rejection.status(),
            Problem::Query(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Problem::Refused(Refusal::Unknown(_)) => StatusCode::UNPROCESSABLE_ENTITY,
            Problem::Refused(Refusal::Taken(_)) => StatusCode::CONFLICT,
            Problem::Refused(Refusal::Full(_)) => StatusCode::INSUFFICIENT_STORAGE,
            Problem::Refused(Refusal::Failed(_)) | Problem::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Problem::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Problem::NoAnswer(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.code(), Json(ErrorBody { error: self.to_string() })).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(5);

    async fn problem(daemon: Daemon) -> (StatusCode, String) {
        let problem = daemon.ask(Request::Status).await.expect_err("nobody answers");
        (problem.code(), problem.to_string())
    }

    #[tokio::test]
    async fn loop_that_hangs_is_given_up() {
        let (requests, _loop) = mpsc::channel(1);
        let expected =
            (StatusCode::GATEWAY_TIMEOUT, "the daemon's loop did not answer within 5ms".to_owned());
        assert_eq!(problem(Daemon { requests: requests.clone(), patience: PATIENCE }).await, expected);
        // The queue is full now: waiting for a place in it is bounded too.
        assert_eq!(problem(Daemon { requests, patience: PATIENCE }).await, expected);
    }

    #[tokio::test]
    async fn loop_that_ended_is_stopping() {
        let (requests, ended) = mpsc::channel(1);
        drop(ended);
        let expected = (StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping".to_owned());
        assert_eq!(problem(Daemon { requests, patience: LOOP_TIMEOUT }).await, expected);
    }
}
