//! `usher service`: services added and taken away while packets flow.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::edit;
use crate::{api::Client, config::Edit};

/// Add services, and take them away, while packets flow
///
/// The configuration's file stays as it is. The change is in force on this node when the command returns, and the daemon
/// remembers it (`state_file`) until it is taken back, or the file says the same. `usher diff` shows where the two differ.
/// What is added is checked as the file is. Nodes do not tell each other: do it on each of them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  usher service add web2.toml      a file with one [[service]], as in usher.toml
  usher service add - < web2.toml
  usher service del web2           its connections end
  usher service reset web          as the file has it, with all its backends")]
pub(super) struct ServiceCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Add the service that a file describes
    Add {
        /// TOML with one [[service]]; `-`: standard input
        file: PathBuf,
    },
    /// Take a service away
    Del {
        /// Its name
        service: String,
    },
    /// Take back what was added to a service and taken away from it
    Reset {
        /// Its name
        service: String,
    },
}

impl ServiceCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let edit = match self.verb {
            Verb::Add { file } => Edit::AddService { text: read(&file)? },
            Verb::Del { service } => Edit::RemoveService { service },
            Verb::Reset { service } => Edit::Reset { service, backend: None },
        };
        edit::make(client, &edit).await
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    if file != Path::new("-") {
        return fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()));
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    Ok(text)
}
