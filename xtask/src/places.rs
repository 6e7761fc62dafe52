//! Where things are.

use std::{env, path::PathBuf};

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap_or_else(|_| PathBuf::from("."))
}

/// Logs of long commands.
pub(crate) fn logs() -> PathBuf {
    root().join("target/xtask")
}

/// Tools that only this project needs.
pub(crate) fn tools() -> PathBuf {
    env::var_os("USHER_TOOLS").map_or_else(|| cache().join("tools"), PathBuf::from)
}

/// Kernels to test on: `<version>/vmlinuz`.
pub(crate) fn kernels() -> PathBuf {
    cache().join("kernels")
}

fn cache() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache");
    env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("usher")
}

/// The program's path, searched as a shell would, and in the folders of system programs, which not
/// every user has in `PATH`.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&folders).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}
