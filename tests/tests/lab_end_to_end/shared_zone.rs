//! Nodes that publish themselves in a zone on another server: BIND, Knot, PowerDNS.

mod troubles;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use usher_lab::{DnsServer, Family, Fault, Host, Lab, Options, TTL, until};

use crate::support::{Kept, RECOVERY, SLACK, expect_equal};

pub(crate) use troubles::{
    name_that_is_full_is_told_and_keeps_nothing_from_the_others,
    primary_that_takes_tcp_only_is_written_and_named,
    records_of_the_operator_at_a_name_are_named_and_left_alone,
    wrong_key_is_named_and_mended_without_a_restart,
};

/// A dead node has left the primary and every answer by then: three checks, 500 ms apart, each of which may take 500 ms, and
/// a look at the primary.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// A node that leaves by itself has left by then.
const GOODBYE: Duration = Duration::from_secs(1);

/// Three nodes can be of one mind against the third.
pub(crate) fn options(dns: DnsServer) -> Options {
    Options { nodes: 3, backends: 2, dns, ..Options::default() }
}

/// The node that suffers.
const VICTIM: u8 = 2;

/// What the primary answers for a name and type, sorted.
fn primary(lab: &Lab, name: &str, kind: &str) -> Result<BTreeSet<String>> {
    let server = format!("@{}", lab.address(Host::Dns)?.v4);
    let words = ["dig", &server, "+norecurse", "+short", "+time=1", "+tries=3", name, kind];
    Ok(lab.run(Host::Client, &words)?.lines().map(str::to_owned).collect())
}

/// The addresses that the primary has for `www`.
fn held(lab: &Lab) -> Result<BTreeSet<IpAddr>> {
    let mut addresses = BTreeSet::new();
    for kind in ["A", "AAAA"] {
        for line in primary(lab, "www.example.test", kind)? {
            addresses.insert(line.parse()?);
        }
    }
    Ok(addresses)
}

/// Both addresses of some nodes.
pub(crate) fn of_nodes(lab: &Lab, nodes: &[u8]) -> Result<BTreeSet<IpAddr>> {
    let pairs = nodes.iter().map(|&node| lab.address(Host::Node(node))).collect::<Result<Vec<_>>>()?;
    Ok(pairs.iter().flat_map(|pair| pair.both()).collect())
}

/// Waits until the primary has exactly these nodes; how long that took.
pub(crate) fn wait_held(lab: &Lab, nodes: &[u8], limit: Duration) -> Result<Duration> {
    let (start, wanted) = (Instant::now(), of_nodes(lab, nodes)?);
    // A little longer than allowed: a figure says more than a wait in vain.
    until(&format!("the primary has nodes {nodes:?}"), limit + Duration::from_secs(2), || {
        expect_equal("addresses", &held(lab)?, &wanted)
    })?;
    ensure!(start.elapsed() <= limit, "it took {:?} until the primary had nodes {nodes:?}", start.elapsed());
    Ok(start.elapsed())
}

/// What `usher dns why` and `usher dns plan` say on a node is what the primary answers.
fn expect_told(lab: &Lab, node: u8) -> Result<()> {
    let (held, own) = (held(lab)?, of_nodes(lab, &[node])?);
    let why = lab.run(Host::Node(node), &["usher", "dns", "why", "www.example.test"])?;
    let answer = why.lines().find_map(|line| line.trim_start().strip_prefix("primary of example.test "));
    let (_, answer) = answer.and_then(|line| line.split_once(": ")).context("no answer of the primary")?;
    let told = answer.split(' ').map(str::parse).collect::<Result<BTreeSet<IpAddr>, _>>();
    expect_equal("what `why` says", &told.with_context(|| why.clone())?, &held)?;
    let plan = lab.run(Host::Node(node), &["usher", "dns", "plan"])?;
    let added = plan.lines().filter(|line| line.trim_start().starts_with("add www.example.test. "));
    let added = added.filter_map(|line| line.rsplit(' ').next()).map(str::parse);
    let missing: BTreeSet<IpAddr> = own.difference(&held).copied().collect();
    expect_equal("what `plan` adds", &added.collect::<Result<_, _>>()?, &missing)
}

/// Why a node cannot publish.
fn failing(lab: &Lab, node: u8) -> Result<String> {
    let failing = publishers(lab, node)?["failing"].take();
    Ok(failing["why"].as_str().with_context(|| format!("node{node} can publish"))?.to_owned())
}

/// What is the operator's in the zone.
fn of_the_operator(lab: &Lab) -> Result<Vec<BTreeSet<String>>> {
    let asked = [("example.test", "TXT"), ("static.example.test", "A"), ("dns.example.test", "A")];
    asked.iter().map(|(name, kind)| primary(lab, name, kind)).collect()
}

fn publishers(lab: &Lab, node: u8) -> Result<serde_json::Value> {
    let status = lab.run(Host::Node(node), &["usher", "status", "--json"])?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    status.pointer("/dns/publishers/0").cloned().context("no publisher in the status")
}

/// How an address of a node stands in the zone, as another node says.
fn standing(lab: &Lab, by: u8, node: u8) -> Result<BTreeSet<String>> {
    let publisher = publishers(lab, by)?;
    let addresses = publisher["addresses"].as_array().context("addresses")?;
    let of_node = addresses
        .iter()
        .filter(|one| one["node"] == format!("node{node}").as_str() && one["name"] == "www.example.test");
    Ok(of_node.filter_map(|one| one["state"].as_str().map(str::to_owned)).collect())
}

pub(crate) fn nodes_publish_themselves_beside_what_is_the_operators(lab: &Lab) -> Result<()> {
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    let leases = primary(lab, "_usher-node1.www.example.test", "TXT")?;
    let lease = leases.first().context("no lease")?;
    ensure!(
        leases.len() == 1
            && lease.contains("usher=1 node=node1 boot=")
            && lease.contains("addresses=192.0.2."),
        "{leases:?}"
    );
    let operators = of_the_operator(lab)?;
    ensure!(operators[0].iter().any(|text| text.contains("the operator's own")), "{operators:?}");
    ensure!(operators[1].contains("203.0.113.99"), "{operators:?}");
    for family in Family::ALL {
        let tally = lab.fetch(family, 30)?;
        ensure!(tally.failures.is_empty(), "{tally:?}");
    }
    let page = lab.run(Host::Node(1), &["usher", "status"])?;
    ensure!(page.contains("Published in example.test at "), "{page}");
    expect_equal("states", &standing(lab, 1, 3)?, &["published".to_owned()].into())
}

/// In every way that a host can be lost.
pub(crate) fn node_that_dies_leaves_the_primary_and_every_answer(lab: &Lab) -> Result<()> {
    let operators = of_the_operator(lab)?;
    for fault in [Fault::LinkDown, Fault::Drop, Fault::DropIn, Fault::DropOut, Fault::Freeze] {
        die(lab, fault).with_context(|| format!("{fault}"))?;
    }
    expect_equal("the operator's records", &of_the_operator(lab)?, &operators)
}

pub(crate) fn node_that_is_cut_off_leaves_the_primary_and_every_answer(lab: &Lab) -> Result<()> {
    die(lab, Fault::Drop)
}

fn die(lab: &Lab, fault: Fault) -> Result<()> {
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    lab.fault(Host::Node(VICTIM), fault)?;
    let took = wait_held(lab, &[1, 3], LIMIT)?;
    println!("{fault}: gone from the primary after {took:?}");
    let own = of_nodes(lab, &[VICTIM])?;
    until("its peers name it no more", LIMIT, || {
        for node in [1, 3] {
            for family in Family::ALL {
                let named = lab.dig(node, "www", family)?;
                ensure!(
                    !own.iter().any(|address| named.contains(&address.to_string())),
                    "node{node}: {named:?}"
                );
            }
        }
        Ok(())
    })?;
    until("its peers say who took it away", LIMIT, || {
        let states = standing(lab, 1, VICTIM)?;
        ensure!(states.iter().all(|state| state.starts_with("removed-by node")), "{states:?}");
        Ok(())
    })?;
    let why = lab.run(Host::Node(1), &["usher", "dns", "why", "www.example.test"])?;
    for said in ["node1: silent", "node3: silent", ": removed-by node", "not named by this node"] {
        ensure!(why.contains(said), "no `{said}` in {why}");
    }
    expect_told(lab, 1)?;
    lab.fault(Host::Node(VICTIM), Fault::Heal)?;
    // A majority sees it: no hold-down.
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    lab.wait_all_well(RECOVERY)
}

/// The daemon is killed, and its host with it.
pub(crate) fn node_that_is_killed_and_cut_off_comes_back_with_its_next_daemon(lab: &Lab) -> Result<()> {
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    lab.fault(Host::Node(VICTIM), Fault::LinkDown)?;
    lab.kill_usher(VICTIM)?;
    wait_held(lab, &[1, 3], LIMIT)?;
    lab.fault(Host::Node(VICTIM), Fault::Heal)?;
    lab.start_usher(VICTIM)?;
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    lab.wait_all_well(RECOVERY)
}

pub(crate) fn drained_node_leaves_the_primary_at_once_and_serves_on(lab: &Lab) -> Result<()> {
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    lab.run(Host::Node(VICTIM), &["usher", "node", "drain"])?;
    wait_held(lab, &[1, 3], GOODBYE)?;
    until("status says so", LIMIT, || {
        expect_equal("states", &standing(lab, 1, VICTIM)?, &["withdrawn-self".to_owned()].into())
    })?;
    let url = format!("http://{}/", lab.address(Host::Node(VICTIM))?.v4);
    lab.run(Host::Client, &["curl", "-sSf", "-m", "3", &url])?;
    lab.run(Host::Node(VICTIM), &["usher", "node", "ready"])?;
    wait_held(lab, &[1, 2, 3], GOODBYE * 2)?;
    lab.wait_all_well(RECOVERY)
}

/// The lab's TTL is a second.
pub(crate) fn drain_ends_when_nobody_is_led_to_the_node_any_more(lab: &Lab) -> Result<()> {
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    let drain = ["usher", "node", "drain", "--wait", "--quiet", "1s", "--timeout", "30s"];
    let said = lab.run(Host::Node(VICTIM), &drain)?;
    ensure!(said.contains("drained\nsafe to stop: 0 new flows for "), "{said}");
    let (_, end) = said.split_once(", the last TTL ran out at ").context(said.clone())?;
    let (ran_out, _) = end.split_once("; ").context(said.clone())?;
    let seconds = |time: &str| lab.run(Host::Node(VICTIM), &["date", "+%s", "-d", time]);
    let ago = seconds("now")?.trim().parse::<u64>()?.checked_sub(seconds(ran_out)?.trim().parse()?);
    // For a TTL more it was not named.
    let ago = Duration::from_secs(ago.with_context(|| said.clone())?);
    ensure!(ago >= TTL && ago < TTL + RECOVERY, "{ago:?} ago: {said}");
    expect_equal("addresses", &held(lab)?, &of_nodes(lab, &[1, 3])?)?;
    lab.run(Host::Node(VICTIM), &["usher", "node", "ready"])?;
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    lab.wait_all_well(RECOVERY)
}

/// A restart withdraws nothing: the next daemon takes the lease over.
pub(crate) fn restarted_daemon_takes_its_lease_over(lab: &Lab) -> Result<()> {
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    let boot = || -> Result<String> {
        let leases = primary(lab, &format!("_usher-node{VICTIM}.www.example.test"), "TXT")?;
        let lease = leases.first().context("no lease")?;
        Ok(lease.split(' ').find(|word| word.starts_with("boot=")).context("no boot id")?.to_owned())
    };
    let before = boot()?;
    lab.stop_usher(VICTIM)?;
    lab.start_usher(VICTIM)?;
    until("the lease is the new daemon's", RECOVERY, || {
        expect_equal("addresses", &held(lab)?, &of_nodes(lab, &[1, 2, 3])?)?;
        ensure!(boot()? != before, "it is {before}");
        Ok(())
    })?;
    lab.wait_all_well(RECOVERY)
}

/// With `on_stop = "detach"`: neither address nor lease is left.
pub(crate) fn node_that_stops_for_good_leaves_nothing_in_the_zone(lab: &Lab) -> Result<()> {
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    let file = Kept::of(&lab.node_config(VICTIM))?;
    file.write(&file.text().replacen("[node]\n", "[node]\non_stop = \"detach\"\n", 1))?;
    lab.run(Host::Node(VICTIM), &["usher", "reload"])?;
    lab.stop_usher(VICTIM)?;
    wait_held(lab, &[1, 3], GOODBYE)?;
    expect_equal(
        "leases",
        &primary(lab, &format!("_usher-node{VICTIM}.www.example.test"), "TXT")?,
        &BTreeSet::new(),
    )?;
    drop(file);
    lab.start_usher(VICTIM)?;
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    lab.wait_all_well(RECOVERY)
}

/// Three leases long nothing can be read; then nobody is taken away for it, and everything goes on.
pub(crate) fn primary_that_stands_still_takes_nobody_away(lab: &Lab) -> Result<()> {
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    lab.fault(Host::Dns, Fault::Freeze)?;
    until("status says so", RECOVERY, || {
        let failing = publishers(lab, 1)?["failing"].clone();
        let why = failing["why"].as_str().context("it does not fail yet")?.to_owned();
        ensure!(why.contains(":53"), "{why}");
        Ok(())
    })?;
    let metrics = lab.run(Host::Node(1), &["usher", "metrics"])?;
    let said = "usher_publisher_error{zone=\"example.test\",kind=\"timeout\"} 1.0\n";
    ensure!(metrics.contains(said), "no {said}in:\n{metrics}");
    // The embedded servers answer all the while.
    let start = Instant::now();
    while start.elapsed() < LEASE * 3 {
        expect_equal("answers", &lab.dig(1, "www", Family::V4)?.len(), &3)?;
        std::thread::sleep(Duration::from_millis(200));
    }
    lab.fault(Host::Dns, Fault::Heal)?;
    let start = Instant::now();
    let all = of_nodes(lab, &[1, 2, 3])?;
    while start.elapsed() < LEASE {
        if let Ok(held) = held(lab) {
            expect_equal("addresses", &held, &all)?;
        }
    }
    until("it is written again", RECOVERY, || {
        for node in 1..=3 {
            ensure!(publishers(lab, node)?["failing"].is_null(), "node{node} cannot write yet");
        }
        Ok(())
    })?;
    lab.wait_all_well(RECOVERY)
}

/// As the lab's nodes have it.
const LEASE: Duration = Duration::from_secs(9);
const RENEWAL: Duration = Duration::from_secs(3);

/// One node sees nobody, and the primary not either. The two others are of one mind.
pub(crate) fn node_alone_takes_nobody_away(lab: &Lab) -> Result<()> {
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    let all = of_nodes(lab, &[2, 3])?;
    lab.fault(Host::Node(1), Fault::Drop)?;
    let start = Instant::now();
    while start.elapsed() < LEASE * 2 {
        let held = held(lab)?;
        ensure!(held.is_superset(&all), "only {held:?} are left");
    }
    wait_held(lab, &[2, 3], LIMIT)?;
    expect_told(lab, 2)?;
    let why = lab.run(Host::Node(1), &["usher", "dns", "why", "www.example.test"])?;
    ensure!(why.contains(": FAILING for ") && why.contains(&failing(lab, 1)?), "{why}");
    let plan = lab.output(Host::Node(1), &["usher", "dns", "plan"])?;
    ensure!(plan.code != Some(0) && plan.stderr.contains(":53"), "{plan:?}");
    lab.fault(Host::Node(1), Fault::Heal)?;
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    lab.wait_all_well(RECOVERY)
}

/// The same, but all see the primary: only votes tell who is cut off.
pub(crate) fn node_cut_off_from_its_peers_alone_is_taken_away_and_takes_nobody_away(lab: &Lab) -> Result<()> {
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    lab.part(Host::Node(1), &[Host::Node(2), Host::Node(3)])?;
    wait_held(lab, &[2, 3], LIMIT)?;
    // Families are taken away one after the other, and a node reads the zone every five seconds.
    until("node1 knows", RECOVERY, || {
        let states = standing(lab, 1, 1)?;
        ensure!(states.iter().all(|state| state.starts_with("removed-by node")), "{states:?}");
        expect_equal("its own answers", &lab.dig(1, "www", Family::V4)?.len(), &1)
    })?;
    let why = lab.run(Host::Node(1), &["usher", "dns", "why", "www.example.test"])?;
    for said in ["node1: silent", " away (silent)", ": removed-by node"] {
        ensure!(why.contains(said), "no `{said}` in {why}");
    }
    expect_told(lab, 1)?;
    expect_told(lab, 3)?;
    let (start, others) = (Instant::now(), of_nodes(lab, &[2, 3])?);
    while start.elapsed() < LEASE {
        expect_equal("addresses", &held(lab)?, &others)?;
    }
    lab.part(Host::Node(1), &[])?;
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    expect_told(lab, 1)?;
    lab.wait_all_well(RECOVERY)
}

/// It says itself that it cannot serve, to whoever still hears it.
pub(crate) fn node_that_is_drained_and_has_lost_the_primary_is_taken_away_after_its_lease(
    lab: &Lab,
) -> Result<()> {
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    lab.part(Host::Node(VICTIM), &[Host::Dns])?;
    lab.run(Host::Node(VICTIM), &["usher", "node", "drain"])?;
    // Its last renewal was a whole period before that at the most.
    let (start, all) = (Instant::now(), of_nodes(lab, &[1, 2, 3])?);
    while start.elapsed() < LEASE - RENEWAL - SLACK {
        expect_equal("addresses", &held(lab)?, &all)?;
    }
    wait_held(lab, &[1, 3], RECOVERY)?;
    // The other one may have done it, and a node reads the zone every five seconds.
    until("node1 knows", RECOVERY, || {
        let why = lab.run(Host::Node(1), &["usher", "dns", "why", "www.example.test"])?;
        for said in ["node1: declines", "node3: declines", ": removed-by node"] {
            ensure!(why.contains(said), "no `{said}` in {why}");
        }
        Ok(())
    })?;
    expect_told(lab, 1)?;
    lab.part(Host::Node(VICTIM), &[])?;
    lab.run(Host::Node(VICTIM), &["usher", "node", "ready"])?;
    wait_held(lab, &[1, 2, 3], RECOVERY * 2)?;
    lab.wait_all_well(RECOVERY)
}

/// It takes no signatures then, and what nodes do not read removes nobody; nor does what they read for the first time again.
pub(crate) fn primary_whose_clock_is_an_hour_off_takes_nobody_away(lab: &Lab) -> Result<()> {
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    lab.stop_primary()?;
    lab.start_primary(Some("-3600"))?;
    until("status names both clocks", RECOVERY, || {
        for node in [1, 3] {
            let why = failing(lab, node)?;
            ensure!(why.contains("(BADTIME): this host's clock says 20"), "{why}");
            ensure!(why.contains(" s ahead of its, which says 20"), "{why}");
        }
        Ok(())
    })?;
    let why = lab.run(Host::Node(1), &["usher", "dns", "why", "www.example.test"])?;
    ensure!(why.contains(": FAILING for ") && why.contains("(BADTIME)"), "{why}");
    let plan = lab.output(Host::Node(1), &["usher", "dns", "plan"])?;
    ensure!(plan.code != Some(0) && plan.stderr.contains("(BADTIME)"), "{plan:?}");
    lab.fault(Host::Node(VICTIM), Fault::Drop)?;
    let own = of_nodes(lab, &[VICTIM])?;
    until("its peers name it no more", LIMIT, || {
        for node in [1, 3] {
            let named = lab.dig(node, "www", Family::V4)?;
            ensure!(!own.iter().any(|address| named.contains(&address.to_string())), "node{node}: {named:?}");
        }
        Ok(())
    })?;
    lab.stop_primary()?;
    lab.start_primary(None)?;
    until("a node can publish", RECOVERY * 2, || {
        ensure!([1, 3].iter().any(|&node| failing(lab, node).is_err()), "not yet");
        Ok(())
    })?;
    let (start, all) = (Instant::now(), of_nodes(lab, &[1, 2, 3])?);
    // It could a little before that was seen.
    while start.elapsed() < LEASE - SLACK {
        expect_equal("addresses", &held(lab)?, &all)?;
    }
    wait_held(lab, &[1, 3], RECOVERY)?;
    expect_told(lab, 1)?;
    lab.fault(Host::Node(VICTIM), Fault::Heal)?;
    wait_held(lab, &[1, 2, 3], RECOVERY * 2)?;
    lab.wait_all_well(RECOVERY)
}

/// `plan` shows what a daemon would do, and `simulate` what all would: what `dig` then finds.
pub(crate) fn plan_and_simulation_tell_what_comes(lab: &Lab) -> Result<()> {
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    let plan = lab.run(Host::Node(1), &["usher", "dns", "plan"])?;
    for said in [
        "zone example.test at ",
        "if _usher-node1.www.example.test. TXT is \"usher=1 node=node1",
        "updates/s of 3 nodes",
    ] {
        ensure!(plan.contains(said), "no `{said}` in {plan}");
    }
    let told = lab.run(Host::Node(1), &["usher", "simulate", "node2 down"])?;
    let (_, zone) = told.split_once("shared zone example.test holds\n").context("no shared zone")?;
    let published =
        zone.lines().filter(|line| line.trim_start().starts_with("www.") && line.ends_with(": published"));
    let told: BTreeSet<IpAddr> = published
        .filter_map(|line| line.split_whitespace().nth(1))
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    lab.fault(Host::Node(2), Fault::Drop)?;
    wait_held(lab, &[1, 3], LIMIT)?;
    expect_equal("what the simulation told", &told, &held(lab)?)?;
    lab.fault(Host::Node(2), Fault::Heal)?;
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    lab.wait_all_well(RECOVERY)
}
