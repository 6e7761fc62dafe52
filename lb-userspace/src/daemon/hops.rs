//! Next hops on their way from the watch to the plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{Backend, Hop};
use nix::net::if_::if_nametoindex;
use tracing::warn;

use crate::{
    config::{Config, Service},
    core::{image::Image, plan::KnownHop},
    net::{NextHop, watch::NextHopTable},
};

/// The known next hops as the plan wants them.
pub(super) fn known(table: &NextHopTable) -> BTreeMap<IpAddr, KnownHop> {
    table.iter().filter_map(|(&address, hop)| Some((address, known_hop(hop.as_ref()?)))).collect()
}

/// The next hops that the maps hold.
pub(super) fn of_image(image: &Image) -> BTreeMap<IpAddr, KnownHop> {
    let known = image.backends.values().filter(|backend| backend.hop != Hop::default());
    let hop = |backend: &Backend| KnownHop { hop: backend.hop, gateway: None, mtu: backend.mtu };
    known.map(|backend| (backend.address.into(), hop(backend))).collect()
}

fn known_hop(hop: &NextHop) -> KnownHop {
    let gateway = hop.gateway;
    let mtu = hop.mtu;
    KnownHop { hop: Hop::new(hop.interface_index, hop.destination_mac, hop.source_mac), gateway, mtu }
}

/// Says which backends have moved, since `before`, to where the data path cannot serve them. At start the
/// configuration is refused for that; later the routes may change.
pub(super) fn warn_of_unusable(config: &Config, before: &NextHopTable, after: &NextHopTable) {
    let names = config.node.interfaces.iter();
    let with_program = names.filter_map(|name| if_nametoindex(name.as_str()).ok()).collect();
    for (backend, hop, why) in unusable(config, &with_program, before, after) {
        warn!(%backend, %hop, "{}", match why {
            Unusable::Interface =>
                "the way to a backend leads over an interface without the XDP program: its packets may be lost",
            Unusable::Gateway =>
                "the way to a dsr-l2 backend leads through a gateway: its packets are dropped (no_next_hop)",
        });
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unusable {
    Interface,
    Gateway,
}

fn unusable(
    config: &Config,
    with_program: &BTreeSet<u32>,
    before: &NextHopTable,
    after: &NextHopTable,
) -> Vec<(IpAddr, NextHop, Unusable)> {
    let way = |hop: &NextHop| (hop.interface_index, hop.gateway);
    let moved = |address: &IpAddr, hop: &NextHop| {
        before.get(address).and_then(Option::as_ref).is_none_or(|old| way(old) != way(hop))
    };
    let known = after.iter().filter_map(|(&address, hop)| Some((address, hop.as_ref()?)));
    let moved: Vec<_> = known.filter(|(address, hop)| moved(address, hop)).collect();
    if moved.is_empty() {
        return Vec::new();
    }
    let services = services_by_address(config);
    let mut found = Vec::new();
    for (address, hop) in moved {
        let Some(services) = services.get(&address) else { continue };
        if !with_program.contains(&hop.interface_index) {
            found.push((address, *hop, Unusable::Interface));
        }
        if services.iter().any(|service| !known_hop(hop).serves(service.forward)) {
            found.push((address, *hop, Unusable::Gateway));
        }
    }
    found
}

fn services_by_address(config: &Config) -> BTreeMap<IpAddr, Vec<&Service>> {
    let mut services: BTreeMap<IpAddr, Vec<&Service>> = BTreeMap::new();
    for service in &config.services {
        for &address in service.backends.iter().flat_map(|backend| &backend.addresses) {
            services.entry(address).or_default().push(service);
        }
    }
    services
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::*;

    const FILE: &str = r#"
version = 1
[node]
name = "node1"
interfaces = ["front"]
addresses = ["192.0.2.11"]
[nat]
source = ["203.0.113.11"]
[[service]]
name = "web"
protocol = "tcp"
port = 80
backend = [{ name = "b1", address = "203.0.113.21" }]
[[service]]
name = "mail"
protocol = "tcp"
port = 25
forward = "dsr-l2"
backend = [{ name = "m1", address = "203.0.113.31" }]
"#;

    fn table(destination: &str, interface_index: u32, gateway: Option<&str>) -> NextHopTable {
        let gateway = gateway.map(|gateway| gateway.parse().unwrap());
        let hop = NextHop {
            interface_index,
            source_mac: [2; 6],
            destination_mac: [4; 6],
            gateway,
            source: None,
            mtu: 1_500,
        };
        Arc::new(BTreeMap::from([(destination.parse().unwrap(), Some(hop))]))
    }

    #[test]
    fn a_way_that_the_program_cannot_serve_is_told_once_per_change() {
        let config = Config::parse(FILE, Path::new("usher.toml")).unwrap();
        let judge = |before: &NextHopTable, after: &NextHopTable| -> Vec<Unusable> {
            let found = unusable(&config, &BTreeSet::from([3]), before, after);
            found.into_iter().map(|(.., why)| why).collect()
        };
        let nothing = NextHopTable::default();
        let (gateway, nat, dsr) = (Some("203.0.113.1"), "203.0.113.21", "203.0.113.31");
        assert_eq!(judge(&nothing, &table(nat, 3, None)), []);
        assert_eq!(judge(&nothing, &table(nat, 3, gateway)), []);
        assert_eq!(judge(&table(nat, 3, None), &table(nat, 4, None)), [Unusable::Interface]);
        assert_eq!(judge(&table(nat, 4, None), &table(nat, 4, None)), [], "said before");
        assert_eq!(judge(&nothing, &table(dsr, 3, None)), []);
        assert_eq!(judge(&table(dsr, 3, None), &table(dsr, 3, gateway)), [Unusable::Gateway]);
        assert_eq!(judge(&nothing, &table("192.0.2.12", 4, gateway)), [], "a peer, whom the stack serves");
    }
}
