//! What a node is and does at one moment: the one value that the API sends, `usher status` shows
//! and tests read.
//!
//! Everything here is JSON as it stands. Times are relative and in milliseconds (`…_ago_ms`,
//! `since_ms`: "for so long"), so that a reader needs no clock in step with the node's. Counters
//! count since the daemon loaded the data path.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    config::{AllDown, Forward, Protocol, Require},
    core::{
        admin::Admin,
        check::{CheckResult, Code},
        health::Health,
        ids::Family,
    },
};

/// A node's state at the moment it was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// The node's name.
    pub node: String,
    /// How long ago the daemon started, in ms. The data path may be older.
    pub started_ago_ms: u64,
    /// The file that the running configuration came from.
    pub config_path: PathBuf,
    /// What commands have set, added or taken away and the file does not say, one line each.
    #[serde(default)]
    pub set: Vec<String>,
    /// An administrator wants the node out of DNS; `None` when not.
    pub drained: Option<Drained>,
    /// In the configuration's order.
    pub interfaces: Vec<Interface>,
    /// In the configuration's order.
    pub services: Vec<Service>,
    /// The other nodes, in the configuration's order.
    pub peers: Vec<Peer>,
    /// `None` without a `[dns]` section.
    pub dns: Option<Dns>,
    /// Where new flows find no NAT port now; usually empty.
    pub nat_shortages: Vec<NatShortage>,
    /// Checks of backends and peers.
    pub checks: Checks,
    /// The data path's flow table.
    pub flow_table: FlowTable,
    /// What the data path's maps and the daemon take.
    pub memory: Memory,
    /// Packets by reason, every reason, zeros too.
    pub packets: BTreeMap<String, u64>,
    /// The part of `packets` whose reason drops, zeros too.
    pub drops: BTreeMap<String, u64>,
}

/// That an administrator wants the node out of DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// For how many seconds more; `None`: until it is taken back.
    pub left_s: Option<u64>,
}

/// A network interface and the program on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The kernel's name of it.
    pub name: String,
    /// How the program is attached now, whatever was asked for.
    pub xdp_mode: AttachedMode,
    /// For people: why the mode is not the one wished for; empty when there is nothing to say.
    pub detail: String,
}

/// How the XDP program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachedMode {
    /// In the driver.
    Native,
    /// In the kernel's generic path.
    Generic,
    /// Not at all: this interface balances nothing.
    None,
}

/// A service and its backends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Unique.
    pub name: String,
    /// The DNS name under which nodes that serve it are published.
    pub dns_name: Option<String>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port clients use.
    pub port: u16,
    /// The VIPs.
    pub addresses: Vec<IpAddr>,
    /// How packets reach the backends.
    pub forward: Forward,
    /// Flows in the flow table now, all backends together.
    pub flows: u64,
    /// Its packets by reason, every reason, zeros too.
    pub packets: BTreeMap<String, u64>,
    /// By family, what decides about new flows beside weight and health; empty ordinarily.
    pub unusual: BTreeMap<String, String>,
    /// One entry per backend and family, in the configuration's order.
    pub backends: Vec<Backend>,
}

/// A backend in one family.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Unique within service and family.
    pub name: String,
    /// The address's family.
    pub family: Family,
    /// Where it answers.
    pub address: IpAddr,
    /// The port it answers on.
    pub port: u16,
    /// What the administrator wants.
    pub admin: Admin,
    /// For how many seconds more it is drained before it goes to maintenance; `None` without an end.
    pub drain_left_s: Option<u64>,
    /// What the checks found.
    pub health: State,
    /// What the administrator says instead, which counts; `None` when the checks count.
    pub forced_health: Option<Health>,
    /// For how long `health` has been so, in ms.
    pub since_ms: u64,
    /// The newest finished check; `None` before the first.
    pub last_check: Option<LastCheck>,
    /// Share of new flows relative to the others: the configuration's, unless the administrator has set another one.
    pub weight: u16,
    /// The configuration's.
    pub configured_weight: u16,
    /// Set while only a share of `weight` counts, because it has just come up.
    pub slow_start: Option<SlowStart>,
    /// Set while clients had no answer of it.
    pub silence: Option<Silence>,
    /// It gets flows only while no other one is up.
    pub backup: bool,
    /// It is another service's, called `SERVICE/BACKEND` here, and gets flows only while no own one is up.
    pub fallback: bool,
    /// Slots of the pool's Maglev table that name it now; the share of new flows it really gets.
    pub slots: u32,
    /// `None` while route or neighbour is unknown: packets for it cannot leave.
    pub next_hop: Option<NextHop>,
    /// Flows in the flow table now.
    pub flows: u64,
    /// Flows that have begun: packets sent to it of which the flow table knew no flow.
    pub flows_begun: u64,
    /// Packets sent to it.
    pub packets: u64,
    /// Bytes of IP packets sent to it, headers included.
    pub bytes: u64,
}

/// Connections of which none was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// How many.
    pub opened: u64,
    /// In how many ms they were opened.
    pub window_ms: u64,
    /// How long ago that was noticed, in ms.
    pub ago_ms: u64,
    /// For how long passing checks do not bring it up yet, in ms; `None` when they do, or it is up.
    pub held_ms: Option<u64>,
}

/// A slow start that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowStart {
    /// How much of the weight counts, in percent.
    pub share: u8,
    /// Until all of it does, in ms.
    pub left_ms: u64,
}

/// Measured health, and that it may not have been measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The checks pass.
    Up,
    /// The checks fail.
    Down,
    /// No verdict yet.
    Unchecked,
}

impl From<Option<Health>> for State {
    fn from(health: Option<Health>) -> Self {
        match health {
            Some(Health::Up) => State::Up,
            Some(Health::Down) => State::Down,
            None => State::Unchecked,
        }
    }
}

/// The newest finished check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastCheck {
    /// What was found, in HAProxy's words: `L7OK`.
    pub code: Code,
    /// From start to result, in ms with fractions.
    pub duration_ms: f64,
    /// For people: `200 OK`, `Connection refused`; may be empty.
    pub detail: String,
    /// How long ago it finished, in ms.
    pub ago_ms: u64,
}

impl LastCheck {
    /// The check that finished `ago` ago.
    pub fn new(result: &CheckResult, ago: Duration) -> Self {
        LastCheck {
            code: result.code,
            duration_ms: result.duration.as_secs_f64() * 1000.0,
            detail: match &result.warning {
                Some(warning) => format!("{}; {warning}", result.detail),
                None => result.detail.clone(),
            },
            ago_ms: millis(ago),
        }
    }
}

/// Where packets for a backend are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// The interface they leave by.
    pub interface: String,
    /// The neighbour's MAC address: `02:00:5e:10:00:15`.
    pub mac: String,
    /// The router, when the backend is not on the link itself.
    pub gateway: Option<IpAddr>,
}

/// Another node, as this one sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// The node's name.
    pub name: String,
    /// What it should serve on which address, each checked by itself.
    pub pools: Vec<PeerPool>,
    /// Whether its daemon answers; `None` before the first question, and without DNS, which carries the questions.
    pub answers: Option<bool>,
    /// How its configuration differs where it must not, in a sentence.
    pub drift: Option<String>,
}

/// A service on one address of a peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerPool {
    /// The service's name.
    pub service: String,
    /// The address's family.
    pub family: Family,
    /// Where it was checked, whatever DNS names (`check_address`).
    pub address: IpAddr,
    /// Whether the peer can serve it, as seen from here.
    pub state: State,
    /// For how long `state` has been so, in ms.
    pub since_ms: u64,
    /// The newest finished check; `None` before the first.
    pub last_check: Option<LastCheck>,
}

/// The embedded DNS server and what it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// The zone's name, without the final dot.
    pub zone: String,
    /// The SOA's serial number.
    pub serial: u32,
    /// Queries answered since the daemon started.
    pub queries: u64,
    /// The services' names.
    pub names: Vec<DnsName>,
    /// Zones on other servers.
    pub publishers: Vec<Publisher>,
    /// TTL of the nodes' addresses, in seconds.
    pub ttl_s: u64,
    /// The DNS servers of all nodes, this one's first.
    pub servers: Vec<DnsServer>,
    /// What nodes see of each other's addresses, this one's view first.
    pub sights: Vec<Sighting>,
}

/// A node's DNS server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsServer {
    /// Whose it is.
    pub node: String,
    /// Where it answers.
    pub address: SocketAddr,
}

/// What one node sees of an address of another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// Who sees.
    pub by: String,
    /// Whose address it is.
    pub node: String,
    /// What DNS names.
    pub address: IpAddr,
    /// `answers`, `declines`, `silent` or `unknown`.
    pub sight: String,
}

/// A zone on another server, in which names are published, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publisher {
    /// The zone's name, without the final dot.
    pub zone: String,
    /// The primary's address that answered last; before the first answer the first one to try.
    pub primary: SocketAddr,
    /// When the zone was read last, ms ago; `None` before the first time.
    pub read_ago_ms: Option<u64>,
    /// Set while it cannot be read or written.
    pub failing: Option<Failing>,
    /// Every address of every node in the zone.
    pub addresses: Vec<PublishedAddress>,
    /// For people: what keeps addresses out of the zone, or in it.
    pub troubles: Vec<String>,
    /// The newest change that was sent.
    pub last_change: Option<LastChange>,
}

/// A change that was sent to a primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastChange {
    /// How long ago, in ms.
    pub ago_ms: u64,
    /// For people: what it was for.
    pub what: String,
    /// For people: why nothing was changed; `None` when it was made.
    pub not_made: Option<String>,
}

/// A zone that cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// For how long, in ms.
    pub since_ms: u64,
    /// In one word, such as `timeout`.
    pub kind: String,
    /// Why, and what helps.
    pub why: String,
    /// When it is tried again, in ms.
    pub again_in_ms: u64,
}

/// One node's address in a zone on another server, when that was last read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedAddress {
    /// The service's name.
    pub name: String,
    /// Whose address it is.
    pub node: String,
    /// What DNS names.
    pub address: IpAddr,
    /// `published`, `absent`, `withdrawn-self`, `removed-by NODE` or `contested`.
    pub state: String,
    /// For how long its node's lease has not changed, in ms; `None` without one.
    pub lease_age_ms: Option<u64>,
}

/// One name and the addresses that could be under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsName {
    /// Without the final dot.
    pub name: String,
    /// How many of its services a node must serve to be named.
    pub require: Require,
    /// Set while no node can serve the name: the `all_down` policy that then decides the answer.
    pub policy_in_force: Option<AllDown>,
    /// TTL that its addresses have now, in seconds.
    pub ttl_s: u64,
    /// For people: what seems to change soon, so that the TTL is `ttl_in_doubt`.
    pub in_doubt: Vec<String>,
    /// Every address of every node for this name, published or not.
    pub addresses: Vec<DnsAddress>,
}

/// One node's address under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsAddress {
    /// Whose address it is.
    pub node: String,
    /// A or AAAA.
    pub family: Family,
    /// What DNS names.
    pub address: IpAddr,
    /// Whether answers hold it now.
    pub published: bool,
    /// For how long that has been so, in ms.
    pub since_ms: u64,
    /// For people: why it is published or not.
    pub why: String,
}

/// A service in one family whose new flows do not all find a NAT port: they are refused (`nat_full`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatShortage {
    /// The service's name.
    pub service: String,
    /// The family.
    pub family: Family,
    /// For how long it has been so, in ms. Over when no packet was refused for a minute.
    pub since_ms: u64,
    /// Packets refused since then.
    pub refused: u64,
    /// The service's backend with the most flows.
    pub backend: String,
    /// Flows that have a NAT port towards this backend.
    pub flows: u64,
    /// The NAT source addresses whose ports they are.
    pub sources: Vec<IpAddr>,
}

impl fmt::Display for NatShortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NatShortage { service, family, backend, flows, .. } = self;
        let sources: Vec<_> = self.sources.iter().map(ToString::to_string).collect();
        let sources = sources.join(", ");
        write!(f, "{service}/{family}: new flows are refused, because no NAT port is left for them ")?;
        write!(f, "(nat_full); {backend} has {flows} flows from {sources}; {}", NatShortage::MEND)
    }
}

impl NatShortage {
    /// What helps.
    pub const MEND: &str = "add addresses to [nat] source, or backends";
}

/// How full the flow table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTable {
    /// Flows it is configured to hold.
    pub capacity: u64,
    /// Flows it holds: new, proven and closing together.
    pub used: u64,
    /// Seen only once or without an answer so far.
    pub new: u64,
    /// Alive beyond doubt.
    pub proven: u64,
    /// Saw FIN or RST.
    pub closing: u64,
}

/// Whether this host keeps up with its checks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checks {
    /// How many have begun since the daemon started.
    pub begun: u64,
    /// How much later than due the latest of the last minute or so began, in ms with fractions.
    pub worst_late_ms: f64,
    /// How many began later than so many ms.
    pub later_than_ms: BTreeMap<u32, u64>,
}

/// Bytes of memory: the kernel's for the data path's maps, and the daemon's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Of the flow table.
    pub flow_table: u64,
    /// Of the NAT records.
    pub nat: u64,
    /// Of the Maglev tables, one per service and family.
    pub maglev: u64,
    /// Of all other maps: services, backends, counters.
    pub other: u64,
    /// Of the daemon's process, resident.
    pub daemon: u64,
}

/// A duration in whole milliseconds; what does not fit becomes the greatest number.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The document that users of the API are shown.
    const EXAMPLE: &str = include_str!("../tests/api/status.json");

    #[test]
    fn example_document_has_every_field_and_no_other() {
        let status: Status = serde_json::from_str(EXAMPLE).expect("example is a status");
        let document: Value = serde_json::from_str(EXAMPLE).expect("example is JSON");
        assert_eq!(serde_json::to_value(&status).expect("status is JSON"), document);
    }

    #[test]
    fn codes_are_spelled_as_in_logs() {
        use Code::*;
        for code in [
            L4Ok, L4Con, L4Tout, L6Ok, L6Tout, L6Rsp, L7Ok, L7Tout, L7Rsp, L7Sts, ProcOk, ProcErr, ProcTout,
            Sockerr,
        ] {
            assert_eq!(serde_json::to_value(code).expect("code is JSON"), code.as_str());
        }
    }

    #[test]
    fn missing_health_is_unchecked() {
        assert_eq!(State::from(None), State::Unchecked);
        assert_eq!(State::from(Some(Health::Up)), State::Up);
        assert_eq!(State::from(Some(Health::Down)), State::Down);
    }

    #[test]
    fn last_check_keeps_fractions_of_a_millisecond() {
        let result = CheckResult::new(Code::L4Ok, Duration::from_micros(250), "");
        let last = LastCheck::new(&result, Duration::from_secs(2));
        assert_eq!((last.duration_ms, last.ago_ms), (0.25, 2000));
    }
}
