//! Whether peers can be probed through services whose backends answer themselves (DSR).

use std::{collections::BTreeSet, net::IpAddr};

use super::{HostFacts, kernel::sysctl_name};
use crate::{
    config::{Config, NodeAddress, Protocol, Service, findings::Findings, key::Key},
    core::ids::Family,
};

/// `net.ipv4.conf.*.rp_filter`: a packet must come in where the way to its sender goes out.
const STRICT: u8 = 1;

/// The addresses from which a service of a peer may be probed.
#[derive(Debug)]
pub struct ProbeSources {
    /// VIPs which the backends hold too (DSR): they would answer themselves.
    held_by_backends: BTreeSet<IpAddr>,
    /// Other addresses of this node, the NAT address first.
    others: Vec<IpAddr>,
}

impl ProbeSources {
    /// Those for a service at an address where a peer is checked.
    pub fn new(config: &Config, service: &Service, peer: IpAddr, facts: &HostFacts) -> ProbeSources {
        if !service.forward.is_direct() {
            return ProbeSources { held_by_backends: BTreeSet::new(), others: Vec::new() };
        }
        let held_by_backends: BTreeSet<IpAddr> =
            dsr_services(config).flat_map(|service| service.addresses.iter().copied()).collect();
        let own = facts
            .interfaces
            .iter()
            .filter(|(name, _)| config.node.interfaces.contains(name))
            .flat_map(|(_, addresses)| addresses.iter().copied())
            .filter(|address| !is_link_local(*address));
        let others = config.nat.source.iter().copied().chain(own);
        let others = others.filter(|address| Family::of(*address) == Family::of(peer));
        let others = others.filter(|address| !held_by_backends.contains(address)).collect();
        ProbeSources { held_by_backends, others }
    }

    /// The kernel's choice, unless backends hold it: then another one that the host has now; where it has none, one that it had,
    /// so that the probe fails here. `None`: the kernel may choose.
    pub fn choose(&self, kernels: Option<IpAddr>, is_here: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        match kernels {
            Some(kernels) if !self.held_by_backends.contains(&kernels) => Some(kernels),
            _ => self.others.iter().copied().find(|other| is_here(*other)).or(self.others.first().copied()),
        }
    }
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
        for have in &peer.addresses {
            // Peers are asked about UDP services by DNS, which no backend answers.
            let mut probed = dsr_services(config).filter(|service| {
                let offered = service.families().any(|family| family == Family::of(have.address));
                service.protocol == Protocol::Tcp && offered
            });
            let Some(service) = probed.next() else { continue };
            source(config, service, (&peer.name, have), facts, findings);
            if have.address.is_ipv4() {
                way_back(config, service, have.check_address, facts, findings);
            }
        }
    }
}

fn source(
    config: &Config,
    service: &Service,
    (name, peer): (&str, &NodeAddress),
    facts: &HostFacts,
    findings: &mut Findings,
) {
    let Some(way) = facts.check_route.get(&peer.check_address) else { return };
    let sources = ProbeSources::new(config, service, peer.check_address, facts);
    if sources.choose(Some(way.source), |_| true).is_none() {
        let family = Family::of(peer.address);
        let what = format!(
            "cannot be probed through the {} service \"{}\": that service's backends hold every \
             IP{family} address of this node's interfaces and would answer themselves",
            service.forward, service.name
        );
        let mend = format!(
            "give one of the interfaces an IP{family} address that no {} service uses",
            service.forward
        );
        findings.refuse(&Key::peer(name).child("addresses").child(peer.address), what, mend);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_leave_from_an_address_that_the_host_has() {
        let [vip, nat, own] = ["192.0.2.11", "203.0.113.11", "203.0.113.12"].map(|ip| ip.parse().unwrap());
        let direct = ProbeSources { held_by_backends: BTreeSet::from([vip]), others: vec![nat, own] };
        let through = ProbeSources { held_by_backends: BTreeSet::new(), others: Vec::new() };
        let all = [vip, nat, own];
        let cases: [(_, _, &[IpAddr], _); 7] = [
            (&through, Some(vip), &all, Some(vip)),
            (&through, None, &[], None),
            (&direct, Some(own), &all, Some(own)),
            (&direct, Some(vip), &all, Some(nat)),
            (&direct, Some(vip), &[vip, own], Some(own)),
            (&direct, Some(vip), &[vip], Some(nat)),
            (&direct, None, &[own], Some(own)),
        ];
        for (sources, kernels, here, chosen) in cases {
            let found = sources.choose(kernels, |address| here.contains(&address));
            assert_eq!(found, chosen, "{sources:?}, {kernels:?} of {here:?}");
        }
    }
}
