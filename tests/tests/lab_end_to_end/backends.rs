//! Backends that die and come back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lb_userspace::{config::AllDown, core::check::Code, status::Backend};
use usher_lab::{Family, Host, Lab, Tally, until};

use crate::{
    reload::Written,
    support::{
        Background, RECOVERY, SLACK, Traffic, check_timing, checks_take, client, expect_equal, explain,
        status, sum, vip, wait_health,
    },
};

/// The backend that suffers.
const VICTIM: u8 = 2;

/// Requests per family that must all succeed.
const REQUESTS: usize = 100;

pub(crate) fn killed_backend_fails_no_request_once_detected_and_comes_back(lab: &Lab) -> Result<()> {
    let timing = check_timing(lab, "web")?;
    let victim = Host::Backend(VICTIM).to_string();
    let mut streams = [lab.stream(Family::V4)?, lab.stream(Family::V6)?];
    for stream in &mut streams {
        stream.since(Instant::now(), 20)?;
    }

    lab.kill_backend(VICTIM)?;
    let killed = Instant::now();
    wait_health(lab, VICTIM, "down", killed, checks_take(timing.fall, &timing) + SLACK)?;
    let detected = Instant::now();
    until("the last checks say so", RECOVERY, || expect_check(lab, Code::L4Con, killed))?;
    for stream in &mut streams {
        let tally = Tally::of(&stream.since(detected, REQUESTS)?);
        tally.expect_no_failure()?;
        ensure!(!tally.backends.contains_key(&victim), "a dead backend answered: {:?}", tally.backends);
    }

    lab.start_backend(VICTIM)?;
    let started = Instant::now();
    wait_health(lab, VICTIM, "up", started, checks_take(timing.rise, &timing) + SLACK)?;
    let back = Instant::now();
    until("the last checks say so", RECOVERY, || expect_check(lab, Code::L7Ok, started))?;
    for stream in &mut streams {
        let tally = Tally::of(&stream.since(back, REQUESTS)?);
        tally.expect_no_failure()?;
        ensure!(tally.backends.contains_key(&victim), "it gets nothing: {:?}", tally.backends);
    }
    Ok(())
}

/// Every node's status must show what the last check found, when, and since when health is as it is.
fn expect_check(lab: &Lab, code: Code, changed_after: Instant) -> Result<()> {
    for (node, seen) in expect_last(lab, code)? {
        let check = seen.last_check.context("no check")?;
        ensure!(!check.detail.is_empty(), "node{node}: {code} without a word");
        let since = Duration::from_millis(seen.since_ms.max(check.ago_ms));
        ensure!(since <= changed_after.elapsed(), "node{node} has it so for {since:?}, longer than it is");
    }
    Ok(())
}

/// Every node's last check must have found this; how every node sees the backend, in both families.
fn expect_last(lab: &Lab, code: Code) -> Result<Vec<(u8, Backend)>> {
    let name = Host::Backend(VICTIM).to_string();
    let mut all = Vec::new();
    for node in 1..=lab.options().nodes {
        let services = status(lab, node)?.services;
        let web = services.into_iter().find(|service| service.name == "web").context("no service web")?;
        for seen in web.backends.into_iter().filter(|backend| backend.name == name) {
            let check = seen.last_check.as_ref().with_context(|| format!("{name} was not checked"))?;
            ensure!(check.code == code, "node{node} {name}: {} {}", check.code, check.detail);
            all.push((node, seen));
        }
    }
    Ok(all)
}

/// Downloads through every backend, slow enough to be under way when one dies.
pub(crate) fn connections_to_other_backends_outlive_a_dead_one(lab: &Lab) -> Result<()> {
    let timing = check_timing(lab, "web")?;
    // 5 s, and more than what socket buffers hold: those are delivered even after their owner's death.
    let file = lab.big_file("slow", 30_000_000)?;
    let mut downloads = Vec::new();
    for family in Family::ALL {
        for backend in lab.options().backend_hosts() {
            downloads.push(slow_download(lab, family, backend, &file.to_string_lossy())?);
        }
    }
    // curl has its first bytes when the flow table knows the flow.
    for download in &downloads {
        until("the download has begun", SLACK, || download.expect_known(lab))?;
    }

    lab.kill_backend(VICTIM)?;
    wait_health(lab, VICTIM, "down", Instant::now(), checks_take(timing.fall, &timing) + SLACK)?;
    let mut under_way = 0;
    for mut download in downloads {
        let (backend, family) = (download.backend, download.family);
        let runs = download.curl.is_running()?;
        let (code, _, errors) = download.curl.finish(Duration::from_secs(20))?;
        if backend == Host::Backend(VICTIM) {
            ensure!(
                code != Some(0),
                "{family}: a download from {backend} survived it: this check shows nothing"
            );
        } else {
            ensure!(code == Some(0), "{family}: the download from {backend} was cut: {errors}");
            under_way += usize::from(runs);
        }
    }
    ensure!(under_way > 0, "every download was over before the backend was found dead");

    lab.start_backend(VICTIM)?;
    Ok(())
}

struct Download {
    backend: Host,
    family: Family,
    port: u16,
    curl: Background,
}

/// Starts a download from a local port whose flow goes to that backend.
fn slow_download(lab: &Lab, family: Family, backend: Host, file: &str) -> Result<Download> {
    let Host::Backend(number) = backend else { bail!("{backend} is no backend") };
    let to = vip(lab, 1, family, 80)?;
    let first = 26_000 + u16::from(number) * 200;
    for port in first..first + 200 {
        let from = client(lab, family, port)?;
        let explained = explain(lab, 1, from, to, "tcp")?;
        if explained.backend.is_some_and(|chosen| chosen.name == backend.to_string()) {
            let script = format!(
                "set -o pipefail; curl -sSf --interface {} --local-port {port} --limit-rate 6M http://{to}/big/slow | cmp - {file}",
                from.ip()
            );
            let curl = Background::start(lab, Host::Client, &["bash", "-c", &script])?;
            return Ok(Download { backend, family, port, curl });
        }
    }
    bail!("of 200 flows none goes to {backend}")
}

impl Download {
    fn expect_known(&self, lab: &Lab) -> Result<()> {
        let from = client(lab, self.family, self.port)?;
        let explained = explain(lab, 1, from, vip(lab, 1, self.family, 80)?, "tcp")?;
        ensure!(explained.flow == lb_userspace::explain::FlowState::Known, "{explained:?}");
        Ok(())
    }
}

/// How often a backend's health flaps.
const FLAPS: usize = 3;

/// Only its checks fail. Its connections go on, and new ones go to others meanwhile.
pub(crate) fn d44_backend_whose_health_flaps_loses_no_connection(lab: &Lab) -> Result<()> {
    let traffic = Traffic::start(lab)?;
    flaps_too_short_to_count_change_nothing(lab)?;
    for _ in 0..FLAPS {
        flap(lab, &traffic)?;
    }
    traffic.expect_nothing_lost()
}

/// Until every node has seen it down, and then up again.
fn flap(lab: &Lab, traffic: &Traffic) -> Result<()> {
    let timing = check_timing(lab, "web")?;
    let failed = Instant::now();
    every_node(lab, Lab::fail_checks)?;
    wait_health(lab, VICTIM, "down", failed, checks_take(timing.fall, &timing) + SLACK)?;
    until("the last checks say so", RECOVERY, || expect_check(lab, Code::L7Sts, failed))?;
    let read =
        |of| (1..=lab.options().nodes).map(|node| sum(lab, node, VICTIM, of)).collect::<Result<Vec<_>>>();
    let (begun, packets) = (read(|backend| backend.flows_begun)?, read(|backend| backend.packets)?);
    traffic.wait_rounds(2)?;
    expect_equal("flows that have begun", &read(|backend| backend.flows_begun)?, &begun)?;
    let more = read(|backend| backend.packets)?;
    ensure!(packets.iter().zip(&more).all(|(before, after)| before < after), "{packets:?} became {more:?}");

    every_node(lab, Lab::pass_checks)?;
    wait_health(lab, VICTIM, "up", Instant::now(), checks_take(timing.rise, &timing) + SLACK)?;
    until("every node gives it new flows", RECOVERY, || {
        let now = read(|backend| backend.flows_begun)?;
        ensure!(begun.iter().zip(&now).all(|(before, now)| before < now), "{begun:?} became {now:?}");
        Ok(())
    })
}

/// Checks fail, but less than `fall` in a row: that is no change, and nothing is logged.
fn flaps_too_short_to_count_change_nothing(lab: &Lab) -> Result<()> {
    let name = Host::Backend(VICTIM).to_string();
    let written = Written::every(lab)?;
    for node in &written {
        // So that a busy machine finds the flaps short too.
        let patient = node.ordinary.replace("fall = 3", "fall = 50");
        ensure!(patient != node.ordinary, "the lab's checks have another `fall`");
        node.reload(&patient)?;
    }
    let logged = || -> Result<Vec<String>> {
        let logs = (1..=lab.options().nodes).map(|node| lab.node_log(node)).collect::<Result<String>>()?;
        Ok(logs.lines().filter(|line| line.contains(&name)).map(str::to_owned).collect())
    };
    let (begun, before) = (Instant::now(), logged()?);
    for _ in 0..FLAPS {
        for (change, code) in [(Lab::fail_checks as Change, Code::L7Sts), (Lab::pass_checks, Code::L7Ok)] {
            every_node(lab, change)?;
            until(&format!("every check finds {code}"), RECOVERY, || expect_last(lab, code))?;
        }
    }
    expect_equal("the log", &logged()?, &before)?;
    let lasted = begun.elapsed();
    for (node, seen) in expect_last(lab, Code::L7Ok)? {
        let since = Duration::from_millis(seen.since_ms);
        ensure!(since >= lasted, "node{node}: {:?} for {since:?} only", seen.health);
    }
    written.iter().try_for_each(|node| node.reload(&node.ordinary).map(drop))
}

/// [`Lab::fail_checks`] or [`Lab::pass_checks`].
type Change = fn(&Lab, u8, u8) -> Result<()>;

/// Changes what the backend tells every node.
fn every_node(lab: &Lab, change: Change) -> Result<()> {
    (1..=lab.options().nodes).try_for_each(|node| change(lab, VICTIM, node))
}

pub(crate) fn all_backends_down_is_stated_and_answered_with_every_address(lab: &Lab) -> Result<()> {
    let timing = check_timing(lab, "web")?;
    let limit = checks_take(timing.fall, &timing) + SLACK;
    let backends = 1..=lab.options().backends;
    backends.clone().try_for_each(|backend| lab.kill_backend(backend))?;
    for backend in backends.clone() {
        wait_health(lab, backend, "down", Instant::now(), limit)?;
    }
    // A node learns from its peers that they cannot serve either.
    until("every node states the policy", Duration::from_secs(5), || expect_policy(lab, Some(AllDown::All)))?;
    for node in 1..=lab.options().nodes {
        let log = lab.node_log(node)?;
        let line = "www.example.test: no node can serve; all_down = \"all\": answering with every address";
        ensure!(log.contains(line), "node{node} did not log: {line}");
        for family in Family::ALL {
            let answer = lab.dig(node, "www", family)?;
            ensure!(answer.len() == usize::from(lab.options().nodes), "node{node} answers {answer:?}");
        }
    }
    // The node itself refuses at once: a client is not left waiting.
    for family in Family::ALL {
        let url = format!("http://{}/", vip(lab, 1, family, 80)?);
        let refused = lab.output(Host::Client, &["curl", "-sS", "-m", "3", &url])?;
        // 7: could not connect; 28 would be a timeout.
        ensure!(refused.code == Some(7), "{refused:?}");
    }
    ensure!(status(lab, 1)?.packets["no_backend"] > 0, "packets without a backend are not counted");

    backends.clone().try_for_each(|backend| lab.start_backend(backend))?;
    until("every node serves again", Duration::from_secs(10), || expect_policy(lab, None))?;
    for node in 1..=lab.options().nodes {
        let line = "www.example.test: a node can serve again; all_down no longer applies";
        ensure!(lab.node_log(node)?.contains(line), "node{node} did not log: {line}");
    }
    Ok(())
}

fn expect_policy(lab: &Lab, policy: Option<AllDown>) -> Result<()> {
    for node in 1..=lab.options().nodes {
        let dns = status(lab, node)?.dns.context("no DNS")?;
        for name in dns.names {
            ensure!(name.policy_in_force == policy, "node{node}, {}: {:?}", name.name, name.policy_in_force);
        }
    }
    Ok(())
}
