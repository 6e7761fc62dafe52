//! What is in the way at a name or of a zone, and how nodes say it.

use std::{collections::BTreeSet, net::IpAddr, time::Instant};

use anyhow::{Context as _, Result, ensure};
use usher_lab::{Fault, Host, Lab, TTL, until};

use super::{GOODBYE, LEASE, LIMIT, VICTIM, held, of_nodes, primary, publishers, wait_held};
use crate::support::{Kept, RECOVERY, expect_equal};

/// What the primary's operator has at our names: an alias, and addresses with a TTL of theirs.
pub(crate) fn records_of_the_operator_at_a_name_are_named_and_left_alone(lab: &Lab) -> Result<()> {
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    let told = |name: &str, said: &str| {
        until(&format!("`{said}` is said"), RECOVERY, || {
            for words in [&["why", name][..], &["plan"]] {
                let text = lab.run(Host::Node(VICTIM), &[&["usher", "dns"], words].concat())?;
                ensure!(text.contains(said), "no `{said}` in {text}");
            }
            Ok(())
        })
    };
    let echo = "echo.example.test";
    let addresses = primary(lab, echo, "A")?;
    lab.change_zone(&[
        "update delete echo.example.test. A",
        "update delete echo.example.test. AAAA",
        "update add echo.example.test. 60 CNAME static.example.test.",
    ])?;
    told(echo, "echo.example.test is an alias of static.example.test, and an alias can have no addresses")?;
    expect_equal("alias", &primary(lab, echo, "CNAME")?, &["static.example.test.".to_owned()].into())?;
    lab.change_zone(&["update delete echo.example.test. CNAME"])?;
    until("addresses are there again", RECOVERY, || {
        expect_equal("addresses", &primary(lab, echo, "A")?, &addresses)
    })?;

    let ttls = || -> Result<BTreeSet<String>> {
        let server = format!("@{}", lab.address(Host::Dns)?.v4);
        let words = ["dig", &server, "+norecurse", "+noall", "+answer", "www.example.test", "A"];
        let answer = lab.run(Host::Client, &words)?;
        Ok(answer.lines().filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect())
    };
    lab.run(Host::Node(VICTIM), &["usher", "node", "drain"])?;
    wait_held(lab, &[1, 3], GOODBYE * 2)?;
    lab.change_zone(&["update add www.example.test. 77 A 203.0.113.7"])?;
    lab.run(Host::Node(VICTIM), &["usher", "node", "ready"])?;
    told(
        "www.example.test",
        "www.example.test has addresses of others: 203.0.113.7; remove them, or set share",
    )?;
    let foreign: IpAddr = "203.0.113.7".parse()?;
    let with = |nodes: &[u8]| -> Result<BTreeSet<IpAddr>> {
        Ok(of_nodes(lab, nodes)?.into_iter().chain([foreign]).collect())
    };
    expect_equal("addresses", &held(lab)?, &with(&[1, 3])?)?;

    let file = Kept::of(&lab.node_config(VICTIM))?;
    file.write(&file.text().replacen("[[dns.publish]]\n", "[[dns.publish]]\nshare_rrset = true\n", 1))?;
    lab.run(Host::Node(VICTIM), &["usher", "reload"])?;
    until("the node is there, too", RECOVERY, || {
        expect_equal("addresses", &held(lab)?, &with(&[1, 2, 3])?)?;
        expect_equal("TTLs", &ttls()?, &["77".to_owned()].into())
    })?;
    drop(file);
    lab.run(Host::Node(VICTIM), &["usher", "reload"])?;
    // The set has the TTL of what is added last.
    let first =
        format!("update add www.example.test. {} A {}", TTL.as_secs(), lab.address(Host::Node(1))?.v4);
    lab.change_zone(&["update delete www.example.test. A 203.0.113.7", &first])?;
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    expect_equal("TTLs", &ttls()?, &[TTL.as_secs().to_string()].into())?;
    lab.wait_all_well(RECOVERY)
}

/// As many as BIND lets a name have (`max-records-per-type`).
const MOST: usize = 100;

/// `echo` takes no more IPv4 addresses, and two nodes are not there yet: nothing else suffers.
pub(crate) fn name_that_is_full_is_told_and_keeps_nothing_from_the_others(lab: &Lab) -> Result<()> {
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    let echo = "echo.example.test";
    let all = primary(lab, echo, "A")?;
    let node_command = |node, words: &[&str]| lab.run(Host::Node(node), words).map(drop);
    let mut files = Vec::new();
    for node in [2, 3] {
        let file = Kept::of(&lab.node_config(node))?;
        file.write(&file.text().replacen("[[dns.publish]]\n", "[[dns.publish]]\nshare_rrset = true\n", 1))?;
        files.push(file);
        node_command(node, &["usher", "reload"])?;
        node_command(node, &["usher", "node", "drain"])?;
    }
    let first = lab.address(Host::Node(1))?.v4.to_string();
    until("one node is left", RECOVERY, || {
        expect_equal("addresses", &primary(lab, echo, "A")?, &[first.clone()].into())
    })?;
    let others = |verb: &str| {
        let lines: Vec<_> =
            (1..MOST).map(|host| format!("update {verb} {echo}. 60 A 203.0.113.{host}")).collect();
        lab.change_zone(&lines.iter().map(String::as_str).collect::<Vec<_>>())
    };
    others("add")?;
    for node in [2, 3] {
        node_command(node, &["usher", "node", "ready"])?;
    }
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    let said = format!("{echo}: this node's IPv4 addresses cannot be added: ");
    until("it is told", RECOVERY, || {
        for (node, words) in [(2, &["status"][..]), (3, &["status"]), (2, &["dns", "why", echo])] {
            let text = lab.run(Host::Node(node), &[&["usher"], words].concat())?;
            let line = text.lines().find(|line| line.contains(&said)).with_context(|| text.clone())?;
            ensure!(line.contains("max-records-per-type") && !text.contains("FAILING"), "{text}");
        }
        expect_equal("IPv6", &primary(lab, echo, "AAAA")?.len(), &3)
    })?;
    let leases = || -> Result<Vec<_>> {
        let names = [echo, "www.example.test"];
        names.iter().map(|name| primary(lab, &format!("_usher-node2.{name}"), "TXT")).collect()
    };
    let before = leases()?;
    until("leases are renewed at both names", LEASE, || {
        let now = leases()?;
        ensure!(now.iter().zip(&before).all(|(now, before)| now != before), "{now:?}");
        Ok(())
    })?;
    lab.fault(Host::Node(1), Fault::Drop)?;
    wait_held(lab, &[2, 3], LIMIT)?;

    lab.change_zone(&[
        &format!("update delete {echo}. A 203.0.113.1"),
        &format!("update delete {echo}. A 203.0.113.2"),
    ])?;
    let own = [2, 3].map(|node| lab.address(Host::Node(node)).map(|pair| pair.v4.to_string()));
    let own = own.into_iter().collect::<Result<BTreeSet<_>>>()?;
    until("both are there, and nothing is in the way", RECOVERY, || {
        let held = primary(lab, echo, "A")?;
        ensure!(held.is_superset(&own), "{held:?}");
        for node in [2, 3] {
            expect_equal("troubles", &publishers(lab, node)?["troubles"], &serde_json::json!([]))?;
        }
        Ok(())
    })?;
    others("delete")?;
    drop(files);
    for node in [2, 3] {
        node_command(node, &["usher", "reload"])?;
    }
    lab.fault(Host::Node(1), Fault::Heal)?;
    until("all are there again", RECOVERY, || expect_equal("addresses", &primary(lab, echo, "A")?, &all))?;
    // The set has the TTL of what is added last.
    lab.change_zone(&[&format!("update add {echo}. {} A {first}", TTL.as_secs())])?;
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    lab.wait_all_well(RECOVERY)
}

/// Datagrams to it are lost.
pub(crate) fn primary_that_takes_tcp_only_is_written_and_named(lab: &Lab) -> Result<()> {
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    let on_dns = |line: &str| lab.run(Host::Dns, &["sh", "-ec", line]);
    on_dns(
        "nft 'add table inet lost; add chain inet lost in { type filter hook input priority 0; }
         add rule inet lost in udp dport 53 drop'",
    )?;
    let why = || lab.run(Host::Node(1), &["usher", "dns", "why", "www.example.test"]);
    let answer = |why: &str| {
        let answer = why.lines().find(|line| line.trim_start().starts_with("primary of example.test "));
        answer.map(str::to_owned).with_context(|| why.to_owned())
    };
    let own = lab.address(Host::Node(VICTIM))?.v4.to_string();
    for (verb, is_there) in [("drain", false), ("ready", true)] {
        lab.run(Host::Node(VICTIM), &["usher", "node", verb])?;
        until("it is written all the same", RECOVERY, || {
            let answer = answer(&why()?)?;
            ensure!(answer.contains(&own) == is_there && answer.contains(" (over TCP only; "), "{answer}");
            Ok(())
        })?;
    }
    on_dns("nft delete table inet lost")?;
    ensure!(!answer(&why()?)?.contains("TCP"), "{}", why()?);
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    lab.wait_all_well(RECOVERY)
}

/// Another key than the primary's: said plainly, the others go on, and the right key helps without a restart.
pub(crate) fn wrong_key_is_named_and_mended_without_a_restart(lab: &Lab) -> Result<()> {
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    let file = Kept::of(&lab.key_file(Host::Node(VICTIM)))?;
    let other = file.text().replace("secret \"", "secret \"AAAA");
    file.write(&other)?;
    lab.stop_usher(VICTIM)?;
    lab.start_usher(VICTIM)?;
    until("status says so", RECOVERY, || {
        let why = publishers(lab, VICTIM)?["failing"]["why"].as_str().context("it works yet")?.to_owned();
        ensure!(why.contains("key"), "{why}");
        Ok(())
    })?;
    // It serves, so nobody takes it away, although its lease has run out.
    let start = Instant::now();
    while start.elapsed() < LEASE * 2 {
        expect_equal("addresses", &held(lab)?, &of_nodes(lab, &[1, 2, 3])?)?;
    }
    drop(file);
    until("it is written again", RECOVERY * 4, || {
        ensure!(publishers(lab, VICTIM)?["failing"].is_null(), "not yet");
        Ok(())
    })?;
    lab.wait_all_well(RECOVERY)
}
