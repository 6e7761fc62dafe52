//! The checked configuration: what the rest of usher works from.
//!
//! The file format is another set of types, in `file.rs`; `check/` turns one into the other and
//! refuses what cannot work. [`Loaded::load`] is the whole way, [`Loaded::check_host`] the rest of it.

mod check;
mod digest;
mod edits;
mod error;
pub mod file;
mod findings;
mod health_check;
pub mod host;
mod key;
mod load;
mod locations;
mod shape;

pub use edits::{Edit, EditError, Edits, NewBackend};
pub use error::{ConfigError, Position, Problem};
pub use health_check::{Aim, Check, CheckKind, Http, Passive, Timing, Tls};
pub use key::Key;
pub use load::Loaded;
pub use locations::Locations;

use std::{
    fmt, iter,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::core::{
    deny::Rule,
    ids::Family,
    shared::{self, TwoNodes},
};

/// A whole configuration that has passed every check.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// This node.
    pub node: Node,
    /// Source addresses and ports of connections to NAT backends.
    pub nat: Nat,
    /// Where packets to backends behind tunnels come from.
    pub tunnel: Tunnel,
    /// Size and timeouts of the flow table.
    pub flows: Flows,
    /// Who is not served; `None` when the file has no `[defence]` section.
    pub defence: Option<Defence>,
    /// The embedded DNS server; `None` when the file has no `[dns]` section.
    pub dns: Option<Dns>,
    /// How this node checks its peers.
    pub peer_check: PeerCheck,
    /// The other nodes, in the file's order.
    pub peers: Vec<Peer>,
    /// The services, in the file's order; names are unique.
    pub services: Vec<Service>,
}

impl Config {
    /// The name of this node, then those of its peers.
    pub fn node_names(&self) -> impl Iterator<Item = &Arc<str>> {
        iter::once(&self.node.name).chain(self.peers.iter().map(|peer| &peer.name))
    }

    /// Every address that this node connects to: backends and peers.
    pub fn destinations(&self) -> impl Iterator<Item = IpAddr> {
        let backends = self.services.iter().flat_map(|service| &service.backends);
        let backends = backends.flat_map(|backend| backend.addresses.iter().copied());
        let peers = self.peers.iter().flat_map(|peer| &peer.addresses);
        backends.chain(peers.map(|peer| peer.check_address))
    }

    /// The service whose backends a service uses when it has none.
    pub fn fallback(&self, service: &Service) -> Option<&Service> {
        let NoBackend::Fallback(name) = &service.all_down else { return None };
        self.services.iter().find(|other| other.name == *name)
    }
}

/// This node: who it is and where its packets come in.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Unique among the nodes.
    pub name: Arc<str>,
    /// Interfaces that get the XDP program, in the file's order.
    pub interfaces: Vec<String>,
    /// How the program is attached.
    pub xdp_mode: XdpMode,
    /// The addresses on which services are offered (the VIPs).
    pub addresses: Vec<NodeAddress>,
    /// The control socket.
    pub socket: PathBuf,
    /// File with the secret that all nodes share; the flow hash's keys derive from it.
    /// `None`: a random one at every start (single node only).
    pub secret_file: Option<PathBuf>,
    /// What administrators set while the daemon runs is remembered here.
    pub state_file: PathBuf,
    /// Where maps and links are pinned, in a BPF file system.
    pub pin_dir: PathBuf,
    /// What becomes of the data path when the daemon is asked to stop.
    pub on_stop: OnStop,
    /// Whether the file is read again whenever it has changed.
    pub reload_on_change: bool,
    /// Answers of each kind (resets, ICMP errors, errors sent on, echo replies) per second and CPU.
    pub icmp_rate: u32,
    /// Where figures are shown over HTTP to whoever asks; ordinarily nowhere.
    pub metrics_listen: Vec<SocketAddr>,
}

impl Node {
    /// As what a peer sees `source`, an address of this node, in packets to `at`: who is translated towards this node
    /// sees it translated, too.
    pub fn seen_as(&self, source: IpAddr, at: &NodeAddress) -> IpAddr {
        let own = self.addresses.iter().find(|own| at.is_translated() && own.address == source);
        own.map_or(source, |own| own.publish)
    }
}

/// How the XDP program is attached to the interfaces: to all in the same way.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native, and generic if the driver of any interface cannot.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's generic path; slower, works everywhere.
    Generic,
}

/// What becomes of the data path when the daemon is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnStop {
    /// It goes on for the next daemon, and the node stays in DNS.
    #[default]
    Keep,
    /// The node leaves DNS, serves on for a while, and is detached.
    Detach,
}

/// One address of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeAddress {
    /// What packets carry when they reach the node.
    pub address: IpAddr,
    /// What DNS names; differs from `address` behind 1:1 NAT.
    pub publish: IpAddr,
    /// Where peers check the node, and ask its daemon.
    pub check_address: IpAddr,
}

impl NodeAddress {
    /// Whether what peers send there is translated on its way (1:1 NAT).
    pub fn is_translated(&self) -> bool {
        self.check_address != self.address
    }
}

/// Source addresses and ports for NAT.
#[derive(Debug, Clone, PartialEq)]
pub struct Nat {
    /// At most eight per family; empty when no service uses NAT.
    pub source: Vec<IpAddr>,
    /// A whole number of groups of 8 ports, starting at a multiple of 8.
    pub ports: RangeInclusive<u16>,
    /// How backends' answers find their way to the client.
    pub reply: Reply,
}

/// How a backend's answer goes on to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// To the MAC address and interface that the client's packets came from.
    LastHop,
    /// By the kernel's routes.
    Route,
}

/// Outer source addresses and port of tunnels.
#[derive(Debug, Clone, PartialEq)]
pub struct Tunnel {
    /// At most one network per family; empty when no service uses tunnels.
    pub source: Vec<IpNet>,
    /// UDP port on which backends take GUE packets.
    pub gue_port: u16,
}

/// The flow table's size and timeouts.
#[derive(Debug, Clone, PartialEq)]
pub struct Flows {
    /// Flows held at once; the tables are about twice that to keep their buckets from overflowing.
    pub max: u32,
    /// First fragments that are remembered for the later ones of their packets.
    pub fragments: u32,
    /// Idle time after which a TCP flow is forgotten.
    pub tcp_timeout: Duration,
    /// Idle time after which a UDP flow is forgotten.
    pub udp_timeout: Duration,
    /// Idle time after which a flow that saw FIN or RST is forgotten.
    pub closing_timeout: Duration,
    /// Clients whose backends are remembered at once, for services with affinity.
    pub affinity: u32,
    /// New flows per second that are stored, on all CPUs together; 0: all.
    pub new_per_second: u32,
}

/// Who is not served.
#[derive(Debug, Clone, PartialEq)]
pub struct Defence {
    /// Denied prefixes, and such within them as are allowed.
    pub deny: Vec<Rule>,
    /// A file with more of them.
    pub deny_file: Option<PathBuf>,
}

/// The embedded DNS server.
#[derive(Debug, Clone, PartialEq)]
pub struct Dns {
    /// Sockets, UDP and TCP each.
    pub listen: Vec<SocketAddr>,
    /// The zone's name, lower case, absolute, without the final dot: `example.test`.
    pub zone: Arc<str>,
    /// TTL of the nodes' addresses.
    pub ttl: Duration,
    /// The same while they are likely to change; at most `ttl`.
    pub ttl_in_doubt: Duration,
    /// TTL of negative answers (the SOA's minimum), and of the SOA itself.
    pub negative_ttl: Duration,
    /// The SOA's responsible mailbox, as a name without the final dot: `hostmaster.example.test`.
    pub contact: Arc<str>,
    /// What to answer when no node can serve a name.
    pub all_down: AllDown,
    /// Zones on other servers, in which the names are published, too.
    pub publish: Vec<Publish>,
}

impl Dns {
    /// Every zone in which names are published: the one that is served here, and those on other servers.
    pub fn zones(&self) -> impl Iterator<Item = &Arc<str>> {
        std::iter::once(&self.zone).chain(self.publish.iter().map(|publish| &publish.zone))
    }
}

/// A zone on another server, which all nodes write by DNS UPDATE (RFC 2136), signed by TSIG (RFC 8945).
#[derive(Debug, Clone, PartialEq)]
pub struct Publish {
    /// The zone's name, written as [`Dns::zone`].
    pub zone: Arc<str>,
    /// Its primary, by every address that may be tried.
    pub primaries: Vec<SocketAddr>,
    /// One or two TSIG keys, as `tsig-keygen` prints them.
    pub key_file: PathBuf,
    /// For how long a node's lease holds without a renewal.
    pub lease: Duration,
    /// From one renewal to the next.
    pub renew: Duration,
    /// Whether addresses of others may stand at our names.
    pub share_rrset: bool,
    /// What two nodes without a witness may do.
    pub two_nodes: TwoNodes,
    /// Whether the primary counts as one more voter, of whoever reaches it.
    pub witness: bool,
}

impl Publish {
    /// How this node behaves in the zone; `ttl` is that of addresses.
    pub fn settings(&self, ttl: Duration) -> shared::Settings {
        shared::Settings {
            lease: self.lease,
            renew: self.renew,
            ttl: ttl.as_secs().try_into().unwrap_or(u32::MAX),
            share_rrset: self.share_rrset,
            two_nodes: self.two_nodes,
        }
    }
}

/// Whether a name is a zone's own or below it.
pub fn is_within(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// How many of a name's services a node must serve to be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Require {
    /// All that exist in the address's family.
    #[default]
    All,
    /// One of them is enough.
    Any,
}

/// What DNS answers for a name that no node can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AllDown {
    /// All nodes: a client gets a quick reset and may try again.
    All,
    /// None: NODATA.
    None,
}

/// How this node checks its peers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PeerCheck {
    /// Rhythm and limits, as for a backend.
    pub timing: Timing,
    /// How long a peer whose daemon is silent stays in DNS while its data path serves.
    pub restart_grace: Duration,
    /// Connections per second at most that this node opens through peers' data paths, on average; not 0.
    pub peer_probe_rate: u32,
}

/// Another node of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    /// Unique among the nodes.
    pub name: Arc<str>,
    /// Where its packets arrive (`address`), what DNS names (`publish`), and where this node checks it (`check_address`).
    pub addresses: Vec<NodeAddress>,
    /// Port of its embedded DNS server.
    pub dns_port: u16,
}

/// A service: a protocol and port on the node's addresses, and the backends behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Unique; names the service in status, logs and commands.
    pub name: Arc<str>,
    /// The DNS name under which nodes that serve it are published; absolute, lower case, without the final dot, inside the zone.
    pub dns_name: Option<Arc<str>>,
    /// How many of the name's services a node must serve to be named; the same in all of them.
    pub require: Require,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port clients use.
    pub port: u16,
    /// The VIPs; the node's own addresses unless the file names a part of them.
    pub addresses: Vec<IpAddr>,
    /// How packets reach the backend.
    pub forward: Forward,
    /// How its flows are treated.
    pub flows: FlowOptions,
    /// The share of its backends in percent below which the node leaves DNS for it; 0: when none is up.
    pub withdraw_below: u8,
    /// The share of its backends in percent below which all are used, whatever checks find; 0: never.
    pub panic_below: u8,
    /// For how long a backend that has come up has less than its whole weight.
    pub slow_start: Option<Duration>,
    /// What becomes of packets for which it has no backend.
    pub all_down: NoBackend,
    /// How backends are checked.
    pub check: Check,
    /// In the file's order; names are unique within the service.
    pub backends: Vec<Backend>,
}

impl Service {
    /// The address of one of its backends for clients of a family. Through a tunnel, a backend with one address
    /// serves both families.
    pub fn backend_address(&self, backend: &Backend, family: Family) -> Option<IpAddr> {
        let any = || backend.addresses.first().copied().filter(|_| self.forward.is_tunnel());
        backend.address(family).or_else(any)
    }

    /// Families in which the service has a VIP and at least one backend.
    pub fn families(&self) -> impl Iterator<Item = Family> + '_ {
        Family::ALL.into_iter().filter(|&family| {
            self.addresses.iter().any(|&address| Family::of(address) == family)
                && self.backends.iter().any(|backend| self.backend_address(backend, family).is_some())
        })
    }
}

/// What becomes of a packet for which its service has no backend. (What DNS then answers is another matter: [`AllDown`].)
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoBackend {
    /// It is answered with a reset or "port unreachable".
    Reset,
    /// It is dropped.
    Drop,
    /// It goes to a backend of the service with this name; if that has none either, as with `Reset`.
    Fallback(Arc<str>),
}

/// How a service's flows are treated.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowOptions {
    /// Idle time after which a flow is forgotten.
    pub idle_timeout: Duration,
    /// What becomes of TCP connections whose backend is down.
    pub on_backend_down: OnBackendDown,
    /// How long a backend of it is drained before it goes to maintenance; `None`: until that is taken back.
    pub drain_timeout: Option<Duration>,
    /// What becomes of TCP connections whose backend went to maintenance so.
    pub on_drain_end: OnBackendDown,
    /// By what a backend is chosen.
    pub hash: HashInput,
    /// For how long after its last new flow a client's backend is remembered.
    pub affinity: Option<Duration>,
    /// How many flows a source may open.
    pub rate_limit: Option<RateLimit>,
    /// How QUIC packets tell their backend.
    pub quic: Option<Quic>,
}

impl FlowOptions {
    /// An idle time, and all else as it is by default.
    pub fn new(idle_timeout: Duration) -> FlowOptions {
        FlowOptions {
            idle_timeout,
            on_backend_down: OnBackendDown::Keep,
            drain_timeout: None,
            on_drain_end: OnBackendDown::Keep,
            hash: HashInput::Flow,
            affinity: None,
            rate_limit: None,
            quic: None,
        }
    }
}

/// What becomes of TCP connections whose backend is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBackendDown {
    /// Their packets still go to it.
    Keep,
    /// Their packets are refused, on both sides.
    Reset,
}

/// By what a backend is chosen for a new flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashInput {
    /// The client's address and port.
    Flow,
    /// The client's address alone.
    Client,
}

/// How many flows a source may open: an IPv4 address, or an IPv6 network of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Per second.
    pub per_source: u32,
    /// At once.
    pub burst: u32,
}

/// How QUIC packets tell their backend: plain server ids in connection ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quic {
    /// Bytes of a server id, 1 to 8.
    pub server_id_length: u8,
    /// The config id of these connection ids, 0 to 6.
    pub config_id: u8,
}

/// Transport protocol of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP, number 6.
    Tcp,
    /// UDP, number 17.
    Udp,
}

impl Protocol {
    /// As the file has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How packets reach a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forward {
    /// Destination and source rewritten; replies return through the node.
    Nat,
    /// Only MAC addresses rewritten; the backend holds the VIP and answers the client itself.
    DsrL2,
    /// In an IP packet to the backend, which holds the VIP and answers the client itself.
    DsrIpip,
    /// In a UDP datagram to the backend, likewise.
    DsrGue,
}

impl Forward {
    /// Every way, by its name in the file.
    pub const ALL: [(&'static str, Forward); 4] = [
        ("nat", Forward::Nat),
        ("dsr-l2", Forward::DsrL2),
        ("dsr-ipip", Forward::DsrIpip),
        ("dsr-gue", Forward::DsrGue),
    ];

    /// Whether backends hold the VIP and answer clients themselves.
    pub fn is_direct(self) -> bool {
        self != Forward::Nat
    }

    /// Whether packets travel in others, which carry the backend's address.
    pub fn is_tunnel(self) -> bool {
        matches!(self, Forward::DsrIpip | Forward::DsrGue)
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

/// One server behind a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    /// Unique within its service.
    pub name: Arc<str>,
    /// At most one per family.
    pub addresses: Vec<IpAddr>,
    /// Equals the service's port unless the service forwards by NAT.
    pub port: u16,
    /// Share of new flows relative to the others; 0 takes none.
    pub weight: u16,
    /// It gets flows only while no other one is up.
    pub backup: bool,
    /// What QUIC connection ids call it: the server id, and zeros after it.
    pub quic_server_id: Option<[u8; 8]>,
}

impl Backend {
    /// The backend's address of one family.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|&address| Family::of(address) == family)
    }
}
