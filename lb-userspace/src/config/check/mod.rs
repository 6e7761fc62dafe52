//! From the file's types to the checked configuration: defaults, limits, and what goes together.
//!
//! One file per section; `clash.rs` compares sections with each other.

mod clash;
mod defence;
mod dns;
mod flows;
mod health;
mod http;
mod nat;
mod node;
mod publish;
mod reader;
mod service;
mod tunnel;
mod values;

use std::{ops::RangeInclusive, path::Path, sync::Arc, time::Duration};

use self::reader::Reader;
use super::{
    Config, Flows,
    error::{ConfigError, Problem},
    file::{self, File},
    key::Key,
    locations::Locations,
};

/// Checks a file that has the right shape.
pub(super) fn check(
    file: File,
    text: &str,
    path: &Arc<Path>,
) -> Result<(Config, Vec<Problem>, Locations), ConfigError> {
    let root = Key::root();
    let mut reader = Reader::new(text, path.clone());

    let node = node::node(&mut reader, &root, file.node);
    let peers = node::peers(&mut reader, &root, file.peer);
    let nat = nat::nat(&mut reader, &root, file.nat);
    let tunnel = tunnel::tunnel(&mut reader, &root, file.tunnel);
    let flows = flows(&mut reader, &root, file.flows);
    let defence = defence::defence(&mut reader, &root, file.defence);
    let dns = dns::dns(&mut reader, &root, file.dns, &node.addresses);
    let peer_check = health::peer_check(&mut reader, &root, file.peer_check);
    let services = service::services(&mut reader, &root, file.service, &node.addresses, &flows);

    let config = Config { node, nat, tunnel, flows, defence, dns, peer_check, peers, services };
    let mut findings = reader.into_findings();
    clash::check(&config, &mut findings);
    let (warnings, locations) = findings.finish()?;
    Ok((config, warnings, locations))
}

/// Shorter, and a flow is forgotten between two packets; longer, and its 16-bit age wraps.
const IDLE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(17 * 60 * 60);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn flows(reader: &mut Reader<'_>, root: &Key, section: file::Value<file::Flows>) -> Flows {
    /// A flow takes 16 bytes of flow table and 109 of NAT records: 2.0 GB at the most.
    const MAX: RangeInclusive<i64> = 1_000..=16_000_000;
    /// Each takes 160 bytes: 160 MiB at the most.
    const FRAGMENTS: RangeInclusive<i64> = 1_000..=1_000_000;

    let mut flows = Flows {
        max: 1_000_000,
        fragments: 16_384,
        tcp_timeout: Duration::from_secs(60 * 60),
        udp_timeout: Duration::from_secs(120),
        closing_timeout: Duration::from_secs(60),
        affinity: 100_000,
        new_per_second: 0,
    };
    let Some(section) = reader.optional(root, "flows", section) else { return flows };
    let (key, section) = (section.key, section.value);
    if let Some(max) = reader.optional(&key, "max", section.max) {
        let mend = format!("use {} to {}; 1000000 suits most", MAX.start(), MAX.end());
        flows.max = reader.whole(&max, MAX, &mend).unwrap_or(flows.max);
    }
    if let Some(fragments) = reader.optional(&key, "fragments", section.fragments) {
        let mend = format!("use {} to {}; 16384 suits most", FRAGMENTS.start(), FRAGMENTS.end());
        flows.fragments = reader.whole(&fragments, FRAGMENTS, &mend).unwrap_or(flows.fragments);
    }
    if let Some(affinity) = reader.optional(&key, "affinity", section.affinity) {
        let mend = format!("use {} to {}; 100000 suits most", MAX.start(), MAX.end());
        flows.affinity = reader.whole(&affinity, MAX, &mend).unwrap_or(flows.affinity);
    }
    if let Some(limit) = reader.optional(&key, "new_per_second", section.new_per_second) {
        let mend = "use 0 for no limit, or up to 1000000000";
        flows.new_per_second = reader.whole(&limit, 0..=1_000_000_000, mend).unwrap_or(0);
    }
    for (name, written, timeout) in [
        ("tcp_timeout", section.tcp_timeout, &mut flows.tcp_timeout),
        ("udp_timeout", section.udp_timeout, &mut flows.udp_timeout),
        ("closing_timeout", section.closing_timeout, &mut flows.closing_timeout),
    ] {
        *timeout = reader.duration_or(&key, name, written, *timeout, IDLE);
    }
    flows
}
