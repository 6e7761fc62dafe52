//! G65, G66: the basics of usher in a small lab, for every way to forward, natively and in generic mode.
//!
//! `cargo xtask test --kernels` runs this program inside other kernels too, emulated and therefore slow: it
//! asks little, and bounds nothing that a slow machine could miss. Without root its tests are ignored; with
//! `USHER_NO_SKIP=1` they fail.

use std::{fs, process::ExitCode, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use lb_userspace::status::{AttachedMode, Status};
use libtest_mimic::{Arguments, Trial};
use usher_lab::{Family, Forward, Host, Lab, Options, XdpMode, can_raise};

/// The only node.
const NODE: u8 = 1;

/// Requests by name in each family.
const REQUESTS: usize = 2;

/// How long usher may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Segments enough that a window opens, and a last one that is not full.
const DOWNLOAD: u64 = 300_001;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The lab belongs to one thread.
    arguments.test_threads = Some(1);
    let ignored = !arguments.list && !can_raise();
    let trials = Forward::ALL.into_iter().map(|forward| {
        let name = format!("g65_g66_native_and_generic::{forward}").replace('-', "_");
        Trial::test(name, move || basics(forward).map_err(|error| format!("{error:#}").into()))
    });
    let trials = trials.map(|trial| trial.with_ignored_flag(ignored)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn basics(forward: Forward) -> Result<()> {
    let lab = Lab::up(&Options { nodes: 1, backends: 2, forward, run_usher: false, ..Options::default() })?;
    let configured = fs::read_to_string(lab.node_config(NODE)).context("usher.toml")?;
    for mode in XdpMode::ALL {
        fs::write(lab.node_config(NODE), slowly(&configured, mode)?).context("usher.toml")?;
        lab.start_usher(NODE)?;
        let result = lab
            .wait_all_well(PATIENCE)
            .and_then(|()| serves(&lab, mode))
            .and_then(|()| is_left_and_taken_over(&lab));
        result.and_then(|()| leaves_nothing(&lab)).map_err(|error| {
            let log = lab.node_log(NODE).unwrap_or_default();
            anyhow!("{mode}: {error:#}\nlog of usher on node{NODE}:\n{log}")
        })?;
    }
    lab.down()?;
    ensure!(Lab::attach().is_err(), "the lab is removed, but still there");
    Ok(())
}

/// The lab's configuration for an emulated machine, to which five checks a second of everything and the
/// counting of a million flows are much work.
fn slowly(configured: &str, mode: XdpMode) -> Result<String> {
    let mut text = configured.to_owned() + "\n[flows]\nmax = 20000\n";
    for (from, to) in [
        ("xdp_mode = \"native\"", format!("xdp_mode = \"{mode}\"")),
        ("interval = \"200ms\", timeout = \"200ms\"", "interval = \"2s\", timeout = \"2s\"".to_owned()),
    ] {
        ensure!(text.contains(from), "the lab's configuration has no `{from}`");
        text = text.replace(from, &to);
    }
    Ok(text)
}

/// The program is attached as configured, and carries everything; its counters say so.
fn serves(lab: &Lab, mode: XdpMode) -> Result<()> {
    let before = status(lab)?;
    let (expected, shown) = match mode {
        XdpMode::Native => (AttachedMode::Native, " xdp "),
        XdpMode::Generic => (AttachedMode::Generic, " xdpgeneric "),
    };
    for interface in &before.interfaces {
        ensure!(interface.xdp_mode == expected, "{} runs {:?}", interface.name, interface.xdp_mode);
    }
    let count = before.interfaces.len();
    ensure!(
        attached(lab, shown)? == count,
        "the kernel shows `{shown}` otherwise than on {count} interfaces"
    );
    for family in Family::ALL {
        requests(lab, family)?;
        download(lab, family)?;
        echo(lab, family)?;
    }
    let reason = lab.options().forward.to_string().replace('-', "_");
    let packets = |status: &Status| status.packets.get(&reason).copied().context("no such reason");
    let grown = packets(&status(lab)?)? - packets(&before)?;
    // In each family SYN, ACK, request, FIN and its ACK for each page, and a datagram.
    let least = 2 * (5 * (REQUESTS as u64 + 1) + 1);
    ensure!(grown >= least, "{reason} counts {grown} packets, of {least} at least");
    Ok(())
}

fn requests(lab: &Lab, family: Family) -> Result<()> {
    let tally = lab.fetch(family, REQUESTS)?;
    ensure!(tally.failures.is_empty(), "{family}: {:?}", tally.failures);
    ensure!(tally.total == REQUESTS, "{family}: {} requests of {REQUESTS} ended", tally.total);
    Ok(())
}

fn download(lab: &Lab, family: Family) -> Result<()> {
    let file = lab.big_file("basics", DOWNLOAD)?;
    let (flag, file) = (family.flag(), file.display());
    let fetch = format!("curl -sSf {flag} -m 60 http://www.example.test/big/basics | cmp - {file}");
    lab.run(Host::Client, &["sh", "-c", &fetch]).map(drop)
}

fn echo(lab: &Lab, family: Family) -> Result<()> {
    let payload = "x".repeat(1_300);
    let answer = lab.ask_udp(&format!("{}:7", bracketed(lab, family)?), &payload, None)?;
    let (backend, echoed) = answer.split_once(' ').unwrap_or_default();
    ensure!(backend.starts_with("backend") && echoed == payload, "{family}: the echo is `{answer}`");
    Ok(())
}

/// The node's address as it stands before a port.
fn bracketed(lab: &Lab, family: Family) -> Result<String> {
    let address = lab.address(Host::Node(NODE))?.of(family);
    Ok(if address.is_ipv4() { address.to_string() } else { format!("[{address}]") })
}

/// Stopped, usher leaves the program at work and no socket that answers; the next one takes it over.
fn is_left_and_taken_over(lab: &Lab) -> Result<()> {
    let program = || lab.run(Host::Node(NODE), &["ip", "link", "show", "front"]);
    let page = |family| -> Result<()> {
        let url = format!("http://{}/", bracketed(lab, family)?);
        lab.run(Host::Client, &["curl", "-sSf", "-m", "10", &url]).map(drop)
    };
    let before = program()?;
    lab.stop_usher(NODE)?;
    Family::ALL.iter().try_for_each(|&family| page(family))?;
    ensure!(program()? == before, "before: {before}, without a daemon: {}", program()?);
    lab.start_usher(NODE)?;
    lab.wait_all_well(PATIENCE)?;
    Family::ALL.iter().try_for_each(|&family| page(family))?;
    ensure!(program()? != before, "the program is the old one: {before}");
    Ok(())
}

/// Stopped and detached, usher leaves nothing.
fn leaves_nothing(lab: &Lab) -> Result<()> {
    lab.stop_usher(NODE)?;
    let detached = lab.run(Host::Node(NODE), &["usher", "detach"])?;
    ensure!(detached == "detached\n", "`usher detach` says {detached}");
    ensure!(attached(lab, "prog/xdp")? == 0, "a program is attached although it was detached");
    let gone = lab.output(Host::Node(NODE), &["usher", "status"])?;
    ensure!(gone.code == Some(1) && gone.stderr.contains("is `usher run` running"), "{gone:?}");
    Ok(())
}

/// How often the kernel shows a text among the node's interfaces.
fn attached(lab: &Lab, shown: &str) -> Result<usize> {
    Ok(lab.run(Host::Node(NODE), &["ip", "link", "show"])?.matches(shown).count())
}

/// The whole of what the node says of itself.
fn status(lab: &Lab) -> Result<Status> {
    let json = lab.run(Host::Node(NODE), &["usher", "status", "--json"])?;
    serde_json::from_str(&json).context("`usher status --json` is not a status")
}
