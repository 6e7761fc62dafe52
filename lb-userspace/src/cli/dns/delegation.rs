//! `usher dns delegation`: records for the parent zone.

use std::{fmt::Write as _, process::ExitCode};

use anyhow::Context as _;
use clap::Args;

use crate::{
    cli::{ConfigFile, print},
    config::{Config, Dns, Loaded},
    core::{ids::Family, zone::server_name},
};

/// Print the NS and address records that the parent zone needs
///
/// The embedded servers of all nodes serve the zone of [dns]; these records lead resolvers to them. The zone is not signed,
/// so there is no DS record to add; if the parent has one for the zone, it must go.
#[derive(Debug, Args)]
pub(super) struct Delegation {
    #[command(flatten)]
    file: ConfigFile,
}

impl Delegation {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let config = Loaded::load(&self.file.config)?.config;
        let dns = config
            .dns
            .as_ref()
            .context("the configuration has no [dns] section, so there is nothing to delegate")?;
        print(&text(&config, dns))
    }
}

fn text(config: &Config, dns: &Dns) -> String {
    let nodes = std::iter::once((&config.node.name, &config.node.addresses));
    let nodes: Vec<_> = nodes.chain(config.peers.iter().map(|peer| (&peer.name, &peer.addresses))).collect();
    let zone = &dns.zone;
    let mut out = String::new();
    // Writing to a String cannot fail.
    for (node, _) in &nodes {
        let _ = writeln!(out, "{zone}. 300 IN NS {}.", server_name(node, zone));
    }
    for (node, addresses) in &nodes {
        for address in addresses.iter().map(|have| have.publish) {
            let kind = if Family::of(address) == Family::V4 { "A" } else { "AAAA" };
            let _ = writeln!(out, "{}. 300 IN {kind} {address}", server_name(node, zone));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::AllDown, core::publish::fixture::config};

    #[test]
    fn every_node_is_a_server_and_has_glue() {
        let config = config(AllDown::All);
        assert_eq!(
            text(&config, config.dns.as_ref().unwrap()),
            "example.test. 300 IN NS node1.example.test.\n\
             example.test. 300 IN NS node2.example.test.\n\
             example.test. 300 IN NS node3.example.test.\n\
             node1.example.test. 300 IN A 192.0.2.11\n\
             node1.example.test. 300 IN AAAA 2001:db8:1::11\n\
             node2.example.test. 300 IN A 192.0.2.12\n\
             node2.example.test. 300 IN AAAA 2001:db8:1::12\n\
             node3.example.test. 300 IN A 192.0.2.13\n"
        );
    }
}
