//! `usher detach`: removes what a daemon has left running.

use std::{path::PathBuf, process::ExitCode};

use anyhow::bail;
use clap::Args;

use super::print;
use crate::{
    api::{Client, ClientError},
    dataplane::Pins,
};

/// Remove the program that a stopped daemon has left running
///
/// With `on_stop = "keep"`, the default, the program goes on forwarding packets when the daemon has stopped or died, and
/// the next `usher run` goes on from there. This ends that: the program is detached from every interface, and its tables
/// are forgotten. Connections under NAT end, and peers take the node out of DNS as one that is dead; `usher node drain`
/// beforehand spares clients that.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  usher detach
  usher detach --pin-dir /sys/fs/bpf/other      as `pin_dir` in [node] says")]
pub(super) struct DetachCommand {
    /// Where the program and its tables are pinned: `pin_dir` in [node]
    #[arg(long, value_name = "DIR", env = "USHER_PIN_DIR", default_value = "/sys/fs/bpf/usher")]
    pin_dir: PathBuf,
}

impl DetachCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        if !matches!(client.status().await, Err(ClientError::Connect { .. })) {
            bail!("usher runs; stop it first, or set on_stop = \"detach\" and stop it");
        }
        let found = Pins::remove(&self.pin_dir)?;
        print(if found { "detached\n" } else { "nothing was attached\n" })
    }
}
