//! Nodes behind a router that translates public addresses one to one, as in clouds.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use usher_lab::{Family, Fault, Host, Lab};

use crate::{
    nodes::{LIMIT, VICTIM, wait_named},
    reload::Written,
    support::{config, expect_equal, status, vip},
};

/// Two nodes, which find each other by their public addresses.
pub(crate) fn clients_are_given_public_addresses_and_reach_each_node_there(lab: &Lab) -> Result<()> {
    for family in Family::ALL {
        let public = [1, 2].map(|node| Ok(lab.address(Host::Node(node))?.of(family)));
        let public: BTreeSet<_> = public.into_iter().collect::<Result<_>>()?;
        for node in [1, 2] {
            let own = config(lab, node)?.node.addresses;
            ensure!(own.iter().all(|own| !public.contains(&own.address)), "nothing is translated: {own:?}");
            let answer = lab.dig(node, "www", family)?;
            let answer: BTreeSet<_> = answer.iter().map(|line| line.parse()).collect::<Result<_, _>>()?;
            expect_equal(&format!("answer of node{node}"), &answer, &public)?;

            let page = format!("http://{}/", vip(lab, node, family, 80)?);
            for _ in 0..10 {
                lab.run(Host::Client, &["curl", "-sSf", "-m", "2", &page])?;
            }
            lab.ask_udp(&vip(lab, node, family, 7)?.to_string(), "hello", None)?;
        }
        let tally = lab.fetch(family, 60)?;
        tally.expect_no_failure()?;
        expect_equal("addresses used", &tally.addresses.keys().copied().collect(), &public)?;
    }
    // Each other they know from the router alone.
    let seen = status(lab, 1)?;
    let checked: BTreeSet<_> =
        seen.peers.iter().flat_map(|peer| peer.pools.iter().map(|pool| pool.address)).collect();
    expect_equal("where node2 is checked", &checked, &lab.address(Host::Node(2))?.both().into())
}

/// Many clouds do not let hosts reach each other by public addresses.
pub(crate) fn nodes_that_cannot_reach_public_addresses_check_each_other_elsewhere(lab: &Lab) -> Result<()> {
    let written = Written::every(lab)?;
    let cut = Cut::between_nodes(lab)?;
    wait_named(lab, 1, VICTIM, false)?;

    for (written, node) in written.iter().zip(1..) {
        let mut text = written.ordinary.clone();
        for have in config(lab, node)?.peers.iter().flat_map(|peer| &peer.addresses) {
            let (publish, own) = (have.publish, have.address);
            let also = format!("publish = \"{publish}\", check_address = \"{own}\"");
            text = text.replace(&format!("publish = \"{publish}\""), &also);
        }
        written.reload(&text)?;
    }
    wait_named(lab, 1, VICTIM, true)?;
    lab.wait_all_well(LIMIT)?;
    lab.fault(Host::Node(VICTIM), Fault::Drop)?;
    wait_named(lab, 1, VICTIM, false)?;
    lab.fault(Host::Node(VICTIM), Fault::Heal)?;
    wait_named(lab, 1, VICTIM, true)?;

    // With what the files said before, they find each other dead; so only when the way is there again.
    drop(cut);
    for written in &written {
        written.reload(&written.ordinary)?;
    }
    lab.wait_all_well(LIMIT)
}

/// Nodes cannot reach each other through the router, until this is dropped.
struct Cut<'a>(&'a Lab);

impl Cut<'_> {
    fn between_nodes(lab: &Lab) -> Result<Cut<'_>> {
        let rules = "table inet cut { chain forward { type filter hook forward priority 0;\n\
                     iifname front oifname front drop\n}\n}";
        lab.run(Host::Router, &["nft", rules])?;
        Ok(Cut(lab))
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        let _ = self.0.output(Host::Router, &["nft", "delete table inet cut"]);
    }
}
