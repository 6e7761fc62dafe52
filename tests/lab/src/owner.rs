//! One lab per machine: who uses it.

use std::{
    fs, process,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, bail};

use crate::configs::state;

/// Held by the thread whose lab stands; tests of one program take turns.
static TURN: Mutex<()> = Mutex::new(());

/// The right to use the machine's lab, until dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _turn: MutexGuard<'static, ()>,
}

/// Waits for other threads; refuses while another process uses the lab.
///
/// # Errors
/// Names the process.
pub(crate) fn take() -> Result<Turn> {
    // A test that panicked has left nothing that the next `up` would not remove.
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((pid, command)) = other() {
        bail!("process {pid} (`{command}`) uses the lab; wait for it, or run `cargo xtask lab down`");
    }
    Ok(Turn { _turn: turn })
}

impl Turn {
    /// Writes down that this process uses the lab.
    pub(crate) fn sign(&self) -> Result<()> {
        fs::create_dir_all(state("")).context("state folder of the lab")?;
        fs::write(state("owner"), process::id().to_string()).context("state folder of the lab")
    }
}

/// Leaves the lab standing for whoever comes.
pub(crate) fn leave() {
    let _ = fs::remove_file(state("owner"));
}

/// The process that has signed.
pub(crate) fn signed() -> Option<u32> {
    fs::read_to_string(state("owner")).ok()?.trim().parse().ok()
}

/// Another process that uses the lab and is alive.
fn other() -> Option<(u32, String)> {
    let pid = signed()?;
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    let command = command.replace('\0', " ").trim().to_owned();
    (pid != process::id() && !command.is_empty()).then_some((pid, command))
}
