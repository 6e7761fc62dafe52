//! What the service manager is told (sd_notify(3)): systemd's `Type=notify` and `WatchdogSec=`, and what it keeps open over
//! a restart (`FileDescriptorStoreMax=`). Without one, nothing.

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd},
    path::Path,
    process::Command,
};

use sd_notify::{NotifyState, listen_fds, notify, notify_with_fds, watchdog_enabled};
use tracing::warn;

use crate::dns;

/// The name of what is kept open.
const KEPT: &str = "dns";

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

    /// Has the DNS sockets kept open: queries of the second in which one daemon has ended and the next one does not answer
    /// yet wait there.
    pub(super) fn keep(&self, sockets: &dns::Sockets) {
        let state = [NotifyState::FdStore, NotifyState::FdName(KEPT)];
        said(notify_with_fds(&state, &sockets.descriptors()));
    }

    /// Has them closed: nobody will answer.
    pub(super) fn keep_nothing(&self) {
        said(notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(KEPT)]));
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

/// The sockets that it has kept open for this process (sd_listen_fds(3)). To be called once.
pub(super) fn kept() -> Vec<OwnedFd> {
    let kept = listen_fds().map(|descriptors| {
        // SAFETY: the service manager has opened them for this process, and nobody else here asks for them.
        descriptors.map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }).collect()
    });
    kept.unwrap_or_else(|error| {
        warn!(
            error = &error as &dyn std::error::Error,
            "what the service manager has kept open is not known"
        );
        Vec::new()
    })
}

fn tell(state: NotifyState<'_>) {
    said(notify(&[state]));
}

fn said(result: io::Result<()>) {
    if let Err(error) = result {
        warn!(error = &error as &dyn std::error::Error, "the service manager cannot be told");
    }
}
