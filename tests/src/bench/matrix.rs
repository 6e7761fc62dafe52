//! The rows of the benchmark: every way to forward, family, protocol and case.

use std::fmt;

use lb_common::{Features, Forward, Reason};

use crate::world::{Case, TCP4, TCP6, UDP4, UDP6};

/// Every way to forward there is.
const FORWARDS: &[Forward] = &[Forward::Nat, Forward::DsrL2, Forward::DsrIpip, Forward::DsrGue];

/// What the program is loaded with: nothing that this way to forward does not need. Rows of denied clients have
/// a program of their own, with the deny list.
pub(super) fn features(forward: Forward) -> Features {
    match forward {
        Forward::Nat => Features::NAT,
        Forward::DsrL2 => Features::DSR_L2,
        Forward::DsrIpip => Features::DSR_IPIP,
        Forward::DsrGue => Features::DSR_GUE,
    }
}

/// Known flows: how many share the packets.
pub(super) const MOST_KNOWN: u32 = 500_000;

/// Flows of packets that are not for a service, and of backends' answers.
pub(super) const FEW: u32 = 10_000;

/// Addresses of each family in the deny list.
pub(super) const DENIED: u32 = 500_000;

/// What the packets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// Of this many proven flows, in random order.
    Known(u32),
    /// Each of a flow never seen before.
    New,
    /// First packets of random sources.
    Flood,
    /// For the host itself.
    NotOurs,
    /// Backends' answers under NAT.
    Reply,
    /// Of clients that the deny list names.
    Denied,
}

const TRAFFIC: &[Traffic] = &[
    Traffic::Known(1),
    Traffic::Known(10_000),
    Traffic::Known(MOST_KNOWN),
    Traffic::New,
    Traffic::Flood,
    Traffic::NotOurs,
    Traffic::Reply,
    Traffic::Denied,
];

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Traffic::Known(flows) if *flows >= 1_000 => write!(f, "known-{}k", flows / 1_000),
            Traffic::Known(flows) => write!(f, "known-{flows}"),
            Traffic::New => f.write_str("new"),
            Traffic::Flood => f.write_str("flood"),
            Traffic::NotOurs => f.write_str("not-ours"),
            Traffic::Reply => f.write_str("reply"),
            Traffic::Denied => f.write_str("denied"),
        }
    }
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// How the service forwards.
    pub forward: Forward,
    /// Family and protocol.
    pub case: Case,
    /// What the packets are.
    pub traffic: Traffic,
}

impl Row {
    /// The way to forward, as configurations call it.
    pub fn forward_label(&self) -> &'static str {
        match self.forward {
            Forward::Nat => "nat",
            Forward::DsrL2 => "dsr-l2",
            Forward::DsrIpip => "dsr-ipip",
            Forward::DsrGue => "dsr-gue",
        }
    }

    /// `v4` or `v6`.
    pub fn family_label(&self) -> &'static str {
        if self.case.v6 { "v6" } else { "v4" }
    }

    /// `tcp` or `udp`.
    pub fn protocol_label(&self) -> &'static str {
        if self.case.udp { "udp" } else { "tcp" }
    }

    /// What the data path should say of every packet.
    pub(super) fn reason(&self) -> Reason {
        match (self.traffic, self.forward) {
            (Traffic::NotOurs, _) => Reason::NotService,
            (Traffic::Reply, _) => Reason::NatReply,
            (Traffic::Denied, _) => Reason::Denied,
            (_, Forward::Nat) => Reason::Nat,
            (_, Forward::DsrL2) => Reason::DsrL2,
            (_, Forward::DsrIpip) => Reason::DsrIpip,
            (_, Forward::DsrGue) => Reason::DsrGue,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (family, protocol) = (self.family_label(), self.protocol_label());
        write!(f, "{} {family} {protocol} {}", self.forward_label(), self.traffic)
    }
}

/// Which rows are wanted; empty lists want all.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Ways to forward.
    pub forward: Vec<String>,
    /// Cases.
    pub case: Vec<String>,
    /// Families.
    pub family: Vec<String>,
    /// Protocols.
    pub protocol: Vec<String>,
}

impl Selection {
    fn wants(&self, row: &Row) -> bool {
        let wants = |list: &[String], label: &str| list.is_empty() || list.iter().any(|one| one == label);
        wants(&self.forward, row.forward_label())
            && wants(&self.case, &row.traffic.to_string())
            && wants(&self.family, row.family_label())
            && wants(&self.protocol, row.protocol_label())
    }
}

/// The rows that are wanted; those of one way to forward, family and protocol side by side.
pub fn rows(selection: &Selection) -> Vec<Row> {
    let mut rows = Vec::new();
    for &forward in FORWARDS {
        for case in [TCP4, UDP4, TCP6, UDP6] {
            let traffic = TRAFFIC.iter().filter(|it| forward == Forward::Nat || **it != Traffic::Reply);
            rows.extend(traffic.map(|&traffic| Row { forward, case, traffic }));
        }
    }
    rows.retain(|row| selection.wants(row));
    rows
}
