//! The secret that all nodes share, and another one in its place.

use anyhow::{Context as _, Result, ensure};
use usher_lab::{Family, Host, Lab, until};

use crate::support::{RECOVERY, config, expect_equal, status};

/// The steps of `usher init --rotate`.
const STEPS: [&str; 3] = ["add", "switch", "drop"];

pub(crate) fn another_secret_takes_its_place_while_nodes_hear_each_other(lab: &Lab) -> Result<()> {
    let file = config(lab, 1)?.node.secret_file.context("a secret")?;
    let file = file.to_str().context("path")?;
    for step in STEPS {
        let said = lab.run(Host::Node(1), &["usher", "init", "--rotate", step, "--secret-file", file])?;
        ensure!(said.contains("restart usher on every node"), "{step}: {said}");
        // All nodes of the lab have one file; each reads it when it starts.
        for node in 1..=lab.options().nodes {
            lab.stop_usher(node)?;
            lab.start_usher(node)?;
            let differ = step == "switch" && node < lab.options().nodes;
            let heard = || (1..=lab.options().nodes).try_for_each(|node| expect_heard(lab, node, differ));
            until(&format!("nodes hear each other after {step} on node{node}"), RECOVERY, heard)?;
        }
        lab.wait_all_well(RECOVERY)?;
    }
    lab.fetch(Family::V4, 20).map(drop)
}

/// A node's peers answer its questions, and it says whether one chooses backends by another secret.
fn expect_heard(lab: &Lab, node: u8, differ: bool) -> Result<()> {
    for peer in status(lab, node)?.peers {
        let what = format!("{} as node{node} hears it", peer.name);
        expect_equal(&what, &peer.answers, &Some(true))?;
        let differs = peer.drift.as_ref().is_some_and(|drift| drift.contains("secret is another one"));
        ensure!(differs == differ, "{what}: {:?}", peer.drift);
    }
    Ok(())
}
