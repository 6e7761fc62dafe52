//! Daemons in namespaces: start, find, kill.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    command::{check, text},
    host::Host,
    wait::until,
};

/// A process that runs in a host's namespace.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// The program's name as the kernel keeps it: at most 15 characters.
    pub(crate) name: String,
}

/// How a process is ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Signal {
    /// Asked to stop.
    Term,
    /// Ended.
    Kill,
    /// Frozen.
    Stop,
    /// Goes on.
    Continue,
}

/// Starts `command` so that it outlives us and Ctrl-C on our terminal; its output goes to `log`.
pub(crate) fn spawn(mut command: Command, log: &Path) -> Result<()> {
    let file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("log {}", log.display()))?;
    let errors = file.try_clone().with_context(|| format!("log {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run `{}`", text(&command)))?;
    // Somebody must collect it when it ends, or it stays as a zombie for as long as we live.
    thread::spawn(move || child.wait());
    Ok(())
}

/// The processes in a host's namespace; none when there is no such namespace.
pub(crate) fn list(namespace: &str) -> Vec<Process> {
    let Ok(pids) = check(Command::new("ip").args(["netns", "pids", namespace]), "here") else {
        return Vec::new();
    };
    let process = |pid: u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(Process { pid, name: name.trim_end().to_owned() })
    };
    pids.split_whitespace().filter_map(|pid| process(pid.parse().ok()?)).collect()
}

/// The processes called `name` on `host`.
pub(crate) fn named(host: Host, name: &str) -> Vec<Process> {
    list(&host.namespace()).into_iter().filter(|process| process.name == name).collect()
}

/// Ends the processes called `name` on `host` and waits until they are gone.
///
/// # Errors
/// When none runs, and when they do not go.
pub(crate) fn end(host: Host, name: &str, signal: Signal) -> Result<()> {
    let processes = named(host, name);
    if processes.is_empty() {
        bail!("no {name} runs on {host}");
    }
    self::signal(signal, &processes)?;
    until(&format!("{name} on {host} is gone"), Duration::from_secs(10), || match named(host, name).len() {
        0 => Ok(()),
        left => bail!("{left} processes are left"),
    })
}

/// Kills everything in a namespace and waits until it is gone.
pub(crate) fn end_all(namespace: &str) -> Result<()> {
    until(&format!("{namespace} is empty"), Duration::from_secs(10), || {
        let processes = list(namespace);
        if processes.is_empty() {
            return Ok(());
        }
        signal(Signal::Kill, &processes)?;
        bail!("{} processes are left", processes.len())
    })
}

/// Sends a signal; processes that are gone meanwhile do not matter.
pub(crate) fn signal(signal: Signal, processes: &[Process]) -> Result<()> {
    let signal = match signal {
        Signal::Term => "TERM",
        Signal::Kill => "KILL",
        Signal::Stop => "STOP",
        Signal::Continue => "CONT",
    };
    let pids: Vec<_> = processes.iter().map(|process| process.pid.to_string()).collect();
    // The shell's own `kill`: the program of that name is not on every machine.
    check(
        Command::new("sh").args(["-c", &format!("kill -{signal} {} 2>/dev/null || true", pids.join(" "))]),
        "here",
    )?;
    Ok(())
}
