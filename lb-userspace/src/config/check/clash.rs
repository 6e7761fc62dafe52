//! What goes together: checks that compare settings of different sections.
//!
//! Each asks first whether the settings it compares are sound by themselves, so that one mistake
//! makes one message.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use humantime::format_duration;
use lb_common::MAX_SERVICES;

use super::values::malformed;
use crate::{
    config::{
        Backend, Config, Dns, Forward, NoBackend, NodeAddress, Protocol, Service,
        findings::Findings,
        is_within,
        key::Key,
        shape::{list, nearest},
    },
    core::{
        exchange::{PeerWord, Serving, Sight},
        ids::Family,
        lease::owner,
        plan,
    },
};

/// Services times families: each has a Maglev table, in a map whose place 0 is nobody's.
const MAX_POOLS: usize = MAX_SERVICES - 1;
/// Backends, counted once per service and family: flow entries and table slots hold 16-bit numbers.
const MAX_BACKENDS: usize = 65_000;

pub(super) fn check(config: &Config, findings: &mut Findings) {
    secret(config, findings);
    nodes(config, findings);
    names(config, findings);
    dns(config, findings);
    one_owner_per_port(config, findings);
    for service in &config.services {
        if findings.sound(&Key::service(service)) {
            if findings.sound(&Key::section("node").child("addresses")) {
                families(service, findings);
            }
            weights(service, findings);
            thresholds(service, findings);
            backends(config, service, findings);
            nat(config, service, findings);
            tunnel(config, service, findings);
            ports_of_the_node(config, service, findings);
            fallback(config, service, findings);
        }
    }
    sizes(config, findings);
    peer_probes(config, findings);
}

fn secret(config: &Config, findings: &mut Findings) {
    let key = Key::section("node").child("secret_file");
    if !config.peers.is_empty() && config.node.secret_file.is_none() && findings.sound(&key) {
        findings.refuse(
            &key,
            "is missing, but there are peers: all nodes must choose the same backend for a flow",
            "run `usher init` on one node and `usher init --join` on the others, and write secret_file = \
             \"/etc/usher/secret\"",
        );
    }
}

/// Names and addresses belong to one node each.
fn nodes(config: &Config, findings: &mut Findings) {
    let own = (format!("node \"{}\"", config.node.name), Key::section("node"), &config.node.addresses);
    let peers = config
        .peers
        .iter()
        .map(|peer| (format!("peer \"{}\"", peer.name), Key::peer(&peer.name), &peer.addresses));
    let mut is_clear = true;
    let mut held: HashMap<IpAddr, String> = HashMap::new();
    let mut published: HashMap<IpAddr, String> = HashMap::new();
    let mut checked: HashMap<IpAddr, String> = HashMap::new();
    for &source in &config.nat.source {
        held.insert(source, "this node ([nat] source)".to_owned());
    }
    let nodes: Vec<_> = std::iter::once(own).chain(peers).collect();
    for (index, (owner, key, addresses)) in nodes.iter().enumerate() {
        for &NodeAddress { address, publish, check_address } in *addresses {
            let place = key.child("addresses").child(address);
            // A node with a single address uses it for NAT as well.
            let other = held.insert(address, owner.clone()).filter(|other| index > 0 && other != owner);
            if let Some(other) = other {
                is_clear = false;
                let what = format!("is also an address of {other}");
                findings.refuse(&place, what, "give every node addresses of its own");
            } else if let Some(other) =
                published.insert(publish, owner.clone()).filter(|other| other != owner)
            {
                is_clear = false;
                let what = format!("publishes {publish}, which {other} publishes too");
                findings.refuse(&place, what, "publish an address that leads to this node only");
            } else if let Some(other) =
                checked.insert(check_address, owner.clone()).filter(|other| other != owner)
            {
                is_clear = false;
                let what = format!("is checked at {check_address}, where {other} is checked, too");
                findings.refuse(&place, what, "use a check_address that leads to this node only");
            }
        }
    }
    if !is_clear {
        return;
    }
    // Another node would answer for it, for a peer even this one.
    let addresses =
        || nodes.iter().flat_map(|(owner, key, all)| all.iter().map(move |have| (owner, key, have)));
    let owners: HashMap<IpAddr, &String> =
        addresses().map(|(owner, _, have)| (have.address, owner)).collect();
    for (owner, key, &NodeAddress { address, publish, check_address }) in addresses() {
        for (what, to) in [("publishes", publish), ("is checked at", check_address)] {
            if let Some(other) = owners.get(&to).filter(|other| **other != owner) {
                let what = format!("{what} {to}, which is an address of {other}");
                let place = key.child("addresses").child(address);
                findings.refuse(&place, what, "use an address that leads to this node only");
            }
        }
    }
}

/// Every peer is another node.
fn names(config: &Config, findings: &mut Findings) {
    for peer in &config.peers {
        if peer.name == config.node.name {
            let mend = "list the other nodes only, each under its own name";
            findings.refuse(
                &Key::peer(&peer.name).child("name"),
                format!("\"{}\" is this node's own name", peer.name),
                mend,
            );
        }
    }
}

fn dns(config: &Config, findings: &mut Findings) {
    let named = config.services.iter().filter_map(|service| Some((service, service.dns_name.as_deref()?)));
    let Some(dns) = &config.dns else {
        if findings.sound(&Key::section("dns")) {
            for (service, _) in named {
                let mend = "add [dns] with the zone that the name is in, or remove the name";
                findings.refuse(&Key::service(service).child("dns_name"), "needs a [dns] section", mend);
            }
        }
        return;
    };
    let node_names: Vec<String> = config.node_names().map(|name| format!("{name}.{}", dns.zone)).collect();
    let mut any = false;
    for (service, name) in named {
        any = true;
        let key = Key::service(service).child("dns_name");
        if !dns.zones().any(|zone| is_within(name, zone)) {
            let zones: BTreeSet<_> = dns.zones().collect();
            let list = |before: &str, after: &str| {
                let zones: Vec<_> = zones.iter().map(|zone| format!("{before}{zone}{after}")).collect();
                zones.join(" or ")
            };
            let mend = format!("use a name that ends with {}", list(".", ""));
            findings.refuse(&key, format!("\"{name}\" is outside the zone {}", list("\"", "\"")), mend);
        } else if node_names.iter().any(|node| node == name) {
            let mend = "use a name that is no node's";
            findings.refuse(&key, format!("\"{name}\" is the name of a node in the zone"), mend);
        } else if let Some(record) = record_without_room(config, dns, name) {
            let what = format!(
                "has no room for the record \"{record}\" beside it: DNS names have at most 253 characters, and 63 \
                 between dots"
            );
            findings.refuse(&key, what, "use a shorter name here, or for the node");
        }
    }
    if !any && findings.sound(&Key::root()) {
        let mend = "give a service a dns_name, or remove [dns]";
        findings.warn(&Key::section("dns"), "names no service", mend);
    }
}

/// A node's record beside a name in a zone on another server, if it can have none: nothing of the zone could be read.
fn record_without_room(config: &Config, dns: &Dns, name: &str) -> Option<Arc<str>> {
    if !dns.publish.iter().any(|publish| is_within(name, &publish.zone)) {
        return None;
    }
    // The names of both are sound, so what is made of them can only be too long.
    config.node_names().map(|node| owner(node, name)).find(|record| malformed(record).is_some())
}

/// Protocol, port and address name one service.
fn one_owner_per_port(config: &Config, findings: &mut Findings) {
    let mut owners: HashMap<(Protocol, u16, IpAddr), &str> = HashMap::new();
    for service in &config.services {
        for &address in &service.addresses {
            if let Some(other) = owners.insert((service.protocol, service.port, address), &service.name) {
                let protocol = service.protocol.as_str();
                let what =
                    format!("{protocol} port {} on {address} is service \"{other}\"'s already", service.port);
                let mend = "use another port, or give the two services different addresses";
                findings.refuse(&Key::service(service).child("port"), what, mend);
                break;
            }
        }
    }
}

/// A family is offered when the service has an address and a backend in it.
fn families(service: &Service, findings: &mut Findings) {
    let key = Key::service(service);
    let vip = |family| service.addresses.iter().any(|&address| Family::of(address) == family);
    let backend =
        |family| service.backends.iter().any(|backend| service.backend_address(backend, family).is_some());
    if service.families().next().is_none() {
        let (what, mend) = if vip(Family::V4) {
            (
                "has IPv4 addresses and only IPv6 backends",
                "give a backend an IPv4 address, or the node an IPv6 one",
            )
        } else {
            (
                "has IPv6 addresses and only IPv4 backends",
                "give a backend an IPv6 address, or the node an IPv4 one",
            )
        };
        findings.refuse(&key, what, mend);
        return;
    }
    for (family, name) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        match (vip(family), backend(family)) {
            (true, false) => findings.warn(
                &key,
                format!("is not offered over {name}: no backend has an {name} address"),
                format!("give a backend an {name} address, or name only the other addresses in `addresses`"),
            ),
            (false, true) => findings.warn(
                &key,
                format!("never uses its backends' {name} addresses: it has no {name} address itself"),
                format!("add an {name} address to [node] addresses, or remove those of the backends"),
            ),
            _ => {}
        }
    }
}

fn weights(service: &Service, findings: &mut Findings) {
    let key = Key::service(service);
    let idle = |backend: &&Backend| backend.weight == 0;
    let mend = "give one a weight of 1, or remove the service";
    if service.backends.iter().all(|backend| idle(&backend)) {
        findings.refuse(&key, "has only backends of weight 0, so no flow can go anywhere", mend);
        return;
    }
    for family in service.families() {
        if service
            .backends
            .iter()
            .filter(|backend| service.backend_address(backend, family).is_some())
            .all(|backend| idle(&backend))
        {
            findings.refuse(&key, format!("has only backends of weight 0 for IP{family}"), mend);
        }
    }
}

/// Another node shall take the clients before this one uses backends that fail their checks.
fn thresholds(service: &Service, findings: &mut Findings) {
    let Service { withdraw_below, panic_below, .. } = *service;
    if withdraw_below > 0 && withdraw_below < panic_below {
        findings.refuse(
            &Key::service(service).child("withdraw_below"),
            format!("is less than panic_below, {panic_below}: all backends would be used while DNS still names this node"),
            format!("use {panic_below} or more, so that the node leaves DNS first"),
        );
    }
}

/// No backend is a node.
fn backends(config: &Config, service: &Service, findings: &mut Findings) {
    let own = config.node.addresses.iter().map(|node| (node.address, "this node itself".to_owned()));
    let source = config.nat.source.iter().map(|&source| (source, "this node itself".to_owned()));
    let peers = config
        .peers
        .iter()
        .flat_map(|peer| peer.addresses.iter().map(|node| (node.address, format!("peer \"{}\"", peer.name))));
    let nodes: BTreeMap<IpAddr, String> = peers.chain(source).chain(own).collect();
    for backend in &service.backends {
        for address in &backend.addresses {
            if let Some(node) = nodes.get(address) {
                let mend = "use the address of the server behind it; a node cannot balance to nodes";
                findings.refuse(
                    &Key::backend_address(service, backend, *address),
                    format!("is {node}"),
                    mend,
                );
            }
        }
    }
}

fn nat(config: &Config, service: &Service, findings: &mut Findings) {
    let key = Key::service(service);
    if !findings.sound(&Key::section("nat")) {
        return;
    }
    match service.forward {
        Forward::DsrL2 | Forward::DsrIpip | Forward::DsrGue => {
            if let Some(vip) = service.addresses.iter().find(|vip| config.nat.source.contains(vip)) {
                let what =
                    format!("is also an address of the {} service \"{}\"", service.forward, service.name);
                let mend = "use another address of the node: that service's backends hold this one \
                            and drop what comes from it";
                findings.refuse(&Key::section("nat").child("source").child(vip), what, mend);
            }
        }
        Forward::Nat => {
            for family in service.families() {
                if !config.nat.source.iter().any(|&source| Family::of(source) == family) {
                    let what = format!("is \"nat\", but [nat] names no IP{family} source address");
                    let mend = format!(
                        "add an IP{family} address of this node to [nat] source, or use forward = \"dsr-l2\""
                    );
                    findings.refuse(&key.child("forward"), what, mend);
                }
            }
        }
    }
}

/// Every backend can be told from where its packets come, and takes them.
fn tunnel(config: &Config, service: &Service, findings: &mut Findings) {
    if !service.forward.is_tunnel() || !findings.sound(&Key::section("tunnel")) {
        return;
    }
    let source = &config.tunnel.source;
    let backends = || {
        let families = service.families();
        families.flat_map(|family| {
            service.backends.iter().filter_map(move |b| service.backend_address(b, family))
        })
    };
    for (family, example) in [(Family::V4, "198.51.100.0/28"), (Family::V6, "2001:db8:ffff::/64")] {
        let needed = backends().any(|backend| Family::of(backend) == family);
        if needed && !source.iter().any(|network| Family::of(network.addr()) == family) {
            let what = format!("is \"{}\", but [tunnel] names no IP{family} source network", service.forward);
            let mend = format!("add an IP{family} network such as \"{example}\" to [tunnel] source");
            findings.refuse(&Key::service(service).child("forward"), what, mend);
        }
    }
    let held = service.addresses.iter().copied().chain(backends());
    for address in held {
        let Some(network) = source.iter().find(|network| network.contains(&address)) else { continue };
        let key = Key::section("tunnel").child("source").child(network);
        if findings.sound(&key) {
            let what = format!("contains {address}, which backends of \"{}\" hold", service.name);
            let mend =
                "use a network that holds no host: backends drop packets that seem to come from themselves";
            findings.refuse(&key, what, mend);
        }
    }
}

/// Another service's backends can take this one's packets as they are.
fn fallback(config: &Config, service: &Service, findings: &mut Findings) {
    let NoBackend::Fallback(name) = &service.all_down else { return };
    let key = Key::service(service).child("all_down").child("service");
    let Some(other) = config.fallback(service) else {
        let others = config.services.iter().map(|other| &*other.name);
        let mend = match nearest(name, others.filter(|other| *other != &*service.name)) {
            Some(other) => format!("did you mean \"{other}\"?"),
            None => "add a [[service]] of this name".to_owned(),
        };
        findings.refuse(&key, format!("\"{name}\" is no service"), mend);
        return;
    };
    if let Some((what, mend)) = unfit(service, other) {
        findings.refuse(&key, what, mend);
    }
}

/// Why a service's backends cannot stand in for another's, and what helps.
fn unfit(service: &Service, other: &Service) -> Option<(String, &'static str)> {
    let name = &other.name;
    if name == &service.name {
        return Some(("is the service itself".to_owned(), "name another one"));
    }
    if matches!(other.all_down, NoBackend::Fallback(_)) {
        let what = format!("\"{name}\" has a fallback itself");
        return Some((what, "name a service without one: nobody is sent on twice"));
    }
    let differs = |what: &str, own: &dyn fmt::Display, others: &dyn fmt::Display| {
        format!("\"{name}\" has {what} {others}, and this service has {own}")
    };
    if other.protocol != service.protocol {
        return Some((differs("protocol", &service.protocol, &other.protocol), "use a service of the same"));
    }
    if other.forward != service.forward {
        return Some((differs("forward", &service.forward, &other.forward), "use the same for both"));
    }
    if service.forward.is_direct() && other.port != service.port {
        let mend = "offer it on the same port of another address, or use forward = \"nat\" for both";
        return Some((differs("port", &service.port, &other.port), mend));
    }
    let lacks = service.families().find(|family| !other.families().any(|have| have == *family));
    if let Some(family) = lacks {
        return Some((
            format!("\"{name}\" is not offered over IP{family}"),
            "give it an address and a backend there",
        ));
    }
    let endpoints = |service: &Service| -> Vec<_> {
        let of =
            |one: &Backend| one.addresses.iter().map(|&ip| SocketAddr::new(ip, one.port)).collect::<Vec<_>>();
        service.backends.iter().flat_map(of).collect()
    };
    let own = endpoints(service);
    let both = endpoints(other).into_iter().find(|endpoint| own.contains(endpoint))?;
    let what = format!("\"{name}\" has the backend {both}, which is one of this service's own");
    Some((what, "use other backends; panic_below uses own ones although their checks fail"))
}

/// Ports that the node itself needs on the same addresses.
fn ports_of_the_node(config: &Config, service: &Service, findings: &mut Findings) {
    let key = Key::service(service).child("port");
    let port = service.port;
    for &vip in &service.addresses {
        if config.nat.source.contains(&vip) && config.nat.ports.contains(&port) {
            let (first, last) = (config.nat.ports.start(), config.nat.ports.end());
            findings.refuse(
                &key,
                format!("{port} on {vip} lies in the NAT ports {first}-{last} of the same address"),
                "choose [nat] ports without it, or another [nat] source",
            );
        }
        let dns = config.dns.iter().flat_map(|dns| &dns.listen);
        let dns = dns.map(|socket| (socket, "own DNS server listens", "[dns] listen"));
        let metrics = config.node.metrics_listen.iter();
        let metrics = metrics.map(|socket| (socket, "metrics are", "[node] metrics_listen"));
        let metrics = metrics.filter(|_| service.protocol == Protocol::Tcp);
        for (socket, what, setting) in dns.chain(metrics) {
            // `[::]` takes IPv4 as well.
            let is_taken =
                socket.ip() == vip || socket.ip().is_unspecified() && (socket.is_ipv6() || vip.is_ipv4());
            if is_taken && socket.port() == port {
                findings.refuse(
                    &key,
                    format!("{port} on {vip} is where this node's {what} ({socket})"),
                    format!("offer the service on another address, or name other addresses in {setting}"),
                );
            }
        }
    }
    if service.protocol == Protocol::Tcp && port == 22 {
        let own = list(service.addresses.iter());
        findings.warn(
            &key,
            format!("22 takes ssh to {own} away from the node itself"),
            "keep another way in",
        );
    }
}

/// Each address of a peer needs a probe as often as it would have without a cap.
fn peer_probes(config: &Config, findings: &mut Findings) {
    let connects = |family| {
        let tcp = config.services.iter().filter(|service| service.protocol == Protocol::Tcp);
        tcp.flat_map(Service::families).any(|offered| offered == family)
    };
    let addresses = config.peers.iter().flat_map(|peer| &peer.addresses);
    let probed = addresses.filter(|have| connects(Family::of(have.address))).count();
    let interval = config.peer_check.timing.interval;
    let needed = (probed as f64 / interval.as_secs_f64()).ceil();
    if f64::from(config.peer_check.peer_probe_rate) < needed && findings.sound(&Key::root()) {
        let what = format!(
            "is too low to connect to each of the {probed} addresses of peers every {}: a dead one is found later",
            format_duration(interval)
        );
        findings.warn(
            &Key::section("peer_check").child("peer_probe_rate"),
            what,
            format!("use {needed} or more, or a longer interval"),
        );
    }
}

/// What nodes tell each other of their services has to fit into one DNS message.
fn word(config: &Config, findings: &mut Findings) {
    /// Of 65,535, with room for what is around it.
    const MOST: usize = 65_000;
    if config.peers.is_empty() {
        return;
    }
    let serves = plan::pools(config).map(|(service, pool)| {
        let of = service.backends.len();
        (pool, Serving { serves: false, up: of, of })
    });
    let sees = config.peers.iter().flat_map(|peer| {
        peer.addresses.iter().map(|have| ((peer.name.clone(), have.address), Sight::Declines))
    });
    let word = PeerWord { serves: serves.collect(), sees: sees.collect(), ..PeerWord::default() };
    let length: usize = word.strings().iter().map(|text| text.len() + 1).sum();
    if length > MOST {
        let what = format!(
            "takes {length} octets of what nodes tell each other (each service's name, once per family), more than {MOST}"
        );
        findings.refuse(
            &Key::section("service"),
            what,
            "use shorter names, or spread the services over more groups of nodes",
        );
    }
}

fn sizes(config: &Config, findings: &mut Findings) {
    let pools: usize = config.services.iter().map(|service| service.families().count()).sum();
    if pools > MAX_POOLS {
        let what = format!("takes {pools} tables (one per service and family), more than {MAX_POOLS}");
        findings.refuse(&Key::section("service"), what, "spread the services over more groups of nodes");
    }
    let backends = plan::pools(config).map(|(service, pool)| plan::members(config, service, pool).count());
    let backends: usize = backends.sum();
    if backends > MAX_BACKENDS {
        let what =
            format!("takes {backends} backends (counted per service and family), more than {MAX_BACKENDS}");
        findings.refuse(&Key::section("service"), what, "spread the services over more groups of nodes");
    }
    word(config, findings);
    // Probes of peers leave from there when the node's other addresses are VIPs of dsr-l2 services.
    let probes = !config.peers.is_empty();
    let used = probes || config.services.iter().any(|service| service.forward == Forward::Nat);
    if !used && !config.nat.source.is_empty() && findings.sound(&Key::root()) {
        findings.warn(
            &Key::section("nat").child("source"),
            "is used by no service",
            "remove it, or use forward = \"nat\"",
        );
    }
    let tunnels = config.services.iter().any(|service| service.forward.is_tunnel());
    if !tunnels && !config.tunnel.source.is_empty() && findings.sound(&Key::root()) {
        findings.warn(
            &Key::section("tunnel").child("source"),
            "is used by no service",
            "remove it, or use forward = \"dsr-ipip\" or \"dsr-gue\"",
        );
    }
}
