//! Another configuration for the running daemon: the question, and what became of it.

use serde::{Deserialize, Serialize};

/// To read the configuration's file again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadQuery {
    /// Only say what would change.
    pub dry_run: bool,
}

/// What became of it: all of the file is in force, or nothing of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// What changed, one line each, or would have.
    pub changes: Vec<String>,
    /// What is probably not meant.
    pub warnings: Vec<String>,
    /// Why the file is refused; empty when it is not.
    pub refused: Vec<String>,
    /// Why the daemon will have forgotten a command's change when it starts again; `None` if it will remember.
    #[serde(default)]
    pub not_kept: Option<String>,
}

impl Reloaded {
    /// Nothing has changed, for these reasons.
    pub(crate) fn refused(why: impl IntoIterator<Item = String>) -> Reloaded {
        Reloaded { refused: why.into_iter().collect(), ..Reloaded::default() }
    }
}
