//! 1:1 NAT in the router, as clouds have it: clients know nodes by public addresses that no node holds.
//!
//! Nodes reach each other by these addresses, too, and are then translated themselves. Their own addresses are out of
//! clients' reach, so that a test finds out when a client is given one.

use std::{fmt::Write, net::IpAddr};

use anyhow::Result;

use crate::{
    command::{check, on},
    host::Host,
    topology::{Family, Net, Options, local_address, public_address},
};

/// The table with the router's rules.
const TABLE: &str = "inet translation";

/// Has the router translate, if the lab is to be so.
pub(crate) fn begin(options: &Options) -> Result<()> {
    if !options.public {
        return Ok(());
    }
    check(&mut on(Host::Router, &["nft", &rules(options)]), "router").map(drop)
}

/// As `nft` takes them.
fn rules(options: &Options) -> String {
    let mut text = format!("table {TABLE} {{\n");
    let mut chain = |name: &str, hook: &str, rule: &dyn Fn(Family) -> String| {
        let rules = Family::ALL.map(rule).join("\n");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "chain {name} {{ type {hook};\n{rules}\n}}");
    };
    let client = Net::Client.interface();
    let word = |family| if family == Family::V4 { "ip" } else { "ip6" };
    let map = |family, from_public: bool| {
        let pairs = nodes(options, family).map(|(public, local)| match from_public {
            true => format!("{public} : {local}"),
            false => format!("{local} : {public}"),
        });
        pairs.collect::<Vec<_>>().join(", ")
    };
    chain("hide", "filter hook prerouting priority raw", &|family| {
        let locals: Vec<_> = nodes(options, family).map(|(_, local)| local.to_string()).collect();
        format!("iifname {client} {} daddr {{ {} }} drop", word(family), locals.join(", "))
    });
    chain("to_nodes", "nat hook prerouting priority dstnat", &|family| {
        format!("dnat {0} to {0} daddr map {{ {1} }}", word(family), map(family, true))
    });
    chain("from_nodes", "nat hook postrouting priority srcnat", &|family| {
        format!("snat {0} to {0} saddr map {{ {1} }}", word(family), map(family, false))
    });
    text + "}"
}

/// The public and the own address of each node.
fn nodes(options: &Options, family: Family) -> impl Iterator<Item = (IpAddr, IpAddr)> + use<> {
    options
        .node_hosts()
        .filter_map(move |node| Some((public_address(node)?.of(family), local_address(node)?.of(family))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_is_translated_both_ways_in_both_families() {
        let text = rules(&Options { nodes: 2, public: true, ..Options::default() });
        for expected in [
            "dnat ip to ip daddr map { 198.51.100.71 : 192.0.2.11, 198.51.100.72 : 192.0.2.12 }",
            "snat ip6 to ip6 saddr map { 2001:db8:1::11 : 2001:db8:100::71, 2001:db8:1::12 : 2001:db8:100::72 }",
            "iifname client ip daddr { 192.0.2.11, 192.0.2.12 } drop",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}
