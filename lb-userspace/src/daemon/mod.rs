//! `usher run`: the one loop that owns state.
//!
//! Everything reaches the loop as an event: a finished check, a changed next hop, a request on the control
//! socket, a signal. An event that changes something goes the same way as every other: the whole desired
//! content of the maps and of DNS is planned anew, and the difference is applied.
//!
//! - [`start`]: from the file to a loaded and attached program; refuses what cannot work.
//! - [`admin`]: what administrators set for backends.
//! - [`basis`]: what a start is based on.
//! - [`capabilities`]: what of root's it keeps.
//! - [`check_path`]: the programs that take checks along the data path.
//! - [`deny`]: the deny list, from its file and from commands.
//! - [`events`]: all that reaches the loop.
//! - [`exchange`]: what this node and its peers tell each other.
//! - [`file_watch`]: changes of the configuration's file.
//! - [`state`]: what the loop owns, and [`State::reconcile`](state::State::reconcile).
//! - [`capture`]: packets on their way to whoever asked for them.
//! - [`flows`]: the tables of flows as they are shown.
//! - [`names`]: names in questions.
//! - [`nat_ports`]: says when NAT ports run out.
//! - [`passive`]: backends that answer no clients.
//! - [`hops`]: next hops, from the watch to the plan.
//! - [`manager`]: what systemd is told.
//! - [`reload`]: another configuration for the running daemon.
//! - [`links`]: the task that looks at the interfaces.
//! - [`probes`]: the tasks that check backends and peers.
//! - [`publisher`]: the tasks that publish names in zones on other servers.
//! - [`task`]: the DNS server and the API as tasks that should not end by themselves.
//! - [`snapshot`]: the state as status and explanation show it.

mod admin;
mod basis;
mod capabilities;
mod capture;
mod check_path;
mod deny;
mod events;
mod exchange;
mod file_watch;
mod flows;
mod hops;
mod limits;
mod links;
mod manager;
mod names;
mod nat_ports;
mod passive;
mod probes;
mod publisher;
mod reload;
mod shown;
mod snapshot;
mod start;
mod state;
mod task;

use std::{future::pending, mem, net::SocketAddr, path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use humantime::format_duration;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep_until},
};
use tracing::{error, info, warn};

use crate::{
    api::{self, ControlSocket},
    config::Config,
    core::health::Pace,
    dataplane, dns,
    net::watch::NextHops,
    reload::ReloadQuery,
};
use basis::Basis;
pub(crate) use capabilities::begin_thread;
use check_path::CheckPrograms;
use events::{Event, Events, Senders};
use file_watch::FileWatch;
use manager::Manager;
use probes::{BackendProbes, PeerProbes};
use reload::{Order, prepare};
pub(crate) use start::NamedFiles;
use start::Started;
use state::State;
use task::{StopSignal, Task};

/// DNS waits for the first verdict on every backend and peer, but not longer than this.
const FIRST_VERDICTS: Duration = Duration::from_secs(5);

/// Memory is given back so long after a start or a reload: what these set going has come to rest.
const TIDY: Duration = Duration::from_secs(3);

/// After the own addresses were withdrawn, packets are served on for the DNS TTL, but not longer than this.
const LONGEST_GOODBYE: Duration = Duration::from_secs(5);

/// Runs the daemon until SIGTERM or SIGINT. Exit code 1 when a part of the daemon ended that it cannot do without.
///
/// # Errors
/// What kept it from starting or made it stop; a [`ConfigError`](crate::config::ConfigError) when the configuration is refused.
pub async fn run(path: &Path) -> anyhow::Result<ExitCode> {
    limits::map_large_buffers();
    let basis = Basis::read(path).await?;
    let files = NamedFiles::read(&basis.config)?;
    limits::raise_open_files();
    // Before anything is touched: another usher here, or another DNS server, must stay undisturbed.
    let socket = ControlSocket::bind(&basis.config.node.socket).await?;
    let metrics = bind_metrics(&basis.config.node.metrics_listen).await?;
    let dns = basis.config.dns.as_ref().map(|dns| dns::bind(&dns.listen, &manager::kept())).transpose()?;
    let started = start::start(basis, files, path)?;
    let daemon = Daemon::start(started, socket, metrics, dns).await?;
    capabilities::drop_others();
    daemon.run().await
}

async fn bind_metrics(addresses: &[SocketAddr]) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        let bound = TcpListener::bind(address).await;
        listeners.push(
            bound.with_context(|| format!("cannot show metrics on {address} ([node] metrics_listen)"))?,
        );
        info!(%address, "metrics are shown");
    }
    Ok(listeners)
}

/// The running daemon: the state, what happens to it, and what it keeps running.
struct Daemon {
    state: State,
    events: Events,
    api: Option<Task>,
    dns: Dns,
    /// When the program is detached, once this node has withdrawn its addresses.
    leave_at: Option<Instant>,
    /// The data path stays when it leaves.
    stays: bool,
    /// It leaves because a part is missing.
    failed: bool,
    check_programs: CheckPrograms,
    backend_probes: BackendProbes,
    peer_probes: PeerProbes,
    next_hops: NextHops,
    /// While `reload_on_change` wants it.
    file_watch: Option<FileWatch>,
    manager: Manager,
    /// For tasks that are started later.
    senders: Senders,
    /// When it gives back the memory that the start or a reload has used and nobody needs any more.
    tidy_at: Option<Instant>,
}

/// The DNS server.
enum Dns {
    /// The configuration has none.
    None,
    /// Until every backend and peer has been judged, or until that moment.
    Waiting(dns::Sockets, Instant),
    /// Until its task ends.
    Answers(Option<Task>),
}

impl Daemon {
    /// Writes the maps, and starts checks and API; DNS waits.
    async fn start(
        started: Started,
        socket: ControlSocket,
        metrics: Vec<TcpListener>,
        dns: Option<dns::Sockets>,
    ) -> anyhow::Result<Daemon> {
        let config = started.config.clone();
        let host = started.host.clone().for_config(dataplane::kernel());
        let (next_hops, mut hops) =
            NextHops::watch(config.destinations()).await.context("cannot watch next hops")?;
        let counters = dns.as_ref().map(dns::Sockets::counters);
        let mut state = State::new(started, counters)?;
        state.learn_hops(&hops.borrow_and_update());
        state.shed_features();
        state.follow_publishers();
        let (senders, events) = Events::new(hops)?;
        let mut check_programs = CheckPrograms::default();
        check_programs.follow(&config);
        let mut backend_probes = BackendProbes::default();
        backend_probes.follow(&config, check_programs.ways().as_ref(), &senders.backends);
        let (steering, keys) = (state.steering(), state.own_word.keys());
        let peer_probes = probes::start_peers(&config, &host, steering, keys, &senders.peers);
        let requests = senders.requests.clone();
        let manager = Manager::new();
        if let Some(sockets) = &dns {
            manager.keep(sockets);
        }
        info!(node = %config.node.name, "usher runs");
        Ok(Daemon {
            state,
            events,
            api: Some(Task::start("the API", |stop| api::serve(socket, metrics, requests, stop.wait()))),
            dns: match dns {
                None => Dns::None,
                Some(sockets) => Dns::Waiting(sockets, Instant::now() + FIRST_VERDICTS),
            },
            leave_at: None,
            stays: false,
            failed: false,
            check_programs,
            backend_probes,
            peer_probes,
            next_hops,
            // Its thread must not keep capabilities that are dropped later: started by `run`.
            file_watch: None,
            manager,
            senders,
            tidy_at: Some(Instant::now() + TIDY),
        })
    }

    /// Takes what happens as it comes, until it is time to leave.
    async fn run(mut self) -> anyhow::Result<ExitCode> {
        self.follow_file();
        while !self.is_over() {
            self.begin_dns();
            if !matches!(self.dns, Dns::Waiting(..)) {
                self.manager.ready();
            }
            let verdicts_due = self.dns.deadline();
            tokio::select! {
                event = self.events.next() => self.take(event),
                error = Task::end_of(&mut self.api) => self.give_up(&error),
                error = self.dns.end() => self.give_up(&error),
                () = capture::end_of(&mut self.state.capturing) => self.state.stop_capture(),
                () = at(verdicts_due) => {
                    warn!("not every backend and peer has been judged yet; DNS begins with what is known");
                }
                () = at(self.leave_at) => {}
            }
        }
        let failed = self.failed;
        self.stop().await?;
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn is_over(&self) -> bool {
        self.leave_at.is_some_and(|leave_at| leave_at <= Instant::now())
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Backends(reports) => {
                for (id, pace) in self.state.observe_backends(&reports) {
                    self.backend_probes.set_pace(&id, pace);
                }
            }
            Event::Peers(reports) => self.state.observe_peers(&reports),
            Event::Word(word) => {
                if self.state.hear_peer(&word) {
                    self.peer_probes.follow(&self.state.peers, Some(&word.at.0));
                }
            }
            Event::Request(request) => {
                if let Some(order) = self.state.answer(request) {
                    self.prepare_reload(order);
                }
            }
            Event::HangUp => self.reload_unasked(),
            Event::FileChanged => {
                info!(file = %self.state.path.display(), "the configuration's file has changed");
                self.reload_unasked();
            }
            Event::Prepared(prepared) => self.reload(*prepared),
            Event::Hops(table) => self.state.learn_hops(&table),
            Event::Links(reading) => {
                self.state.look_at_interfaces(reading);
                self.check_programs.attach_again(&self.state.config);
            }
            Event::CatchUp => {
                self.manager.alive();
                self.state.catch_up();
                self.state.look_at_nat_ports();
                for (id, pace) in self.state.look_at_openings() {
                    self.backend_probes.set_pace(&id, pace);
                    if pace == Pace::Fast {
                        self.backend_probes.check_now(&id);
                    }
                }
                self.state.look_for_silence();
                if self.tidy_at.take_if(|at| *at <= Instant::now()).is_some() {
                    limits::give_memory_back();
                }
            }
            Event::Sweep => self.state.sweep(),
            Event::Signal => self.leave(),
            Event::Ended(error) => self.give_up(&error),
        }
    }

    /// Watches the configuration's file if that is wanted, and only then.
    fn follow_file(&mut self) {
        let wanted = self.state.config.node.reload_on_change;
        let running = self.file_watch.take().filter(|_| wanted);
        self.file_watch = running.or_else(|| wanted.then(|| self.watch_file()).flatten());
    }

    fn watch_file(&self) -> Option<FileWatch> {
        let path = &self.state.path;
        FileWatch::start(path, self.senders.file_changes.clone())
            .inspect_err(|error| {
                let path = path.display();
                warn!(%error, "cannot watch the directory of {path}; `usher reload` puts changes in force");
            })
            .ok()
    }

    /// Puts the file in force for somebody who only reads the log.
    fn reload_unasked(&self) {
        self.prepare_reload(Order { query: ReloadQuery::default(), edit: None, reply: None });
    }

    /// Has the configuration's file read beside the loop.
    fn prepare_reload(&self, order: Order) {
        let (path, prepared) = (self.state.path.clone(), self.senders.prepared.clone());
        let (running, known) = (self.state.config.clone(), self.state.administration.edits().clone());
        let hops = self.state.next_hops.clone();
        tokio::spawn(async move {
            // The loop may have ended meanwhile.
            let _ = prepared.send(Box::new(prepare(path, running, known, hops, order).await)).await;
        });
    }

    /// Leaves because a part is missing; whoever starts the daemon starts it again.
    fn give_up(&mut self, error: &anyhow::Error) {
        error!("{error:#}; usher cannot go on without");
        self.failed = true;
        if self.leave_at.is_none() {
            self.leave();
        }
    }

    /// Leaves the data path to the next daemon; or withdraws this node, and leaves when clients had time to notice, at once
    /// when asked again.
    fn leave(&mut self) {
        let now = Instant::now();
        self.leave_at = match self.leave_at {
            Some(_) => Some(now),
            None => {
                self.manager.stopping();
                self.stays = self.state.may_stay() && !manager::host_stops();
                if self.stays {
                    return self.leave_at = Some(now);
                }
                self.state.withdraw();
                Some(now + goodbye(&self.state.config))
            }
        };
    }

    /// Begins to answer DNS when it is time to.
    fn begin_dns(&mut self) {
        let Some(deadline) = self.dns.deadline() else { return };
        if !self.state.is_settled() && Instant::now() < deadline {
            return;
        }
        self.dns = match (mem::replace(&mut self.dns, Dns::None), self.state.zone()) {
            (Dns::Waiting(sockets, _), Some(zone)) => {
                self.state.begin_publishing();
                let exchange = self.state.own_word.exchange();
                Dns::Answers(Some(Task::start("the DNS server", async |stop: StopSignal| {
                    sockets.serve(zone, exchange, stop.wait()).await;
                    Ok(())
                })))
            }
            (dns, _) => dns,
        };
    }

    async fn stop(self) -> anyhow::Result<()> {
        let Daemon { mut state, api, dns, stays, backend_probes, peer_probes, next_hops, manager, .. } = self;
        drop((backend_probes, peer_probes, next_hops));
        if let Dns::Answers(Some(task)) = dns {
            task.stop().await?;
        }
        if let Some(task) = api {
            task.stop().await?;
        }
        let node = state.config.node.name.clone();
        if stays {
            let grace = format_duration(state.config.peer_check.restart_grace);
            info!(%node, %grace, "usher stops; packets flow on, and peers keep this node in DNS for the grace");
            return Ok(());
        }
        manager.keep_nothing();
        state.dataplane.unpin()?;
        drop(state);
        info!(%node, "usher stops; the program is detached");
        Ok(())
    }
}

impl Dns {
    /// Waits until the server ends although nobody stopped it, and says why.
    async fn end(&mut self) -> anyhow::Error {
        match self {
            Dns::Answers(task) => Task::end_of(task).await,
            Dns::None | Dns::Waiting(..) => pending().await,
        }
    }

    /// When waiting ends.
    fn deadline(&self) -> Option<Instant> {
        match self {
            Dns::Waiting(_, deadline) => Some(*deadline),
            Dns::None | Dns::Answers(_) => None,
        }
    }
}

/// For how long packets are served after the own addresses left DNS: clients may still hold an answer.
fn goodbye(config: &Config) -> Duration {
    config.dns.as_ref().map_or(Duration::ZERO, |dns| dns.ttl.min(LONGEST_GOODBYE))
}

/// Waits until then; for ever when there is no such moment.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => pending().await,
    }
}
