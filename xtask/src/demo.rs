//! `cargo xtask demo`: usher at work, told in plain lines with real figures.

use std::{
    collections::BTreeMap,
    fmt::Display,
    io::{Read, stdin},
    net::IpAddr,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use usher_lab::{Family, Fault, Host, Lab, Options, Status, Stream, Tally, until};

use crate::{lab, report::Report, setup};

/// Requests per family when the spread is shown.
const REQUESTS: usize = 600;

/// How far a backend's share may be from a third. Connections hash to backends at random: with 600
/// requests a share varies by 5.8 % (one sigma), so a right spread stays within this in all but one of
/// thousands of runs.
const TOLERANCE: f64 = 0.25;

/// Requests that must all succeed after something was lost.
const AFTERWARDS: usize = 60;

/// A backend that fails is out after 3 checks 200 ms apart, the last of which may take 200 ms more.
const BACKEND_LIMIT: Duration = Duration::from_secs(3);

/// A node that fails is out after 3 checks 500 ms apart, each of which may take 500 ms.
const NODE_LIMIT: Duration = Duration::from_secs(5);

/// The node and the backend that suffer.
const VICTIM: u8 = 2;

/// Tells the whole story.
///
/// # Errors
/// Names the steps that did not hold.
pub(crate) fn demo() -> Result<()> {
    let start = Instant::now();
    let mut report = Report::default();
    let done = story(&mut report);
    println!("\nwhole demo: {:.0} s", start.elapsed().as_secs_f64());
    report.conclude()?;
    done
}

/// Waits until the process that started us is gone, whatever ended it, and removes the lab it raised.
///
/// # Errors
/// When the lab cannot be removed.
pub(crate) fn guard(pid: u32) -> Result<()> {
    let mut nothing = Vec::new();
    stdin().read_to_end(&mut nothing).context("standard input")?;
    Lab::remove_of(pid)
}

fn story(report: &mut Report) -> Result<()> {
    println!("usher: connections spread by XDP, nodes that own their place in DNS.");
    let ready = report.step("set up this machine", || setup::setup().map(|()| String::new()))
        && report.step("build usher and its XDP program", || lab::build().map(|()| String::new()));
    if !ready {
        return Ok(());
    }
    let _guard = start_guard()?;
    let mut raised = None;
    report.step("raise the lab", || {
        let lab = raise()?;
        raised = Some(lab);
        Ok("2 nodes, 3 backends, native XDP".to_owned())
    });
    let Some(lab) = raised else { return Ok(()) };
    let all = report.step("spread over IPv4", || spread(&lab, Family::V4))
        && report.step("spread over IPv6", || spread(&lab, Family::V6))
        && report.step("lose a backend", || lose_backend(&lab))
        && report.step("the backend comes back", || regain_backend(&lab))
        && report.step("lose a node", || lose_node(&lab))
        && report.step("the node comes back", || regain_node(&lab));
    if !all {
        println!("\nthe story ends here");
    }
    lab.down()
}

/// A process that removes the lab when we are gone, Ctrl-C and SIGKILL included: its standard input
/// is a pipe that ends with us.
fn start_guard() -> Result<Child> {
    Command::new(std::env::current_exe().context("own path")?)
        .args(["guard", &std::process::id().to_string()])
        .stdin(Stdio::piped())
        // Ctrl-C on the terminal is for us only.
        .process_group(0)
        .spawn()
        .context("cannot start the guard")
}

fn raise() -> Result<Lab> {
    let start = Instant::now();
    let lab = Lab::up(&Options::default())?;
    println!("  client ── router ── node1, node2 (usher, XDP) ── backend1, backend2, backend3 (nginx)");
    println!("  up and every node published after {:.1} s", start.elapsed().as_secs_f64());
    for status in statuses(&lab)? {
        for port in &status.interfaces {
            println!("  {}: XDP on {} is {}", status.node, port.name, port.xdp_mode);
            ensure!(port.xdp_mode == "native", "{} is not in native mode on {}", status.node, port.name);
        }
    }
    Ok(lab)
}

fn spread(lab: &Lab, family: Family) -> Result<String> {
    let start = Instant::now();
    let tally = lab.fetch(family, REQUESTS)?;
    let seconds = start.elapsed().as_secs_f64();
    println!("  {REQUESTS} times curl http://www.example.test/, a new connection each, in {seconds:.1} s");
    println!("    answered by  {}", counts(&tally.backends));
    println!("    through      {}", counts(&by_node(lab, &tally)?));
    println!("    failed       {}", failures(&tally));
    let options = lab.options();
    ensure!(tally.failures.is_empty(), "{} requests failed", tally.failures.len());
    ensure!(tally.addresses.len() == usize::from(options.nodes), "not every node was used");
    let off = tally.imbalance(options.backends.into());
    ensure!(off <= TOLERANCE, "a backend's share is {:.0} % away from even", off * 100.0);
    Ok(format!("{REQUESTS} requests, 0 failed, shares within {:.0} %", off * 100.0))
}

fn lose_backend(lab: &Lab) -> Result<String> {
    let victim = Host::Backend(VICTIM).to_string();
    let mut stream = lab.stream(Family::V4)?;
    stream.since(Instant::now(), 20)?;
    lab.kill_backend(VICTIM)?;
    let killed = Instant::now();
    println!("  {victim}'s nginx killed (SIGKILL), while requests go on");
    let after = wait_health(lab, &victim, "down", killed)?;
    let out = Instant::now();
    let later = Tally::of(&stream.since(out, AFTERWARDS)?);
    println!("    until then: {}", between(&mut stream, killed, out));
    println!("    after that: {} requests, {}", later.total, failures(&later));
    println!("    answered by  {}", counts(&later.backends));
    ensure!(later.failures.is_empty(), "requests failed after {victim} had left the maps");
    ensure!(!later.backends.contains_key(&victim), "{victim} answered after it was killed");
    ensure!(after <= BACKEND_LIMIT, "it took longer than {} s", BACKEND_LIMIT.as_secs());
    Ok(format!("out of all maps after {:.2} s, then {} requests, 0 failed", after.as_secs_f64(), later.total))
}

fn regain_backend(lab: &Lab) -> Result<String> {
    let victim = Host::Backend(VICTIM).to_string();
    lab.start_backend(VICTIM)?;
    let started = Instant::now();
    println!("  {victim}'s nginx started again");
    let after = wait_health(lab, &victim, "up", started)?;
    let tally = lab.fetch(Family::V4, AFTERWARDS)?;
    println!("    {AFTERWARDS} requests: {}", failures(&tally));
    println!("    answered by  {}", counts(&tally.backends));
    ensure!(tally.failures.is_empty(), "requests failed");
    ensure!(tally.backends.contains_key(&victim), "{victim} answers nothing although it is up");
    Ok(format!("back after {:.2} s", after.as_secs_f64()))
}

fn lose_node(lab: &Lab) -> Result<String> {
    let victim = Host::Node(VICTIM);
    let mut stream = lab.stream(Family::V4)?;
    stream.since(Instant::now(), 20)?;
    lab.fault(Host::Node(VICTIM), Fault::Drop)?;
    let silenced = Instant::now();
    println!("  {victim} cut off: its packets are lost without a sign, while requests go on");
    wait_answers(lab, false, NODE_LIMIT)?;
    let after = silenced.elapsed();
    println!("    node1's DNS no longer names {victim}, A and AAAA, after {:.2} s", after.as_secs_f64());
    wait_resolver(lab, 1)?;
    let out = Instant::now();
    println!("    nor does the client's resolver, after {:.2} s", silenced.elapsed().as_secs_f64());
    let later = Tally::of(&stream.since(out, AFTERWARDS)?);
    println!("    until then: {}", between(&mut stream, silenced, out));
    println!("    after that: {} requests, {}", later.total, failures(&later));
    println!("    through      {}", counts(&by_node(lab, &later)?));
    ensure!(later.failures.is_empty(), "requests failed after {victim} had left DNS");
    ensure!(after <= NODE_LIMIT, "it took longer than {} s", NODE_LIMIT.as_secs());
    Ok(format!("out of DNS after {:.2} s, then {} requests, 0 failed", after.as_secs_f64(), later.total))
}

fn regain_node(lab: &Lab) -> Result<String> {
    let victim = Host::Node(VICTIM);
    lab.fault(Host::Node(VICTIM), Fault::Heal)?;
    let healed = Instant::now();
    println!("  {victim} connected again");
    wait_answers(lab, true, NODE_LIMIT * 2)?;
    let after = healed.elapsed();
    println!("    node1's DNS names {victim} again after {:.2} s", after.as_secs_f64());
    lab.wait_all_well(NODE_LIMIT * 4)?;
    println!("    every node sees all backends up and all nodes published");
    let tally = lab.fetch(Family::V4, AFTERWARDS)?;
    println!("    {AFTERWARDS} requests: {}", failures(&tally));
    println!("    through      {}", counts(&by_node(lab, &tally)?));
    ensure!(tally.failures.is_empty(), "requests failed");
    Ok(format!("back in DNS after {:.2} s", after.as_secs_f64()))
}

/// Waits until every node sees `backend` so; prints when each did, and gives the time of the last.
fn wait_health(lab: &Lab, backend: &str, health: &str, since: Instant) -> Result<Duration> {
    let moments = thread::scope(|scope| {
        let wait = |node| {
            until(&format!("node{node} sees {backend} {health}"), BACKEND_LIMIT * 3, || {
                let status = lab.status(node)?;
                status.expect_health(backend, health)?;
                Ok((since.elapsed(), status))
            })
        };
        let waiting: Vec<_> = (1..=lab.options().nodes).map(|node| scope.spawn(move || wait(node))).collect();
        let joined = waiting.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("thread died")));
        joined.collect::<Result<Vec<_>>>()
    })?;
    for (after, status) in &moments {
        let seconds = after.as_secs_f64();
        println!("    {} has it {health} after {seconds:.2} s: {}", status.node, last_check(status, backend));
    }
    moments.iter().map(|(after, _)| *after).max().context("a lab without nodes")
}

/// What the newest check of `backend` found: `L4CON Connection refused`.
fn last_check(status: &Status, backend: &str) -> String {
    let backends = status.services.iter().flat_map(|service| &service.backends);
    let check = backends.filter(|entry| entry.name == backend).find_map(|entry| entry.last_check.as_ref());
    check.map_or_else(|| "not checked".to_owned(), |check| format!("{} {}", check.code, check.detail))
}

/// Waits until node1's DNS server names the victim in both families, or in neither.
fn wait_answers(lab: &Lab, named: bool, limit: Duration) -> Result<()> {
    let victim = lab.address(Host::Node(VICTIM))?;
    let what = if named { "node1's DNS names node2" } else { "node1's DNS drops node2" };
    // A second more than the limit: a figure that is just too long says more than a failed wait.
    until(what, limit + Duration::from_secs(1), || {
        for family in Family::ALL {
            let answer = lab.dig(1, "www", family)?;
            let present = answer.contains(&victim.of(family).to_string());
            ensure!(present == named, "{family} answer: {}", answer.join(" "));
        }
        Ok(())
    })
}

/// Waits until the client's resolver gives `count` addresses.
fn wait_resolver(lab: &Lab, count: usize) -> Result<()> {
    until("the resolver has forgotten the node", NODE_LIMIT, || {
        let answer = lab.run(Host::Client, &["dig", "+short", "www.example.test", "A"])?;
        ensure!(answer.lines().count() == count, "it answers {}", answer.replace('\n', " "));
        Ok(())
    })
}

fn statuses(lab: &Lab) -> Result<Vec<Status>> {
    (1..=lab.options().nodes).map(|node| lab.status(node)).collect()
}

/// What became of requests that began between two moments: `20 requests, 3 failed …, the slowest took 1.0 s`.
fn between(stream: &mut Stream, start: Instant, end: Instant) -> String {
    let answers = stream.answers().iter().filter(|answer| answer.began >= start && answer.began < end);
    let tally = Tally::of(answers);
    let slowest = tally.slowest.as_secs_f64();
    format!("{} requests, {}, the slowest took {slowest:.2} s", tally.total, failures(&tally))
}

fn by_node(lab: &Lab, tally: &Tally) -> Result<BTreeMap<String, usize>> {
    let name = |address: IpAddr| -> Result<String> {
        for node in lab.options().node_hosts() {
            if lab.address(node)?.both().contains(&address) {
                return Ok(node.to_string());
            }
        }
        bail!("{address} is no node's")
    };
    tally.addresses.iter().map(|(&address, &count)| Ok((name(address)?, count))).collect()
}

fn counts<K: Display>(counts: &BTreeMap<K, usize>) -> String {
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

fn failures(tally: &Tally) -> String {
    match tally.failures.first() {
        None => "none failed".to_owned(),
        Some(first) => format!("{} failed, the first with: {first}", tally.failures.len()),
    }
}
