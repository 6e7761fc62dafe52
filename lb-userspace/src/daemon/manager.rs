//! What the service manager is told (sd_notify(3)): systemd's `Type=notify` and `WatchdogSec=`. Without one, nothing.

use std::{path::Path, process::Command};

use sd_notify::{NotifyState, notify, watchdog_enabled};
use tracing::warn;

/// The service manager, if there is one.
pub(super) struct Manager {
    /// It wants to hear that the loop runs.
    watches: bool,
    /// It was told that the node serves.
    knows_ready: bool,
}

impl Manager {
    pub(super) fn new() -> Manager {
        Manager { watches: watchdog_enabled().is_some(), knows_ready: false }
    }

    /// The node serves, as far as its backends do.
    pub(super) fn ready(&mut self) {
        if !self.knows_ready {
            self.knows_ready = true;
            tell(NotifyState::Ready);
        }
    }

    /// The loop runs. To be told often: a unit that wants to hear it less than every two seconds is well served.
    pub(super) fn alive(&self) {
        if self.watches {
            tell(NotifyState::Watchdog);
        }
    }

    /// The daemon is about to end.
    pub(super) fn stopping(&self) {
        tell(NotifyState::Stopping);
    }
}

/// Whether systemd is about to stop the host: then nobody goes on with the data path.
pub(super) fn host_stops() -> bool {
    // sd_booted(3)
    if !Path::new("/run/systemd/system").exists() {
        return false;
    }
    match Command::new("systemctl").arg("is-system-running").output() {
        Ok(output) => output.stdout.trim_ascii() == b"stopping",
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            warn!(error, "cannot ask systemd whether the host stops; the node stays in DNS");
            false
        }
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = notify(&[state]) {
        warn!(error = &error as &dyn std::error::Error, "the service manager cannot be told");
    }
}
