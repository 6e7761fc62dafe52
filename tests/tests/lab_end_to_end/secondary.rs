//! A secondary of the zone in which nodes publish themselves.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use usher_lab::{Host, Lab, until};

use crate::{
    shared_zone::{LIMIT, of_nodes, wait_held},
    support::{RECOVERY, expect_equal},
};

/// The node that leaves.
const VICTIM: u8 = 2;

/// One that primaries notify in vain has what it had, and `why` shows it beside what is so.
pub(crate) fn secondary_that_lags_is_seen(lab: &Lab) -> Result<()> {
    wait_held(lab, &[1, 2, 3], RECOVERY)?;
    until("the secondary has what the primary has", RECOVERY, || {
        let told = secondary_as_told(lab)?;
        expect_equal("serial", &told.serial, &told.of_primary)?;
        expect_equal("addresses", &told.addresses, &of_nodes(lab, &[1, 2, 3])?)
    })?;
    lab.part(Host::Secondary, &[Host::Dns])?;
    lab.run(Host::Node(VICTIM), &["usher", "node", "drain"])?;
    wait_held(lab, &[1, 3], LIMIT)?;
    let told = secondary_as_told(lab)?;
    ensure!(told.serial < told.of_primary, "{told:?}");
    expect_equal("addresses", &told.addresses, &of_nodes(lab, &[1, 2, 3])?)?;
    lab.part(Host::Secondary, &[])?;
    lab.run(Host::Node(VICTIM), &["usher", "node", "ready"])?;
    wait_held(lab, &[1, 2, 3], RECOVERY * 2)?;
    lab.wait_all_well(RECOVERY)
}

/// What `usher dns why` says of the secondary.
#[derive(Debug)]
struct Secondary {
    of_primary: u64,
    serial: u64,
    addresses: BTreeSet<IpAddr>,
}

fn secondary_as_told(lab: &Lab) -> Result<Secondary> {
    let why = lab.run(Host::Node(1), &["usher", "dns", "why", "--json", "www.example.test"])?;
    let why: Value = serde_json::from_str(&why)?;
    let answers = why["answers"].as_array().context("answers")?;
    let by = |host: Host| {
        let address = format!("{}:53", lab.address(host)?.v4);
        let found = answers.iter().find(|one| one["address"] == address.as_str());
        found.with_context(|| format!("{host} is not asked: {answers:?}"))
    };
    let (primary, secondary) = (by(Host::Dns)?, by(Host::Secondary)?);
    let serial = |one: &Value| one["serial"].as_u64().context("no serial");
    let addresses = secondary.pointer("/answer/Ok").and_then(Value::as_array).context("no answer")?;
    let addresses = addresses.iter().filter_map(|one| one.as_str()?.parse().ok()).collect();
    Ok(Secondary { of_primary: serial(primary)?, serial: serial(secondary)?, addresses })
}
