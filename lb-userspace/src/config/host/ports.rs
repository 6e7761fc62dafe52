//! Ports that the host's own connections and usher would both use.

use std::{collections::BTreeSet, ops::RangeInclusive};

use super::HostFacts;
use crate::config::{Config, findings::Findings, key::Key, shape::list};

pub(super) fn check(config: &Config, facts: &HostFacts, findings: &mut Findings) {
    nat_ports(config, facts, findings);
    service_ports(config, facts, findings);
}

/// Whether the kernel may give the port to a connection of its own.
fn is_handed_out(facts: &HostFacts, port: u16) -> bool {
    facts.ip_local_port_range.contains(&port)
        && !facts.ip_local_reserved_ports.iter().any(|reserved| reserved.contains(&port))
}

/// The program takes what comes to a service's port; an answer to a connection that the node itself made
/// from there would go to a backend.
fn service_ports(config: &Config, facts: &HostFacts, findings: &mut Findings) {
    let taken: BTreeSet<u16> = config
        .services
        .iter()
        .map(|service| service.port)
        .filter(|&port| is_handed_out(facts, port))
        .collect();
    // Setting the list replaces it: what is reserved stays so.
    let reserved = facts.ip_local_reserved_ports.iter().map(|range| match range.start() == range.end() {
        true => range.start().to_string(),
        false => format!("{}-{}", range.start(), range.end()),
    });
    let wanted = reserved.chain(taken.iter().map(u16::to_string)).collect::<Vec<_>>().join(",");
    let (first, last) = (facts.ip_local_port_range.start(), facts.ip_local_port_range.end());
    for service in config.services.iter().filter(|service| taken.contains(&service.port)) {
        let own = list(service.addresses.iter());
        let what = format!(
            "{} is one of the ports {first}-{last} of this host's own connections \
             (net.ipv4.ip_local_port_range): answers to one from there on {own} would go to a backend",
            service.port
        );
        let mend = format!("run `sysctl -w net.ipv4.ip_local_reserved_ports={wanted}`");
        findings.warn(&Key::service(service).child("port"), what, mend);
    }
}

/// NAT and the host's own connections share the source address, so they must not share ports.
fn nat_ports(config: &Config, facts: &HostFacts, findings: &mut Findings) {
    let (nat, host) = (&config.nat.ports, &facts.ip_local_port_range);
    if config.nat.source.is_empty() || !nat.clone().any(|port| is_handed_out(facts, port)) {
        return;
    }
    let what = format!(
        "{}-{} overlaps {}-{}, the ports of this host's own connections (net.ipv4.ip_local_port_range)",
        nat.start(),
        nat.end(),
        host.start(),
        host.end()
    );
    findings.refuse(&Key::section("nat").child("ports"), what, separate(nat, host));
}

/// How to keep the two ranges apart: other NAT ports where the host leaves room, or another range for the host.
fn separate(nat: &RangeInclusive<u16>, host: &RangeInclusive<u16>) -> String {
    /// Below this many ports either side runs dry too soon to be proposed.
    const ENOUGH: u16 = 4_096;
    let below = (host.start() / 8 * 8).saturating_sub(1);
    let above = host.end().checked_add(1).and_then(|port| port.checked_next_multiple_of(8));
    let ports = if below >= 1_024 + ENOUGH {
        Some(format!("1024-{below}"))
    } else {
        above.filter(|first| u16::MAX - first >= ENOUGH).map(|first| format!("{}-65535", first.max(1_024)))
    };
    // 60999 is where Linux ends its own default range.
    let sysctl = if *nat.end() < 60_999 - ENOUGH {
        Some((nat.end() + 1, 60_999))
    } else if *nat.start() >= 1_024 + ENOUGH {
        Some((1_024, nat.start() - 1))
    } else {
        None
    };
    let set = |(first, last)| format!("run `sysctl -w net.ipv4.ip_local_port_range=\"{first} {last}\"`");
    match (ports, sysctl) {
        (Some(ports), Some(range)) => format!("write ports = \"{ports}\", or {}", set(range)),
        (Some(ports), None) => format!("write ports = \"{ports}\""),
        (None, Some(range)) => set(range),
        (None, None) => format!("write ports = \"1024-32767\", and {}", set((32_768, 60_999))),
    }
}
