//! `usher status`: the node's state, as a page or as JSON.

use std::{io, process::ExitCode};

use clap::Args;

use super::{advise, colour_wanted, print, status_page};
use crate::api::Client;

/// Show interfaces, services, backends, peers, DNS and drops of the running daemon
///
/// FLOWS are those in the flow table now; PACKETS and BYTES count what was sent to a backend since the data path was
/// loaded. SHARE is the part of new flows that a backend gets.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  usher status
  watch -n1 usher status
  usher status --json | jq '.services[].backends[] | select(.health == \"down\") | .name'

Check results are HAProxy's codes:
  L4OK     connected
  L4CON    refused, reset or no route
  L4TOUT   no connection in time
  L6OK     shook hands over TLS
  L6TOUT   connected, but no handshake in time
  L6RSP    connected, but no TLS, or a certificate that is not trusted
  L7OK     answered as expected
  L7STS    answered with another status
  L7RSP    answered with something else, or not at all
  L7TOUT   connected, but no answer in time
  PROCOK   the command ended with exit code 0
  PROCERR  it ended otherwise
  PROCTOUT it took too long, and was killed
  SOCKERR  the check could not be made here

On a terminal, up is green and down is red; set NO_COLOR to switch that off.")]
pub(super) struct StatusCommand {
    /// Print JSON: everything, zeros and all reasons included
    #[arg(long)]
    json: bool,
    /// Show packets by service and reason instead
    #[arg(long, conflicts_with = "json")]
    reasons: bool,
}

impl StatusCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let status = client.status().await.map_err(advise)?;
        if self.json {
            return print(&format!("{}\n", serde_json::to_string_pretty(&status)?));
        }
        if self.reasons {
            return print(&status_page::reasons(&status));
        }
        print(&status_page::render(&status, colour_wanted(&io::stdout())))
    }
}
