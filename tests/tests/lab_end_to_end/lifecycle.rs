//! Daemons that stop, crash, are upgraded, or do not come back, while packets flow.

use std::{
    env, fs,
    net::SocketAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use lb_userspace::status::Backend;
use usher_lab::{Connection, Connections, Family, Host, Lab, OtherBuilds, until};

use crate::{
    observe,
    reload::Written,
    support::{Background, Mounted, RECOVERY, Traffic, expect_equal, status, vip},
};

/// How often each event happens, but for `cargo xtask bench lifecycle`.
const ROUNDS: usize = 3;

/// Set by `cargo xtask bench lifecycle`: each event happens as often, or lasts as long, as its own number says.
const ALL: &str = "USHER_LIFECYCLE_ALL";

/// The node that suffers.
const NODE: u8 = 1;

/// Restarts, crashes, upgrades, and upgrades that the kernel refuses: nobody notices.
pub(crate) fn d46_restarts_crashes_and_upgrades_lose_nothing(lab: &Lab) -> Result<()> {
    let other = OtherBuilds::make()?;
    let interfaces = lab.run(Host::Node(NODE), &["ls", "/sys/class/net"])?;
    let flaps = || -> Result<String> {
        let files =
            interfaces.split_whitespace().map(|name| format!("/sys/class/net/{name}/carrier_changes"));
        let files: Vec<_> = ["cat".to_owned()].into_iter().chain(files).collect();
        lab.run(Host::Node(NODE), &files.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let before = flaps()?;
    let traffic = Traffic::start(lab)?;
    let events: [(Event, usize); 4] = [(restart, 20), (crash, 20), (upgrade, 5), (refused_upgrade, 5)];
    let all = env::var_os(ALL).is_some();
    for round in 0..20 {
        for (event, most) in events {
            if round < if all { most } else { ROUNDS } {
                event(lab, &other)?;
                lab.wait_all_well(RECOVERY)?;
            }
        }
    }
    expect_equal("changes of the carrier", &flaps()?, &before)?;
    traffic.expect_nothing_lost()
}

/// No daemon comes back for some time: nobody notices, and the next one shows the same flows and states.
pub(crate) fn d46_time_without_a_daemon_loses_nothing(lab: &Lab) -> Result<()> {
    let absence = Duration::from_secs(if env::var_os(ALL).is_some() { 60 } else { 5 });
    let traffic = Traffic::start(lab)?;
    let kept: Vec<_> = traffic.kept().iter().filter(|one| one.node == NODE).collect();
    ensure!(!kept.is_empty(), "no connection leads through node {NODE}");
    let before = (flows_of(lab, &kept)?, states(lab)?);
    lab.kill_usher(NODE)?;
    thread::sleep(absence);
    traffic.wait_rounds(1)?;
    lab.start_usher(NODE)?;
    lab.wait_all_well(RECOVERY)?;
    let after = (flows_of(lab, &kept)?, states(lab)?);
    expect_equal("flows", &after.0, &before.0)?;
    expect_equal("states", &after.1, &before.1)?;
    println!("{} flows and {} states are the same after {absence:?}", after.0.len(), after.1.len());
    traffic.expect_nothing_lost()
}

/// The clients of the connections, and the ports from which the node talks to their backends under NAT. Each must be one flow,
/// to the backend that gave its first answer.
fn flows_of(lab: &Lab, connections: &[&Connection]) -> Result<Vec<(SocketAddr, Option<u16>)>> {
    let flow_of = |one: &&Connection| {
        let found = observe::flows(lab, &["--service", "web", "--client", &one.from.to_string()])?;
        let [flow] = found.flows.as_slice() else { bail!("not one flow of {one:?}: {found:?}") };
        expect_equal("backend", &flow.backend, &one.backend)?;
        Ok((one.from, flow.nat_port))
    };
    connections.iter().map(flow_of).collect()
}

/// What the node says of each backend: its name, what it should do, its health, its weight and its slots.
fn states(lab: &Lab) -> Result<Vec<String>> {
    let status = status(lab, NODE)?;
    let backends = status.services.iter().flat_map(|service| &service.backends);
    let state = |backend: &Backend| {
        let Backend { name, family, admin, health, forced_health, weight, slots, .. } = backend;
        format!("{name} {family}: {admin:?} {health:?} {forced_health:?} {weight} {slots}")
    };
    Ok(backends.map(state).collect())
}

type Event = fn(&Lab, &OtherBuilds) -> Result<()>;

fn restart(lab: &Lab, _: &OtherBuilds) -> Result<()> {
    replaced(lab, || {
        lab.stop_usher(NODE)?;
        lab.start_usher(NODE)
    })
}

fn crash(lab: &Lab, _: &OtherBuilds) -> Result<()> {
    replaced(lab, || {
        lab.kill_usher(NODE)?;
        lab.start_usher(NODE)
    })
}

/// To programs of other instructions; the kernel's tag is a hash of them.
fn upgrade(lab: &Lab, other: &OtherBuilds) -> Result<()> {
    let before = shown(lab, "tag")?;
    replaced(lab, || other.upgrade(lab, NODE))?;
    ensure!(shown(lab, "tag")?.iter().all(|tag| !before.contains(tag)), "the programs are those of before");
    // So that the next upgrade is one, too.
    restart(lab, other)
}

/// The new one's program is none; the old one's goes on.
fn refused_upgrade(lab: &Lab, other: &OtherBuilds) -> Result<()> {
    let before = programs(lab)?;
    other.refused_upgrade(lab, NODE)?;
    expect_equal("programs after a refused one", &programs(lab)?, &before)?;
    lab.start_usher(NODE)
}

/// Every interface has another program after the event, and had one all the time as far as we can see.
fn replaced(lab: &Lab, event: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = programs(lab)?;
    event()?;
    until("the program is replaced", RECOVERY, || {
        let after = programs(lab)?;
        ensure!(after.len() == before.len(), "programs {before:?} became {after:?}");
        ensure!(after.iter().all(|id| !before.contains(id)), "programs {before:?} became {after:?}");
        Ok(())
    })
}

/// The ids of the programs on the node's interfaces.
fn programs(lab: &Lab) -> Result<Vec<String>> {
    shown(lab, "id")
}

/// What `ip` shows of each program on the node's interfaces: its `id`, or its `tag`.
fn shown(lab: &Lab, what: &str) -> Result<Vec<String>> {
    let links = lab.run(Host::Node(NODE), &["ip", "link", "show"])?;
    let programs = links.split("prog/xdp ").skip(1);
    let value =
        |program: &str| program.split_whitespace().skip_while(|word| *word != what).nth(1).map(str::to_owned);
    Ok(programs.filter_map(value).collect())
}

/// What the file has lost meanwhile is gone after a restart, and what it has gained is there; the others' connections go
/// on.
pub(crate) fn d47_restart_follows_the_file(lab: &Lab) -> Result<()> {
    let victim = Host::Backend(3);
    let written = Written::of(lab, NODE)?;
    let connections = Connections::open(lab, 40)?;
    let its_own =
        connections.all().iter().filter(|one| one.node == NODE && one.backend == victim.to_string());
    let its_own = its_own.count();
    let restarted = |text: &str| -> Result<usize> {
        fs::write(lab.node_config(NODE), text)?;
        lab.stop_usher(NODE)?;
        lab.start_usher(NODE)?;
        lab.wait_all_well(RECOVERY)?;
        let status = status(lab, NODE)?;
        let web = status.services.iter().find(|service| service.name == "web").context("no service web")?;
        Ok(web.backends.iter().filter(|backend| backend.name == victim.to_string()).count())
    };
    expect_equal("without it", &restarted(&written.without(victim)?)?, &0)?;
    let used = (0..30).map(|_| {
        let url = format!("http://{}/", vip(lab, NODE, Family::V4, 80)?);
        lab.run(Host::Client, &["curl", "-sSf", "-m", "3", &url])
    });
    let used = used.collect::<Result<Vec<_>>>()?;
    ensure!(!used.iter().any(|page| page.starts_with(&victim.to_string())), "it is still used: {used:?}");
    expect_equal("with it again", &restarted(&written.ordinary)?, &2)?;
    connections.wait_rounds(1)?;
    connections.finish()?.expect_broken_at_most(its_own)
}

/// The grace of peers in this check.
const GRACE: Duration = Duration::from_secs(4);

/// Packets flow without a daemon; peers keep the node in DNS, both services of it, for as long as the grace is.
pub(crate) fn node_without_a_daemon_serves_and_leaves_dns_after_the_grace(lab: &Lab) -> Result<()> {
    let peer = Written::of(lab, 2)?;
    peer.reload(&format!("{}\n[peer_check]\nrestart_grace = \"{}s\"\n", peer.ordinary, GRACE.as_secs()))?;
    let own = lab.address(Host::Node(NODE))?.v4.to_string();
    let is_named = || -> Result<bool> {
        let named = ["www", "echo"]
            .map(|label| Ok::<_, anyhow::Error>(lab.dig(2, label, Family::V4)?.contains(&own)));
        let [www, echo] = named;
        let (www, echo) = (www?, echo?);
        ensure!(www == echo, "www is named: {www}, echo: {echo}");
        Ok(www)
    };
    lab.wait_all_well(RECOVERY)?;
    let connections = Connections::open(lab, 40)?;
    let before = counted(lab)?;
    lab.kill_usher(NODE)?;
    let killed = Instant::now();
    while killed.elapsed() < GRACE {
        ensure!(is_named()?, "it left DNS after {:?}", killed.elapsed());
    }
    until("it leaves DNS", RECOVERY, || {
        ensure!(!is_named()?, "it is still there");
        Ok(())
    })?;
    let page = lab.run(Host::Node(2), &["usher", "status"])?;
    ensure!(page.contains("serves, but its daemon is silent"), "{page}");
    connections.wait_rounds(1)?;
    lab.start_usher(NODE)?;
    lab.wait_all_well(RECOVERY)?;
    let after = counted(lab)?;
    ensure!(after > before, "{before} packets were counted, then {after}");
    connections.finish()?.expect_whole(40, 1)?;
    peer.reload(&peer.ordinary).map(drop)
}

/// Packets that the node has sent to backends since its first start.
fn counted(lab: &Lab) -> Result<u64> {
    let status = status(lab, NODE)?;
    Ok(status.services.iter().flat_map(|service| &service.backends).map(|backend| backend.packets).sum())
}

/// The node leaves DNS meanwhile, and everything is as before when its interfaces are there again; also for the next daemon.
pub(crate) fn interface_that_is_made_anew_gets_its_program_again(lab: &Lab) -> Result<()> {
    lab.rewire_node(NODE)?;
    until("the program is on the new interfaces", RECOVERY, || {
        expect_equal("programs", &programs(lab)?.len(), &2)
    })?;
    lab.wait_all_well(RECOVERY)?;
    replaced(lab, || {
        lab.kill_usher(NODE)?;
        lab.start_usher(NODE)
    })?;
    lab.wait_all_well(RECOVERY)?;
    for family in Family::ALL {
        let url = format!("http://{}/", vip(lab, NODE, family, 80)?);
        lab.run(Host::Client, &["curl", "-sSf", "-m", "3", &url])?;
    }
    let links = fs::read_dir(lab.pin_dir(NODE).join("layout-2/links"))?.count();
    expect_equal("links that are pinned", &links, &2)
}

/// By hand, and only when no daemon would notice.
pub(crate) fn detach_removes_what_a_daemon_has_left(lab: &Lab) -> Result<()> {
    let node = Host::Node(NODE);
    let refused = lab.output(node, &["usher", "detach"])?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("usher runs; stop it first"), "{refused:?}");
    let ids = programs(lab)?;
    lab.stop_usher(NODE)?;
    expect_equal("programs without a daemon", &programs(lab)?, &ids)?;
    expect_equal("said", &lab.run(node, &["usher", "detach"])?.as_str(), &"detached\n")?;
    expect_equal("programs afterwards", &programs(lab)?, &vec![])?;
    ensure!(!lab.pin_dir(NODE).exists(), "{} is left", lab.pin_dir(NODE).display());
    expect_equal("said", &lab.run(node, &["usher", "detach"])?.as_str(), &"nothing was attached\n")?;
    let elsewhere = lab.output(node, &["usher", "detach", "--pin-dir", "/tmp"])?;
    ensure!(elsewhere.stderr.contains("/tmp is not in a BPF file system"), "{elsewhere:?}");
    lab.start_usher(NODE)
}

/// Another program has an interface: the start fails, and nothing of it stays, not even in memory.
pub(crate) fn start_that_fails_leaves_nothing(lab: &Lab) -> Result<()> {
    let node = Host::Node(NODE);
    lab.stop_usher(NODE)?;
    lab.run(node, &["usher", "detach"])?;
    occupy_back(lab)?;
    expect_occupied(lab)?;
    expect_equal("programs", &programs(lab)?.len(), &1)?;
    ensure!(!lab.pin_dir(NODE).exists(), "{} is left", lab.pin_dir(NODE).display());
    lab.run(Host::Node(NODE), &["ip", "link", "set", "back", "xdpdrv", "off"])?;
    lab.start_usher(NODE)
}

/// The same beside a data path at work: that goes on, and no start leaves a program more in memory.
pub(crate) fn start_that_fails_leaves_the_data_path_alone(lab: &Lab) -> Result<()> {
    let node = Host::Node(NODE);
    lab.stop_usher(NODE)?;
    let index = lab.run(node, &["cat", "/sys/class/net/back/ifindex"])?;
    fs::remove_file(lab.pin_dir(NODE).join("layout-2/links").join(index.trim())).context("a link's pin")?;
    until("back is free", RECOVERY, || occupy_back(lab))?;
    let ids = programs(lab)?;
    for _ in 0..3 {
        expect_occupied(lab)?;
        expect_equal("programs", &programs(lab)?, &ids)?;
        let pinned = fs::read_dir(lab.pin_dir(NODE).join("layout-2/programs"))?.count();
        expect_equal("programs that are pinned", &pinned, &1)?;
    }
    lab.run(Host::Node(NODE), &["ip", "link", "set", "back", "xdpdrv", "off"])?;
    lab.start_usher(NODE)
}

/// Gives an interface another program, the one that the switch has: it does nothing.
fn occupy_back(lab: &Lab) -> Result<()> {
    let attach = ["ip", "link", "set", "back", "xdpdrv", "obj", "/run/usher-lab/pass.o", "sec", PASS];
    lab.run(Host::Node(NODE), &attach).map(drop)
}

/// The section of that program.
const PASS: &str = "xdp";

/// A start fails for it.
fn expect_occupied(lab: &Lab) -> Result<()> {
    let refused = lab.output(Host::Node(NODE), &["usher", "run"])?;
    ensure!(
        refused.code == Some(1) && refused.stderr.contains("back has another XDP program already"),
        "{refused:?}"
    );
    Ok(())
}

/// What cannot be taken over is left alone, with the way out.
pub(crate) fn what_is_pinned_and_not_whole_goes_on_and_is_not_touched(lab: &Lab) -> Result<()> {
    let node = Host::Node(NODE);
    let ids = programs(lab)?;
    lab.stop_usher(NODE)?;
    fs::remove_file(lab.pin_dir(NODE).join("layout-2/maps/COUNTERS")).context("a pin")?;
    let refused = lab.output(node, &["usher", "run"])?;
    ensure!(
        refused.code == Some(1)
            && refused
                .stderr
                .contains("maps/COUNTERS is missing, so the data path that runs cannot be taken over")
            && refused.stderr.contains("`usher detach` removes it"),
        "{refused:?}"
    );
    expect_equal("programs", &programs(lab)?, &ids)?;
    let url = format!("http://{}/", vip(lab, NODE, Family::V6, 80)?);
    lab.run(Host::Client, &["curl", "-sSf", "-m", "3", &url])?;

    let other = lab.pin_dir(NODE);
    fs::rename(other.join("layout-2"), other.join("layout-0")).context("another layout")?;
    let refused = lab.output(node, &["usher", "run"])?;
    let said = "layout-0 holds the data path of another version of usher, which this one cannot take over";
    ensure!(refused.code == Some(1) && refused.stderr.contains(said), "{refused:?}");
    expect_equal("programs", &programs(lab)?, &ids)?;
    lab.run(node, &["usher", "detach"])?;
    expect_equal("programs afterwards", &programs(lab)?, &vec![])?;
    lab.start_usher(NODE)
}

/// It runs as if there were no pins, and says what that means.
pub(crate) fn without_a_bpf_file_system_the_data_path_ends_with_the_daemon(lab: &Lab) -> Result<()> {
    let node = Host::Node(NODE);
    let read_only = Mounted::new("bpf", "ro")?;
    let elsewhere = lab.node_config(NODE).with_file_name("pins");
    lab.stop_usher(NODE)?;
    lab.run(node, &["usher", "detach"])?;
    for (dir, said) in [
        (elsewhere, "pins is not in a BPF file system; mount one: mount -t bpf bpf /sys/fs/bpf"),
        (read_only.path().join("usher"), "Read-only file system"),
    ] {
        ends_with_the_daemon(lab, &dir, said)?;
    }
    lab.start_usher(NODE)
}

fn ends_with_the_daemon(lab: &Lab, pin_dir: &Path, complaint: &str) -> Result<()> {
    let written = Written::of(lab, NODE)?;
    let line = written.ordinary.lines().find(|line| line.starts_with("pin_dir")).context("no pin_dir")?;
    let other = written.ordinary.replace(line, &format!("pin_dir = \"{}\"", pin_dir.display()));
    fs::write(lab.node_config(NODE), other)?;
    let usher = Background::start(lab, Host::Node(NODE), &["usher", "run"])?;
    lab.wait_all_well(RECOVERY)?;
    ensure!(!programs(lab)?.is_empty(), "nothing is attached");
    usher.signal("TERM")?;
    let (code, _, log) = usher.finish(Duration::from_secs(10))?;
    expect_equal("exit code", &code, &Some(0))?;
    for said in
        [complaint, "packets flow only as long as this process lives", "this node withdraws its addresses"]
    {
        ensure!(log.contains(said), "no `{said}` in {log}");
    }
    expect_equal("programs afterwards", &programs(lab)?, &vec![])
}
