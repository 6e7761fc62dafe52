//! What an object that was built to log decisions has to say; the ordinary one has no such map.

use std::os::fd::AsRawFd as _;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

/// The map of aya-log.
pub(super) const LOGS: &str = "AYA_LOGS";

/// Passes on to our own log what the programs of this load log, until the result is dropped. `None` for the
/// ordinary object, and where no runtime is.
pub(super) fn follow(ebpf: &mut Ebpf) -> Option<AbortOnDropHandle<()>> {
    ebpf.map(LOGS)?;
    let runtime = Handle::try_current().ok()?;
    let logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "cannot read what the program logs");
            return None;
        }
    };
    Some(AbortOnDropHandle::new(runtime.spawn(async move {
        let descriptor = logger.as_raw_fd();
        // SAFETY: a logger has the same descriptor, and keeps it open, as long as it lives.
        let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
        let Ok(mut logger) = logger else {
            warn!(descriptor, "cannot wait for what the program logs");
            return;
        };
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    })))
}
