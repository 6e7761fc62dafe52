//! Backends that die and come back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lb_userspace::{config::AllDown, core::check::Code};
use usher_lab::{Family, Host, Lab, Tally, until};

use crate::support::{
    Background, SLACK, check_timing, checks_take, client, explain, service, status, vip, wait_health,
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
    expect_check(lab, &victim, Code::L4Con, killed)?;
    for stream in &mut streams {
        let tally = Tally::of(&stream.since(detected, REQUESTS)?);
        tally.expect_no_failure()?;
        ensure!(!tally.backends.contains_key(&victim), "a dead backend answered: {:?}", tally.backends);
    }

    lab.start_backend(VICTIM)?;
    let started = Instant::now();
    wait_health(lab, VICTIM, "up", started, checks_take(timing.rise, &timing) + SLACK)?;
    let back = Instant::now();
    expect_check(lab, &victim, Code::L7Ok, started)?;
    for stream in &mut streams {
        let tally = Tally::of(&stream.since(back, REQUESTS)?);
        tally.expect_no_failure()?;
        ensure!(tally.backends.contains_key(&victim), "it gets nothing: {:?}", tally.backends);
    }
    Ok(())
}

/// Every node's status must show what the last check found, when, and since when health is as it is.
fn expect_check(lab: &Lab, backend: &str, code: Code, changed_after: Instant) -> Result<()> {
    for node in 1..=lab.options().nodes {
        let status = status(lab, node)?;
        for entry in service(&status, "web")?.backends.iter().filter(|entry| entry.name == backend) {
            let check = entry.last_check.as_ref().with_context(|| format!("{backend} was not checked"))?;
            ensure!(check.code == code, "node{node} {backend}: {} {}", check.code, check.detail);
            ensure!(!check.detail.is_empty(), "node{node}: {code} without a word");
            let since = Duration::from_millis(entry.since_ms.max(check.ago_ms));
            ensure!(
                since <= changed_after.elapsed(),
                "node{node} has it so for {since:?}, longer than it is"
            );
        }
    }
    Ok(())
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
