//! A backend host and a neighbour, each a network namespace, and `usher backend` on the host.

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use lb_userspace::net::sysctl;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::net_lab::Namespace;

pub(crate) const VIP_V4: &str = "192.0.2.11";
pub(crate) const VIP_V6: &str = "2001:db8:1::11";
pub(crate) const HOST_V4: &str = "203.0.113.21";
pub(crate) const HOST_V6: &str = "2001:db8:2::21";

/// The usual arguments.
pub(crate) const BASE: &[&str] = &["--interface", "eth0", "--vip", VIP_V4, "--vip", VIP_V6];

const LIMIT: Duration = Duration::from_secs(10);

/// A backend host with `eth0`, cabled to a neighbour's `eth0`.
pub(crate) struct Host {
    pub(crate) namespace: Namespace,
    pub(crate) neighbour: Namespace,
    state: TempDir,
}

impl Host {
    pub(crate) fn new() -> Host {
        let (namespace, neighbour) = (Namespace::new(), Namespace::new());
        namespace.connect("eth0", &neighbour, "eth0");
        namespace.address("eth0", &["203.0.113.21/24", "2001:db8:2::21/64"]);
        neighbour.address("eth0", &["203.0.113.1/24", "2001:db8:2::1/64"]);
        Host { namespace, neighbour, state: tempfile::tempdir().unwrap() }
    }

    /// `usher backend VERB ARGUMENTS`, to its end.
    pub(crate) fn usher(&self, verb: &str, arguments: &[&str]) -> Output {
        self.namespace.inside(|| self.command(self.state.path(), verb, arguments).output().unwrap())
    }

    /// `usher backend run`, until it has set the host up.
    pub(crate) fn run(&self, arguments: &[&str]) -> Running {
        let child = self.namespace.inside(|| {
            let mut command = self.command(self.state.path(), "run", &[BASE, arguments].concat());
            command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        });
        let running = Running { child };
        until("the host is set up", || {
            let record = &self.status()?["record"];
            let ready = record["ready"] == true && record["pid"] == running.child.id();
            ready.then_some(())
        });
        running
    }

    /// What `status` says; `None` before anything was done.
    pub(crate) fn status(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.usher("status", &["--json"]).stdout).ok()
    }

    /// As [`Host::usher`], with a record elsewhere.
    pub(crate) fn usher_elsewhere(&self, verb: &str, arguments: &[&str]) -> Output {
        let state = tempfile::tempdir().unwrap();
        self.namespace.inside(|| self.command(state.path(), verb, arguments).output().unwrap())
    }

    /// The kinds of what `check` finds wrong; its exit code must agree.
    pub(crate) fn wrong(&self, arguments: &[&str]) -> Vec<String> {
        let output = self.usher("check", &[arguments, &["--json"]].concat());
        let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let wrong: Vec<String> = findings
            .as_array()
            .unwrap()
            .iter()
            .filter(|finding| finding["weight"] == "wrong")
            .map(|finding| finding["kind"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(output.status.code(), Some(i32::from(!wrong.is_empty())), "{wrong:?}");
        wrong
    }

    /// Sets a kernel setting of the host and gives what it was.
    pub(crate) fn set(&self, key: &str, value: &str) -> String {
        self.namespace.inside(|| {
            let before = sysctl::read(key).unwrap();
            sysctl::write(key, value).unwrap();
            before
        })
    }

    /// Everything that `usher backend` may change, as text.
    pub(crate) fn snapshot(&self) -> String {
        let addresses = self.namespace.ip("-o address show");
        let links = self.namespace.ip("-o link show eth0");
        let sysctls = self.namespace.inside(|| {
            ["all", "default", "lo", "eth0"]
                .iter()
                .flat_map(|interface| {
                    ["arp_ignore", "arp_announce", "rp_filter"]
                        .map(|name| format!("net/ipv4/conf/{interface}/{name}"))
                })
                .map(|key| format!("{key} = {}\n", sysctl::read(&key).unwrap()))
                .collect::<String>()
        });
        addresses + &links + &sysctls
    }

    fn command(&self, state: &Path, verb: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
        command.args(["backend", verb, "--state"]).arg(state).args(arguments);
        command
    }
}

/// A running `usher backend run`; killed when dropped.
pub(crate) struct Running {
    child: Child,
}

impl Running {
    /// Sends a signal and waits for the end; the exit code, `None` after a kill.
    pub(crate) fn end(mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
        self.child.wait().unwrap().code()
    }

    /// Waits for the end.
    pub(crate) fn wait(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until there is an answer.
pub(crate) fn until<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < end, "{what}: not within {LIMIT:?}");
        sleep(Duration::from_millis(20));
    }
}
