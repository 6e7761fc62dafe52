//! `usher check-config`: says what is wrong with a configuration file, changes nothing.

use std::process::ExitCode;

use clap::Args;

use super::ConfigFile;

/// Check a configuration file without running it
#[derive(Debug, Args)]
pub(super) struct CheckConfig {
    #[command(flatten)]
    file: ConfigFile,
}

impl CheckConfig {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        anyhow::bail!("not built: check-config of {}", self.file.config.display())
    }
}
