//! Who is in a lab, and with which addresses and cables.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use anyhow::{Context, Error, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::host::Host;

/// The zone that the nodes serve.
pub const ZONE: &str = "example.test";

/// Most nodes a lab can have: their addresses end in .11 to .19.
pub const MAX_NODES: u8 = 9;

/// Most backends a lab can have: their IPv6 addresses end in ::21 to ::ff, as written in hexadecimal.
pub const MAX_BACKENDS: u8 = 200;

/// The client's addresses: .7 to .15 and ::7 to ::f; connections leave from the first.
const CLIENT_NUMBERS: std::ops::RangeInclusive<u8> = 7..=15;

/// Where floods pretend to come from: router and backends throw away what is for there.
pub(crate) const SPOOFED: Pair =
    Pair { v4: Ipv4Addr::new(198, 51, 100, 128), v6: Ipv6Addr::new(0x2001, 0xdb8, 0x8000, 0, 0, 0, 0, 0) };

/// Prefix lengths of [`SPOOFED`].
pub(crate) const SPOOFED_BITS: (u8, u8) = (25, 33);

/// What a lab consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Hosts that run usher.
    pub nodes: u8,
    /// Servers behind them.
    pub backends: u8,
    /// How nodes forward.
    pub forward: Forward,
    /// How the kernel runs the nodes' program.
    pub xdp_mode: XdpMode,
    /// Whether usher is started on the nodes; otherwise they are bare hosts.
    pub run_usher: bool,
    /// Flows that the nodes' tables are to hold, and then UDP flows live for two seconds only, so that
    /// what a flood leaves is soon gone. `None` leaves `[flows]` out.
    pub flows: Option<u32>,
    /// Whether there is a QUIC service too, of which packets go where their connection id says.
    pub quic: bool,
    /// The nodes' NAT ports, `"1024-1039"`. `None` leaves them at usher's default.
    pub nat_ports: Option<String>,
    /// Who answers for the zone.
    pub dns: DnsServer,
    /// Whether clients reach nodes by public addresses only, which the router translates one to one.
    pub public: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            nodes: 2,
            backends: 3,
            forward: Forward::Nat,
            xdp_mode: XdpMode::Native,
            run_usher: true,
            flows: None,
            quic: false,
            nat_ports: None,
            dns: DnsServer::Embedded,
            public: false,
        }
    }
}

impl Options {
    /// Refuses numbers that the address plan has no room for.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!((1..=MAX_NODES).contains(&self.nodes), "a lab has 1 to {MAX_NODES} nodes");
        ensure!((1..=MAX_BACKENDS).contains(&self.backends), "a lab has 1 to {MAX_BACKENDS} backends");
        ensure!(!self.public || self.forward == Forward::Nat, "public addresses are for forwarding by nat");
        Ok(())
    }

    /// The nodes, in order.
    pub fn node_hosts(&self) -> impl Iterator<Item = Host> + use<> {
        (1..=self.nodes).map(Host::Node)
    }

    /// The backends, in order.
    pub fn backend_hosts(&self) -> impl Iterator<Item = Host> + use<> {
        (1..=self.backends).map(Host::Backend)
    }

    /// The zone's own servers, if it is not on the nodes.
    pub fn dns_hosts(&self) -> impl Iterator<Item = Host> + use<> {
        let secondary = self.dns.has_secondary().then_some(Host::Secondary);
        self.dns.is_shared().then_some(Host::Dns).into_iter().chain(secondary)
    }

    /// Every host, in the order in which they are shown.
    pub fn hosts(&self) -> Vec<Host> {
        [Host::Client, Host::Router, Host::Resolver]
            .into_iter()
            .chain(self.dns_hosts())
            .chain(self.node_hosts())
            .chain(self.backend_hosts())
            .chain([Host::Switch])
            .collect()
    }
}

/// How nodes forward packets to backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forward {
    /// Addresses rewritten both ways; web is remapped from port 80 to 8080.
    Nat,
    /// Only MAC addresses rewritten; backends hold the nodes' addresses and answer by themselves.
    DsrL2,
    /// IP in IP to backends on another subnet, behind the router.
    DsrIpip,
    /// GUE to backends on another subnet, behind the router.
    DsrGue,
}

impl Forward {
    /// Every way.
    pub const ALL: [Forward; 4] = [Forward::Nat, Forward::DsrL2, Forward::DsrIpip, Forward::DsrGue];

    /// Whether backends hold the nodes' addresses and answer clients themselves.
    pub fn is_direct(self) -> bool {
        self != Forward::Nat
    }

    /// Whether packets reach backends through a tunnel, and nodes are not in the backends' network.
    pub fn has_tunnel(self) -> bool {
        matches!(self, Forward::DsrIpip | Forward::DsrGue)
    }

    /// The port on which the backends' web server is used.
    pub fn web_port(self) -> u16 {
        match self {
            Forward::Nat => 8080,
            Forward::DsrL2 | Forward::DsrIpip | Forward::DsrGue => 80,
        }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Forward::Nat => "nat",
            Forward::DsrL2 => "dsr-l2",
            Forward::DsrIpip => "dsr-ipip",
            Forward::DsrGue => "dsr-gue",
        })
    }
}

impl FromStr for Forward {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        named(text, Forward::ALL, "way to forward")
    }
}

/// How the kernel runs the nodes' program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// In the interfaces' driver.
    Native,
    /// In the kernel's generic path.
    Generic,
}

impl XdpMode {
    /// Both.
    pub const ALL: [XdpMode; 2] = [XdpMode::Native, XdpMode::Generic];
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        })
    }
}

impl FromStr for XdpMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        named(text, XdpMode::ALL, "XDP mode of the lab")
    }
}

/// Who answers for the zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DnsServer {
    /// The nodes themselves.
    Embedded,
    /// BIND on the host `dns`; nodes publish themselves there.
    Bind,
    /// Knot there.
    Knot,
    /// PowerDNS there.
    Powerdns,
}

impl DnsServer {
    /// All.
    pub const ALL: [DnsServer; 4] =
        [DnsServer::Embedded, DnsServer::Bind, DnsServer::Knot, DnsServer::Powerdns];

    /// Whether the zone is on a host of its own, where nodes share it.
    pub fn is_shared(self) -> bool {
        self != DnsServer::Embedded
    }

    /// Whether there is a secondary, too. PowerDNS 4.7 with LMDB stands still when updates and transfers of a zone meet.
    pub fn has_secondary(self) -> bool {
        matches!(self, DnsServer::Bind | DnsServer::Knot)
    }
}

impl fmt::Display for DnsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DnsServer::Embedded => "embedded",
            DnsServer::Bind => "bind",
            DnsServer::Knot => "knot",
            DnsServer::Powerdns => "powerdns",
        })
    }
}

impl FromStr for DnsServer {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        named(text, DnsServer::ALL, "DNS server of the lab")
    }
}

/// The one of `all` that is written so.
pub(crate) fn named<T: Copy + fmt::Display, const N: usize>(
    text: &str,
    all: [T; N],
    what: &str,
) -> Result<T> {
    let names = all.map(|one| one.to_string());
    let found = all.into_iter().zip(&names).find(|(_, name)| *name == text);
    found.map(|(one, _)| one).with_context(|| format!("`{text}` is no {what}: {}", names.join(", ")))
}

/// Address family of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order in which they are shown.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// As curl and dig call it: `-4`, `-6`.
    pub fn flag(self) -> &'static str {
        match self {
            Family::V4 => "-4",
            Family::V6 => "-6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// An address of either family for one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// In a /24.
    pub v4: Ipv4Addr,
    /// In a /64.
    pub v6: Ipv6Addr,
}

impl Pair {
    /// The one of `family`.
    pub fn of(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// Both, IPv4 first.
    pub fn both(self) -> [IpAddr; 2] {
        Family::ALL.map(|family| self.of(family))
    }
}

/// A network of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Net {
    /// Client and router.
    Client,
    /// Where nodes are reached by clients.
    Front,
    /// Where backends are.
    Back,
}

impl Net {
    /// The interface's name on the hosts in it.
    pub(crate) fn interface(self) -> &'static str {
        match self {
            Net::Client => "client",
            Net::Front => "front",
            Net::Back => "back",
        }
    }

    /// The addresses that end in `v4` and `v6`.
    fn pair(self, v4: u8, v6: u16) -> Pair {
        let (v4_net, v6_net) = match self {
            Net::Client => ([198, 51, 100], 0x100),
            Net::Front => ([192, 0, 2], 1),
            Net::Back => ([203, 0, 113], 2),
        };
        Pair {
            v4: Ipv4Addr::new(v4_net[0], v4_net[1], v4_net[2], v4),
            v6: Ipv6Addr::new(0x2001, 0xdb8, v6_net, 0, 0, 0, 0, v6),
        }
    }

    /// The router's address in it.
    pub(crate) fn router(self) -> Pair {
        self.pair(1, 1)
    }
}

/// One end of a cable: a host in a network.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    pub(crate) host: Host,
    pub(crate) net: Net,
    /// The first is the one that connections leave from.
    pub(crate) addresses: Vec<Pair>,
}

impl Port {
    /// The switch's end of the cable.
    pub(crate) fn switch_port(&self) -> String {
        switch_port(self.host, self.net)
    }
}

/// The switch's end of the cable to `host`.
pub(crate) fn switch_port(host: Host, net: Net) -> String {
    format!("{host}-{}", net.interface())
}

/// A host's ports: which networks it is in, with which addresses.
pub(crate) fn ports(host: Host) -> Vec<Port> {
    let port = |net: Net, addresses: Vec<Pair>| Port { host, net, addresses };
    match host {
        Host::Client => {
            let addresses = CLIENT_NUMBERS.map(|number| Net::Client.pair(number, number.into())).collect();
            vec![port(Net::Client, addresses)]
        }
        Host::Router => {
            [Net::Client, Net::Front, Net::Back].map(|net| port(net, vec![net.router()])).to_vec()
        }
        Host::Resolver => vec![port(Net::Front, vec![Net::Front.pair(53, 0x53)])],
        Host::Dns => vec![port(Net::Front, vec![Net::Front.pair(54, 0x54)])],
        Host::Secondary => vec![port(Net::Front, vec![Net::Front.pair(55, 0x55)])],
        Host::Node(number) => [Net::Front, Net::Back]
            .map(|net| port(net, vec![net.pair(10 + number, 0x10 + u16::from(number))]))
            .to_vec(),
        Host::Backend(number) => {
            vec![port(Net::Back, vec![Net::Back.pair(20 + number, 0x20 + u16::from(number))])]
        }
        Host::Switch => Vec::new(),
    }
}

/// All addresses of the client.
pub(crate) fn client_addresses() -> Vec<Pair> {
    ports(Host::Client).into_iter().flat_map(|port| port.addresses).collect()
}

/// The address that `host` has itself in the network nearest to the client.
pub(crate) fn local_address(host: Host) -> Option<Pair> {
    ports(host).first().and_then(|port| port.addresses.first().copied())
}

/// The address that clients know `host` by.
pub(crate) fn address(host: Host, options: &Options) -> Option<Pair> {
    if options.public { public_address(host).or_else(|| local_address(host)) } else { local_address(host) }
}

/// The public address of a node, where the router translates; beside the client's, and held by the router.
pub(crate) fn public_address(host: Host) -> Option<Pair> {
    match host {
        Host::Node(number) => Some(Net::Client.pair(70 + number, 0x70 + u16::from(number))),
        _ => None,
    }
}

/// The address of `host` in the back network, if it is there.
pub(crate) fn back_address(host: Host) -> Option<Pair> {
    ports(host).iter().find(|port| port.net == Net::Back).and_then(|port| port.addresses.first().copied())
}

/// A node's address in front that is no service's: its checks leave from there where it is not in the back
/// network.
pub(crate) fn checking_address(node: u8) -> Pair {
    Net::Front.pair(30 + node, 0x30 + u16::from(node))
}

/// Where a node's checks of backends come from.
pub(crate) fn checks_leave_from(node: u8, options: &Options) -> Option<Pair> {
    if options.forward.has_tunnel() { Some(checking_address(node)) } else { back_address(Host::Node(node)) }
}

/// Where a node's tunnel packets come from: its share of the front network, a /29, and a /64. Each as `ip`
/// takes it.
pub(crate) fn tunnel_sources(node: u8) -> [String; 2] {
    [format!("192.0.2.{}/29", 128 + 8 * node), format!("2001:db8:11:{node}::/64")]
}

/// The networks of the backends, as `ip` takes them.
pub(crate) const BACK: [&str; 2] = ["203.0.113.0/24", "2001:db8:2::/64"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_the_plan() {
        let text = |pair: Option<Pair>| pair.map(|pair| pair.both().map(|address| address.to_string()));
        let expect = |v4: &str, v6: &str| Some([v4.to_owned(), v6.to_owned()]);
        assert_eq!(text(local_address(Host::Client)), expect("198.51.100.7", "2001:db8:100::7"));
        assert_eq!(text(local_address(Host::Resolver)), expect("192.0.2.53", "2001:db8:1::53"));
        assert_eq!(text(local_address(Host::Dns)), expect("192.0.2.54", "2001:db8:1::54"));
        assert_eq!(text(local_address(Host::Node(1))), expect("192.0.2.11", "2001:db8:1::11"));
        assert_eq!(text(back_address(Host::Node(2))), expect("203.0.113.12", "2001:db8:2::12"));
        assert_eq!(text(local_address(Host::Backend(3))), expect("203.0.113.23", "2001:db8:2::23"));
        assert_eq!(text(back_address(Host::Client)), None);
        let public = Options { public: true, ..Options::default() };
        assert_eq!(text(address(Host::Node(1), &public)), expect("198.51.100.71", "2001:db8:100::71"));
        assert_eq!(text(address(Host::Node(1), &Options::default())), expect("192.0.2.11", "2001:db8:1::11"));
        assert_eq!(text(address(Host::Client, &public)), expect("198.51.100.7", "2001:db8:100::7"));
    }

    #[test]
    fn interface_names_fit() {
        // IFNAMSIZ is 16 with the final zero.
        let options = Options { nodes: MAX_NODES, backends: MAX_BACKENDS, ..Options::default() };
        for host in options.hosts() {
            for port in ports(host) {
                assert!(port.switch_port().len() < 16, "{}", port.switch_port());
            }
        }
    }

    #[test]
    fn sizes_without_addresses_are_refused() {
        assert!(Options { nodes: 0, ..Options::default() }.check().is_err());
        assert!(Options { nodes: 10, ..Options::default() }.check().is_err());
        assert!(Options { backends: 201, ..Options::default() }.check().is_err());
        assert!(Options { public: true, forward: Forward::DsrL2, ..Options::default() }.check().is_err());
        assert!(Options::default().check().is_ok());
    }
}
