//! A task that should run until it is told to stop.

use std::{future::pending, io};

use anyhow::{Context as _, anyhow};
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

    /// Waits until the task ends although nobody stopped it, and says why; for ever when there is none.
    /// Takes the task away then. Cancelling loses nothing.
    pub(super) async fn end_of(task: &mut Option<Task>) -> anyhow::Error {
        let Some(Task { name, handle, .. }) = task else { return pending().await };
        let (name, ended) = (*name, handle.await);
        *task = None;
        match ended {
            Ok(Ok(())) => anyhow!("{name} ended by itself"),
            Ok(Err(error)) => anyhow::Error::new(error).context(format!("{name} ended")),
            Err(panic) => anyhow::Error::new(panic).context(format!("{name} ended")),
        }
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
    async fn an_end_that_nobody_wanted_is_told_once() {
        async fn panics() -> io::Result<()> {
            panic!("a bug")
        }
        async fn fails() -> io::Result<()> {
            Err(io::Error::other("no more"))
        }
        async fn ends() -> io::Result<()> {
            Ok(())
        }
        for (task, expected) in [
            (Task::start("the DNS server", |_| panics()), "the DNS server ended: task"),
            (Task::start("the DNS server", |_| fails()), "the DNS server ended: no more"),
            (Task::start("the DNS server", |_| ends()), "the DNS server ended by itself"),
        ] {
            let mut task = Some(task);
            let error = format!("{:#}", Task::end_of(&mut task).await);
            assert!(error.starts_with(expected), "{error}");
            assert!(task.is_none());
        }
    }

    #[tokio::test]
    async fn a_task_that_runs_ends_when_it_is_stopped() {
        let mut task = Some(Task::start("the API", async |stop: StopSignal| {
            stop.wait().await;
            Ok(())
        }));
        tokio::select! {
            biased;
            error = Task::end_of(&mut task) => panic!("{error:#}"),
            () = tokio::task::yield_now() => {}
        }
        task.expect("it runs").stop().await.expect("it ends well");
    }
}
