//! Network namespaces for tests of `net`: made, entered and removed.

#![allow(dead_code, clippy::unwrap_used)] // Each test binary uses a part; none of it runs outside tests.

use std::{
    fs::File,
    future::Future,
    process::{Command, id},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use lb_userspace::net::sysctl;
use nix::sched::{CloneFlags, setns};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A network namespace that ends with its owner, also when the test panics.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let name = format!("ushernet-{}-{}", id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run(&format!("ip netns add {name}"));
        let namespace = Self { name };
        namespace.ip("link set lo up");
        // Without duplicate detection IPv6 works as soon as a link is up, not one or two seconds later.
        namespace.inside(|| sysctl::write("net/ipv6/conf/default/accept_dad", "0").unwrap());
        namespace
    }

    /// `ip` in this namespace.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        run(&format!("ip -n {} {arguments}", self.name))
    }

    /// A cable to another namespace: `interface` here, `other_interface` there, both up.
    pub(crate) fn connect(&self, interface: &str, other: &Namespace, other_interface: &str) {
        self.ip(&format!("link add {interface} type veth peer name {other_interface} netns {}", other.name));
        for (namespace, interface) in [(self, interface), (other, other_interface)] {
            namespace.ip(&format!("link set {interface} up"));
        }
    }

    /// Adds addresses; IPv6 ones are usable at once (no duplicate detection).
    pub(crate) fn address(&self, interface: &str, addresses: &[&str]) {
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            self.ip(&format!("address add {address} dev {interface} {nodad}"));
        }
    }

    /// Runs `body` on a thread inside this namespace.
    pub(crate) fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let namespace = File::open(format!("/run/netns/{}", self.name)).unwrap();
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                body()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `body` on a tokio runtime inside this namespace.
    pub(crate) fn inside_runtime<F: Future>(&self, body: impl FnOnce() -> F + Send) -> F::Output
    where
        F::Output: Send,
    {
        self.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(body())
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Not `run`: a panic while another unwinds would abort and leave the rest behind.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

/// Whether the test may make namespaces; says so when not, and fails where skipping is not allowed.
pub(crate) fn privileged() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("USHER_NO_SKIP").is_none_or(|value| value != "1"),
        "not root, and USHER_NO_SKIP=1"
    );
    eprintln!("skipped: needs root for network namespaces");
    false
}

fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command}: {}", text(&output.stderr));
    text(&output.stdout)
}
