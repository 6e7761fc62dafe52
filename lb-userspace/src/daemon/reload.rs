//! Another configuration for the running daemon: all of it, or nothing.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Instant,
};

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::{Daemon, TIDY, deny, exchange, probes, state::State};
use crate::{
    api::Refusal,
    config::{Config, ConfigError, Edit, Edits, Loaded, host::HostFacts},
    core::{
        deny::Rule,
        health::Checked,
        numbers::Numbers,
        plan,
        reload::{ANEW, differences, needs_restart, peers_differ},
    },
    dataplane::{self, DataplaneError},
    net::{facts, watch::NextHopTable},
    reload::{ReloadQuery, Reloaded},
};

/// Who wants it, and what of it.
pub(super) struct Order {
    pub(super) query: ReloadQuery,
    /// A change to services or backends, beside what the file says.
    pub(super) edit: Option<Edit>,
    /// `None`: a signal or a changed file, which is answered by the log alone.
    pub(super) reply: Option<oneshot::Sender<Result<Reloaded, Refusal>>>,
}

/// The file, read and checked beside the loop.
pub(super) struct Prepared {
    order: Order,
    /// The configuration that was in force when it was read.
    running: Arc<Config>,
    next: Result<Next, Reloaded>,
}

struct Next {
    config: Config,
    edits: Edits,
    /// Which changes of commands are forgotten.
    notes: Vec<String>,
    warnings: Vec<String>,
    host: HostFacts,
    /// The deny file's rules.
    denied: Vec<Rule>,
}

/// Reads and checks the file as the start does, with the changes that are `known` and the one that is wanted; on threads of
/// its own, since it takes its time, and since the others have checks to run: there, each of many questions about routes would
/// wait for its turn. What way packets take to backends whose next hop is known needs no question.
pub(super) async fn prepare(
    path: PathBuf,
    running: Arc<Config>,
    known: Edits,
    hops: NextHopTable,
    order: Order,
) -> Prepared {
    let (before, edit) = (running.clone(), order.edit.clone());
    let read = tokio::task::spawn_blocking(move || read(&path, &before, known, &hops, edit.as_ref())).await;
    let next = read.unwrap_or_else(|error| Err(Reloaded::refused([format!("reading it failed: {error}")])));
    Prepared { order, running, next }
}

fn read(
    path: &Path,
    running: &Config,
    known: Edits,
    hops: &NextHopTable,
    edit: Option<&Edit>,
) -> Result<Next, Reloaded> {
    // Most destinations stay, and to ask about those without a next hop may take as long as to read the file.
    let asked: BTreeSet<IpAddr> = running.destinations().collect();
    let (loaded, host) = thread::scope(|scope| {
        let host = scope.spawn(|| gather(&asked, hops));
        let loaded = Loaded::load_edited(path, known, edit);
        (loaded, host.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    let (loaded, edits, notes) = loaded.map_err(|error| refused(&error))?;
    let other = |error: anyhow::Error| Reloaded::refused([format!("{error:#}")]);
    let mut host = host.map_err(other)?;
    let new: BTreeSet<IpAddr> = loaded.config.destinations().filter(|one| !asked.contains(one)).collect();
    if !new.is_empty() {
        host.check_route.extend(gather(&new, hops).map_err(other)?.check_route);
    }
    let mut found = loaded.check_host(&host);
    if !found.as_ref().is_ok_and(Vec::is_empty) {
        // It may be about a way that is another one by now, of which the next hop's watch hears in a moment.
        host = gather(&loaded.config.destinations().collect(), &NextHopTable::default()).map_err(other)?;
        found = loaded.check_host(&host);
    }
    let warnings = found.map_err(|error| refused(&error))?;
    let denied = deny::read_file(loaded.config.defence.as_ref()).map_err(other)?;
    let warnings = loaded.warnings.iter().chain(&warnings).map(ToString::to_string).collect();
    Ok(Next { config: loaded.config, edits, notes, warnings, host, denied })
}

/// The host's network and the ways to these, read by this thread alone.
fn gather(destinations: &BTreeSet<IpAddr>, hops: &NextHopTable) -> anyhow::Result<HostFacts> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let facts = runtime.block_on(facts::gather(destinations.iter().copied(), hops))?;
    Ok(facts.for_config(dataplane::kernel()))
}

fn refused(error: &ConfigError) -> Reloaded {
    Reloaded::refused(error.lines())
}

impl Daemon {
    /// Puts the file in force, if it can be.
    pub(super) fn reload(&mut self, prepared: Prepared) {
        let Prepared { order, running, next } = prepared;
        if !Arc::ptr_eq(&running, &self.state.config) {
            // Another order was quicker: it may have read a newer file, or is a change that this one does not know of.
            return self.prepare_reload(order);
        }
        let Order { query, reply, .. } = order;
        let outcome = next.and_then(|next| self.follow(next, query.dry_run));
        let reloaded = outcome.unwrap_or_else(|refused| refused);
        if !query.dry_run {
            log(&reloaded);
        }
        self.tidy_at = Some(tokio::time::Instant::now() + TIDY);
        if let Some(reply) = reply {
            // Whoever asked may be gone, which is no error.
            drop(reply.send(Ok(reloaded)));
        }
    }

    fn follow(&mut self, next: Next, dry_run: bool) -> Result<Reloaded, Reloaded> {
        let Next { config, edits, notes, warnings, host, denied } = next;
        let old = self.state.config.clone();
        let changes = differences(&old, &config);
        let fixed = needs_restart(&old, &config);
        if !fixed.is_empty() {
            return Err(Reloaded::refused(fixed));
        }
        let full = |why: &dyn std::fmt::Display| Reloaded::refused([format!("{why}; {ANEW}")]);
        let numbers = self.state.planner.numbers().successor(&config).map_err(|why| full(&why))?;
        let rules = config.defence.as_ref().map_or(&[][..], |defence| &defence.deny);
        let denied = tokio::task::block_in_place(|| self.state.deny.successor(&denied, rules))
            .map_err(|why| full(&why))?;
        if self.state.capturing.is_some() && !self.state.has_features(&config, &denied) {
            let why =
                "a capture is running, and this configuration needs another program; end the capture first";
            return Err(Reloaded::refused([why.to_owned()]));
        }
        if dry_run {
            return Ok(Reloaded { changes, warnings, ..Reloaded::default() });
        }
        notes.iter().for_each(|note| info!("{note}"));
        let config = Arc::new(config);
        self.state
            .adopt(config.clone(), numbers, denied)
            .map_err(|error| Reloaded::refused([format!("{:#}", anyhow::Error::from(error))]))?;
        self.next_hops.set_destinations(config.destinations());
        self.check_programs.follow(&config);
        self.backend_probes.follow(&config, self.check_programs.ways().as_ref(), &self.senders.backends);
        // What was sent before may be of a backend that was elsewhere then.
        self.events.forget_backends();
        if peers_differ(&old, &config) {
            let (steering, keys) = (self.state.steering(), self.state.own_word.keys());
            self.peer_probes = probes::start_peers(&config, &host, steering, keys, &self.senders.peers);
            self.peer_probes.follow(&self.state.peers, None);
        }
        self.follow_file();
        let not_kept = self.state.administration.set_edits(edits);
        Ok(Reloaded { changes, warnings, refused: Vec::new(), not_kept })
    }
}

fn log(reloaded: &Reloaded) {
    let Reloaded { changes, warnings, refused, .. } = reloaded;
    warnings.iter().for_each(|warning| warn!("{warning}"));
    if !refused.is_empty() {
        refused.iter().for_each(|why| error!("the configuration is not reloaded: {why}"));
        return;
    }
    changes.iter().for_each(|change| info!("reload: {change}"));
    info!(changes = changes.len(), "the configuration is reloaded");
}

impl State {
    /// Whether the running programs can do what a configuration needs.
    fn has_features(&self, config: &Config, denied: &deny::Successor) -> bool {
        self.dataplane.features().has(plan::features(config) | denied.features())
    }

    /// Works by another configuration from now on. What is known of backends and peers that stay is kept.
    ///
    /// # Errors
    /// When the kernel refuses the programs that it needs. Then all is as before.
    fn adopt(
        &mut self,
        config: Arc<Config>,
        numbers: Numbers,
        denied: deny::Successor,
    ) -> Result<(), DataplaneError> {
        // More first, fewer last: no packet may meet a service that its program knows nothing of.
        let wanted = plan::features(&config) | denied.features();
        let have = self.dataplane.features();
        if !have.has(wanted) {
            self.load_features(have | wanted)?;
        }
        let before = self.planner.numbers();
        // One with another address has another number.
        self.backends.retain(|id, _| before.backend(id) == numbers.backend(id));
        for (service, pool) in plan::pools(&config) {
            let check = &service.check;
            for (_, id, _) in plan::backends(service, pool) {
                self.backends.entry(id).or_insert_with(|| Checked::new(&check.timing)).follow(check);
            }
        }
        let (ids, asked) = (probes::peer_ids(&config), exchange::asked(&config));
        self.peers = self.peers.successor(ids, asked, &config.peer_check, Instant::now());
        self.nat_ports.retain(|pool, _| numbers.pool(pool) != 0);
        self.administration.follow(&config);
        self.planner.set_numbers(numbers);
        self.digest = config.digest();
        self.config = config;
        self.follow_openings();
        self.deny.replace(denied);
        self.catch_up();
        self.reconcile();
        self.follow_publishers();
        self.shed_features();
        Ok(())
    }
}
