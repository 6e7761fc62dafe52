//! `usher server`: what is wanted of a backend, and which there are, changed while packets flow.

use std::{net::IpAddr, process::ExitCode, str::FromStr, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use tokio::time::{Instant, sleep};

use super::{
    advise, edit, print,
    text::{count, left},
    warn_of_not_kept,
};
use crate::{
    admin::ServerChange,
    api::Client,
    config::{Edit, NewBackend},
    core::{
        admin::{Admin, Change, Weight},
        health::Health,
    },
    status::Status,
};

/// How often `wait` looks.
const LOOK: Duration = Duration::from_millis(500);

/// Drain backends, take them out for maintenance, change their weight, add and remove them
///
/// What is set here counts beside the configuration, on this node, in every family that the backend has. The daemon
/// remembers it when it starts again, until it is taken back or the backend is gone from the configuration.
/// `usher status` shows it. Nodes do not tell each other: set it on each of them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  usher server set web/b1 state drain     its flows go on, it gets no new ones
  usher server set web/b1 state drain --for 5m   and after that it goes to maint
  usher server wait web/b1 --drained      until its last flow has ended
  usher server set web/b1 state maint     it counts as down, whatever checks find
  usher server set web/b1 state ready
  usher server set web/b1 weight 25%      of the configured weight; 100% takes that back
  usher server set web/b1 health up       whatever checks find; auto takes that back
  usher server add web/b4 --address 203.0.113.24 --address 2001:db8:2::24
  usher server del web/b4                 its connections end; drain it before
  usher server reset web/b4               as the configuration's file has it")]
pub(super) struct ServerCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Change what is wanted of a backend; it is in force when the command returns
    Set(Set),
    /// Wait until something is so
    Wait(Wait),
    /// Add a backend; it gets connections when its checks pass
    ///
    /// The configuration's file stays as it is; the daemon remembers the backend until it is removed, or the file has it.
    Add(Add),
    /// Take a backend away
    Del {
        /// The backend: its service's name, a slash, its own
        #[arg(value_name = "SERVICE/BACKEND")]
        server: Server,
    },
    /// Take back what `add` or `del` has done
    Reset {
        /// The backend: its service's name, a slash, its own
        #[arg(value_name = "SERVICE/BACKEND")]
        server: Server,
    },
}

#[derive(Debug, Args)]
struct Add {
    /// The backend: its service's name, a slash, its own
    #[arg(value_name = "SERVICE/BACKEND")]
    server: Server,
    /// Its address; once per family
    #[arg(long = "address", value_name = "ADDRESS", required = true)]
    addresses: Vec<IpAddr>,
    /// The port it listens on; the service's unless given
    #[arg(long)]
    port: Option<u16>,
    /// Its share of new connections relative to the others; 1 unless given
    #[arg(long)]
    weight: Option<u16>,
    /// It gets connections only while no other backend is up
    #[arg(long)]
    backup: bool,
}

#[derive(Debug, Args)]
struct Set {
    /// The backend: its service's name, a slash, its own
    #[arg(value_name = "SERVICE/BACKEND")]
    server: Server,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Whether it takes flows
    State {
        /// `ready`: when it is up. `drain`: it keeps its flows and gets no new ones. `maint`: it counts as down
        state: Admin,
        /// Of a drain: goes to `maint` after this time instead of the service's `drain_timeout`
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
        time: Option<Duration>,
    },
    /// Its share of new flows
    Weight {
        /// 0 to 65535 as in the configuration, or 0% to 100% of the configured one
        weight: Weight,
    },
    /// What counts instead of what its checks find
    Health {
        /// `auto`: what they find
        health: Verdict,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Verdict {
    Up,
    Down,
    Auto,
}

#[derive(Debug, Args)]
struct Wait {
    /// The backend: its service's name, a slash, its own
    #[arg(value_name = "SERVICE/BACKEND")]
    server: Server,
    /// Until it has no flows
    #[arg(long, required = true)]
    drained: bool,
    /// Give up after this time, with exit code 1
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

/// A backend of a service, by name.
#[derive(Debug, Clone)]
struct Server {
    service: String,
    backend: String,
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Server, String> {
        match text.split_once('/') {
            Some((service, backend)) if !service.is_empty() && !backend.is_empty() => {
                Ok(Server { service: service.to_owned(), backend: backend.to_owned() })
            }
            _ => Err("write the service's name, a slash and the backend's name, such as web/b1".to_owned()),
        }
    }
}

impl ServerCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Set(set) => set.run(client).await,
            Verb::Wait(wait) => wait.run(client).await,
            Verb::Add(add) => edit::make(client, &add.edit()).await,
            Verb::Del { server: Server { service, backend } } => {
                edit::make(client, &Edit::RemoveBackend { service, backend }).await
            }
            Verb::Reset { server: Server { service, backend } } => {
                edit::make(client, &Edit::Reset { service, backend: Some(backend) }).await
            }
        }
    }
}

impl Add {
    fn edit(self) -> Edit {
        let Add { server: Server { service, backend: name }, addresses, port, weight, backup } = self;
        Edit::AddBackend { service, backend: NewBackend { name, addresses, port, weight, backup } }
    }
}

impl Set {
    async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let change = match self.what {
            What::State { state, time: None } => Change::State(state),
            What::State { state: Admin::Drain, time: Some(time) } => Change::DrainFor(time.as_secs()),
            What::State { state, .. } => {
                bail!("--for belongs to `state drain`; set `state {state}` without it");
            }
            What::Weight { weight } => Change::Weight(weight),
            What::Health { health: Verdict::Up } => Change::Health(Some(Health::Up)),
            What::Health { health: Verdict::Down } => Change::Health(Some(Health::Down)),
            What::Health { health: Verdict::Auto } => Change::Health(None),
        };
        let Server { service, backend } = self.server;
        let name = format!("{service}/{backend}");
        let changed =
            client.change_server(&ServerChange { service, backend, change }).await.map_err(advise)?;
        warn_of_not_kept(changed.not_kept.as_deref());
        let now = format!("{}{}", changed.now, left(changed.left_s));
        match changed.now == changed.before {
            true => print(&format!("{name}: {now} already\n")),
            false => print(&format!("{name}: {now} (was {})\n", changed.before)),
        }
    }
}

impl Wait {
    async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let Server { service, backend } = &self.server;
        let begin = Instant::now();
        loop {
            let status = client.status().await.map_err(advise)?;
            let flows = flows(&status, service, backend).with_context(|| {
                format!("the daemon has no backend {service}/{backend}; see `usher status`")
            })?;
            let waited = begin.elapsed();
            if flows == 0 {
                return print(&format!(
                    "{service}/{backend}: no flows, after {}\n",
                    humantime::format_duration(Duration::from_secs(waited.as_secs()))
                ));
            }
            if self.timeout.is_some_and(|timeout| waited >= timeout) {
                bail!("{service}/{backend} still has {} flows", count(flows));
            }
            sleep(LOOK).await;
        }
    }
}

/// The flows of a backend in all its families; `None` if there is no such backend.
fn flows(status: &Status, service: &str, backend: &str) -> Option<u64> {
    let service = status.services.iter().find(|one| one.name == service)?;
    let families: Vec<u64> =
        service.backends.iter().filter(|one| one.name == backend).map(|one| one.flows).collect();
    (!families.is_empty()).then(|| families.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_named_with_its_service() {
        let server: Server = "web/b1".parse().unwrap();
        assert_eq!((&*server.service, &*server.backend), ("web", "b1"));
        for text in ["", "web", "web/", "/b1"] {
            text.parse::<Server>().unwrap_err();
        }
    }

    #[test]
    fn flows_of_both_families_count() {
        let status: Status =
            serde_json::from_str(include_str!("../../tests/api/status.json")).expect("example is a status");
        assert_eq!(flows(&status, "web", "backend1"), Some(1_203), "1,203 and 0");
        assert_eq!(flows(&status, "web", "backend9"), None);
        assert_eq!(flows(&status, "wbe", "backend1"), None);
    }
}
