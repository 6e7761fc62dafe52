//! The configuration against the host it is to run on.

mod backends;
mod kernel;
mod peers;
mod ports;

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    net::IpAddr,
    ops::RangeInclusive,
    path::Path,
    sync::Arc,
};

pub use peers::ProbeSources;

use super::{
    Config,
    error::{ConfigError, Problem},
    findings::Findings,
    key::Key,
    locations::Locations,
    shape::{list, nearest},
};

/// What a check needs to know of the host. Plain data: whoever asks the kernel fills it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Every interface with its addresses, the loopback interface included.
    pub interfaces: Vec<(String, Vec<IpAddr>)>,
    /// Kernel settings by interface.
    pub settings: BTreeMap<String, Settings>,
    /// `net.ipv4.ip_local_port_range`: ports for the host's own connections, IPv6 included.
    pub ip_local_port_range: RangeInclusive<u16>,
    /// `net.ipv4.ip_local_reserved_ports`: ports of that range which the kernel leaves alone, ascending.
    pub ip_local_reserved_ports: Vec<RangeInclusive<u16>>,
    /// For every address of a backend or peer, the kernel's way to it; no entry means no route.
    pub check_route: BTreeMap<IpAddr, Route>,
    /// The kernel itself.
    pub kernel: Kernel,
}

/// A kernel, and what the data path needs and it does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kernel {
    /// As `uname -r` has it: `6.1.0-56-amd64`.
    pub release: String,
    /// Older needs first.
    pub lacks: Vec<Lack>,
}

/// Something that a kernel does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// What.
    pub what: String,
    /// The first version of Linux that has it.
    pub since: &'static str,
}

/// What the kernel does with packets that arrive on an interface. `None`: it has no such setting there
/// (IPv6 may be off).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// `net.ipv4.conf.*.forwarding`.
    pub forwarding_v4: Option<bool>,
    /// `net.ipv6.conf.*.forwarding`.
    pub forwarding_v6: Option<bool>,
    /// `net.ipv4.conf.*.rp_filter` as it takes effect, the greater of `all`'s and the interface's: 1 is
    /// strict, 2 loose.
    pub rp_filter: Option<u8>,
}

/// How packets to a destination leave the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The address from which the kernel would connect.
    pub source: IpAddr,
    /// The name of the outgoing interface.
    pub interface: String,
    /// `None` when the destination is on that interface's own network.
    pub gateway: Option<IpAddr>,
}

/// Compares a configuration with the host and returns warnings.
///
/// # Errors
/// The configuration cannot work on this host.
pub fn check(
    config: &Config,
    file: &Arc<Path>,
    locations: &Locations,
    facts: &HostFacts,
) -> Result<Vec<Problem>, ConfigError> {
    let mut findings = Findings::new(file.clone(), locations.clone());
    interfaces(config, facts, &mut findings);
    addresses(config, facts, &mut findings);
    ports::check(config, facts, &mut findings);
    backends::check(config, facts, &mut findings);
    kernel::check(config, facts, &mut findings);
    peers::check(config, facts, &mut findings);
    findings.finish().map(|(warnings, _)| warnings)
}

fn interfaces(config: &Config, facts: &HostFacts, findings: &mut Findings) {
    let names = || facts.interfaces.iter().map(|(name, _)| name.as_str());
    for interface in &config.node.interfaces {
        if names().any(|name| name == interface) {
            continue;
        }
        let has = list(names());
        let mend = match nearest(interface, names()) {
            Some(name) => format!("did you mean \"{name}\"? this host has {has}"),
            None => format!("this host has {has}"),
        };
        findings.refuse(
            &Key::section("node").child("interfaces").child(interface),
            "is no interface of this host",
            mend,
        );
    }
}

/// What the node uses as its own must be its own; what it sends to must not.
fn addresses(config: &Config, facts: &HostFacts, findings: &mut Findings) {
    let own: HashMap<IpAddr, &str> = facts
        .interfaces
        .iter()
        .flat_map(|(name, addresses)| addresses.iter().map(move |&address| (address, name.as_str())))
        .collect();
    let key = |table: &str, name: &str, written: &dyn Display| Key::section(table).child(name).child(written);
    let node = config.node.addresses.iter().map(|node| node.address);
    let node = node.map(|address| (key("node", "addresses", &address), address));
    let nat = config.nat.source.iter().map(|&source| (key("nat", "source", &source), source));
    let listen = config.dns.iter().flat_map(|dns| &dns.listen);
    // Left at its default, `listen` repeats the node's addresses.
    let elsewhere =
        listen.filter(|socket| !config.node.addresses.iter().any(|node| node.address == socket.ip()));
    let dns = elsewhere.map(|socket| (key("dns", "listen", socket), socket.ip()));
    let checks = config.services.iter().flat_map(|service| {
        service.check.source.iter().map(|&source| (Key::check_source(service, source), source))
    });
    for (key, address) in node.chain(nat).chain(dns).chain(checks) {
        if !own.contains_key(&address) {
            let interface = config.node.interfaces.first().map_or("eth0", String::as_str);
            let prefix = prefix(address);
            let mend = format!(
                "add it (`ip address add {address}/{prefix} dev {interface}`), or use one that this host has"
            );
            findings.refuse(&key, "is on no interface of this host", mend);
        }
    }
    for service in &config.services {
        for backend in &service.backends {
            for &address in &backend.addresses {
                if let Some(interface) = own.get(&address) {
                    let mend = "use the address of another host: packets to it never leave this one";
                    let what = format!("is this host's own address, on {interface}");
                    findings.refuse(&Key::backend_address(service, backend, address), what, mend);
                }
            }
        }
    }
}

/// The length of a prefix that holds one address.
fn prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
