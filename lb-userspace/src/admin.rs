//! Changes of what an administrator wants of a backend or of the node, and their answers.

use serde::{Deserialize, Serialize};

use crate::core::admin::{Change, Drained, Override};

/// A change for one backend of a service, in every family that it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerChange {
    /// The service's name.
    pub service: String,
    /// The backend's.
    pub backend: String,
    /// What is wanted from now on.
    pub change: Change,
}

/// A change that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerChanged {
    /// What was set before.
    pub before: Override,
    /// What is set now.
    pub now: Override,
    /// Seconds until the drain ends; `None` if there is none or it has no end.
    #[serde(default)]
    pub left_s: Option<u64>,
    /// Why the daemon will have forgotten it when it starts again; `None` if it will remember.
    pub not_kept: Option<String>,
}

/// A change for the node itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeChange {
    /// Whether its addresses leave DNS, or return.
    pub drain: bool,
    /// For how long it stays drained, in seconds; `None`: until it is taken back.
    #[serde(default)]
    pub seconds: Option<u64>,
}

/// A change of the node that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeChanged {
    /// Whether it was drained before.
    pub before: Option<Drained>,
    /// Whether it is now.
    pub now: Option<Drained>,
    /// As in [`ServerChanged`].
    pub not_kept: Option<String>,
}
