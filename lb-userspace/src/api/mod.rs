//! The control API: HTTP and JSON on a Unix socket, and the client for it.
//!
//! The API owns no state. Every request becomes a [`Request`] to the daemon loop, which answers
//! from what it knows at that moment; counters are read then, not cached.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/status` | a [`Status`] |
//! | `POST /v1/explain` with an [`ExplainQuery`] | an [`Explanation`] |
//! | `POST /v1/flows` with a [`FlowsQuery`] | [`Flows`] |
//! | `POST /v1/deny` with a [`DenyChange`] | [`DenyChanged`], when it is in force |
//! | `POST /v1/denied` with a [`DenyQuery`] | [`Denied`] |
//! | `POST /v1/node` with a [`NodeChange`] | [`NodeChanged`], when it is in force |
//! | `POST /v1/reload` with a [`ReloadQuery`] | [`Reloaded`], when it is in force or refused |
//! | `POST /v1/edit` with an [`Edit`] | [`Reloaded`], when it is in force or refused |
//! | `POST /v1/server` with a [`ServerChange`] | [`ServerChanged`], when it is in force |
//! | `POST /v1/capture` with a [`CaptureQuery`] | pcapng, until there were enough packets or the client leaves |
//!
//! Errors are `{"error": "…"}`: 400 and 415 for a body that is not JSON, 422 for one that is no query,
//! that no packet can be, or that names what is not there, 404 and 405 for what does not exist, 409 while another has it, 500 when the daemon tried and
//! failed, 503 when it is stopping, 504 when its loop does not answer, 507 when there is no room.

mod client;
mod server;
mod socket;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

pub use self::{
    client::{Client, ClientError, Stream},
    server::serve,
    socket::{BindError, ControlSocket},
};
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

/// A loop that has not answered by then hangs: its longest step takes milliseconds.
const LOOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Another configuration takes seconds where there are thousands of services and little CPU.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// What the API asks of the daemon loop. A reply that nobody waits for any more may fail to send;
/// that is no error.
#[derive(Debug)]
pub enum Request {
    /// The state now. An `Err` says, for people, why the data path's counters could not be read.
    Status(oneshot::Sender<Result<Status, String>>),
    /// What would happen to a flow. An `Err` says, for people, why the data path could not be asked.
    Explain(ExplainQuery, oneshot::Sender<Result<Explanation, String>>),
    /// Which flows there are.
    Flows(FlowsQuery, oneshot::Sender<Result<Flows, Refusal>>),
    /// To change who is denied.
    DenyChange(DenyChange, oneshot::Sender<Result<DenyChanged, Refusal>>),
    /// To take the node out of DNS, or back in.
    NodeChange(NodeChange, oneshot::Sender<NodeChanged>),
    /// To read the configuration again.
    Reload(ReloadQuery, oneshot::Sender<Result<Reloaded, Refusal>>),
    /// To add a service or a backend beside those of the file, or to take one away.
    Edit(Edit, oneshot::Sender<Result<Reloaded, Refusal>>),
    /// To change what is wanted of a backend.
    ServerChange(ServerChange, oneshot::Sender<Result<ServerChanged, Refusal>>),
    /// Who is denied.
    Denied(DenyQuery, oneshot::Sender<Denied>),
    /// Packets as they come and go: a pcapng file piece by piece. Dropping it ends the capture.
    Capture(CaptureQuery, oneshot::Sender<Result<mpsc::Receiver<Vec<u8>>, Refusal>>),
}

/// Why the daemon does not do what it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The question names what is not there.
    #[error("{0}")]
    Unknown(String),
    /// Somebody else has it.
    #[error("{0}")]
    Taken(String),
    /// There is no room for it.
    #[error("{0}")]
    Full(String),
    /// It was tried in vain.
    #[error("{0}")]
    Failed(String),
}

/// The body of every answer that is not a success.
#[derive(Debug, Serialize, Deserialize)]
struct ErrorBody {
    error: String,
}
