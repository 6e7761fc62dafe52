//! `usher dns`: why DNS answers as it does, what would be written, and what the parent zone needs.

mod delegation;
mod plan;
mod servers;
mod why;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::api::Client;

/// Explain what DNS shows of the nodes, and what is written where
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  usher dns why www.example.test
  usher dns plan --config ./usher.toml
  usher dns delegation")]
pub(super) struct DnsCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Why(why::Why),
    Plan(plan::Plan),
    Delegation(delegation::Delegation),
}

impl DnsCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Why(command) => command.run(client).await,
            Verb::Plan(command) => command.run().await,
            Verb::Delegation(command) => command.run().await,
        }
    }
}
