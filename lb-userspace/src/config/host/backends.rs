//! Whether backends can be reached in the way that their services need.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use super::{HostFacts, Route, prefix};
use crate::config::{Config, Forward, Service, findings::Findings, key::Key};

/// The VIPs that each backend address holds, with the DSR service that makes it hold them.
type Held<'a> = HashMap<IpAddr, Vec<(IpAddr, &'a Service)>>;

pub(super) fn check(config: &Config, facts: &HostFacts, findings: &mut Findings) {
    let held = held(config);
    let interfaces_exist = findings.sound(&Key::section("node").child("interfaces"));
    let (mut judged, mut by_route) = (HashSet::new(), HashSet::new());
    for service in &config.services {
        for backend in &service.backends {
            for &address in &backend.addresses {
                let key = || Key::backend_address(service, backend, address);
                if !findings.sound_at(key) {
                    continue;
                }
                let first = judged.insert(address);
                let Some(route) = facts.check_route.get(&address) else {
                    if first {
                        let mend = "add a route, or correct the address";
                        findings.warn(&key(), "cannot be reached: this host has no route to it", mend);
                    }
                    continue;
                };
                if service.forward == Forward::DsrL2 {
                    on_the_link(route, findings, key);
                }
                if first && interfaces_exist {
                    over_an_interface_with_the_program(config, route, findings, key);
                }
                let vips = held.get(&address).map_or(&[][..], Vec::as_slice);
                match service.check.source(address) {
                    Some(source) => own_check_source(service, source, findings, address, vips),
                    None if by_route.insert(address) => {
                        check_source(config, route, findings, key, address, vips);
                    }
                    None => {}
                }
            }
        }
    }
}

fn held(config: &Config) -> Held<'_> {
    let mut held = Held::new();
    for service in config.services.iter().filter(|service| service.forward.is_direct()) {
        let stands_in = config.fallback(service);
        let backends = service.backends.iter().chain(stands_in.iter().flat_map(|other| &other.backends));
        for address in backends.flat_map(|backend| &backend.addresses) {
            held.entry(*address).or_default().extend(service.addresses.iter().map(|&vip| (vip, service)));
        }
    }
    held
}

/// A DSR packet still carries the VIP: a gateway would route it back to this node, for ever.
fn on_the_link(route: &Route, findings: &mut Findings, key: impl Fn() -> Key) {
    if let Some(gateway) = route.gateway {
        let what = format!(
            "is reached through the gateway {gateway}, which would send the packets back to this node; \
             dsr-l2 needs the backend on the same link"
        );
        findings.refuse(&key(), what, "use forward = \"nat\"");
    }
}

/// Answers must meet the program, and what it redirects must go to an interface that takes XDP frames.
fn over_an_interface_with_the_program(
    config: &Config,
    route: &Route,
    findings: &mut Findings,
    key: impl Fn() -> Key,
) {
    let interface = &route.interface;
    if !config.node.interfaces.contains(interface) {
        let what = format!(
            "is reached over \"{interface}\", an interface without the XDP program: packets to it or its \
             answers would be lost"
        );
        findings.refuse(&key(), what, format!("add \"{interface}\" to [node] interfaces"));
    }
}

/// The same of an address that checks are to leave from.
fn own_check_source(
    service: &Service,
    source: IpAddr,
    findings: &mut Findings,
    backend: IpAddr,
    vips: &[(IpAddr, &Service)],
) {
    let Some((_, dsr)) = vips.iter().find(|(vip, _)| *vip == source) else { return };
    let key = Key::check_source(service, source);
    if findings.sound(&key) {
        let what = format!(
            "is held by the backend {backend} for the {} service \"{}\": it would answer itself",
            dsr.forward, dsr.name
        );
        findings.refuse(&key, what, "use an address of this node that is no service's");
    }
}

/// A backend of a DSR service holds the VIP, so a check from there would never come back.
fn check_source(
    config: &Config,
    route: &Route,
    findings: &mut Findings,
    key: impl Fn() -> Key,
    backend: IpAddr,
    vips: &[(IpAddr, &Service)],
) {
    let Some((vip, dsr)) = vips.iter().find(|(vip, _)| *vip == route.source) else { return };
    let own = config.node.addresses.iter().map(|node| node.address).chain(config.nat.source.iter().copied());
    let other =
        own.filter(|own| own.is_ipv4() == vip.is_ipv4()).find(|own| vips.iter().all(|(vip, _)| vip != own));
    let prefix = prefix(backend);
    let example = match other {
        Some(other) => format!(" (`ip route replace {backend}/{prefix} … src {other}`)"),
        None => String::new(),
    };
    let what = format!(
        "would be checked from {vip}, which it holds itself for the {} service \"{}\": it would answer itself",
        dsr.forward, dsr.name
    );
    let mend = format!(
        "offer \"{}\" on another address, or let this host use another source towards it{example}",
        dsr.name
    );
    findings.refuse(&key(), what, mend);
}
