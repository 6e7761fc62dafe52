//! The command line: `usher run` is the daemon, the other verbs talk to it. One file per verb.

mod backend;
mod backend_page;
mod capture;
pub mod check_config;
mod completions;
mod deny;
mod detach;
mod diff;
mod dns;
mod drain_watch;
mod edit;
mod explain;
mod flows;
mod init;
mod metrics;
mod node;
mod node_wait;
mod reload;
mod run;
mod server;
mod service;
mod simulate;
mod status;
mod status_page;
mod text;

use std::{
    env,
    io::{self, ErrorKind, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    api::{Client, ClientError},
    config::ConfigError,
    daemon,
};

/// What every command ends with; the numbers are part of the interface.
const EXIT_CODES: &str = "\
Exit codes:
  0  it worked
  1  it failed; the reason is on stderr
  2  the configuration or the command line is wrong; nothing was changed";

/// Configuration or settings are refused; the last of [`EXIT_CODES`].
const REFUSED: u8 = 2;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "usher",
    version,
    about = "An XDP layer-4 load balancer whose nodes publish themselves in DNS",
    long_about = "usher spreads TCP and UDP connections over backends with an XDP program, checks the backends' \
                  health, and keeps this node's own address in DNS exactly while the node can serve.\n\n\
                  `usher run` is the daemon. The other commands ask a running daemon through its control socket, \
                  or work on files alone.",
    after_help = EXIT_CODES
)]
pub struct Cli {
    /// Control socket of the daemon to ask
    ///
    /// `usher run` itself listens where its configuration says (`socket` in `[node]`).
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "USHER_SOCKET",
        default_value = "/run/usher/usher.sock"
    )]
    socket: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Init(init::Init),
    CheckConfig(check_config::CheckConfig),
    Status(status::StatusCommand),
    Metrics(metrics::MetricsCommand),
    Explain(explain::ExplainCommand),
    Flows(flows::FlowsCommand),
    Capture(capture::CaptureCommand),
    Deny(deny::DenyCommand),
    Server(server::ServerCommand),
    Service(service::ServiceCommand),
    Node(node::NodeCommand),
    Dns(dns::DnsCommand),
    Simulate(simulate::SimulateCommand),
    Reload(reload::ReloadCommand),
    Diff(diff::DiffCommand),
    Detach(detach::DetachCommand),
    Backend(backend::BackendCommand),
    /// Print the version
    Version,
    Completions(completions::Completions),
}

/// The configuration file, for the verbs that read it.
#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "USHER_CONFIG", default_value = "/etc/usher/usher.toml")]
    config: PathBuf,
}

impl Cli {
    /// What each thread of the runtime does as it starts.
    pub fn on_thread_start(&self) -> fn() {
        match self.command {
            Command::Run(_) => daemon::begin_thread,
            _ => || {},
        }
    }

    /// Carries the command out. What it has to say on stderr besides an error, it has said.
    ///
    /// # Errors
    /// What made it fail; the exit code is then 1. Of a refused configuration everything is said; the exit code is 2, or 1 if another
    /// try may succeed.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self.carry_out().await.map_err(anyhow::Error::downcast) {
            Ok(code) => Ok(code),
            Err(Ok(refused)) => {
                let code = check_config::refuse(&refused, &mut io::stderr())?;
                Ok(if matches!(refused, ConfigError::Unfit(_)) { ExitCode::FAILURE } else { code })
            }
            Err(Err(error)) => Err(error),
        }
    }

    async fn carry_out(self) -> anyhow::Result<ExitCode> {
        let client = Client::new(&self.socket);
        match self.command {
            Command::Run(command) => command.run().await,
            Command::Init(command) => command.run(),
            Command::CheckConfig(command) => command.run().await,
            Command::Status(command) => command.run(&client).await,
            Command::Metrics(command) => command.run(&client).await,
            Command::Explain(command) => command.run(&client).await,
            Command::Flows(command) => command.run(&client).await,
            Command::Capture(command) => command.run(&client).await,
            Command::Deny(command) => command.run(&client).await,
            Command::Server(command) => command.run(&client).await,
            Command::Service(command) => command.run(&client).await,
            Command::Node(command) => command.run(&client).await,
            Command::Dns(command) => command.run(&client).await,
            Command::Simulate(command) => command.run(),
            Command::Reload(command) => command.run(&client).await,
            Command::Diff(command) => command.run(&client).await,
            Command::Detach(command) => command.run(&client).await,
            Command::Backend(command) => command.run().await,
            Command::Version => print(&format!("usher {}\n", env!("CARGO_PKG_VERSION"))),
            Command::Completions(command) => command.run(),
        }
    }
}

/// Whether `stream` gets colours: they are for people at a terminal who did not refuse them
/// (<https://no-color.org>).
pub fn colour_wanted(stream: &impl IsTerminal) -> bool {
    let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && stream.is_terminal()
}

/// Writes a result to stdout. A reader that has seen enough (`usher status | head`) is no failure.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Says that the daemon will have forgotten a change when it starts again, and why.
fn warn_of_not_kept(why: Option<&str>) {
    if let Some(why) = why {
        eprintln!("usher: it is in force, but forgotten if the daemon ends now: {why}");
    }
}

/// Adds what to do about it, where something can be done.
fn advise(error: ClientError) -> anyhow::Error {
    let unreachable = matches!(error, ClientError::Connect { .. });
    let error = anyhow::Error::from(error);
    if unreachable {
        anyhow::anyhow!(
            "{error:#}; is `usher run` running, and may you read the socket (root, or its group)?"
        )
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// What systemd takes away cannot be had by being root.
    #[test]
    fn unit_leaves_the_capabilities_that_help_names() {
        let capabilities = |text: &str| -> BTreeSet<String> {
            let words = text.split(|letter: char| !letter.is_ascii_uppercase() && letter != '_');
            words.filter(|word| word.starts_with("CAP_")).map(str::to_owned).collect()
        };
        let unit = include_str!("../../../dist/usher.service");
        let kept = unit.lines().find(|line| line.starts_with("CapabilityBoundingSet=")).expect("a setting");
        let mut command = Cli::command();
        let help = command.find_subcommand_mut("run").expect("a verb").render_long_help().to_string();
        assert!(capabilities(&help).contains("CAP_PERFMON"), "{help}");
        assert_eq!(capabilities(kept), capabilities(&help));
    }

    #[test]
    fn socket_may_stand_before_and_after_the_verb() {
        for words in [["usher", "--socket", "/s", "status"], ["usher", "status", "--socket", "/s"]] {
            let cli = Cli::try_parse_from(words).expect("command line");
            assert_eq!(cli.socket, PathBuf::from("/s"));
        }
    }
}
