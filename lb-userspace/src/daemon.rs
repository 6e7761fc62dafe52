//! The one loop that owns state.

use std::{path::Path, process::ExitCode};

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// What kept it from starting or made it stop.
pub async fn run(config: &Path) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built: the daemon for {}", config.display())
}
