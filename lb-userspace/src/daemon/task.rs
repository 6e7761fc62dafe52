//! A task that should run until it is told to stop.

use std::io;

use anyhow::Context as _;
use tokio::{sync::oneshot, task::JoinHandle};

/// The DNS server or the API: what the daemon is not whole without.
pub(super) struct Task {
    name: &'static str,
    stop: oneshot::Sender<()>,
    handle: JoinHandle<io::Result<()>>,
}

impl Task {
    /// Spawns what `run` makes of the signal to stop.
    pub(super) fn start<F>(name: &'static str, run: impl FnOnce(StopSignal) -> F) -> Task
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        Task { name, stop, handle: tokio::spawn(run(StopSignal(stopped))) }
    }

    /// Stops the task and waits for its end.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        drop(self.stop);
        let ended = self.handle.await.with_context(|| format!("{} ended", self.name))?;
        ended.with_context(|| format!("{} ended", self.name))
    }
}

/// Comes when the task is to stop.
pub(super) struct StopSignal(oneshot::Receiver<()>);

impl StopSignal {
    pub(super) async fn wait(self) {
        // Nothing is ever sent: the sender is dropped.
        drop(self.0.await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_runs_ends_when_it_is_stopped() {
        let task = Task::start("the API", async |stop: StopSignal| {
            stop.wait().await;
            Ok(())
        });
        task.stop().await.expect("it ends well");
    }
}
