//! `usher simulate`: what every node would publish if something were so.

use std::{process::ExitCode, time::Instant};

use anyhow::Context as _;
use clap::Args;

use super::{ConfigFile, print};
use crate::{
    config::Loaded,
    core::simulate::{Supposition, simulate},
};

/// Show what every node would publish if something were so
///
/// Makes the decisions of all nodes from this node's configuration, once everybody has noticed; it asks no daemon and
/// changes nothing. All else is supposed to be well.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  usher simulate \"node2 down\"
  usher simulate \"node2 unreachable from node1\" \"primary unreachable from node2\"
  usher simulate \"web down on node3\"
  usher simulate \"web down\"")]
pub(super) struct SimulateCommand {
    /// What is so: \"NODE down\", \"NODE unreachable from NODE\", \"primary unreachable from NODE\", \"SERVICE down\", \"SERVICE
    /// down on NODE\"
    #[arg(value_name = "WHAT")]
    suppositions: Vec<String>,
    #[command(flatten)]
    file: ConfigFile,
}

impl SimulateCommand {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = Loaded::load(&self.file.config)?.config;
        config.dns.as_ref().context("the configuration has no [dns] section, so nothing is published")?;
        let parse = |text: &String| Supposition::parse(text, &config);
        let suppositions = self.suppositions.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        print(&simulate(&config, &suppositions, Instant::now()).to_string())
    }
}
