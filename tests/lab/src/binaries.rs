//! Where the built programs are.

use std::{env, path::PathBuf};

use anyhow::{Context, Result, ensure};

/// The balancer itself.
pub const USHER: &str = "usher";

/// The UDP echo of the backends and its client.
pub const UDP: &str = "usher-lab-udp";

/// The QUIC echo of the backends and its client.
pub const QUIC: &str = "usher-lab-quic";

/// Finds a program of this workspace beside the running one.
///
/// # Errors
/// Says which command builds it when it is not there.
pub fn find(name: &str) -> Result<PathBuf> {
    let path = folder()?.join(name);
    ensure!(path.is_file(), "{} is not built: run `{}`", path.display(), build(name));
    Ok(path)
}

/// Where cargo puts programs: `target/debug` for `target/debug/xtask` and `target/debug/deps/lab-…`.
fn folder() -> Result<PathBuf> {
    let program = env::current_exe().context("own path")?;
    let folder = program.parent().context("own folder")?;
    let inner = folder.ends_with("deps") || folder.ends_with("examples");
    Ok(if inner { folder.parent().context("target folder")? } else { folder }.to_owned())
}

fn build(name: &str) -> String {
    let package = match name {
        USHER => "lb-userspace",
        QUIC => QUIC,
        _ => "usher-lab",
    };
    format!("cargo build -p {package} --bin {name}")
}

/// `PATH` with this workspace's programs first, and the system's folders, which not every user has in it.
pub(crate) fn search_path() -> String {
    let own = folder().map(|folder| folder.display().to_string() + ":").unwrap_or_default();
    let inherited = env::var("PATH").unwrap_or_default();
    format!("{own}{inherited}:/usr/sbin:/usr/bin:/sbin:/bin")
}
