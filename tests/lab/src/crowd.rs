//! One node and a crowd of backends, to see how far usher goes.
//!
//! ```text
//!  node1 (usher) ── back ── backend1, which answers for every address of 2001:db8:100::/48
//! ```
//!
//! A cable and two of the lab's hosts: `cargo xtask lab down` removes what a crash left of it.

use std::{
    fs,
    net::{Ipv6Addr, TcpListener},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use nix::sys::{
    socket::{Backlog, listen, setsockopt, sockopt::ReceiveTimeout},
    time::{TimeVal, TimeValLike},
};

use crate::{
    binaries,
    command::{Output, check, finish, ip_batch, on},
    configs::{BPFFS, file, pins, state},
    host::Host,
    lab::{command, ensure_root},
    namespace::inside,
    network::configure_kernel,
    owner::{self, Turn},
    process::{named, spawn},
    raise::{clear, create_folder, log, log_tail, mount, write},
};

const NODE: Host = Host::Node(1);
const BACKENDS: Host = Host::Backend(1);

/// How often the servers look whether they are still wanted.
const RHYTHM: i64 = 100;

/// Processor time of a process since it began.
#[derive(Debug, Clone, Copy)]
pub struct CpuTime {
    /// In its own code.
    pub user: Duration,
    /// In the kernel.
    pub system: Duration,
}

/// A node and its backends. Dropping it removes both.
#[derive(Debug)]
pub struct Crowd {
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
    _turn: Turn,
}

impl Crowd {
    /// The port on which every backend answers.
    pub const PORT: u16 = 80;

    /// The node's address for clients.
    pub const VIP: &str = "2001:db8:1::11";

    /// Raises it, in place of whatever lab an earlier one left. Usher does not run yet.
    ///
    /// # Errors
    /// Without root, when another process uses the lab, and when something does not come up.
    pub fn up() -> Result<Crowd> {
        ensure_root()?;
        let turn = owner::take()?;
        clear()?;
        turn.sign()?;
        let mut crowd = Crowd { stop: Arc::default(), server: None, _turn: turn };
        create_folder(&state(&NODE.to_string()))?;
        mount(&state(BPFFS))?;
        build()?;
        crowd.server = Some(serve(crowd.stop.clone())?);
        Ok(crowd)
    }

    /// The address of a backend; any number has one.
    pub fn backend(number: u32) -> Ipv6Addr {
        let [high, low] = [(number >> 16) as u16, number as u16];
        Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, high, low)
    }

    /// What every configuration begins with: all but the services.
    pub fn config_head() -> String {
        format!(
            r#"version = 1

[node]
name = "{NODE}"
interfaces = ["back"]
addresses = ["{vip}"]
socket = "{socket}"
state_file = "{remembered}"
pin_dir = "{pins}"

[nat]
source = ["{own}"]
"#,
            vip = Crowd::VIP,
            socket = file(NODE, "usher.sock").display(),
            remembered = file(NODE, "state.json").display(),
            pins = pins(NODE).display(),
            own = own(),
        )
    }

    /// Writes the node's configuration.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, config: &str) -> Result<()> {
        write(&file(NODE, "usher.toml"), config)
    }

    /// Starts usher.
    ///
    /// # Errors
    /// When it is not built.
    pub fn start_usher(&self) -> Result<()> {
        let (usher, config) = (binaries::find(binaries::USHER)?, file(NODE, "usher.toml"));
        let words = [&*usher.to_string_lossy(), "run", "--config", &*config.to_string_lossy()];
        spawn(command(NODE, &words), &log(NODE, binaries::USHER))
    }

    /// Runs a verb of usher on the node, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn usher(&self, words: &[&str]) -> Result<Output> {
        finish(&mut command(NODE, &[&[binaries::USHER], words].concat()))
    }

    /// The running daemon's process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> Result<u32> {
        let found = named(NODE, binaries::USHER).first().map(|process| process.pid);
        found.with_context(|| format!("no usher runs on {NODE}{}", self.log()))
    }

    /// The last that the daemon said, for an error.
    pub fn log(&self) -> String {
        log_tail(NODE, binaries::USHER)
    }

    /// Keeps the daemon on the first CPU, or lets it use all.
    ///
    /// # Errors
    /// When it does not run, or there is no `taskset`.
    pub fn keep_on_one_cpu(&self, kept: bool) -> Result<()> {
        let pid = self.pid()?.to_string();
        let cpus = thread::available_parallelism().context("how many CPUs there are")?.get();
        let all = format!("0-{}", cpus - 1);
        let list = if kept { "0" } else { &all };
        check(Command::new("taskset").args(["-a", "-c", "-p", list, &pid]), "here").map(drop)
    }

    /// User and system time that the daemon has taken so far.
    ///
    /// # Errors
    /// When it does not run.
    pub fn cpu_time(&self) -> Result<CpuTime> {
        /// USER_HZ, which is the same on all of usher's systems.
        const TICKS_PER_SECOND: u64 = 100;
        let path = format!("/proc/{}/stat", self.pid()?);
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        // The name, in parentheses, may hold anything; utime and stime are the 14th and 15th field.
        let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
        let times = fields.skip(11).take(2).filter_map(|field| field.parse().ok());
        let times: Vec<_> =
            times.map(|ticks: u64| Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND)).collect();
        let [user, system] = times[..] else { return Err(anyhow!("{path} has another form")) };
        Ok(CpuTime { user, system })
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take()
            && server.join().is_err()
        {
            eprintln!("the crowd's server panicked");
        }
        if let Err(error) = clear() {
            eprintln!("the crowd is not removed: {error:#}");
        }
    }
}

/// The node's address towards the backends.
fn own() -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x11)
}

/// One route for all backends, so one neighbour.
fn build() -> Result<()> {
    let hosts = [NODE, BACKENDS];
    ip_batch(None, &hosts.map(|host| format!("netns add {}", host.namespace())))?;
    hosts.into_iter().try_for_each(configure_kernel)?;
    let [node, backends] = hosts.map(Host::namespace);
    ip_batch(None, &[format!("link add back netns {node} type veth peer name back netns {backends}")])?;
    let (network, gateway) = ("2001:db8:100::/48", "2001:db8:2::21");
    let up = ["link set lo up".to_owned(), "link set back up".to_owned()];
    let own = own();
    let node = [
        format!("address add {own}/64 dev back nodad"),
        format!("address add {}/128 dev back nodad", Crowd::VIP),
        format!("route add {network} via {gateway} src {own}"),
    ];
    let backends =
        [format!("address add {gateway}/64 dev back nodad"), format!("route add local {network} dev lo")];
    ip_batch(Some(NODE), &up.iter().cloned().chain(node).collect::<Vec<_>>())?;
    ip_batch(Some(BACKENDS), &up.into_iter().chain(backends).collect::<Vec<_>>())?;
    receive_elsewhere()
}

/// Has what is sent to the backends received by the machine's last CPU, as another host would: else whoever sends over a
/// cable like this one does the receiver's work, too.
fn receive_elsewhere() -> Result<()> {
    let cpus = thread::available_parallelism().context("how many CPUs there are")?.get();
    // A mask of up to 32 CPUs.
    let last = 1_u32 << (cpus.min(32) - 1);
    let line = format!("echo {last:x} >/sys/class/net/back/queues/rx-0/rps_cpus");
    check(&mut on(BACKENDS, &["sh", "-ec", &line]), &BACKENDS.to_string()).map(drop)
}

/// Accepts every connection, and hangs up.
fn serve(stop: Arc<AtomicBool>) -> Result<JoinHandle<()>> {
    let listener = inside(BACKENDS, || {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, Crowd::PORT)).context("cannot listen")?;
        listen(&listener, Backlog::MAXALLOWABLE).context("cannot make the queue longer")?;
        setsockopt(&listener, ReceiveTimeout, &TimeVal::milliseconds(RHYTHM)).context("timeout")?;
        Ok(listener)
    })?;
    Ok(thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            // Without anybody to accept, the timeout.
            let _ = listener.accept();
        }
    }))
}
