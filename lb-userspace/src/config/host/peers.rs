//! Whether peers can be probed through services whose backends answer themselves (DSR).

use std::{collections::BTreeSet, net::IpAddr};

use super::{HostFacts, kernel::sysctl_name};
use crate::{
    config::{Config, Protocol, Service, findings::Findings, key::Key},
    core::ids::Family,
};

/// `net.ipv4.conf.*.rp_filter`: a packet must come in where the way to its sender goes out.
const STRICT: u8 = 1;

/// The address from which a peer's service is probed: the kernel's choice, unless that is a VIP which the
/// backends hold too (DSR): they would answer themselves. Then another address of this node, the NAT
/// address first. `None`: there is no way to the peer, or no such address.
pub fn probe_source(config: &Config, service: &Service, peer: IpAddr, facts: &HostFacts) -> Option<IpAddr> {
    let choice = facts.check_route.get(&peer)?.source;
    let held_by_backends: BTreeSet<IpAddr> =
        dsr_services(config).flat_map(|service| service.addresses.iter().copied()).collect();
    if !service.forward.is_direct() || !held_by_backends.contains(&choice) {
        return Some(choice);
    }
    let own = facts
        .interfaces
        .iter()
        .filter(|(name, _)| config.node.interfaces.contains(name))
        .flat_map(|(_, addresses)| addresses.iter().copied())
        .filter(|address| !is_link_local(*address));
    let mut candidates = config.nat.source.iter().copied().chain(own);
    candidates.find(|address| Family::of(*address) == Family::of(peer) && !held_by_backends.contains(address))
}

fn dsr_services(config: &Config) -> impl Iterator<Item = &Service> {
    config.services.iter().filter(|service| service.forward.is_direct())
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

pub(super) fn check(config: &Config, facts: &HostFacts, findings: &mut Findings) {
    for peer in &config.peers {
        for address in peer.addresses.iter().map(|node| node.address) {
            // Peers are asked about UDP services by DNS, which no backend answers.
            let mut probed = dsr_services(config).filter(|service| {
                let offered = service.families().any(|family| family == Family::of(address));
                service.protocol == Protocol::Tcp && offered
            });
            let Some(service) = probed.next() else { continue };
            source(config, service, (&peer.name, address), facts, findings);
            if address.is_ipv4() {
                way_back(config, service, address, facts, findings);
            }
        }
    }
}

fn source(
    config: &Config,
    service: &Service,
    (name, peer): (&str, IpAddr),
    facts: &HostFacts,
    findings: &mut Findings,
) {
    let has_way = facts.check_route.contains_key(&peer);
    if has_way && probe_source(config, service, peer, facts).is_none() {
        let family = Family::of(peer);
        let what = format!(
            "cannot be probed through the {} service \"{}\": that service's backends hold every \
             IP{family} address of this node's interfaces and would answer themselves",
            service.forward, service.name
        );
        let mend = format!(
            "give one of the interfaces an IP{family} address that no {} service uses",
            service.forward
        );
        findings.refuse(&Key::peer(name).child("addresses").child(peer), what, mend);
    }
}

/// A probe goes to the peer, but the answer comes from the backend.
fn way_back(config: &Config, service: &Service, peer: IpAddr, facts: &HostFacts, findings: &mut Findings) {
    let Some(way) = facts.check_route.get(&peer) else { return };
    for interface in config.node.interfaces.iter().filter(|interface| **interface != way.interface) {
        let settings = facts.settings.get(interface).copied().unwrap_or_default();
        let key = Key::section("node").child("interfaces").child(interface);
        if settings.rp_filter == Some(STRICT) && !findings.warned(&key) {
            let what = format!(
                "drops the answers to probes of peers that {} backends send here: {} is in effect {STRICT} \
                 (strict), and the way to {peer} is \"{}\"",
                service.forward,
                sysctl_name("ipv4", interface, "rp_filter"),
                way.interface
            );
            let mend = format!("run `sysctl -w {}=2`", sysctl_name("ipv4", interface, "rp_filter"));
            findings.warn(&key, what, mend);
        }
    }
}
