//! One task for each zone on another server: it reads the zone, asks `core::shared` what to change, and changes it.

use std::{
    collections::{BTreeMap, BTreeSet},
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
        shared::{self, Act, Others, Planned, SharedZone, Situation, Trouble},
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

/// How often something may be made in one round before the primary plainly does not do what it says.
const MOST_TIMES: u32 = 3;

/// Updates that are not made, after which a round ends: others write all the while, or the primary refuses much.
const MOST_IN_VAIN: u32 = 16;

/// Why nothing is to be seen of changes.
const NOT_MADE: &str = "the primary says that it has made the changes, and does not show them: is it the primary of the \
                        zone, and without a policy that drops some of them?";

/// How often one thing may come too late in one round before it is plainly not that.
const MOST_LATE: u32 = 8;

/// Why something comes too late each time.
const NEVER_AS_READ: &str = "this node's TXT record beside it is never as it was just read: does a wildcard (`*`) answer for \
                             it, or are there several? Remove them";

/// Why an update was not made that others forestalled.
const CHANGED: &str = "the zone had changed since it was read";

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
    /// The newest change that was sent: when, what for, and why it was not made.
    pub(super) last_change: Option<(Instant, String, Option<String>)>,
    /// Set while it cannot be read or written.
    pub(super) failing: Option<Failing>,
}

/// A zone that cannot be read or written.
#[derive(Debug, Clone)]
pub(super) struct Failing {
    pub(super) since: Instant,
    /// In one word.
    pub(super) kind: &'static str,
    pub(super) why: String,
    /// When it is tried again.
    pub(super) again: Instant,
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

    /// Names at which it shows what stands there.
    fn names(&self) -> Vec<Arc<str>> {
        self.progress.borrow().addresses.keys().map(|(name, ..)| name.clone()).collect()
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// `before`: names that this run of the daemon may have written in the zone, besides those of the configuration.
    fn start(
        config: &Config,
        dns: &Dns,
        publish: &Publish,
        boot: u64,
        before: BTreeSet<Arc<str>>,
    ) -> Publisher {
        let settings = publish.settings(dns.ttl);
        let nodes: Vec<_> = config.node_names().cloned().collect();
        let (situation, situations) = watch::channel(None);
        let (progress, seen) = watch::channel(Progress::default());
        let work = Work {
            zone: SharedZone::new(config.node.name.clone(), boot, settings),
            publish: publish.clone(),
            nodes: nodes.clone(),
            before,
            primaries: None,
            progress,
        };
        let task = tokio::spawn(work.run(situations)).abort_handle();
        Publisher { publish: publish.clone(), settings, nodes, situation, progress: seen, task }
    }
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
                        && old.nodes.iter().eq(config.node_names())
                };
                match before.iter().position(is_same) {
                    Some(at) => before.swap_remove(at),
                    None => {
                        let same_zone = before.iter().filter(|old| old.publish.zone == publish.zone);
                        let names = same_zone.flat_map(Publisher::names).collect();
                        Publisher::start(&config, dns, publish, boot, names)
                    }
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
    /// Names that are no longer in the configuration perhaps: what this node has written there is taken away.
    before: BTreeSet<Arc<str>>,
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
            let round = self.round(&situation).await;
            let now = Instant::now();
            let (next, failing) = match round {
                Ok(refused) => {
                    pause = PAUSE;
                    let next = self.zone.next_due(now).clamp(now + PAUSE, now + LOOK);
                    let again = self.zone.next_try(now).unwrap_or(next);
                    (next, refused.map(|why| Failing { since: now, kind: "refused", why, again }))
                }
                Err(error) => {
                    self.zone.unreadable(now);
                    let (again, next) = (now + pause, now + pause.mul_f64(rand::random_range(0.8..1.2)));
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    (next, Some(Failing { since: now, kind: error.kind(), why: text(error), again }))
                }
            };
            self.tell(failing);
            tokio::select! {
                changed = situations.changed() => if changed.is_err() { return },
                () = sleep_until(next.into()) => {}
            }
        }
    }

    /// Reads the zone and changes it until nothing is left to do. When the primary refuses all that is wanted, it says why.
    async fn round(&mut self, situation: &Situation) -> Result<Option<String>, UpdateError> {
        let primaries = match self.primaries.take() {
            Some(primaries) => primaries,
            None => {
                let Publish { primaries, zone, key_file, .. } = &self.publish;
                Primaries::open(primaries, zone, key_file)?
            }
        };
        let refused = self.change(&primaries, situation).await?;
        if self.zone.next_try(Instant::now()).is_none() {
            self.primaries = Some(primaries);
        }
        Ok(refused)
    }

    async fn change(
        &mut self,
        primaries: &Primaries,
        situation: &Situation,
    ) -> Result<Option<String>, UpdateError> {
        let (mut made, mut late, mut in_vain) = (Counts::new(), Counts::new(), 0);
        loop {
            let (names, records) = self.asked(situation);
            let (primary, contents) = primaries.read(&names, &records, PATIENCE).await?;
            let now = Instant::now();
            self.zone.observe(&contents, &self.nodes, now);
            self.before.clear();
            let mut troubles = Vec::new();
            let planned = self.zone.decide(situation, now, &mut troubles);
            let refused = self.zone.refuses_all(situation, &troubles).map(str::to_owned);
            self.show(situation, troubles, primary.address(), now);
            let Some(planned) = planned.filter(|_| in_vain < MOST_IN_VAIN) else { return Ok(refused) };
            let not_made = match primary.update(&planned.update, PATIENCE).await {
                Ok(Outcome::Applied) => self.applied(&planned, &mut made),
                Ok(Outcome::NotAsExpected) => Some(self.too_late(&planned, &mut late)),
                Err(error) if error.is_refusal() => Some(self.refused(&planned, text(error))),
                Err(error) => return Err(error),
            };
            in_vain += u32::from(not_made.is_some());
            let change = (Instant::now(), describe(&planned), not_made);
            self.progress.send_modify(|progress| progress.last_change = Some(change));
        }
    }

    /// The primary says that it has made an update; when that cannot be, why. `made` counts.
    fn applied(&mut self, planned: &Planned, made: &mut Counts) -> Option<String> {
        self.zone.note(planned, Outcome::Applied, Instant::now());
        log(&self.publish.zone, planned, Outcome::Applied);
        let is_too_often = count(planned, made) > MOST_TIMES;
        is_too_often.then(|| self.refused(planned, NOT_MADE.to_owned()))
    }

    /// The zone was not as it had been read; says what that means. `late` counts what was alone in its update.
    fn too_late(&mut self, planned: &Planned, late: &mut Counts) -> String {
        self.zone.note(planned, Outcome::NotAsExpected, Instant::now());
        log(&self.publish.zone, planned, Outcome::NotAsExpected);
        if planned.acts.len() == 1 && count(planned, late) > MOST_LATE {
            return self.refused(planned, NEVER_AS_READ.to_owned());
        }
        CHANGED.to_owned()
    }

    fn refused(&mut self, planned: &Planned, why: String) -> String {
        debug!(zone = %self.publish.zone, why, "refused: {}", describe(planned));
        self.zone.refused(planned, &why, Instant::now());
        why
    }

    /// Names whose addresses are read, and those of the records beside them.
    fn asked(&self, situation: &Situation) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let names = situation.names.keys().chain(self.zone.written()).chain(&self.before);
        let names: BTreeSet<Arc<str>> = names.cloned().collect();
        let names = Vec::from_iter(names);
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
            for ((name, node, address), standing) in &addresses {
                let before = progress.addresses.get(&(name.clone(), node.clone(), *address));
                if before.map(|before| &before.state) != Some(&standing.state) {
                    info!(%zone, "{name}: {address} of {node} is {} there", standing.state);
                }
            }
            for trouble in troubles.iter().filter(|trouble| !progress.troubles.contains(trouble)) {
                warn!(%zone, "{trouble}");
            }
            let (last_change, failing) = (progress.last_change.take(), progress.failing.take());
            let (primary, read) = (Some(primary), Some(now));
            *progress = Progress { addresses, troubles, primary, read, last_change, failing };
        });
    }

    /// Tells that nothing can be published, why, and when that is tried again; or that it can.
    fn tell(&self, failing: Option<Failing>) {
        let zone = &self.publish.zone;
        self.progress.send_modify(|progress| {
            let before = progress.failing.take();
            let Some(failing) = failing else {
                if before.is_some() {
                    info!(%zone, primary = ?progress.primary, "the zone can be read and written again");
                }
                return;
            };
            if before.as_ref().is_none_or(|before| before.why != failing.why) {
                error!(%zone, "cannot publish: {}; trying again", failing.why);
            }
            let since = before.map_or(failing.since, |before| before.since);
            progress.failing = Some(Failing { since, ..failing });
        });
    }
}

/// How often each thing was done in one round.
type Counts = BTreeMap<(Arc<str>, Act), u32>;

/// Counts what is planned; how often the most frequent of it was.
fn count(planned: &Planned, counts: &mut Counts) -> u32 {
    let times = planned.acts.iter().map(|act| {
        let times = counts.entry(act.clone()).or_default();
        *times += 1;
        *times
    });
    times.max().unwrap_or_default()
}

/// With its causes.
fn text(error: UpdateError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

fn describe(planned: &Planned) -> String {
    match &planned.acts[..] {
        [(name, Act::Remove(peer))] => format!("took {peer} out of {name}"),
        _ => {
            let mut names: Vec<&str> = planned.acts.iter().map(|(name, _)| &**name).collect();
            names.dedup();
            format!("wrote this node's records at {}", names.join(", "))
        }
    }
}

fn log(zone: &str, planned: &Planned, outcome: Outcome) {
    match (&planned.acts[..], outcome) {
        ([(name, Act::Remove(peer))], Outcome::Applied) => {
            warn!(
                zone,
                "{name}: the addresses of {peer} are taken away: {}",
                planned.why.unwrap_or_default()
            );
        }
        ([(name, Act::Remove(peer))], Outcome::NotAsExpected) => {
            info!(
                zone,
                "{name}: {peer} was not taken away: its lease, or this node's, has changed meanwhile"
            );
        }
        _ => debug!(zone, ?outcome, acts = planned.acts.len(), "own records written"),
    }
}
