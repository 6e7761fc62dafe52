//! One task for each zone on another server: it reads the zone, asks `core::shared` what to change, and changes it.

use std::{
    collections::BTreeMap,
    mem,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::AbortHandle, time::sleep_until};
use tracing::{debug, error, info, warn};

use super::state::State;
use crate::{
    config::{Config, Dns, Publish},
    core::{
        lease::owner,
        records::Outcome,
        shared::{self, Others, Planned, Removal, SharedZone, Situation, Trouble},
    },
    dns::update::{Primaries, UpdateError},
};

/// How long the primary may take for one question or change.
const PATIENCE: Duration = Duration::from_secs(2);

/// The zone is read so often, whatever happens: others change it.
const LOOK: Duration = Duration::from_secs(5);

/// The first pause after a failure; each further one is twice as long.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Changes in a row after which the primary plainly does not do what it says.
const MOST_CHANGES: usize = 8;

/// Why nothing could be published.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error(transparent)]
    Primary(#[from] UpdateError),
    #[error(
        "the primary says that it has made the changes, and does not show them: is it the primary of the zone, and \
         without a policy that drops some of them?"
    )]
    NotMade,
}

/// How it goes with one zone.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// By name, node and address.
    pub(super) addresses: BTreeMap<(Arc<str>, Arc<str>, IpAddr), Standing>,
    /// What is in the way.
    pub(super) troubles: Vec<Trouble>,
    /// The primary's address that answered last.
    pub(super) primary: Option<SocketAddr>,
    /// When the zone was read last.
    pub(super) read: Option<Instant>,
    /// The newest change that was sent: when, what for, and whether it was made.
    pub(super) last_change: Option<(Instant, String, bool)>,
    /// Since when, why, and when it is tried again.
    pub(super) failing: Option<(Instant, String, Instant)>,
}

/// One address in the zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) state: shared::State,
    /// For how long its node's lease has not changed, when the zone was read last.
    pub(super) lease_age: Option<Duration>,
}

/// A zone's task; dropping it ends it.
pub(super) struct Publisher {
    publish: Publish,
    settings: shared::Settings,
    nodes: Vec<Arc<str>>,
    situation: watch::Sender<Option<Arc<Situation>>>,
    progress: watch::Receiver<Progress>,
    task: AbortHandle,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Publisher {
    pub(super) fn publish(&self) -> &Publish {
        &self.publish
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    fn start(config: &Config, dns: &Dns, publish: &Publish, boot: u64) -> Publisher {
        let settings = publish.settings(dns.ttl);
        let nodes = nodes(config);
        let (situation, situations) = watch::channel(None);
        let (progress, seen) = watch::channel(Progress::default());
        let work = Work {
            zone: SharedZone::new(config.node.name.clone(), boot, settings),
            publish: publish.clone(),
            nodes: nodes.clone(),
            primaries: None,
            progress,
        };
        let task = tokio::spawn(work.run(situations)).abort_handle();
        Publisher { publish: publish.clone(), settings, nodes, situation, progress: seen, task }
    }
}

/// All whose records may be in a zone.
fn nodes(config: &Config) -> Vec<Arc<str>> {
    let peers = config.peers.iter().map(|peer| &peer.name);
    std::iter::once(&config.node.name).chain(peers).cloned().collect()
}

impl State {
    /// Starts and ends publishers as the configuration has them; those that stay as they are go on.
    pub(super) fn follow_publishers(&mut self) {
        let config = self.config.clone();
        let mut before = mem::take(&mut self.publishers);
        let Some(dns) = &config.dns else { return };
        let boot = self.own_word.boot();
        self.publishers = dns
            .publish
            .iter()
            .map(|publish| {
                let is_same = |old: &Publisher| {
                    old.publish == *publish
                        && old.settings == publish.settings(dns.ttl)
                        && old.nodes == nodes(&config)
                };
                match before.iter().position(is_same) {
                    Some(at) => before.swap_remove(at),
                    None => Publisher::start(&config, dns, publish, boot),
                }
            })
            .collect();
        self.tell_publishers();
    }

    /// Publishing begins: what is known now is reason enough.
    pub(super) fn begin_publishing(&mut self) {
        self.publishes = true;
        self.tell_publishers();
    }

    /// Tells publishers what is true now.
    pub(super) fn tell_publishers(&self) {
        let Some(dns) = self.config.dns.as_ref().filter(|_| self.publishes && !self.publishers.is_empty())
        else {
            return;
        };
        let sights = self.peers.sights();
        let word = |name: &Arc<str>| Some((name.clone(), self.peers.word(name)?.clone()));
        let words = self.config.peers.iter().filter_map(|peer| word(&peer.name)).collect();
        let others = Others { sights: &sights, words };
        for publisher in &self.publishers {
            let publish = &publisher.publish;
            let mut situation = shared::situation(&self.config, dns, publish, &self.publication, &others);
            if self.is_leaving() {
                // As if the configuration had never had them.
                situation.names.clear();
            }
            publisher.situation.send_if_modified(|told| {
                let is_news = told.as_deref() != Some(&situation);
                if is_news {
                    *told = Some(Arc::new(situation));
                }
                is_news
            });
        }
    }
}

struct Work {
    publish: Publish,
    nodes: Vec<Arc<str>>,
    zone: SharedZone,
    /// Only after a round without an error: a key that was changed is read anew.
    primaries: Option<Primaries>,
    progress: watch::Sender<Progress>,
}

impl Work {
    async fn run(mut self, mut situations: watch::Receiver<Option<Arc<Situation>>>) {
        let mut pause = PAUSE;
        loop {
            let Some(situation) = situations.borrow_and_update().clone() else {
                if situations.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let next = match self.round(&situation).await {
                Ok(()) => {
                    pause = PAUSE;
                    let now = Instant::now();
                    self.zone.next_due(now).clamp(now + PAUSE, now + LOOK)
                }
                Err(error) => {
                    let now = Instant::now();
                    self.fail(error, now + pause);
                    let next = now + pause.mul_f64(rand::random_range(0.8..1.2));
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    next
                }
            };
            tokio::select! {
                changed = situations.changed() => if changed.is_err() { return },
                () = sleep_until(next.into()) => {}
            }
        }
    }

    /// Reads the zone and changes it until nothing is left to do.
    async fn round(&mut self, situation: &Situation) -> Result<(), PublishError> {
        let primaries = match self.primaries.take() {
            Some(primaries) => primaries,
            None => {
                let Publish { primaries, zone, key_file, .. } = &self.publish;
                Primaries::open(primaries, zone, key_file)?
            }
        };
        self.change(&primaries, situation).await?;
        self.primaries = Some(primaries);
        Ok(())
    }

    async fn change(&mut self, primaries: &Primaries, situation: &Situation) -> Result<(), PublishError> {
        let mut made = true;
        for _ in 0..MOST_CHANGES {
            let (names, records) = self.asked(situation);
            let (primary, contents) = primaries.read(&names, &records, PATIENCE).await?;
            let now = Instant::now();
            self.zone.observe(&contents, &self.nodes, now);
            let mut troubles = Vec::new();
            let planned = self.zone.decide(situation, now, &mut troubles);
            self.show(situation, troubles, primary.address(), now);
            let Some(planned) = planned else { return Ok(()) };
            let outcome = primary.update(&planned.update, PATIENCE).await?;
            self.zone.note(&planned, outcome, Instant::now());
            made = outcome == Outcome::Applied;
            let change = (Instant::now(), describe(&planned), outcome == Outcome::Applied);
            self.progress.send_modify(|progress| progress.last_change = Some(change));
            log(&self.publish.zone, &planned, outcome);
        }
        // Others wrote all the while: it is tried again soon.
        if made { Err(PublishError::NotMade) } else { Ok(()) }
    }

    /// Names whose addresses are read, and those of the records beside them.
    fn asked(&self, situation: &Situation) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let mut names: Vec<Arc<str>> = situation.names.keys().chain(self.zone.written()).cloned().collect();
        names.sort();
        names.dedup();
        let records = names.iter().flat_map(|name| self.nodes.iter().map(|node| owner(node, name)));
        let records = records.collect();
        (names, records)
    }

    fn show(&self, situation: &Situation, troubles: Vec<Trouble>, primary: SocketAddr, now: Instant) {
        let mut addresses = BTreeMap::new();
        for (name, wish) in &situation.names {
            let own = wish.own.iter().map(|&address| (&self.nodes[0], address));
            let peers =
                wish.peers.iter().flat_map(|(node, all)| all.iter().map(move |&address| (node, address)));
            for (node, address) in own.chain(peers) {
                let standing = Standing {
                    state: self.zone.state(name, node, address),
                    lease_age: self.zone.lease_age(name, node, now),
                };
                addresses.insert((name.clone(), node.clone(), address), standing);
            }
        }
        let zone = &self.publish.zone;
        self.progress.send_modify(|progress| {
            if progress.failing.take().is_some() {
                info!(%zone, %primary, "the zone can be read and written again");
            }
            for ((name, node, address), standing) in &addresses {
                let before = progress.addresses.get(&(name.clone(), node.clone(), *address));
                if before.map(|before| &before.state) != Some(&standing.state) {
                    info!(%zone, "{name}: {address} of {node} is {} there", standing.state);
                }
            }
            for trouble in troubles.iter().filter(|trouble| !progress.troubles.contains(trouble)) {
                warn!(%zone, "{trouble}");
            }
            let last_change = progress.last_change.take();
            let (primary, read) = (Some(primary), Some(now));
            *progress = Progress { addresses, troubles, primary, read, last_change, failing: None };
        });
    }

    fn fail(&mut self, error: PublishError, again: Instant) {
        self.zone.unreadable(Instant::now());
        let why = format!("{:#}", anyhow::Error::new(error));
        let zone = &self.publish.zone;
        self.progress.send_modify(|progress| {
            let since = match &progress.failing {
                Some((since, before, _)) if *before == why => *since,
                _ => {
                    error!(%zone, "cannot publish: {why}; trying again");
                    Instant::now()
                }
            };
            progress.failing = Some((since, why, again));
        });
    }
}

fn describe(planned: &Planned) -> String {
    match &planned.removes {
        Some(Removal { name, peer, .. }) => format!("took {peer} out of {name}"),
        None => format!("wrote this node's records at {}", planned.renews.join(", ")),
    }
}

fn log(zone: &str, planned: &Planned, outcome: Outcome) {
    match (&planned.removes, outcome) {
        (Some(Removal { name, peer, why }), Outcome::Applied) => {
            warn!(zone, "{name}: the addresses of {peer} are taken away: {why}");
        }
        (Some(Removal { name, peer, .. }), Outcome::NotAsExpected) => {
            info!(
                zone,
                "{name}: {peer} was not taken away: its lease, or this node's, has changed meanwhile"
            );
        }
        (None, _) => debug!(zone, ?outcome, names = planned.renews.len(), "own records written"),
    }
}
