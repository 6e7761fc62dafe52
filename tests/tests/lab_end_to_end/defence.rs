//! Clients that are denied, and sources that open too many connections.

use std::{
    fs,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use lb_common::defence::MAX_DENIED;
use usher_lab::{Connections, Family, Host, Lab, Tally, until};

use crate::support::{Background, RECOVERY, client, expect_equal, explain, service, status, vip};

const WEB: u16 = 80;

/// Whether this client gets a page of this node within a second.
fn is_served(lab: &Lab, client: IpAddr, node: u8, family: Family) -> Result<bool> {
    let url = format!("http://{}/", vip(lab, node, family, WEB)?);
    let curl = ["curl", "-sS", "-o", "/dev/null", "-m", "1", "--interface", &client.to_string(), &url];
    let output = lab.output(Host::Client, &curl)?;
    match output.code {
        Some(0) => Ok(true),
        // No answer at all: neither a reset nor an error.
        Some(28) => Ok(false),
        _ => bail!("curl from {client}: {output:?}"),
    }
}

fn expect_served(lab: &Lab, client: IpAddr, node: u8, expected: bool) -> Result<()> {
    let family = crate::support::family_of(client);
    let served = is_served(lab, client, node, family)?;
    expect_equal(&format!("{client} is served by node{node}"), &served, &expected)
}

/// Changes the deny list of node 1.
fn deny(lab: &Lab, words: &[&str]) -> Result<String> {
    lab.run(Host::Node(1), &[&["usher", "deny"], words].concat())
}

/// Another address of the client's.
fn neighbour(client: IpAddr) -> Result<IpAddr> {
    let text = client.to_string();
    let (rest, last) = text.split_at(text.len() - 1);
    ensure!(last == "7", "the client's address is {client}");
    Ok(format!("{rest}8").parse()?)
}

/// By a daemon whose configuration denies nobody, so its programs have no code for it.
pub(crate) fn f62_denied_client_is_cut_off_at_once_and_served_again_afterwards(lab: &Lab) -> Result<()> {
    let [v4, v6] = [client(lab, Family::V4, 0)?.ip(), client(lab, Family::V6, 0)?.ip()];
    let (others, words) = ([neighbour(v4)?, neighbour(v6)?], [v4.to_string(), v6.to_string()]);
    let words = [&*words[0], &*words[1]];
    // From all addresses of the client, to both nodes.
    let connections = Connections::open(lab, 32)?;
    let of_client = connections.all().iter().filter(|one| one.node == 1 && [v4, v6].contains(&one.from.ip()));
    ensure!(of_client.count() > 0, "no connection to node1 from {v4} or {v6}");

    let said = deny(lab, &[&["add"], &words[..]].concat())?;
    expect_equal(
        "said",
        &said.trim(),
        &"2 added; 2 prefixes: 0 in the configuration, 0 in its file, 2 by command",
    )?;
    for (client, other) in [v4, v6].into_iter().zip(others) {
        expect_served(lab, client, 1, false)?;
        expect_served(lab, other, 1, true)?;
        // The list is node 1's own.
        expect_served(lab, client, 2, true)?;
    }
    let explained = explain(lab, 1, client(lab, Family::V4, 40_001)?, vip(lab, 1, Family::V4, WEB)?, "tcp")?;
    expect_equal("explained", &explained.reason.as_str(), &"denied")?;
    // SYNs of curl; and the client's connections are as silent as if the cable were out.
    let denied = |lab| -> Result<u64> {
        Ok(service(&status(lab, 1)?, "web")?.packets.get("denied").copied().unwrap_or(0))
    };
    let before = denied(lab)?;
    until("packets of established connections are denied", RECOVERY, || {
        let now = denied(lab)?;
        ensure!(now > before, "{now} packets");
        Ok(())
    })?;

    let listed = deny(lab, &["list"])?;
    for word in words {
        ensure!(
            listed.lines().any(|line| line.starts_with(&format!("{word}/")) && line.ends_with("# command")),
            "{listed}"
        );
    }
    let unknown = lab.output(Host::Node(1), &["usher", "deny", "del", &others[0].to_string()])?;
    ensure!(unknown.code == Some(1) && unknown.stderr.contains(" was not added; "), "{unknown:?}");

    deny(lab, &[&["del"], &words[..]].concat())?;
    for client in [v4, v6] {
        expect_served(lab, client, 1, true)?;
    }
    // The connections were not reset, and go on.
    connections.wait_rounds(1)?;
    connections.finish()?.expect_whole(32, 1)
}

/// While other clients are served and checks go on.
pub(crate) fn f62_a_million_rules_are_added_by_one_command(lab: &Lab) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(120);
    let client = client(lab, Family::V4, 0)?.ip();
    let path = "/run/usher-lab/drop.txt";
    // Hosts of the lab are not among them, but for the first two.
    let mut text = format!("{client} # and many more\n203.0.113.98\n");
    for number in 1..MAX_DENIED as u32 / 2 {
        let [_, a, b, c] = number.to_be_bytes();
        text += &format!("10.{a}.{b}.{c}\n2001:db8:9000::{b:x}:{a:x}{c:02x}\n");
    }
    fs::write(path, text)?;

    let mut stream = lab.stream(Family::V6)?;
    let begin = Instant::now();
    let add = Background::start(lab, Host::Node(1), &["usher", "deny", "add", "--file", path])?;
    let mut slowest = Duration::ZERO;
    until("the first rule is in force", LIMIT, || {
        let asked = Instant::now();
        let listed = deny(lab, &["list", "--count"])?;
        slowest = slowest.max(asked.elapsed());
        ensure!(!listed.contains(" 0 by command"), "{listed}");
        Ok(())
    })?;
    let (code, said, complaint) = add.finish(LIMIT)?;
    ensure!(code == Some(0), "{complaint}");
    println!("{} in {:?}; the slowest question took {slowest:?}", said.trim(), begin.elapsed());
    expect_served(lab, client, 1, false)?;

    let full = lab.output(Host::Node(1), &["usher", "deny", "add", "203.0.113.99"])?;
    ensure!(full.code == Some(1) && full.stderr.contains("has room for 1000000 prefixes"), "{full:?}");
    let begin = Instant::now();
    let del = Background::start(lab, Host::Node(1), &["usher", "deny", "del", "--file", path])?;
    let (code, said, complaint) = del.finish(LIMIT)?;
    ensure!(code == Some(0), "{complaint}");
    println!("{} in {:?}", said.trim(), begin.elapsed());
    expect_served(lab, client, 1, true)?;
    let tally = Tally::of(stream.answers());
    ensure!(tally.total > 0 && tally.failures.is_empty(), "{tally:?}");
    Ok(())
}

/// New connections that a source may open at once here, and then each second.
const BURST: usize = 5;

pub(crate) fn f62_source_that_opens_too_many_connections_is_refused_new_ones_only(lab: &Lab) -> Result<()> {
    let path = lab.node_config(1);
    let ordinary = fs::read_to_string(&path)?;
    let (before, after) = ordinary.split_once("\ncheck = ").context("no check in the configuration")?;
    let limit = format!("rate_limit = {{ per_source = 1, burst = {BURST} }}");
    fs::write(&path, format!("{before}\n{limit}\ncheck = {after}"))?;
    lab.stop_usher(1)?;
    lab.start_usher(1)?;
    lab.wait_all_well(RECOVERY)?;

    for family in Family::ALL {
        let client = client(lab, family, 0)?.ip();
        let begin = Instant::now();
        let opened = burst(lab, client, family)?;
        // A token comes each second, and a SYN that found none is sent again after one second and after three.
        let tokens = BURST + 1 + begin.elapsed().as_secs() as usize;
        ensure!(
            (BURST..=tokens).contains(&opened),
            "{client} opened {opened} connections with {tokens} tokens"
        );
    }
    // Another source has tokens of its own. With IPv6 it would be the same network.
    let other = neighbour(client(lab, Family::V4, 0)?.ip())?;
    expect_served(lab, other, 1, true)?;
    let limited = service(&status(lab, 1)?, "web")?.packets.get("rate_limited").copied().unwrap_or(0);
    ensure!(limited >= BURST as u64, "{limited} packets were over the limit");
    expect_known_goes_on(lab)?;

    fs::write(&path, ordinary)?;
    lab.stop_usher(1)?;
    lab.start_usher(1)
}

/// Opens six times as many connections as a source may; how many were answered within three seconds.
fn burst(lab: &Lab, client: IpAddr, family: Family) -> Result<usize> {
    let url = format!("http://{}/", vip(lab, 1, family, WEB)?);
    let script = format!(
        "for i in $(seq {}); do curl -s -o /dev/null -m 3 --interface {client} '{url}' && echo ok & done; wait",
        6 * BURST
    );
    Ok(lab.run(Host::Client, &["sh", "-c", &script])?.lines().count())
}

/// A connection that is open goes on, while its source may open no other.
fn expect_known_goes_on(lab: &Lab) -> Result<()> {
    lab.big_file("known", 64 << 20)?;
    let client = client(lab, Family::V4, 0)?.ip();
    lab.download(vip(lab, 1, Family::V4, WEB)?, "known", || {
        let opened = burst(lab, client, Family::V4)?;
        ensure!(opened < 6 * BURST, "{opened} connections were opened meanwhile");
        Ok(())
    })
}
