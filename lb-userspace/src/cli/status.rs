//! `usher status`: the node's state, as a page or as JSON.

use std::{env, io::IsTerminal, process::ExitCode};

use clap::Args;

use super::{advise, print, status_page};
use crate::api::Client;

/// Show interfaces, services, backends, peers, DNS and drops of the running daemon
///
/// FLOWS are those in the flow table now; PACKETS and BYTES count what was sent to a backend since the
/// data path was loaded, which a restart of the daemon does not reset. SHARE is the part of new flows
/// that a backend gets.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  usher status
  watch --color -n1 usher status
  usher status --json | jq '.services[].backends[] | select(.health == \"down\") | .name'

Check results are HAProxy's codes: L4OK connected, L4CON refused or no route, L4TOUT no connection in
time, L7OK answered as expected, L7STS another status, L7RSP no valid answer, L7TOUT no answer in time,
SOCKERR the check could not be made here.

On a terminal, up is green and down is red; set NO_COLOR to switch that off.")]
pub(super) struct StatusCommand {
    /// Print JSON: everything, zeros and all reasons included
    #[arg(long)]
    json: bool,
}

impl StatusCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let status = client.status().await.map_err(advise)?;
        if self.json {
            return print(&format!("{}\n", serde_json::to_string_pretty(&status)?));
        }
        print(&status_page::render(&status, colour_wanted()))
    }
}

/// Colours are for people at a terminal who did not refuse them (<https://no-color.org>).
fn colour_wanted() -> bool {
    let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && std::io::stdout().is_terminal()
}
