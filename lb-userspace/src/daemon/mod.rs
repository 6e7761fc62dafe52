//! `usher run`: the one loop that owns state.
//!
//! Everything reaches the loop as an event: a finished check, a changed next hop, a request on the control
//! socket, a signal. An event that changes something goes the same way as every other: the whole desired
//! content of the maps and of DNS is planned anew, and the difference is applied.
//!
//! - [`start`]: from the file to a loaded and attached program; refuses what cannot work.
//! - [`state`]: what the loop owns, and [`State::reconcile`](state::State::reconcile).
//! - [`links`]: the task that looks at the interfaces.
//! - [`probes`]: the tasks that check backends and peers.
//! - [`snapshot`]: the state as status and explanation show it.

mod links;
mod probes;
mod secret;
mod snapshot;
mod start;
mod state;

use std::{future::pending, io, path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{info, warn};

use crate::{
    api::{self, ControlSocket},
    cli::check_config,
    config::{ConfigError, Loaded},
    dns,
    net::{facts, watch::NextHops},
};
use probes::PeerNews;
use start::Started;
use state::State;

/// DNS waits for the first verdict on every backend and peer, but not longer than this.
const FIRST_VERDICTS: Duration = Duration::from_secs(5);

/// How often maps that could not be written are tried again.
const CATCH_UP: Duration = Duration::from_secs(1);

/// How often idle flows are swept: far more often than their age wraps (19.5 hours).
const SWEEP: Duration = Duration::from_secs(600);

/// After the own addresses were withdrawn, packets are served on for the DNS TTL, but not longer than this.
const LONGEST_GOODBYE: Duration = Duration::from_secs(5);

/// Requests on the control socket that may wait for the loop.
const REQUESTS: usize = 16;

/// Runs the daemon until SIGTERM or SIGINT. Exit code 2 when the configuration is refused.
///
/// # Errors
/// What kept it from starting or made it stop.
pub async fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let loaded = match Loaded::load(path) {
        Ok(loaded) => loaded,
        Err(error) => return refuse(&error),
    };
    let host = facts::gather(loaded.config.destinations()).await.context("cannot read the host's network")?;
    let warnings = match loaded.check_host(&host.for_config()) {
        Ok(warnings) => warnings,
        Err(error) => return refuse(&error),
    };
    for warning in loaded.warnings.iter().chain(&warnings) {
        warn!("{warning}");
    }
    let config = Arc::new(loaded.config);
    // Before anything is touched: another usher here, or another DNS server, must stay undisturbed.
    let socket = ControlSocket::bind(&config.node.socket).await?;
    let dns = config.dns.as_ref().map(|dns| dns::bind(&dns.listen)).transpose()?;
    let started = start::start(config, path, host)?;
    serve(started, socket, dns).await?;
    Ok(ExitCode::SUCCESS)
}

fn refuse(error: &ConfigError) -> anyhow::Result<ExitCode> {
    check_config::refuse(error, &mut io::stderr())
}

async fn serve(started: Started, socket: ControlSocket, dns: Option<dns::Sockets>) -> anyhow::Result<()> {
    let Started { config, path, planner, dataplane, attached, host } = started;
    let (backend_reports, mut backends) = mpsc::channel(REQUESTS);
    let (peer_reports, mut peers) = mpsc::channel(REQUESTS);
    let (peer_words, mut words) = mpsc::channel(REQUESTS);
    let (requests, mut control) = mpsc::channel(REQUESTS);
    let (next_hops, mut hops) =
        NextHops::watch(config.destinations()).await.context("cannot watch next hops")?;
    let counters = dns.as_ref().map(dns::Sockets::counters);
    let mut state = State::new(config.clone(), path, planner, dataplane, attached, counters)?;
    state.learn_hops(&hops.borrow_and_update());
    state.reconcile();

    let mut probes = probes::start_backends(&config, &backend_reports);
    let news = PeerNews { reports: peer_reports, words: peer_words };
    probes.extend(probes::start_peers(&config, &host, state.steering(), &news));

    let (stop_api, api_stopped) = oneshot::channel::<()>();
    let api = tokio::spawn(api::serve(socket, requests, async { drop(api_stopped.await) }));
    let (stop_dns, dns_stopped) = oneshot::channel::<()>();
    let mut waiting_dns = dns.map(|sockets| (sockets, dns_stopped));
    let mut dns_task = None;

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut links = links::watch();
    let mut catch_up = interval(CATCH_UP);
    catch_up.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let dns_deadline = Instant::now() + FIRST_VERDICTS;
    let mut leave_at = None;
    info!(node = %config.node.name, "usher runs");

    loop {
        let ready = state.is_settled() || Instant::now() >= dns_deadline;
        if ready
            && let Some(zone) = state.zone()
            && let Some((sockets, stopped)) = waiting_dns.take()
        {
            dns_task = Some(tokio::spawn(sockets.serve(zone, async { drop(stopped.await) })));
        }
        tokio::select! {
            Some(report) = backends.recv() => state.observe_backend(&report),
            Some(report) = peers.recv() => state.observe_peer(&report),
            Some(word) = words.recv() => state.hear_peer(&word),
            Some(request) = control.recv() => state.answer(request),
            Ok(()) = hops.changed() => {
                state.learn_hops(&hops.borrow_and_update());
                state.reconcile();
            }
            Some(reading) = links.recv() => state.look_at_interfaces(reading),
            _ = catch_up.tick() => state.catch_up(),
            _ = sweep.tick() => state.sweep(),
            () = sleep_until(dns_deadline), if waiting_dns.is_some() => {
                warn!("not every backend and peer has been judged yet; DNS begins with what is known");
            }
            () = async { sleep_until(leave_at.unwrap_or_else(Instant::now)).await }, if leave_at.is_some() => break,
            _ = stop_signal(&mut terminate, &mut interrupt) => {
                if leave_at.is_some() {
                    break;
                }
                state.withdraw();
                leave_at = Some(Instant::now() + goodbye(&config));
            }
        }
    }

    drop(probes);
    drop(next_hops);
    drop((stop_api, stop_dns));
    api.await??;
    if let Some(task) = dns_task {
        task.await?;
    }
    drop(state);
    info!(node = %config.node.name, "usher stops; the program is detached");
    Ok(())
}

/// For how long packets are served after the own addresses left DNS: clients may still hold an answer.
fn goodbye(config: &crate::config::Config) -> Duration {
    config.dns.as_ref().map_or(Duration::ZERO, |dns| dns.ttl.min(LONGEST_GOODBYE))
}

async fn stop_signal(
    terminate: &mut tokio::signal::unix::Signal,
    interrupt: &mut tokio::signal::unix::Signal,
) {
    let heard = tokio::select! {
        heard = terminate.recv() => heard,
        heard = interrupt.recv() => heard,
    };
    if heard.is_none() {
        pending::<()>().await;
    }
}
