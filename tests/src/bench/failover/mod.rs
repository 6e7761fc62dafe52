//! How soon a node that is lost is in no answer any more, and what clients notice: `cargo xtask bench failover`. Method and
//! results are told in docs/benchmarks.md.

mod clients;
mod loss;
mod report;
mod watch;

use std::{
    iter, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use usher_lab::{DnsServer, Family, Host, Lab, Options, TTL};

use self::{
    clients::{Clients, Source},
    loss::Loss,
    report::{Death, Experience, Sample},
    watch::Watch,
};
use super::machine::machine;

pub use self::report::Report;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Who answers for the zone.
    pub dns: DnsServer,
    /// Losses over which times are measured.
    pub trials: usize,
    /// Losses that clients live through.
    pub deaths: usize,
}

/// Two can be of one mind against the third.
const NODES: u8 = 3;

/// A node that is named for so long is not waited for any more, and counts as named for so long.
const GIVEN_UP: Duration = Duration::from_secs(15);

/// How long a way back may take: the longest hold-down that a few losses bring, and more.
const RETURN: Duration = Duration::from_secs(120);

/// How long is looked whether the node comes back into answers by mistake.
const SETTLED: Duration = Duration::from_millis(500);

/// Peers are asked this often: losses begin at any time between two of these.
const EXCHANGE_MS: u64 = 500;

/// How long a node stays dead after its withdrawal, under clients: what they may notice, and as long again.
const DEAD: Duration = Duration::from_secs(4);

/// How long clients find all nodes well between two deaths.
const WELL: Duration = Duration::from_secs(3);

/// Raises a lab, lets nodes be lost there, and removes it. `tell` hears of each.
///
/// # Errors
/// When the lab does not come up, or a node does not come back.
pub fn measure(plan: Plan, tell: &mut dyn FnMut(&str)) -> Result<Report> {
    let lab = Lab::up(&Options { nodes: NODES, backends: 2, dns: plan.dns, ..Options::default() })?;
    let ways = Loss::DEATHS.into_iter().chain([Loss::Drain]);
    let samples = losses(ways, plan.trials).map(|(loss, node)| {
        let sample = time(&lab, loss, node).with_context(|| format!("{loss} of node{node}"))?;
        let [peers, primary, secondary] = [Some(sample.peers), sample.primary, sample.secondary].map(seconds);
        tell(&format!(
            "{loss} of node{node}: nodes' answers {peers}, primary {primary}, secondary {secondary}"
        ));
        Ok(sample)
    });
    let samples = samples.collect::<Result<_>>()?;
    let experience = if plan.deaths > 0 { Some(live_through(&lab, plan.deaths, tell)?) } else { None };
    let report = Report { machine: machine()?, dns: plan.dns, samples, experience };
    lab.down()?;
    Ok(report)
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "none".to_owned(), |time| format!("{:.3} s", time.as_secs_f64()))
}

/// So many losses, ways and nodes in turns, each node in each way.
fn losses(ways: impl Iterator<Item = Loss> + Clone, count: usize) -> impl Iterator<Item = (Loss, u8)> {
    let rounds = iter::repeat(ways).enumerate();
    let all = rounds.flat_map(|(round, ways)| ways.zip((1..=NODES).cycle().skip(round % usize::from(NODES))));
    all.take(count)
}

/// Lets a node be lost once, and waits until it is back.
fn time(lab: &Lab, loss: Loss, node: u8) -> Result<Sample> {
    let watch = watch(lab, loss, node)?;
    let began = lose(lab, &watch, loss, node)?;
    // What does not hold is a figure, too.
    let _ = watch.wait_gone(GIVEN_UP);
    thread::sleep(SETTLED);
    let took =
        |counts: fn(Host) -> bool| watch.gone(counts).map_or(GIVEN_UP, |gone| gone.duration_since(began));
    let peers = took(|host| matches!(host, Host::Node(_)));
    let dns = lab.options().dns;
    let primary = dns.is_shared().then(|| took(|host| host == Host::Dns));
    let secondary = dns.has_secondary().then(|| took(|host| host == Host::Secondary));
    regain(lab, &watch, loss, node)?;
    Ok(Sample { loss, peers, primary, secondary })
}

/// Asks whom clients and resolvers may ask: primary and secondary, if there are such, and all nodes that live.
fn watch(lab: &Lab, loss: Loss, node: u8) -> Result<Watch> {
    let nodes = lab.options().node_hosts().filter(|&host| host != Host::Node(node) || !loss.is_death());
    let servers: Vec<_> = nodes.chain(lab.options().dns_hosts()).collect();
    Watch::start(lab, &servers, node)
}

/// Lets a node be lost that all name; when that began.
fn lose(lab: &Lab, watch: &Watch, loss: Loss, node: u8) -> Result<Instant> {
    watch.wait_named(RETURN)?;
    thread::sleep(Duration::from_millis(rand::random_range(0..EXCHANGE_MS)));
    let began = Instant::now();
    loss.begin(lab, node)?;
    Ok(began)
}

/// Gives a node back and waits until all is as before.
fn regain(lab: &Lab, watch: &Watch, loss: Loss, node: u8) -> Result<()> {
    loss.end(lab, node)?;
    watch.wait_named(RETURN)?;
    lab.wait_all_well(RETURN)
}

/// Lets nodes die under two clients: one asks the resolver, one has a list.
fn live_through(lab: &Lab, deaths: usize, tell: &mut dyn FnMut(&str)) -> Result<Experience> {
    let resolver = lab.address(Host::Resolver)?.of(Family::V4);
    let nodes = lab.options().node_hosts().map(|node| Ok(lab.address(node)?.of(Family::V4)));
    let listed = Clients::start(Source::List(nodes.collect::<Result<_>>()?));
    let resolved = Clients::start(Source::Resolver(resolver));
    let deaths = losses(Loss::DEATHS.into_iter(), deaths).map(|(loss, node)| {
        tell(&format!("{loss} of node{node} under clients"));
        die(lab, loss, node).with_context(|| format!("{loss} of node{node}"))
    });
    let deaths = deaths.collect::<Result<_>>();
    let (resolved, listed) = (resolved.finish()?, listed.finish()?);
    Ok(Experience { deaths: deaths?, resolved, listed, ttl: TTL })
}

fn die(lab: &Lab, loss: Loss, node: u8) -> Result<Death> {
    let address = lab.address(Host::Node(node))?.of(Family::V4);
    thread::sleep(WELL);
    let watch = watch(lab, loss, node)?;
    lose(lab, &watch, loss, node)?;
    watch.wait_gone(GIVEN_UP)?;
    thread::sleep(DEAD);
    // The resolver asks nobody else than the primary, if there is one.
    let is_asked = |host| !lab.options().dns.is_shared() || host == Host::Dns;
    let withdrawn = watch.gone(is_asked).context("it came back into answers while it was dead")?;
    let end = Instant::now();
    regain(lab, &watch, loss, node)?;
    Ok(Death { address, withdrawn, end })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_node_is_lost_in_every_way() {
        let all: Vec<_> = losses(Loss::DEATHS.into_iter(), 18).collect();
        let different: BTreeSet<_> = all.iter().map(|(loss, node)| (loss.to_string(), *node)).collect();
        assert_eq!((all.len(), different.len()), (18, 18));
    }
}
