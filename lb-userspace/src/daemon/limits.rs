//! Limits of this process, and its memory.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// Allows as many open files as may be allowed: sockets of checks and DNS clients add up to more than the
/// usual 1,024. Without it usher works, within that limit.
pub(super) fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "cannot raise the limit of open files");
    }
}

/// What is at least so large gets pages of its own, which go back to the kernel with it. A Maglev table of up to 16 backends is
/// smaller: it would take nine pages, and need eight and some bytes of them.
const LARGE: libc::c_int = 48 << 10;

/// Places from which threads take memory: what is free in one serves no thread of another.
const ARENAS: libc::c_int = 2;

/// Keeps large buffers that come and go, Maglev tables of many backends among them, from leaving holes between small ones that
/// stay. glibc would do so only for larger ones.
pub(super) fn map_large_buffers() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets numbers of the allocator's.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

/// Gives memory that is free back to the kernel: reading a large configuration takes several times what is kept of it.
pub(super) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: concerns memory that the allocator has and nobody else.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_open_files_as_may_be() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(1_024) - 1, hard).unwrap();
        raise_open_files();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    }
}
