//! `usher run`: the daemon.

use std::process::ExitCode;

use clap::Args;

use super::ConfigFile;
use crate::daemon;

/// Run the daemon in the foreground
///
/// Reads the configuration, attaches the XDP program, checks backends and peers, answers DNS and the
/// control socket. A configuration with a mistake is refused whole, with exit code 2, before anything
/// is touched. SIGHUP has it read again, as `usher reload` does. Logs go to stderr.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  usher run
  usher run --config ./usher.toml
  USHER_LOG=debug usher run                     more to read
  USHER_LOG=info,lb_userspace::dns=trace usher run

The daemon needs root (or CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_NET_BIND_SERVICE).")]
pub(super) struct Run {
    #[command(flatten)]
    file: ConfigFile,
}

impl Run {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        daemon::run(&self.file.config).await
    }
}
