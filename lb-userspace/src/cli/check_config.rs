//! `usher check-config`: says whether a configuration would be accepted, and changes nothing.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use clap::Args;

use super::{ConfigFile, REFUSED};
use crate::{
    config::{Config, ConfigError, Loaded, Problem, host::HostFacts},
    daemon::NamedFiles,
    dataplane,
    net::facts,
};

/// Check a configuration file without running it
///
/// Reads the file as `usher run` would, its secret and deny list too, compares it with this host's interfaces, addresses
/// and ports, and changes nothing. A configuration with a mistake is refused with file, line, key and a way to mend it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  usher check-config
  usher check-config --config ./usher.toml
  usher check-config --config ./node2.toml --file-only    a file for another machine")]
pub(super) struct CheckConfig {
    #[command(flatten)]
    file: ConfigFile,
    /// Judge the file alone, without comparing it with this host
    #[arg(long)]
    file_only: bool,
}

impl CheckConfig {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let gather = async |config: &Config| match self.file_only {
            true => Ok(None),
            false => {
                let facts = facts::gather(config.destinations(), &BTreeMap::new()).await?;
                Ok(Some(facts.for_config(dataplane::kernel())))
            }
        };
        let read_files = |config: &Config| NamedFiles::read(config).map(drop);
        run(&self.file.config, gather, read_files, &mut io::stdout(), &mut io::stderr()).await
    }
}

/// Checks a file, then what it says against the host; `facts` gathers the host's side, or gives `None`
/// where only the file is to be judged (it is meant for another machine, say). `read_files` reads the files that it names and a start
/// needs, if the host is asked at all.
///
/// A summary goes to `out`, problems and warnings to `err`. The exit code is 0 when the configuration
/// would be accepted, 2 when it is refused.
///
/// # Errors
/// The host's facts cannot be gathered, a file that is named cannot be read, or the output cannot be written.
pub async fn run(
    path: &Path,
    facts: impl AsyncFnOnce(&Config) -> anyhow::Result<Option<HostFacts>>,
    read_files: impl FnOnce(&Config) -> anyhow::Result<()>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let loaded = match Loaded::load(path) {
        Ok(loaded) => loaded,
        Err(error) => return refuse(&error, err),
    };
    warn(&loaded.warnings, err)?;
    let facts = facts(&loaded.config).await?;
    if let Some(facts) = &facts {
        match loaded.check_host(facts) {
            Ok(warnings) => warn(&warnings, err)?,
            Err(error) => return refuse(&error, err),
        }
        read_files(&loaded.config)?;
    }
    write!(out, "{}", summary(&loaded.config))?;
    let judged = if facts.is_some() { "fits this host" } else { "not compared with this host" };
    writeln!(out, "OK: {}: {judged}", path.display())?;
    Ok(ExitCode::SUCCESS)
}

/// Writes every problem, one per line, and gives the exit code.
///
/// # Errors
/// The output cannot be written.
pub fn refuse(error: &ConfigError, err: &mut impl Write) -> anyhow::Result<ExitCode> {
    error.lines().iter().try_for_each(|line| writeln!(err, "{line}"))?;
    Ok(ExitCode::from(REFUSED))
}

fn warn(warnings: &[Problem], err: &mut impl Write) -> io::Result<()> {
    warnings.iter().try_for_each(|warning| writeln!(err, "warning: {warning}"))
}

/// What was understood, one line per part.
fn summary(config: &Config) -> String {
    let addresses: Vec<String> = config.node.addresses.iter().map(|node| node.address.to_string()).collect();
    let mut lines = vec![format!(
        "node {}: {} on {}; {}",
        config.node.name,
        addresses.join(", "),
        config.node.interfaces.join(", "),
        count(config.peers.len(), "peer")
    )];
    if let Some(dns) = &config.dns {
        lines.push(format!("zone {}: {}", dns.zone, count(dns.listen.len(), "listening address")));
    }
    for service in &config.services {
        lines.push(format!(
            "service {}: {} port {} on {}, {}",
            service.name,
            service.protocol.as_str(),
            service.port,
            count(service.addresses.len(), "address"),
            count(service.backends.len(), "backend")
        ));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn count(number: usize, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        _ if thing.ends_with('s') => format!("{number} {thing}es"),
        _ => format!("{number} {thing}s"),
    }
}
