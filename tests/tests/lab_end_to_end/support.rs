//! What the checks share: the standing lab, the nodes' status, background commands, limits.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    env, fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use lb_userspace::{
    config::{Config, Timing},
    explain::Explanation,
    status::{self, Status},
};
use libtest_mimic::Failed;
use usher_lab::{Connection, Connections, Family, Forward, Host, Lab, NewConnections, Options, until};

/// A check.
pub(crate) type Body = fn(&Lab) -> Result<()>;

/// Everything recovers within this, or it is broken.
pub(crate) const RECOVERY: Duration = Duration::from_secs(20);

/// How much longer than planned something may take on a busy machine.
pub(crate) const SLACK: Duration = Duration::from_millis(1_500);

thread_local! {
    /// The lab that the last check left well.
    static STANDING: RefCell<Option<Lab>> = const { RefCell::new(None) };
}

/// Makes a check in a lab of that shape, and makes sure that it leaves the lab well.
pub(crate) fn in_lab(options: &Options, body: Body) -> Result<(), Failed> {
    let lab = match STANDING.take() {
        Some(lab) if lab.options() == options => lab,
        other => {
            drop(other);
            Lab::up(options).map_err(|error| format!("{error:#}"))?
        }
    };
    // Whatever it does, panics included, a failed check drops the lab.
    body(&lab).and_then(|()| expect_well(&lab)).map_err(|error| describe(&lab, &error))?;
    STANDING.set(Some(lab));
    Ok(())
}

/// Removes the lab that the last check used.
pub(crate) fn remove_lab() {
    drop(STANDING.take());
}

fn expect_well(lab: &Lab) -> Result<()> {
    lab.verify()?;
    if lab.options().run_usher { lab.wait_all_well(RECOVERY) } else { Ok(()) }
}

/// The error with what the nodes logged.
fn describe(lab: &Lab, error: &anyhow::Error) -> Failed {
    let mut text = format!("{error:#}");
    for node in 1..=lab.options().nodes {
        let log = lab.node_log(node).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(40)..];
        text += &format!("\n\nlog of usher on node{node}, the end:\n{}", tail.join("\n"));
    }
    text.into()
}

/// The whole of what a node says of itself.
pub(crate) fn status(lab: &Lab, node: u8) -> Result<Status> {
    let json = lab.run(Host::Node(node), &["usher", "status", "--json"])?;
    serde_json::from_str(&json).context("`usher status --json` is not a status")
}

/// A service of a status.
pub(crate) fn service<'a>(status: &'a Status, name: &str) -> Result<&'a status::Service> {
    let found = status.services.iter().find(|service| service.name == name);
    found.with_context(|| format!("no service {name}"))
}

/// The backends of a service in one family.
pub(crate) fn backends<'a>(
    status: &'a Status,
    name: &str,
    family: Family,
) -> Result<Vec<&'a status::Backend>> {
    let backends = service(status, name)?.backends.iter();
    Ok(backends.filter(|backend| family_of(backend.address) == family).collect())
}

/// A sum over the families of a backend of the service `web`, as a node sees it.
pub(crate) fn sum(lab: &Lab, node: u8, backend: u8, of: fn(&status::Backend) -> u64) -> Result<u64> {
    let status = status(lab, node)?;
    let name = Host::Backend(backend).to_string();
    Ok(service(&status, "web")?.backends.iter().filter(|backend| backend.name == name).map(of).sum())
}

/// What the program in a node's kernel would do with a flow.
pub(crate) fn explain(
    lab: &Lab,
    node: u8,
    from: SocketAddr,
    to: SocketAddr,
    protocol: &str,
) -> Result<Explanation> {
    let (from, to) = (from.to_string(), format!("{to}/{protocol}"));
    let json = lab.run(Host::Node(node), &["usher", "explain", "--json", "--from", &from, "--to", &to])?;
    serde_json::from_str(&json).context("`usher explain --json` is not an explanation")
}

/// The interface by which nodes reach backends: in tunnels they do so through the router.
pub(crate) fn way_out(lab: &Lab) -> &'static str {
    match lab.options().forward {
        Forward::Nat | Forward::DsrL2 => "back",
        Forward::DsrIpip | Forward::DsrGue => "front",
    }
}

/// Where a service is on a node.
pub(crate) fn vip(lab: &Lab, node: u8, family: Family, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(lab.address(Host::Node(node))?.of(family), port))
}

/// The client with a port of its own.
pub(crate) fn client(lab: &Lab, family: Family, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(lab.address(Host::Client)?.of(family), port))
}

pub(crate) fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// The configuration that a node runs with.
pub(crate) fn config(lab: &Lab, node: u8) -> Result<Config> {
    Ok(Config::load(&lab.node_config(node))?)
}

/// How a service's backends are checked.
pub(crate) fn check_timing(lab: &Lab, name: &str) -> Result<Timing> {
    let config = config(lab, 1)?;
    let found = config.services.iter().find(|service| &*service.name == name);
    Ok(found.with_context(|| format!("no service {name}"))?.check.timing)
}

/// The longest that `count` checks in a row take: the longest wait before each, the last one's timeout.
pub(crate) fn checks_take(count: u32, timing: &Timing) -> Duration {
    timing.interval.mul_f32(1.0 + timing.jitter) * count + timing.timeout
}

/// Waits until every node sees a backend so; gives how long after `since` the last one did.
pub(crate) fn wait_health(
    lab: &Lab,
    backend: u8,
    health: &str,
    since: Instant,
    limit: Duration,
) -> Result<Duration> {
    let name = Host::Backend(backend).to_string();
    until(&format!("every node sees {name} {health}"), limit, || {
        (1..=lab.options().nodes).try_for_each(|node| lab.status(node)?.expect_health(&name, health))
    })?;
    Ok(since.elapsed())
}

/// Long-lived connections and new ones, over both families and to all nodes, while things happen that nobody may notice.
pub(crate) struct Traffic {
    kept: Connections,
    new: NewConnections,
}

impl Traffic {
    /// Long-lived connections, and how often each asks something.
    const KEPT: usize = 200;
    const RHYTHM: Duration = Duration::from_millis(50);

    /// New connections per second.
    const NEW: u32 = 500;

    /// Lets it begin.
    pub(crate) fn start(lab: &Lab) -> Result<Traffic> {
        let kept = Connections::open_in_rhythm(lab, Self::KEPT, Self::RHYTHM)?;
        Ok(Traffic { kept, new: NewConnections::start(lab, Self::NEW)? })
    }

    /// The long-lived connections.
    pub(crate) fn kept(&self) -> &[Connection] {
        self.kept.all()
    }

    /// Waits until each of the long-lived connections has asked so many times more.
    pub(crate) fn wait_rounds(&self, count: u64) -> Result<()> {
        self.kept.wait_rounds(count)
    }

    /// Ends it. Every connection must have got all its answers, the long-lived ones from the same backend.
    pub(crate) fn expect_nothing_lost(self) -> Result<()> {
        let new = self.new.finish()?;
        self.kept.wait_rounds(1)?;
        let kept = self.kept.finish()?;
        println!(
            "{} answers on {} connections, the slowest after {:?}; {} new connections, the slowest took {:?}",
            kept.answers,
            Self::KEPT,
            kept.slowest,
            new.answers,
            new.slowest
        );
        kept.expect_whole(Self::KEPT, 1)?;
        new.expect_whole(new.broken.len() + new.answers as usize, 1)
    }
}

/// Which backend a page came from: its first line.
pub(crate) fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// Both must be equal, or the text says what they were.
pub(crate) fn expect_equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &T,
    expected: &T,
) -> Result<()> {
    ensure!(found == expected, "{what}: expected {expected:?}, found {found:?}");
    Ok(())
}

/// How much each number grew; a key that is new counts from 0.
pub(crate) fn growth<K: Ord + Clone>(
    before: &BTreeMap<K, u64>,
    after: &BTreeMap<K, u64>,
) -> BTreeMap<K, u64> {
    let grown =
        |(key, value): (&K, &u64)| (key.clone(), value.saturating_sub(before.get(key).copied().unwrap_or(0)));
    after.iter().map(grown).collect()
}

/// An empty file system, mounted with an option of its own; removed when dropped.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// Mounts one of a kind: `tmpfs`, `bpf`. Processes that run already may not see it.
    pub(crate) fn new(kind: &str, option: &str) -> Result<Mounted> {
        let name = format!("usher-{}-{kind}-{}", std::process::id(), option.replace('=', "-"));
        let folder = env::temp_dir().join(name);
        fs::create_dir_all(&folder)?;
        let status = Command::new("mount").args(["-t", kind, "-o", option, kind]).arg(&folder).status()?;
        ensure!(status.success(), "cannot mount {}", folder.display());
        Ok(Mounted(folder))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

/// A command in the background, ended when dropped.
pub(crate) struct Background(Child);

impl Background {
    /// Starts it on a host; what it prints is kept for [`Background::finish`].
    pub(crate) fn start(lab: &Lab, host: Host, command: &[&str]) -> Result<Background> {
        Background::spawn(&mut lab.command(host, command))
    }

    /// Starts it.
    pub(crate) fn spawn(command: &mut Command) -> Result<Background> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Background(command.spawn().with_context(|| format!("cannot run {command:?}"))?))
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> Result<bool> {
        Ok(self.0.try_wait().context("wait")?.is_none())
    }

    /// Sends a signal: `TERM`, `KILL`.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        let kill = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &kill]).status().context("cannot run `sh`")?;
        if status.success() { Ok(()) } else { Err(anyhow!("`{kill}` failed")) }
    }

    /// Waits until it ends by itself, `limit` at most: exit code, standard output and error.
    pub(crate) fn finish(mut self, limit: Duration) -> Result<(Option<i32>, String, String)> {
        let child = &mut self.0;
        until("the command has ended", limit, || child.try_wait().context("wait")?.context("it still runs"))?;
        let code = child.wait().context("wait")?.code();
        let read = |pipe: Option<&mut dyn std::io::Read>| -> Result<String> {
            let mut text = String::new();
            if let Some(pipe) = pipe {
                pipe.read_to_string(&mut text).context("output")?;
            }
            Ok(text)
        };
        let output = read(child.stdout.as_mut().map(|pipe| pipe as _))?;
        let errors = read(child.stderr.as_mut().map(|pipe| pipe as _))?;
        Ok((code, output, errors))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file that a check changes; dropped, it is as it was.
pub(crate) struct Kept {
    path: std::path::PathBuf,
    text: String,
}

impl Kept {
    pub(crate) fn of(path: &std::path::Path) -> Result<Kept> {
        Ok(Kept { path: path.to_owned(), text: std::fs::read_to_string(path)? })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn write(&self, text: &str) -> Result<()> {
        Ok(std::fs::write(&self.path, text)?)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.path, &self.text);
    }
}
