//! The nodes' DNS servers, asked by dig.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use usher_lab::{Family, Fault, Host, Lab, TTL, until};

use crate::support::{Kept, RECOVERY, expect_equal};

/// While probes have begun to fail, and not before or after.
pub(crate) fn ttl_is_short_while_a_node_seems_to_leave(lab: &Lab) -> Result<()> {
    let file = Kept::of(&lab.node_config(1))?;
    let long = "\nttl = \"30s\"\nttl_in_doubt = \"5s\"\n";
    file.write(&file.text().replacen(&format!("\nttl = \"{}s\"\n", TTL.as_secs()), long, 1))?;
    lab.run(Host::Node(1), &["usher", "reload"])?;
    let server = format!("@{}", lab.address(Host::Node(1))?.v4);
    // The TTLs, and how many addresses.
    let shown = || -> Result<(BTreeSet<String>, usize)> {
        let words = ["dig", &server, "+norecurse", "+noall", "+answer", "www.example.test", "A"];
        let answer = lab.run(Host::Client, &words)?;
        let ttls = answer.lines().filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned);
        Ok((ttls.collect(), answer.lines().count()))
    };
    let one = |ttl: &str| BTreeSet::from([ttl.to_owned()]);
    until("both nodes are shown for long", RECOVERY, || expect_equal("shown", &shown()?, &(one("30"), 2)))?;
    lab.fault(Host::Node(2), Fault::Drop)?;
    let mut seen = Vec::new();
    until("the node has left", RECOVERY, || {
        let (ttls, count) = shown()?;
        if seen.last() != Some(&ttls) {
            seen.push(ttls.clone());
        }
        expect_equal("shown", &(ttls, count), &(one("30"), 1))
    })?;
    expect_equal("TTLs", &seen, &["30", "5", "30"].map(one).to_vec())?;
    lab.fault(Host::Node(2), Fault::Heal)?;
    until("both nodes are shown for long again", RECOVERY, || {
        expect_equal("shown", &shown()?, &(one("30"), 2))
    })?;
    drop(file);
    lab.run(Host::Node(1), &["usher", "reload"])?;
    until("the TTL is the lab's", RECOVERY, || {
        expect_equal("shown", &shown()?, &(one(&TTL.as_secs().to_string()), 2))
    })
}

/// A message as dig shows it.
#[derive(Debug, Default)]
struct Message {
    status: String,
    flags: Vec<String>,
    answer: Vec<Record>,
    authority: Vec<Record>,
    additional: Vec<Record>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    name: String,
    kind: String,
    data: String,
}

impl Message {
    fn parse(text: &str) -> Result<Message> {
        let mut message = Message::default();
        let mut section = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix(";; ->>HEADER<<-") {
                let status = rest.split("status: ").nth(1).and_then(|rest| rest.split(',').next());
                message.status = status.context("no status")?.to_owned();
            } else if let Some(rest) = line.strip_prefix(";; flags: ") {
                let flags = rest.split(';').next().unwrap_or_default();
                message.flags = flags.split_whitespace().map(str::to_owned).collect();
            } else if let Some(name) =
                line.strip_prefix(";; ").and_then(|rest| rest.strip_suffix(" SECTION:"))
            {
                section = name;
            } else if !line.is_empty() && !line.starts_with(';') {
                let records = match section {
                    "ANSWER" => &mut message.answer,
                    "AUTHORITY" => &mut message.authority,
                    "ADDITIONAL" => &mut message.additional,
                    _ => continue,
                };
                records.push(Record::parse(line)?);
            }
        }
        Ok(message)
    }

    /// The data of the answers.
    fn data(&self) -> Vec<String> {
        self.answer.iter().map(|record| record.data.clone()).collect()
    }
}

impl Record {
    /// `www.example.test. 1 IN A 192.0.2.11`
    fn parse(line: &str) -> Result<Record> {
        let words: Vec<_> = line.split_whitespace().collect();
        let [name, _ttl, _class, kind, data @ ..] = words.as_slice() else {
            anyhow::bail!("not a record: {line}")
        };
        Ok(Record { name: (*name).to_owned(), kind: (*kind).to_owned(), data: data.join(" ") })
    }
}

/// Asks a node over both of its addresses; the two answers must be alike but for the order.
fn ask(lab: &Lab, node: u8, family: Family, words: &[&str]) -> Result<Message> {
    let server = format!("@{}", lab.address(Host::Node(node))?.of(family));
    let command: Vec<_> =
        ["dig", "+time=1", "+tries=2", &server].into_iter().chain(words.iter().copied()).collect();
    let text = lab.run(Host::Client, &command)?;
    let message = Message::parse(&text).with_context(|| text.clone())?;
    ensure!(message.flags.iter().any(|flag| flag == "qr"), "{text}");
    Ok(message)
}

/// What all nodes' addresses of one family are.
fn node_addresses(lab: &Lab, family: Family) -> Result<BTreeSet<String>> {
    lab.options().node_hosts().map(|node| Ok(lab.address(node)?.of(family).to_string())).collect()
}

const NAME: &str = "www.example.test";
const KINDS: [(Family, &str); 2] = [(Family::V4, "A"), (Family::V6, "AAAA")];

pub(crate) fn both_nodes_are_answered_in_changing_order(lab: &Lab) -> Result<()> {
    for (family, kind) in KINDS {
        for node in 1..=lab.options().nodes {
            let mut first = BTreeSet::new();
            for _ in 0..8 {
                let message = ask(lab, node, family, &[NAME, kind])?;
                expect_equal("status", &message.status.as_str(), &"NOERROR")?;
                ensure!(message.flags.iter().any(|flag| flag == "aa"), "not authoritative: {message:?}");
                let data = message.data();
                expect_equal(
                    &format!("{kind} of node{node}"),
                    &BTreeSet::from_iter(data.clone()),
                    &node_addresses(lab, family)?,
                )?;
                first.extend(data.first().cloned());
            }
            ensure!(first.len() == 2, "node{node} answers {kind} always with {first:?} first");
        }
    }
    Ok(())
}

pub(crate) fn tcp_answers_as_udp_does(lab: &Lab) -> Result<()> {
    for (family, kind) in KINDS {
        for transport in ["+notcp", "+tcp"] {
            let message = ask(lab, 1, family, &[transport, NAME, kind])?;
            let data = BTreeSet::from_iter(message.data());
            expect_equal(&format!("{kind} {transport}"), &data, &node_addresses(lab, family)?)?;
        }
    }
    Ok(())
}

pub(crate) fn zone_names_its_servers_with_addresses_and_its_authority(lab: &Lab) -> Result<()> {
    let message = ask(lab, 2, Family::V4, &["example.test", "NS"])?;
    let servers = BTreeSet::from(["node1.example.test.".to_owned(), "node2.example.test.".to_owned()]);
    expect_equal("NS", &BTreeSet::from_iter(message.data()), &servers)?;
    for (family, kind) in KINDS {
        let glue: BTreeSet<_> = message
            .additional
            .iter()
            .filter(|record| record.kind == kind)
            .map(|record| record.data.clone())
            .collect();
        expect_equal(&format!("{kind} beside NS"), &glue, &node_addresses(lab, family)?)?;
        for node in lab.options().node_hosts() {
            let name = format!("{node}.example.test");
            let found = ask(lab, 1, family, &[&name, kind])?.data();
            expect_equal(&name, &found, &vec![lab.address(node)?.of(family).to_string()])?;
        }
    }
    let soa = ask(lab, 1, Family::V6, &["example.test", "SOA"])?.data();
    let words: Vec<_> = soa.first().context("no SOA")?.split(' ').collect();
    expect_equal("SOA", &words[..2].to_vec(), &vec!["node1.example.test.", "hostmaster.example.test."])?;
    expect_equal("words of the SOA", &words.len(), &7)
}

pub(crate) fn what_does_not_exist_is_denied_with_the_soa(lab: &Lab) -> Result<()> {
    for (name, kind, status) in
        [("nothing.example.test", "A", "NXDOMAIN"), (NAME, "MX", "NOERROR"), ("example.test", "A", "NOERROR")]
    {
        for transport in ["+notcp", "+tcp"] {
            let message = ask(lab, 1, Family::V4, &[transport, name, kind])?;
            expect_equal(&format!("{name} {kind}"), &message.status.as_str(), &status)?;
            ensure!(message.answer.is_empty(), "{name} {kind}: {message:?}");
            let authority: Vec<_> =
                message.authority.iter().map(|record| (record.name.as_str(), record.kind.as_str())).collect();
            expect_equal(&format!("{name} {kind}, authority"), &authority, &vec![("example.test.", "SOA")])?;
        }
    }
    Ok(())
}

pub(crate) fn foreign_name_is_refused(lab: &Lab) -> Result<()> {
    for name in ["www.example.org", "test", "xexample.test"] {
        for transport in ["+notcp", "+tcp"] {
            let message = ask(lab, 1, Family::V4, &[transport, name, "A"])?;
            expect_equal(name, &message.status.as_str(), &"REFUSED")?;
            ensure!(message.answer.is_empty() && message.authority.is_empty(), "{message:?}");
        }
    }
    Ok(())
}
