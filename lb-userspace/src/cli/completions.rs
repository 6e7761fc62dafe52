//! `usher completions`: scripts that teach a shell this command line.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, print};

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  usher completions bash > /etc/bash_completion.d/usher
  usher completions zsh > /usr/local/share/zsh/site-functions/_usher
  usher completions fish > ~/.config/fish/completions/usher.fish")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "usher", &mut script);
        print(&String::from_utf8(script)?)
    }
}
