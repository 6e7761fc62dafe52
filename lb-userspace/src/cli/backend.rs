//! `usher backend`: the verbs for backend hosts.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use ipnet::IpNet;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

use super::{REFUSED, backend_page, colour_wanted, print};
use crate::{
    backend::{
        Finding, Forward, Host, Listen, Settings, Store, Weight,
        check::judge,
        report::Report,
        run,
        settings::{GUE_PORT, SettingsError},
    },
    config::XdpMode,
    dataplane,
};

/// How long a stopping run may take to undo its changes; it takes milliseconds.
const UNDONE: Duration = Duration::from_secs(10);

/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// Make this host a backend for direct server return, check it, undo it
///
/// On a backend host, not on a node. A backend for `dsr-l2`, `dsr-ipip` or `dsr-gue` holds the services' addresses
/// (VIPs) without telling anybody, and unpacks what comes through a tunnel.
#[derive(Debug, Args)]
pub(super) struct BackendCommand {
    /// Folder of the record of what was changed
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "USHER_BACKEND_STATE",
        default_value = "/run/usher-backend"
    )]
    state: PathBuf,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(RunVerb),
    Check(CheckVerb),
    Status(StatusVerb),
    Stop(StopVerb),
}

/// Set this host up as a backend, until SIGTERM or SIGINT; then undo it
///
/// Changes kernel settings (arp_ignore, arp_announce, rp_filter), attaches the decapsulation program where a
/// tunnel is used, and puts the VIPs on lo; in this order. What was right before is left alone and stays. What
/// was changed is recorded before it is changed, so that the next run or `usher backend stop` undoes it even
/// after a crash.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  usher backend run --interface eth0 --vip 192.0.2.11 --vip 2001:db8:1::11
  usher backend run --interface eth0 --vip 192.0.2.11 --forward dsr-ipip --allow 203.0.113.0/24
  usher backend run --config /etc/usher/backend.toml

It needs root (or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, and root's user to write kernel settings).")]
struct RunVerb {
    #[command(flatten)]
    wanted: Wanted,
}

/// Name everything that is wrong with this host as a backend, and how to mend it
///
/// Takes the arguments of `run`; without any, those of the running `usher backend run`. Changes nothing. Exit code
/// 0 when nothing is wrong (notes do not count), 1 when something is.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  usher backend check
  usher backend check --interface eth0 --vip 192.0.2.11 --listen tcp/80
  usher backend check --json | jq -r '.[] | select(.weight == \"wrong\") | .mend'")]
struct CheckVerb {
    #[command(flatten)]
    wanted: Wanted,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Show what was set up, and count the packets that the program has seen
#[derive(Debug, Args)]
struct StatusVerb {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Stop the running `usher backend run`, or undo what one has left that is gone
#[derive(Debug, Args)]
#[command(visible_alias = "clean")]
struct StopVerb {}

/// The settings, as arguments or by a file.
#[derive(Debug, Args)]
struct Wanted {
    /// Take everything from this file instead
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["interfaces", "vips", "forward", "gue_port", "addresses", "allow", "listen", "xdp_mode"]
    )]
    config: Option<PathBuf>,
    /// An interface on which the nodes' packets arrive; may be repeated
    #[arg(long = "interface", value_name = "NAME")]
    interfaces: Vec<String>,
    /// An address that clients connect to; may be repeated
    #[arg(long = "vip", value_name = "ADDRESS")]
    vips: Vec<IpAddr>,
    /// How nodes forward to this host, as their configuration says; may be repeated [default: dsr-l2]
    #[arg(long, value_name = "HOW", value_enum)]
    forward: Vec<Forward>,
    /// UDP port of GUE
    #[arg(long, value_name = "PORT", default_value_t = GUE_PORT)]
    gue_port: u16,
    /// An address that nodes know this host by; may be repeated [default: all but the VIPs]
    #[arg(long = "address", value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,
    /// Where tunnel packets may come from: the nodes' outer sources; may be repeated [default: anywhere]
    #[arg(long, value_name = "PREFIX")]
    allow: Vec<IpNet>,
    /// What should listen on the VIPs (tcp/80), for `check`; may be repeated
    #[arg(long, value_name = "PROTOCOL/PORT")]
    listen: Vec<Listen>,
    /// How the program is attached; `auto` is native where the driver can
    #[arg(long, value_name = "MODE", value_enum, default_value_t = XdpMode::Auto)]
    xdp_mode: XdpMode,
}

impl Wanted {
    /// Whether nothing was said at all.
    fn is_empty(&self) -> bool {
        self.config.is_none() && self.interfaces.is_empty() && self.vips.is_empty()
    }

    fn settings(self) -> Result<Settings, SettingsError> {
        if let Some(path) = self.config {
            return Settings::load(&path);
        }
        let mut settings = Settings::new(self.interfaces, self.vips);
        if !self.forward.is_empty() {
            settings.forward = self.forward.into_iter().collect();
        }
        settings.gue_port = self.gue_port;
        settings.addresses = self.addresses.into_iter().collect();
        settings.allow = self.allow.into_iter().collect();
        settings.listen = self.listen.into_iter().collect();
        settings.xdp_mode = self.xdp_mode;
        settings.checked()
    }
}

impl BackendCommand {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let store = Store::new(&self.state);
        match self.verb {
            Verb::Run(verb) => match verb.wanted.settings() {
                Ok(settings) => run::run(settings, &store).await.map(|()| ExitCode::SUCCESS),
                Err(error) => refuse(&error),
            },
            Verb::Check(verb) => check(verb, &store).await,
            Verb::Status(verb) => status(&verb, &store, &self.state),
            Verb::Stop(_) => stop(&store).await,
        }
    }
}

fn refuse(error: &SettingsError) -> anyhow::Result<ExitCode> {
    eprintln!("usher: {error}");
    Ok(ExitCode::from(REFUSED))
}

async fn check(verb: CheckVerb, store: &Store) -> anyhow::Result<ExitCode> {
    let record = store.load()?;
    let settings = match (verb.wanted.is_empty(), &record) {
        (true, Some(record)) => record.settings.clone(),
        (true, None) => bail!("no `usher backend run` runs: say what to check by its arguments"),
        (false, _) => match verb.wanted.settings() {
            Ok(settings) => settings,
            Err(error) => return refuse(&error),
        },
    };
    let host = Host::read(&settings).await.context("cannot read the host's network")?;
    let own = record.as_ref().and_then(|record| record.program.as_ref());
    let findings = judge(&settings, &host, own);
    if verb.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&findings)?))?;
    } else {
        print(&backend_page::findings(&findings, colour_wanted(&io::stdout())))?;
    }
    let is_wrong = |finding: &Finding| finding.weight == Weight::Wrong;
    Ok(if findings.iter().any(is_wrong) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn status(verb: &StatusVerb, store: &Store, folder: &Path) -> anyhow::Result<ExitCode> {
    let Some(record) = store.load()? else {
        bail!("no `usher backend run` runs here, and none has left anything ({})", folder.display());
    };
    let running = store.take()?.is_none();
    let counters = match &record.program {
        Some(program) => dataplane::verdicts_of(program.id)?.unwrap_or_default(),
        None => Vec::new(),
    };
    let report = Report::new(running, record, &counters);
    if verb.json {
        return print(&format!("{}\n", serde_json::to_string_pretty(&report)?));
    }
    print(&backend_page::status(&report, colour_wanted(&io::stdout())))
}

async fn stop(store: &Store) -> anyhow::Result<ExitCode> {
    if let Some(turn) = store.take()? {
        return print(match run::clean(store, &turn).await? {
            true => "what an earlier run had left is undone\n",
            false => "nothing to undo\n",
        });
    }
    let Some(record) = store.load()? else { bail!("another `usher backend` is just starting; try again") };
    // It holds the folder, so the process is the one that the record names.
    let pid = i32::try_from(record.pid).context("process id")?;
    kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("cannot stop process {pid}"))?;
    let end = Instant::now() + UNDONE;
    while store.take()?.is_none() {
        if Instant::now() > end {
            bail!("process {pid} has not stopped within {} s", UNDONE.as_secs());
        }
        sleep(LOOK).await;
    }
    match store.load()? {
        None => print("stopped; the host is as it was\n"),
        Some(_) => bail!("process {pid} could not undo everything; its log says why"),
    }
}
