//! `usher dns plan`: what this node would write into zones on other servers.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;

use crate::{
    cli::{ConfigFile, print},
    config::{Config, Dns, Loaded, Publish},
    core::{
        exchange::Sight,
        lease::owner,
        peers::{PeerId, PeerState},
        plan::pools,
        publish::{PeerStates, SelfState, publication},
        records::{Change, Contents, Prerequisite, Update},
        shared::{Others, SharedZone, Situation, Trouble, situation},
    },
    dns::update::Primaries,
};

/// How long a primary may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Show what this node would write into the zones of [[dns.publish]], without writing it
///
/// Reads each zone as it is now, with the key of the configuration, and shows the first update of a daemon that starts
/// with this configuration and serves everything. It needs no daemon, and tells nothing about one that runs:
/// `usher dns why` does.
#[derive(Debug, Args)]
pub(super) struct Plan {
    #[command(flatten)]
    file: ConfigFile,
}

impl Plan {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let config = Loaded::load(&self.file.config)?.config;
        let publish = config.dns.iter().flat_map(|dns| dns.publish.iter().map(move |publish| (dns, publish)));
        let mut out = String::new();
        for (dns, publish) in publish {
            let wanted = wanted(&config, dns, publish);
            let names: Vec<Arc<str>> = wanted.names.keys().cloned().collect();
            let records: Vec<Arc<str>> = names.iter().map(|name| owner(&config.node.name, name)).collect();
            let primaries = Primaries::open(&publish.primaries, &publish.zone, &publish.key_file)?;
            let (primary, contents) = primaries.read(&names, &records, PATIENCE).await?;
            out += &format!("zone {} at {}\n", publish.zone, primary.address());
            out += &text(&config, dns, publish, &wanted, &contents);
        }
        if out.is_empty() {
            out =
                "the configuration has no [[dns.publish]] section: nothing is written elsewhere\n".to_owned();
        }
        print(&out)
    }
}

/// What a node wants that serves everything, while all others do.
fn wanted(config: &Config, dns: &Dns, publish: &Publish) -> Situation {
    let own = pools(config).map(|(_, pool)| (pool, SelfState::Serves)).collect();
    let mut peers = PeerStates::new();
    let mut sights = BTreeMap::new();
    for peer in &config.peers {
        for address in peer.addresses.iter().map(|have| have.address) {
            sights.insert((peer.name.clone(), address), Sight::Answers);
            for (_, pool) in pools(config) {
                peers.insert(PeerId { peer: peer.name.clone(), address, pool }, PeerState::Serves);
            }
        }
    }
    let others = Others { sights: &sights, words: BTreeMap::new() };
    situation(config, dns, publish, &publication(config, &own, &peers), &others)
}

fn text(config: &Config, dns: &Dns, publish: &Publish, wanted: &Situation, contents: &Contents) -> String {
    let now = Instant::now();
    let mut zone = SharedZone::new(config.node.name.clone(), rand::random(), publish.settings(dns.ttl));
    zone.observe(contents, std::slice::from_ref(&config.node.name), now);
    let mut troubles = Vec::new();
    let planned = zone.decide(wanted, now, &mut troubles);
    let mut out =
        planned.map_or_else(|| "  nothing to write\n".to_owned(), |planned| update(&planned.update));
    let nodes = 1 + config.peers.len();
    let every = publish.renew.as_secs_f64();
    // Writing to a String cannot fail.
    for trouble in &troubles {
        let _: &Trouble = trouble;
        let _ = writeln!(out, "  in the way: {trouble}");
    }
    let _ = writeln!(
        out,
        "  then one update every {every} s renews this node's lease: {:.2} updates/s of {nodes} nodes",
        nodes as f64 / every
    );
    out
}

fn update(update: &Update) -> String {
    let requires = update.prerequisites.iter().map(|prerequisite| {
        let what = match prerequisite {
            Prerequisite::TextIs { name, text } => format!("{name}. TXT is \"{text}\""),
            Prerequisite::NoText { name } => format!("{name}. has no TXT record"),
            Prerequisite::AddressesAre { name, family, addresses } => {
                let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                format!("{name}. in {family} has exactly [{}]", addresses.join(" "))
            }
        };
        format!("  if {what}\n")
    });
    let changes = update.changes.iter().map(|change| {
        let what = match change {
            Change::SetText { name, text, ttl } => format!("set {name}. {ttl} IN TXT \"{text}\""),
            Change::RemoveText { name } => format!("remove {name}. TXT"),
            Change::AddAddress { name, address, ttl } => {
                let kind = if address.is_ipv4() { "A" } else { "AAAA" };
                format!("add {name}. {ttl} IN {kind} {address}")
            }
            Change::RemoveAddress { name, address } => format!("remove {name}. {address}"),
        };
        format!("  {what}\n")
    });
    requires.chain(changes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::AllDown,
        core::publish::fixture::{config, publish},
    };

    #[test]
    fn conditions_changes_and_the_load_are_shown() {
        let mut config = config(AllDown::All);
        config.services.truncate(2);
        let publish = publish();
        let dns = config.dns.clone().unwrap();
        let wanted = wanted(&config, &dns, &publish);
        let contents = Contents {
            names: BTreeMap::from([("www.example.test".into(), Default::default())]),
            texts: BTreeMap::new(),
        };
        let text = text(&config, &dns, &publish, &wanted, &contents);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "  if _usher-node1.www.example.test. has no TXT record");
        assert_eq!(lines[1], "  add www.example.test. 30 IN A 192.0.2.11");
        assert_eq!(lines[2], "  add www.example.test. 30 IN AAAA 2001:db8:1::11");
        assert!(
            lines[3].starts_with("  set _usher-node1.www.example.test. 30 IN TXT \"usher=1 node=node1 "),
            "{text}"
        );
        let load = "  then one update every 20 s renews this node's lease: 0.15 updates/s of 3 nodes";
        assert_eq!(lines[4..], [load]);
    }
}
