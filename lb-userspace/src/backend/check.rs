//! What keeps a host from being a backend, each thing with what mends it.

use std::{fmt, net::IpAddr};

use lb_common::decap;
use serde::Serialize;

use super::{
    Forward, Host, Settings,
    record::Program,
    wanted::{ARP_IGNORE, IGNORING, NOT_ANNOUNCING, STRICT},
};
use crate::net::facts::Interface;

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// It does not work, or harms others.
    Wrong,
    /// It works, and could be better.
    Note,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing; stays the same between versions.
    pub kind: Kind,
    /// How much it weighs.
    pub weight: Weight,
    /// What is wrong, and what comes of it.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

/// Kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An interface does not exist.
    InterfaceMissing,
    /// An interface is down.
    InterfaceDown,
    /// A VIP is on no interface.
    VipMissing,
    /// A VIP is on an interface that answers ARP or neighbour discovery for it.
    VipAnswered,
    /// An outer address is on no interface.
    AddressMissing,
    /// `arp_ignore`.
    ArpIgnore,
    /// `arp_announce`.
    ArpAnnounce,
    /// `rp_filter`.
    RpFilter,
    /// IPv6 is switched off on `lo`.
    Ipv6Disabled,
    /// An interface has no decapsulation program.
    NoProgram,
    /// An interface has another XDP program.
    ForeignProgram,
    /// Nothing listens.
    NotListening,
    /// Clients are asked for segments that do not fit the tunnel.
    Mss,
    /// Tunnel packets are taken from anywhere.
    AnySource,
}

impl Finding {
    /// Whether a start would make it worse or cannot help it.
    pub fn prevents_start(&self) -> bool {
        matches!(
            self.kind,
            Kind::InterfaceMissing
                | Kind::VipAnswered
                | Kind::AddressMissing
                | Kind::Ipv6Disabled
                | Kind::ForeignProgram
        )
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.mend)
    }
}

/// Everything that is wrong, and then what could be better. `own` is the program of the running
/// `usher backend run`.
pub fn judge(settings: &Settings, host: &Host, own: Option<&Program>) -> Vec<Finding> {
    let mut findings = interfaces(settings, host);
    findings.extend(settings.vips.iter().flat_map(|vip| vip_findings(*vip, host)));
    if settings.vips.iter().any(IpAddr::is_ipv4) {
        findings.extend(arp(host));
        findings.extend(settings.interfaces.iter().filter_map(|name| rp_filter(name, host)));
    }
    if settings.vips.iter().any(IpAddr::is_ipv6) {
        findings.extend(ipv6(host));
    }
    if settings.has_tunnel() {
        findings.extend(settings.addresses.iter().filter_map(|address| address_missing(*address, host)));
        findings.extend(settings.interfaces.iter().filter_map(|name| program(name, host, own)));
        findings.extend(any_source(settings));
        findings.extend(mss(settings, host));
    }
    findings.extend(host.silent.iter().map(|(listen, vip)| {
        wrong(
            Kind::NotListening,
            format!("nothing listens on {listen} of {vip}"),
            "start the service there, or have it listen on all addresses".to_owned(),
        )
    }));
    findings.sort_by_key(|finding| finding.weight);
    findings
}

fn wrong(kind: Kind, what: String, mend: String) -> Finding {
    Finding { kind, weight: Weight::Wrong, what, mend }
}

fn note(kind: Kind, what: String, mend: String) -> Finding {
    Finding { kind, weight: Weight::Note, what, mend }
}

fn interfaces(settings: &Settings, host: &Host) -> Vec<Finding> {
    let finding = |name: &String| match host.interface(name) {
        None => {
            let names: Vec<&str> = host.interfaces.iter().map(|have| &*have.link.name).collect();
            let have = names.join(", ");
            Some(wrong(
                Kind::InterfaceMissing,
                format!("{name} is no interface of this host"),
                format!("name one of {have}"),
            ))
        }
        Some(have) if !have.link.up => Some(wrong(
            Kind::InterfaceDown,
            format!("{name} is down, or has no carrier"),
            format!("`ip link set {name} up`, and look at its cable"),
        )),
        Some(_) => None,
    };
    settings.interfaces.iter().filter_map(finding).collect()
}

fn vip_findings(vip: IpAddr, host: &Host) -> Vec<Finding> {
    if host.holders(vip).next().is_none() {
        return vec![wrong(
            Kind::VipMissing,
            format!("{vip} is on no interface, so its packets are not this host's"),
            format!("`usher backend run`, or by hand `{}`", add(vip)),
        )];
    }
    let answered = |have: &Interface| {
        let name = &have.link.name;
        let by = if vip.is_ipv4() { "ARP" } else { "neighbour discovery" };
        wrong(
            Kind::VipAnswered,
            format!("{vip} is on {name}, which answers {by} for it: packets for the nodes come here instead"),
            format!("take it away (`ip address show {name}`, `ip address del`); it belongs on lo"),
        )
    };
    host.holders(vip).filter(|have| have.link.answers_arp).map(answered).collect()
}

fn add(vip: IpAddr) -> String {
    match vip {
        IpAddr::V4(_) => format!("ip address add {vip}/32 dev lo"),
        IpAddr::V6(_) => format!("ip address add {vip}/128 dev lo nodad preferred_lft 0"),
    }
}

fn address_missing(address: IpAddr, host: &Host) -> Option<Finding> {
    host.holders(address).next().is_none().then(|| {
        wrong(
            Kind::AddressMissing,
            format!("{address} is on no interface, so nodes cannot send tunnel packets to it"),
            "add it to an interface, or leave `addresses` out".to_owned(),
        )
    })
}

/// The larger of an interface's value and that for all.
fn effective(host: &Host, interface: &str, name: &str) -> Option<u32> {
    let of =
        |interface: &str| host.sysctls.get(&format!("net/ipv4/conf/{interface}/{name}"))?.parse::<u32>().ok();
    of(interface).max(of("all"))
}

/// Every interface may be asked for a VIP, also one that was not named.
fn arp(host: &Host) -> Vec<Finding> {
    let asked = host.interfaces.iter().filter(|have| have.link.answers_arp).map(|have| &*have.link.name);
    let asked: Vec<&str> = asked.collect();
    let mut findings = Vec::new();
    let bad = |name: &'static str, is_right: &dyn Fn(u32) -> bool| -> Vec<(&str, u32)> {
        let values =
            asked.iter().filter_map(|interface| Some((*interface, effective(host, interface, name)?)));
        values.filter(|(_, value)| !is_right(*value)).collect()
    };
    for (interface, value) in bad("arp_ignore", &|value| IGNORING.contains(&value)) {
        // The larger of the two counts, so that one has to change.
        let for_all = host.sysctls.get(ARP_IGNORE).is_some_and(|all| *all == value.to_string());
        let place = if for_all { "all" } else { interface };
        findings.push(wrong(
            Kind::ArpIgnore,
            format!("arp_ignore of {interface} is {value}: it answers ARP for the VIPs in the nodes' place"),
            format!("`sysctl -w net.ipv4.conf.{place}.arp_ignore=1`"),
        ));
    }
    for (interface, value) in bad("arp_announce", &|value| value == NOT_ANNOUNCING) {
        findings.push(wrong(
            Kind::ArpAnnounce,
            format!(
                "arp_announce of {interface} is {value}: when this host asks for a neighbour, it may announce a VIP \
                 as its own"
            ),
            "`sysctl -w net.ipv4.conf.all.arp_announce=2`".to_owned(),
        ));
    }
    findings
}

fn rp_filter(interface: &str, host: &Host) -> Option<Finding> {
    (effective(host, interface, "rp_filter") == Some(STRICT)).then(|| {
        wrong(
            Kind::RpFilter,
            format!(
                "rp_filter of {interface} is strict (1): packets of clients whose way back is another interface are \
                 dropped"
            ),
            format!("`sysctl -w net.ipv4.conf.{interface}.rp_filter=2`"),
        )
    })
}

fn ipv6(host: &Host) -> Option<Finding> {
    let key = "net/ipv6/conf/lo/disable_ipv6";
    (host.sysctls.get(key).is_some_and(|value| value != "0")).then(|| {
        wrong(
            Kind::Ipv6Disabled,
            "IPv6 is switched off on lo, so it cannot have an IPv6 VIP".to_owned(),
            "`sysctl -w net.ipv6.conf.lo.disable_ipv6=0`".to_owned(),
        )
    })
}

fn program(interface: &str, host: &Host, own: Option<&Program>) -> Option<Finding> {
    let found = host.interface(interface)?.link.xdp_program;
    match found {
        None => Some(wrong(
            Kind::NoProgram,
            format!("{interface} has no decapsulation program: tunnel packets are not unpacked"),
            "`usher backend run`".to_owned(),
        )),
        Some(id) if own.is_some_and(|own| own.id == id) => None,
        Some(id) => {
            let name = host.programs.get(&id).map_or("without a name", String::as_str);
            let whose =
                if name == decap::PROGRAM { "of another `usher backend run`" } else { "of somebody else" };
            Some(wrong(
                Kind::ForeignProgram,
                format!(
                    "{interface} has an XDP program {whose} ({name}, id {id}): tunnel packets are its business"
                ),
                format!("stop what attached it, or `ip link set {interface} xdp off`"),
            ))
        }
    }
}

fn any_source(settings: &Settings) -> Option<Finding> {
    settings.allow.is_empty().then(|| {
        note(
            Kind::AnySource,
            "tunnel packets are taken from anywhere".to_owned(),
            "give the nodes' outer sources (their `[tunnel] source`) by `--allow PREFIX`".to_owned(),
        )
    })
}

/// Bytes of a TCP header without options, which is what a segment size leaves out (RFC 9293 section 3.7.1).
const TCP_HEADER: u32 = 20;

/// Clients' full segments must fit the tunnel, or the nodes have to send every client "packet too big".
fn mss(settings: &Settings, host: &Host) -> Vec<Finding> {
    let mtu = settings.interfaces.iter().filter_map(|name| Some(host.interface(name)?.link.mtu)).min();
    let Some(mtu) = mtu else { return Vec::new() };
    let overhead = overhead(settings, host);
    let mut findings = Vec::new();
    for v6 in [false, true] {
        if !settings.vips.iter().any(|vip| vip.is_ipv6() == v6) {
            continue;
        }
        let header = if v6 { 40 } else { 20 };
        let fits = mtu.saturating_sub(overhead + header + TCP_HEADER);
        let announced =
            |advmss: Option<u32>, mtu: u32| advmss.unwrap_or(mtu.saturating_sub(header + TCP_HEADER));
        let largest = host.default_routes.iter().filter(|route| route.v6 == v6).map(|route| {
            let out = host.interfaces.iter().find(|have| Some(have.link.index) == route.interface);
            announced(route.advmss, out.map_or(mtu, |have| have.link.mtu))
        });
        if let Some(largest) = largest.max().filter(|largest| *largest > fits) {
            let family = if v6 { "IPv6" } else { "IPv4" };
            let ip = if v6 { "ip -6" } else { "ip" };
            findings.push(note(
                Kind::Mss,
                format!(
                    "{family} clients are asked for segments of {largest} bytes, which with the tunnel's {overhead} \
                     bytes do not fit an MTU of {mtu}"
                ),
                format!(
                    "`{ip} route change default … advmss {fits}`, or raise the MTU between nodes and this host by \
                     {overhead}"
                ),
            ));
        }
    }
    findings
}

/// The most that a tunnel of these settings adds, by the families of the addresses that nodes may use.
fn overhead(settings: &Settings, host: &Host) -> u32 {
    let discovered;
    let addresses = if settings.addresses.is_empty() {
        discovered = host.own_addresses(&settings.vips);
        &discovered
    } else {
        &settings.addresses
    };
    let of = |forward: &Forward| addresses.iter().map(|address| forward.overhead(address.is_ipv6())).max();
    settings.forward.iter().filter_map(of).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Link, vips::DefaultRoute};

    /// A host with one interface, a way out, and nothing wrong but what a test adds.
    fn host(advmss: Option<u32>) -> Host {
        let link = |index: u32, name: &str, mtu: u32| Link {
            index,
            name: name.to_owned(),
            mac: None,
            mtu,
            up: true,
            answers_arp: name != "lo",
            kind: None,
            xdp_program: Some(7),
            xdp_generic: false,
        };
        let interface = |link, addresses: &[&str]| Interface {
            link,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        Host {
            interfaces: vec![
                interface(link(1, "lo", 65_536), &["127.0.0.1", "192.0.2.11"]),
                interface(link(2, "eth0", 1_500), &["203.0.113.21"]),
            ],
            sysctls: [("arp_ignore", "1"), ("arp_announce", "2")]
                .map(|(name, value)| (format!("net/ipv4/conf/all/{name}"), value.to_owned()))
                .into(),
            default_routes: vec![DefaultRoute { v6: false, interface: Some(2), advmss }],
            ..Host::default()
        }
    }

    fn findings(forward: Forward, host: &Host) -> Vec<String> {
        let mut settings = Settings::new(["eth0".to_owned()], ["192.0.2.11".parse().unwrap()]);
        settings.forward = [forward].into();
        settings.allow = ["198.51.100.0/24".parse().unwrap()].into();
        let own = Program { id: 7, mode: "native".to_owned(), why_not_native: String::new() };
        judge(&settings, host, Some(&own)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn segments_that_do_not_fit_the_tunnel_are_noted() {
        for (forward, overhead, fits) in [(Forward::DsrIpip, 20, 1_440), (Forward::DsrGue, 28, 1_432)] {
            let said = format!(
                "IPv4 clients are asked for segments of 1460 bytes, which with the tunnel's {overhead} bytes do not \
                 fit an MTU of 1500; `ip route change default … advmss {fits}`, or raise the MTU between nodes and \
                 this host by {overhead}"
            );
            assert_eq!(findings(forward, &host(None)), [said]);
            assert_eq!(findings(forward, &host(Some(fits))), [""; 0]);
            assert_eq!(findings(forward, &host(Some(fits + 1))).len(), 1);
        }
        assert_eq!(findings(Forward::DsrL2, &host(None)), [""; 0]);
    }

    #[test]
    fn somebody_elses_program_is_named() {
        let mut host = host(Some(1_000));
        host.interfaces[1].link.xdp_program = Some(9);
        host.programs.insert(9, "filter".to_owned());
        assert_eq!(
            findings(Forward::DsrIpip, &host),
            [
                "eth0 has an XDP program of somebody else (filter, id 9): tunnel packets are its business; stop what \
              attached it, or `ip link set eth0 xdp off`"
            ]
        );
        assert_eq!(findings(Forward::DsrL2, &host), [""; 0], "without a tunnel it is nobody's concern");
    }
}
