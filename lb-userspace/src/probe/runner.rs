//! Runs a probe again and again: one task per checked thing.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::Probe;
use crate::{
    config::Timing,
    core::{check::CheckResult, health},
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
pub struct Handle(JoinHandle<()>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs the probe in the rhythm of `timing`, until the handle is dropped or nobody receives the
/// reports any more. The first run comes after [`health::first_check`], the others
/// [`health::next_check`] after the start of the one before, or at once where that took longer.
/// Must be called inside a tokio runtime.
pub fn start<Id>(id: Id, mut probe: Probe, timing: Timing, reports: mpsc::Sender<Report<Id>>) -> Handle
where
    Id: Clone + Send + 'static,
{
    Handle(tokio::spawn(async move {
        let mut due = Instant::now() + health::first_check(&timing, rand::random());
        loop {
            sleep_until(due).await;
            let late = due.elapsed();
            let result = probe.run_once().await;
            let ended = Instant::now();
            if reports.send(Report { id: id.clone(), result, late }).await.is_err() {
                return;
            }
            due = ended.max(due + health::next_check(&timing, rand::random()));
        }
    }))
}
