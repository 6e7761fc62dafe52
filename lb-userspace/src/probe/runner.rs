//! Runs a probe again and again: one task per checked thing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::Probe;
use crate::{
    config::Timing,
    core::{
        check::CheckResult,
        health::{self, Pace},
    },
};

/// A result and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report<Id> {
    /// As given to [`start`].
    pub id: Id,
    /// What the check found.
    pub result: CheckResult,
    /// How much later than due it began.
    pub late: Duration,
}

/// A running check. Dropping it ends the check: no report is sent after that, though one that was
/// sent before may still wait in the channel.
#[derive(Debug)]
#[must_use = "dropping it ends the check"]
pub struct Handle {
    task: JoinHandle<()>,
    wishes: Arc<Wishes>,
}

impl Handle {
    /// Runs it at once; if it runs already, once more after that.
    pub fn check_now(&self) {
        self.wishes.at_once.store(true, Ordering::Relaxed);
        self.wishes.told.notify_one();
    }

    /// Leaves its runs out from now on, or no longer; says whether that is new. Its rhythm goes on meanwhile, and a run that is
    /// under way is finished.
    pub fn set_paused(&self, paused: bool) -> bool {
        self.wishes.paused.swap(paused, Ordering::Relaxed) != paused
    }

    /// Runs it at this pace from now on; the run that is awaited comes at that pace too.
    pub fn set_pace(&self, pace: Pace) {
        let is_fast = pace == Pace::Fast;
        if self.wishes.fast.swap(is_fast, Ordering::Relaxed) != is_fast {
            self.wishes.told.notify_one();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a running check is told.
#[derive(Debug, Default)]
struct Wishes {
    fast: AtomicBool,
    at_once: AtomicBool,
    paused: AtomicBool,
    told: Notify,
}

impl Wishes {
    fn pace(&self) -> Pace {
        if self.fast.load(Ordering::Relaxed) { Pace::Fast } else { Pace::Usual }
    }
}

/// Runs the probe in the rhythm of `timing`, until the handle is dropped or nobody receives the
/// reports any more. The first run comes after [`health::first_check`], the others
/// [`health::next_check`] after the start of the one before, or at once where that took longer.
/// Must be called inside a tokio runtime.
pub fn start<Id>(
    id: Id,
    probe: Probe,
    timing: impl Into<Arc<Timing>>,
    reports: mpsc::Sender<Report<Id>>,
) -> Handle
where
    Id: Clone + Send + 'static,
{
    let timing = timing.into();
    start_after(health::first_check(&timing, rand::random()), id, probe, timing, reports)
}

/// The same, with the first run after `first`.
pub fn start_after<Id>(
    first: Duration,
    id: Id,
    mut probe: Probe,
    timing: impl Into<Arc<Timing>>,
    reports: mpsc::Sender<Report<Id>>,
) -> Handle
where
    Id: Clone + Send + 'static,
{
    let timing = timing.into();
    let wishes = Arc::new(Wishes::default());
    let told = wishes.clone();
    // There may be ten thousand of these, and they wait nearly always: what a run needs is in a box, and the wait is written
    // out here, since a function's future would hold what it is given twice.
    let task = tokio::spawn(async move {
        let mut due = Instant::now() + first;
        sleep_until(due).await;
        loop {
            let mut earliest = Instant::now();
            if !told.paused.load(Ordering::Relaxed) {
                let late = due.elapsed();
                let result = Box::pin(probe.run_once()).await;
                earliest = Instant::now();
                let Ok(place) = reports.reserve().await else { return };
                place.send(Report { id: id.clone(), result, late });
            }

            let (begun, random) = (due, rand::random());
            loop {
                if told.at_once.swap(false, Ordering::Relaxed) {
                    due = earliest;
                    break;
                }
                due = earliest.max(begun + health::next_check(&timing, told.pace(), random));
                tokio::select! {
                    () = sleep_until(due) => break,
                    // What it is told now could not be done sooner.
                    () = told.told.notified() => earliest = Instant::now(),
                }
            }
        }
    });
    Handle { task, wishes }
}
