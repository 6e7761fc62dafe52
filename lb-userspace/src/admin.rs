//! Changes of what an administrator wants of a backend, and their answers.

use serde::{Deserialize, Serialize};

use crate::core::admin::{Change, Override};

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
    /// Why the daemon will have forgotten it when it starts again; `None` if it will remember.
    pub not_kept: Option<String>,
}
