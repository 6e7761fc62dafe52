//! From the file's types to the checked configuration: defaults, limits, and what goes together.
//!
//! One file per section; `clash.rs` compares sections with each other.

mod clash;
mod dns;
mod health;
mod nat;
mod node;
mod reader;
mod service;
mod tunnel;
mod values;

use std::{path::Path, sync::Arc, time::Duration};

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
    let dns = dns::dns(&mut reader, &root, file.dns, &node.addresses);
    let peer_check = health::peer_check(&mut reader, &root, file.peer_check);
    let services = service::services(&mut reader, &root, file.service, &node.addresses);

    let config = Config { node, nat, tunnel, flows, dns, peer_check, peers, services };
    let mut findings = reader.into_findings();
    clash::check(&config, &mut findings);
    let (warnings, locations) = findings.finish()?;
    Ok((config, warnings, locations))
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn flows(reader: &mut Reader<'_>, root: &Key, section: file::Value<file::Flows>) -> Flows {
    /// A flow takes 16 bytes of flow table and 128 of NAT records: 2.2 GiB at the most.
    const MAX: std::ops::RangeInclusive<i64> = 1_000..=16_000_000;
    /// Each takes 160 bytes: 160 MiB at the most.
    const FRAGMENTS: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
    /// Shorter, and a flow is forgotten between two packets; longer, and its 16-bit age wraps.
    const IDLE: std::ops::RangeInclusive<Duration> =
        Duration::from_secs(1)..=Duration::from_secs(17 * 60 * 60);

    let mut flows = Flows {
        max: 1_000_000,
        fragments: 16_384,
        tcp_timeout: Duration::from_secs(60 * 60),
        udp_timeout: Duration::from_secs(120),
        closing_timeout: Duration::from_secs(60),
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
    for (name, written, timeout) in [
        ("tcp_timeout", section.tcp_timeout, &mut flows.tcp_timeout),
        ("udp_timeout", section.udp_timeout, &mut flows.udp_timeout),
        ("closing_timeout", section.closing_timeout, &mut flows.closing_timeout),
    ] {
        *timeout = reader.duration_or(&key, name, written, *timeout, IDLE);
    }
    flows
}
