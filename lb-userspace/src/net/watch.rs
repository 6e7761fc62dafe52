//! Keeps the next hops of a set of destinations true.
//!
//! One task. It hears of every change of links, addresses, routes, rules and neighbours, waits a moment for
//! more of them, looks up what they may concern, and publishes a new table when something moved. Since
//! notifications can be lost, it looks at everything now and then anyway.
//!
//! Packets that XDP forwards are invisible to the kernel, so its neighbour entries would age and never be
//! checked. Whenever one turns stale the task has the kernel ask the neighbour again.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use netlink_packet_route::RouteNetlinkMessage;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

use super::{
    NetError,
    netlink::{Netlink, Notification, Notifications},
    next_hop::{Neighbour, NeighbourKey, NextHop, Path, Seen, Unresolved, ask_neighbour, key_of, path_to},
};

/// Changes come in bursts (a link that goes down takes routes and neighbours along); this long they are
/// collected.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// Everything is looked up this often even if nothing is heard: notifications can be lost, and neighbours
/// that did not answer may have come to life. A look at 1,000 destinations takes 20 to 60 ms.
const RECHECK: Duration = Duration::from_secs(10);

/// But where that takes long, it is done only once in so many times as long,
const RECHECK_REST: u32 = 100;

/// or as often as this at least.
const LONGEST_RECHECK: Duration = Duration::from_secs(60);

/// A neighbour that has an entry is asked at most this often. The kernel takes 3 s (three probes) to give up,
/// unless it is tuned; with no probes at all it gives up at once, and we would ask in a circle.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A next hop stays this long after its neighbour entry was removed while the kernel asks anew; entries are
/// removed for lack of space or by hand, and the neighbour is most likely still there. An entry that *failed*
/// ends it at once.
const HOLD: Duration = Duration::from_secs(5);

/// After a pass the next one waits this many times the pass's own duration, so that a routing daemon that
/// changes thousands of routes does not keep us busy.
const REST: u32 = 10;

/// But not longer than this: a pass in which the kernel leaves a question without a readable answer takes
/// seconds.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// Wait before netlink sockets that failed are opened again.
const REOPEN: Duration = Duration::from_secs(1);

/// Every destination and its next hop; `None` while there is none.
pub type NextHopTable = Arc<BTreeMap<IpAddr, Option<NextHop>>>;

/// The running watch. Dropping it ends the task.
pub struct NextHops {
    destinations: watch::Sender<BTreeSet<IpAddr>>,
    task: JoinHandle<()>,
}

impl NextHops {
    /// Starts to watch. The table that is returned holds what the kernel knows already; neighbours that it
    /// has to ask first follow, usually within milliseconds:
    /// `table.wait_for(|table| table.values().all(Option::is_some))`.
    ///
    /// Must be called inside a tokio runtime, in the network namespace to be watched. Resolving neighbours
    /// needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// Any [`NetError`] of the first look-up. Later ones are logged, and the last table stands meanwhile.
    pub async fn watch(
        destinations: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(Self, watch::Receiver<NextHopTable>), NetError> {
        let (destinations, wanted) = watch::channel(destinations.into_iter().collect());
        let (publish, table) = watch::channel(NextHopTable::default());
        let mut watcher = Watcher::new(Sockets::open()?, wanted, publish);
        watcher.track_wanted();
        watcher.pass().await?;
        Ok((Self { destinations, task: tokio::spawn(watcher.run()) }, table))
    }

    /// Replaces the set of destinations. Those that stay keep their next hop; the table follows shortly.
    pub fn set_destinations(&self, destinations: impl IntoIterator<Item = IpAddr>) {
        let wanted = destinations.into_iter().collect();
        self.destinations.send_if_modified(|destinations| {
            let other = *destinations != wanted;
            *destinations = wanted;
            other
        });
    }
}

impl Drop for NextHops {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Sockets {
    requests: Netlink,
    notifications: Notifications,
}

impl Sockets {
    fn open() -> Result<Self, NetError> {
        Ok(Self { requests: Netlink::open()?, notifications: Notifications::open()? })
    }

    /// Opens new ones, however often it takes.
    async fn reopen() -> Self {
        loop {
            sleep(REOPEN).await;
            match Self::open() {
                Ok(sockets) => return sockets,
                Err(error) => warn!(error = &error as &dyn std::error::Error, "netlink stays closed"),
            }
        }
    }
}

/// What is known of one destination.
struct Tracked {
    outcome: Result<NextHop, Unresolved>,
    /// The neighbour whose changes concern it.
    neighbour: Option<NeighbourKey>,
    asked: Option<Instant>,
    /// Since when the next hop stands without a neighbour entry.
    held_since: Option<Instant>,
}

impl Tracked {
    fn new() -> Self {
        Self { outcome: Err(Unresolved::Unknown), neighbour: None, asked: None, held_since: None }
    }

    /// Takes in what was just looked up.
    fn observe(&mut self, path: Result<Path, Unresolved>, now: Instant) {
        self.neighbour = path.ok().map(|path| path.neighbour_key);
        let held = path.ok().and_then(|path| self.held(&path, now));
        self.held_since = held.is_some().then(|| self.held_since.unwrap_or(now));
        self.outcome = match (path, held) {
            (Ok(_), Some(held)) => Ok(held),
            (Ok(Path { neighbour: Neighbour::Usable { mac, .. }, .. }), None) => {
                path.map(|path| path.next_hop_with(mac))
            }
            (Ok(_), None) => Err(Unresolved::NoNeighbour),
            (Err(unresolved), _) => Err(unresolved),
        };
    }

    /// The next hop known until now, if it may stand although the neighbour's entry is gone.
    fn held(&self, path: &Path, now: Instant) -> Option<NextHop> {
        let known = self.outcome.ok()?;
        let gone = matches!(path.neighbour, Neighbour::Unanswered { .. });
        let candidate = path.next_hop_with(known.destination_mac);
        let same_neighbour =
            (candidate.interface_index, candidate.gateway) == (known.interface_index, known.gateway);
        let fresh = self.held_since.is_none_or(|since| now - since < HOLD);
        (gone && same_neighbour && fresh).then_some(candidate)
    }

    /// Whether the kernel should be made to ask the neighbour.
    fn wants_asking(&self, neighbour: Neighbour, now: Instant) -> bool {
        let rested = self.asked.is_none_or(|asked| now - asked >= ASK_AGAIN);
        match neighbour {
            Neighbour::Usable { stale, .. } => stale && rested,
            Neighbour::Unanswered { asking } => !asking,
            Neighbour::Failed => rested,
        }
    }
}

/// The destinations to look up in the next pass.
enum Dirty {
    Some(BTreeSet<IpAddr>),
    All,
}

impl Default for Dirty {
    fn default() -> Self {
        Self::Some(BTreeSet::new())
    }
}

struct Watcher {
    sockets: Sockets,
    wanted: watch::Receiver<BTreeSet<IpAddr>>,
    tracked: BTreeMap<IpAddr, Tracked>,
    dirty: Dirty,
    /// When the next pass begins; `None` when nothing is dirty.
    due: Option<Instant>,
    not_before: Instant,
    /// When everything is looked up anyway.
    recheck_at: Instant,
    publish: watch::Sender<NextHopTable>,
}

impl Watcher {
    fn new(
        sockets: Sockets,
        wanted: watch::Receiver<BTreeSet<IpAddr>>,
        publish: watch::Sender<NextHopTable>,
    ) -> Self {
        Self {
            sockets,
            wanted,
            tracked: BTreeMap::new(),
            dirty: Dirty::default(),
            due: None,
            not_before: Instant::now(),
            recheck_at: Instant::now() + RECHECK,
            publish,
        }
    }

    /// Runs until the handle is dropped.
    async fn run(mut self) {
        loop {
            // Each branch may be cancelled: what a pass works on is taken only after its timer fired.
            let result = tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.track_wanted();
                    Ok(())
                }
                notification = self.sockets.notifications.next() => self.note(notification),
                () = until(self.due) => self.pass().await,
                () = sleep_until(self.recheck_at) => {
                    self.recheck_at = Instant::now() + RECHECK;
                    self.mark_all();
                    Ok(())
                }
            };
            if let Err(error) = result {
                warn!(error = &error as &dyn std::error::Error, "netlink failed; next hops stay as they are");
                self.sockets = Sockets::reopen().await;
                self.mark_all();
            }
        }
    }

    fn track_wanted(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        self.tracked.retain(|destination, _| wanted.contains(destination));
        for destination in wanted {
            self.tracked.entry(destination).or_insert_with(Tracked::new);
        }
        self.mark_all();
    }

    fn note(&mut self, notification: Option<Notification>) -> Result<(), NetError> {
        match notification {
            Some(Notification::Changed(
                RouteNetlinkMessage::NewNeighbour(neighbour) | RouteNetlinkMessage::DelNeighbour(neighbour),
            )) => self.mark_neighbour(key_of(&neighbour)),
            Some(Notification::Changed(_) | Notification::Overflow) => self.mark_all(),
            None => return Err(NetError::Closed { request: "follow changes".to_owned() }),
        }
        Ok(())
    }

    fn mark_neighbour(&mut self, key: Option<NeighbourKey>) {
        let Dirty::Some(dirty) = &mut self.dirty else { return };
        let concerned = self.tracked.iter().filter(|(_, tracked)| key.is_some() && tracked.neighbour == key);
        dirty.extend(concerned.map(|(destination, _)| *destination));
        if !dirty.is_empty() {
            self.plan_pass();
        }
    }

    fn mark_all(&mut self) {
        self.dirty = Dirty::All;
        self.plan_pass();
    }

    fn plan_pass(&mut self) {
        let soon = (Instant::now() + DEBOUNCE).max(self.not_before);
        self.due.get_or_insert(soon);
    }

    /// Looks up what is dirty, has the kernel ask where it should, and publishes.
    async fn pass(&mut self) -> Result<(), NetError> {
        self.due = None;
        let begun = Instant::now();
        let (all, destinations) = match mem::take(&mut self.dirty) {
            Dirty::Some(destinations) => (false, destinations),
            Dirty::All => (true, self.tracked.keys().copied().collect()),
        };
        let mut seen = Seen::default();
        for destination in destinations {
            self.look_up(destination, &mut seen).await?;
        }
        self.publish();
        self.not_before = Instant::now() + (begun.elapsed() * REST).min(LONGEST_REST);
        if all {
            self.recheck_at =
                Instant::now() + (begun.elapsed() * RECHECK_REST).clamp(RECHECK, LONGEST_RECHECK);
        }
        Ok(())
    }

    async fn look_up(&mut self, destination: IpAddr, seen: &mut Seen) -> Result<(), NetError> {
        let netlink = &self.sockets.requests;
        let path = path_to(netlink, seen, destination).await?;
        let Some(tracked) = self.tracked.get_mut(&destination) else { return Ok(()) };
        let now = Instant::now();
        let before = tracked.outcome;
        tracked.observe(path, now);
        log_change(destination, before, tracked.outcome);
        if let Ok(path) = path
            && tracked.wants_asking(path.neighbour, now)
        {
            tracked.asked = Some(now);
            seen.forget(path.neighbour_key);
            ask(netlink, path.neighbour_key).await?;
        }
        Ok(())
    }

    fn publish(&self) {
        let table: BTreeMap<_, _> =
            self.tracked.iter().map(|(destination, tracked)| (*destination, tracked.outcome.ok())).collect();
        self.publish.send_if_modified(|published| {
            let changed = **published != table;
            if changed {
                *published = Arc::new(table);
            }
            changed
        });
    }
}

/// A refusal (the interface just went, the table is full) or no answer concerns one neighbour: tried again
/// later.
async fn ask(netlink: &Netlink, key: NeighbourKey) -> Result<(), NetError> {
    match ask_neighbour(netlink, key).await {
        Err(error @ (NetError::Refused { .. } | NetError::Timeout { .. })) => {
            warn!(error = &error as &dyn std::error::Error, "neighbour not asked");
            Ok(())
        }
        other => other,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn log_change(destination: IpAddr, from: Result<NextHop, Unresolved>, to: Result<NextHop, Unresolved>) {
    match (from, to) {
        (from, to) if from == to => {}
        (Ok(from), Ok(to)) => info!(%destination, %from, %to, "next hop changed"),
        (Err(from), Ok(to)) => info!(%destination, %from, %to, "next hop found"),
        (Ok(from), Err(to)) => warn!(%destination, %from, %to, "next hop lost"),
        (Err(from), Err(to)) => info!(%destination, %from, %to, "no next hop"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_destination_without_a_readable_answer_does_not_end_the_pass() {
        let destination: IpAddr = "192.0.2.21".parse().unwrap();
        let sockets =
            Sockets { requests: Netlink::mute().unwrap(), notifications: Notifications::open().unwrap() };
        let (_wanted, wanted) = watch::channel(BTreeSet::from([destination]));
        let (publish, table) = watch::channel(NextHopTable::default());
        let mut watcher = Watcher::new(sockets, wanted, publish);
        watcher.track_wanted();
        watcher.pass().await.unwrap();
        assert_eq!(watcher.tracked[&destination].outcome, Err(Unresolved::NoAnswer));
        assert_eq!(**table.borrow(), BTreeMap::from([(destination, None)]));
    }
}
