//! Requests, downloads and load as clients make them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use usher_lab::{Family, Forward, Host, Lab};

use crate::support::{backends, growth, status};

/// Requests of one spread.
const REQUESTS: usize = 1_200;

/// How far a backend's share may be from a third. With 1,200 requests it varies by 4.1 % (one sigma): a
/// right spread goes beyond this once in ten thousand runs (measured with random keys: 3 of 80,000).
const TOLERANCE: f64 = 0.2;

/// Packets that a client sends in a request of its own connection, at least: SYN, ACK, request, FIN and the
/// ACK of the server's FIN.
const PACKETS: u64 = 5;

/// And those that the server sends: SYN|ACK, response, FIN.
const REPLIES: u64 = 3;

const WEB: &str = "web";

pub(crate) fn curl_by_name_over_ipv4_is_spread_over_backends_and_nodes(lab: &Lab) -> Result<()> {
    spread(lab, Family::V4)
}

pub(crate) fn curl_by_name_over_ipv6_is_spread_over_backends_and_nodes(lab: &Lab) -> Result<()> {
    spread(lab, Family::V6)
}

fn spread(lab: &Lab, family: Family) -> Result<()> {
    let before = Counters::read(lab, family)?;
    let tally = lab.fetch(family, REQUESTS)?;
    let grown = Counters::read(lab, family)?.since(&before);

    ensure!(tally.total == REQUESTS, "{} requests of {REQUESTS} ended", tally.total);
    tally.expect_no_failure()?;
    let nodes = lab.options().node_hosts().map(|node| Ok(lab.address(node)?.of(family)));
    let used: BTreeSet<_> = tally.addresses.keys().copied().collect();
    ensure!(used == nodes.collect::<Result<_>>()?, "requests went to {:?}", tally.addresses);
    let off = tally.imbalance(usize::from(lab.options().backends));
    ensure!(off <= TOLERANCE, "a share is {:.0} % off: {:?}", off * 100.0, tally.backends);

    // F63, as far as connections tell; UDP counts exactly.
    for (backend, &requests) in &tally.backends {
        let (sent, least) = (grown.by_backend[backend], PACKETS * requests as u64);
        ensure!(sent >= least, "{requests} requests reached {backend} in only {sent} packets");
    }
    for (reason, packets) in reasons(lab) {
        let (grew, least) = (grown.by_reason[*reason], packets * REQUESTS as u64);
        ensure!(grew >= least, "{reason} grew by only {grew}");
    }
    let other_way = match lab.options().forward {
        Forward::Nat => "dsr_l2",
        Forward::DsrL2 | Forward::DsrIpip | Forward::DsrGue => "nat",
    };
    ensure!(grown.by_reason[other_way] == 0, "{other_way} grew, which is not this service's way");
    Ok(())
}

/// The reasons with which packets of this lab's services end, and how many packets a request has at least.
fn reasons(lab: &Lab) -> &'static [(&'static str, u64)] {
    match lab.options().forward {
        Forward::Nat => &[("nat", PACKETS), ("nat_reply", REPLIES)],
        Forward::DsrL2 => &[("dsr_l2", PACKETS)],
        Forward::DsrIpip => &[("dsr_ipip", PACKETS)],
        Forward::DsrGue => &[("dsr_gue", PACKETS)],
    }
}

/// Counters of all nodes together.
struct Counters {
    by_backend: BTreeMap<String, u64>,
    by_reason: BTreeMap<String, u64>,
}

impl Counters {
    fn read(lab: &Lab, family: Family) -> Result<Counters> {
        let mut counters = Counters { by_backend: BTreeMap::new(), by_reason: BTreeMap::new() };
        for node in 1..=lab.options().nodes {
            let status = status(lab, node)?;
            for backend in backends(&status, WEB, family)? {
                *counters.by_backend.entry(backend.name.clone()).or_default() += backend.packets;
            }
            for (reason, packets) in status.packets {
                *counters.by_reason.entry(reason).or_default() += packets;
            }
        }
        Ok(counters)
    }

    fn since(&self, before: &Counters) -> Counters {
        Counters {
            by_backend: growth(&before.by_backend, &self.by_backend),
            by_reason: growth(&before.by_reason, &self.by_reason),
        }
    }
}

pub(crate) fn download_of_1_gib_over_ipv4_arrives_intact(lab: &Lab) -> Result<()> {
    download(lab, Family::V4, 1 << 30)
}

pub(crate) fn download_of_1_gib_over_ipv6_arrives_intact(lab: &Lab) -> Result<()> {
    download(lab, Family::V6, 1 << 30)
}

/// Compares every byte on the way in: nothing is kept.
fn download(lab: &Lab, family: Family, size: u64) -> Result<()> {
    let file = lab.big_file("download", size)?;
    let script = format!(
        "curl -sSf {} --max-time 120 http://www.example.test/big/download | cmp - {}",
        family.flag(),
        file.display()
    );
    let result = lab.run(Host::Client, &["sh", "-c", &script]);
    std::fs::remove_file(&file).with_context(|| format!("{}", file.display()))?;
    result.map(drop)
}

pub(crate) fn upload_of_256_mib_over_ipv4_arrives_intact(lab: &Lab) -> Result<()> {
    upload(lab, Family::V4, 256 << 20)
}

pub(crate) fn upload_of_256_mib_over_ipv6_arrives_intact(lab: &Lab) -> Result<()> {
    upload(lab, Family::V6, 256 << 20)
}

/// Where packets are encapsulated, full ones do not fit any more: the client must be told in time.
fn upload(lab: &Lab, family: Family, size: u64) -> Result<()> {
    let name = format!("upload-{family}");
    let file = lab.big_file(&name, size)?;
    let url = format!("http://www.example.test/upload/{name}");
    let sent = file.to_string_lossy();
    let upload = ["curl", "-sSf", family.flag(), "--max-time", "120", "-T", &sent, &url];
    lab.run(Host::Client, &upload)?;
    let arrived = lab.uploaded(&name)?;
    lab.run(Host::Client, &["cmp", &sent, &arrived.to_string_lossy()])?;
    for path in [&file, &arrived] {
        std::fs::remove_file(path).with_context(|| format!("{}", path.display()))?;
    }
    Ok(())
}

pub(crate) fn wrk_with_64_connections_sees_no_error(lab: &Lab) -> Result<()> {
    // NAT translates both ways and keeps records of its own: it gets the whole of the half minute.
    let seconds = if lab.options().forward == Forward::Nat { 30 } else { 10 };
    wrk(lab, &["-d", &format!("{seconds}s"), "http://www.example.test/"])
}

pub(crate) fn wrk_with_a_new_connection_per_request_sees_no_error(lab: &Lab) -> Result<()> {
    wrk(lab, &["-d", "3s", "-H", "Connection: close", "http://www.example.test/"])
}

fn wrk(lab: &Lab, arguments: &[&str]) -> Result<()> {
    let command: Vec<_> = ["wrk", "-c", "64", "-t", "2"].iter().chain(arguments).copied().collect();
    let output = lab.run(Host::Client, &command)?;
    // wrk names these only when there were some.
    for complaint in ["Socket errors", "Non-2xx"] {
        ensure!(!output.contains(complaint), "{output}");
    }
    let requests = output.lines().find_map(|line| line.trim().split_once(" requests in "));
    let requests: u64 = requests.with_context(|| output.clone())?.0.parse().context("requests")?;
    ensure!(requests > 1_000, "hardly anything was asked: {output}");
    Ok(())
}
