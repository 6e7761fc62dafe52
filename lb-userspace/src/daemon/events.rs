//! Everything that reaches the loop.

use std::{future::pending, io, time::Duration};

use anyhow::anyhow;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until},
};

use super::{exchange::Word, links, probes::PeerNews, reload::Prepared};
use crate::{
    api::Request,
    core::{ids::BackendId, peers::PeerId},
    net::watch::NextHopTable,
    probe::Report,
};

/// How often maps that could not be written are tried again.
const CATCH_UP: Duration = Duration::from_secs(1);

/// How often idle flows are swept: far more often than their age wraps (19.5 hours).
const SWEEP: Duration = Duration::from_secs(600);

/// Events of one kind that may wait for the loop.
const QUEUE: usize = 16;

/// Results of checks that may wait for the loop: as many as come while it writes the maps of a node with 10,000 backends.
/// Where there is no room, checks are late.
const RESULTS: usize = 16_384;

/// After it has taken results the loop lets others come together for so long, or for as long as those have kept it busy: to
/// be woken costs more than a result, and what all backends of a service change at once is one table.
const GATHER: Duration = Duration::from_millis(5);

/// But not longer than this.
const LONGEST_GATHER: Duration = Duration::from_millis(500);

/// One thing that happened.
pub(super) enum Event {
    /// Checks of backends finished.
    Backends(Vec<Report<BackendId>>),
    /// Checks of peers finished.
    Peers(Vec<Report<PeerId>>),
    /// A peer said whether it serves.
    Word(Word),
    /// Somebody asks on the control socket.
    Request(Request),
    /// Next hops changed.
    Hops(NextHopTable),
    /// The interfaces were looked at.
    Links(links::Reading),
    /// Time to try again what failed.
    CatchUp,
    /// Time to free idle flows.
    Sweep,
    /// SIGHUP.
    HangUp,
    /// The configuration's file has changed.
    FileChanged,
    /// The configuration was read again.
    Prepared(Box<Prepared>),
    /// SIGTERM or SIGINT.
    Signal,
    /// A task ended on which the daemon depends. Comes once for each.
    Ended(anyhow::Error),
}

/// Where events come from.
pub(super) struct Events {
    backends: Results<BackendId>,
    peers: Results<PeerId>,
    words: mpsc::Receiver<Word>,
    requests: mpsc::Receiver<Request>,
    prepared: mpsc::Receiver<Box<Prepared>>,
    file_changes: mpsc::Receiver<()>,
    /// `None` once nobody watches next hops any more.
    hops: Option<watch::Receiver<NextHopTable>>,
    /// `None` once nobody looks at the interfaces any more.
    links: Option<mpsc::Receiver<links::Reading>>,
    catch_up: Interval,
    sweep: Interval,
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// The other ends, for the tasks that something happens to.
pub(super) struct Senders {
    pub(super) backends: mpsc::Sender<Report<BackendId>>,
    pub(super) peers: PeerNews,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) prepared: mpsc::Sender<Box<Prepared>>,
    pub(super) file_changes: mpsc::Sender<()>,
}

impl Events {
    /// Both ends. Signals are caught from now on.
    pub(super) fn new(hops: watch::Receiver<NextHopTable>) -> io::Result<(Senders, Events)> {
        let (backend_reports, backends) = Results::new();
        let (peer_reports, peers) = Results::new();
        let (peer_words, words) = mpsc::channel(QUEUE);
        let (ask, requests) = mpsc::channel(QUEUE);
        let (prepare, prepared) = mpsc::channel(QUEUE);
        let (file_changed, file_changes) = mpsc::channel(QUEUE);
        let senders = Senders {
            backends: backend_reports,
            peers: PeerNews { reports: peer_reports, words: peer_words },
            requests: ask,
            prepared: prepare,
            file_changes: file_changed,
        };
        let events = Events {
            backends,
            peers,
            words,
            requests,
            prepared,
            file_changes,
            hops: Some(hops),
            links: Some(links::watch()),
            catch_up: every(CATCH_UP),
            sweep: every(SWEEP),
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        };
        Ok((senders, events))
    }

    /// The next one. Cancelling loses nothing.
    pub(super) async fn next(&mut self) -> Event {
        tokio::select! {
            Some(reports) = self.backends.next() => Event::Backends(reports),
            Some(reports) = self.peers.next() => Event::Peers(reports),
            Some(word) = self.words.recv() => Event::Word(word),
            Some(request) = self.requests.recv() => Event::Request(request),
            event = hops(&mut self.hops) => event,
            event = readings(&mut self.links) => event,
            _ = self.catch_up.tick() => Event::CatchUp,
            _ = self.sweep.tick() => Event::Sweep,
            () = caught(&mut self.terminate) => Event::Signal,
            Some(prepared) = self.prepared.recv() => Event::Prepared(prepared),
            Some(()) = self.file_changes.recv() => Event::FileChanged,
            () = caught(&mut self.interrupt) => Event::Signal,
            () = caught(&mut self.hang_up) => Event::HangUp,
        }
    }

    /// Forgets what checks of backends have found and nobody has heard of yet.
    pub(super) fn forget_backends(&mut self) {
        while self.backends.reports.try_recv().is_ok() {}
    }
}

/// Results of checks, which are taken together.
struct Results<Id> {
    reports: mpsc::Receiver<Report<Id>>,
    /// When the last ones were handed out; `None` once it is known how long they took.
    taken: Option<Instant>,
    /// Until then others may come.
    rest_until: Instant,
}

impl<Id> Results<Id> {
    fn new() -> (mpsc::Sender<Report<Id>>, Results<Id>) {
        let (sender, reports) = mpsc::channel(RESULTS);
        (sender, Results { reports, taken: None, rest_until: Instant::now() })
    }

    /// All that have come; `None` when no check runs that could send one. Cancelling loses nothing.
    async fn next(&mut self) -> Option<Vec<Report<Id>>> {
        if let Some(taken) = self.taken.take() {
            self.rest_until = Instant::now() + taken.elapsed().clamp(GATHER, LONGEST_GATHER);
        }
        sleep_until(self.rest_until).await;
        let mut found = Vec::new();
        let count = self.reports.recv_many(&mut found, RESULTS).await;
        self.taken = Some(Instant::now());
        (count > 0).then_some(found)
    }
}

async fn hops(source: &mut Option<watch::Receiver<NextHopTable>>) -> Event {
    let Some(table) = source else { return pending().await };
    if table.changed().await.is_ok() {
        return Event::Hops(table.borrow_and_update().clone());
    }
    *source = None;
    Event::Ended(anyhow!("the watch of next hops ended"))
}

async fn readings(source: &mut Option<mpsc::Receiver<links::Reading>>) -> Event {
    let Some(readings) = source else { return pending().await };
    if let Some(reading) = readings.recv().await {
        return Event::Links(reading);
    }
    *source = None;
    Event::Ended(anyhow!("the watch of interfaces ended"))
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn caught(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn the_end_of_a_watch_is_told_once() {
        let (publish, table) = watch::channel(NextHopTable::default());
        let mut source = Some(table);
        publish.send_replace(NextHopTable::default());
        assert!(matches!(hops(&mut source).await, Event::Hops(_)));
        drop(publish);
        assert!(matches!(hops(&mut source).await, Event::Ended(_)));
        assert!(hops(&mut source).now_or_never().is_none());

        let (send, receive) = mpsc::channel(1);
        let mut source = Some(receive);
        assert!(readings(&mut source).now_or_never().is_none());
        drop(send);
        assert!(matches!(readings(&mut source).await, Event::Ended(_)));
        assert!(readings(&mut source).now_or_never().is_none());
    }
}
