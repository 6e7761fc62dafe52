//! `usher node`: this node, out of DNS and back in.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};

use super::{advise, node_wait, print, warn_of_not_kept};
use crate::{admin::NodeChange, api::Client};

/// Take this node out of DNS, or back in
///
/// A drained node leaves its own DNS answers and, within one interval of `[peer_check]`, those of its peers. It goes on
/// serving what comes: clients know its addresses for the DNS TTL, and connections last as long as they do. The daemon
/// remembers it when it starts again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  usher node drain                until `usher node ready`
  usher node drain --for 30m      and back in after that
  usher node drain --wait         ends when nobody is led here any more, and nobody comes
  usher status                    FLOWS tells what is still there")]
pub(super) struct NodeCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Take it out
    Drain {
        /// Back in after this time
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
        time: Option<Duration>,
        /// Wait until no server has named it for twice the TTL, so that nobody is led here any more, and no new flow has come
        /// for `--quiet`
        #[arg(long)]
        wait: bool,
        /// For how long no new flow may have come; `0s`: whatever comes
        #[arg(
            long,
            value_name = "DURATION",
            value_parser = humantime::parse_duration,
            requires = "wait",
            default_value = "60s"
        )]
        quiet: Duration,
        /// Fail if that takes longer, and say what it still waits for
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, requires = "wait")]
        timeout: Option<Duration>,
    },
    /// Take it back in, if it can serve
    Ready,
}

impl NodeCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let change = match self.verb {
            Verb::Drain { time, .. } => NodeChange { drain: true, seconds: time.map(|time| time.as_secs()) },
            Verb::Ready => NodeChange { drain: false, seconds: None },
        };
        let changed = client.change_node(change).await.map_err(advise)?;
        warn_of_not_kept(changed.not_kept.as_deref());
        let said = match (changed.before.is_some(), changed.now.is_some()) {
            (_, true) => match change.seconds {
                Some(seconds) => {
                    format!("drained for {}", humantime::format_duration(Duration::from_secs(seconds)))
                }
                None => "drained".to_owned(),
            },
            (true, false) => "ready".to_owned(),
            (false, false) => "ready already".to_owned(),
        };
        print(&format!("{said}\n"))?;
        match self.verb {
            Verb::Drain { wait: true, quiet, timeout, .. } => {
                print(&node_wait::wait(client, quiet, timeout).await?)
            }
            _ => Ok(ExitCode::SUCCESS),
        }
    }
}
