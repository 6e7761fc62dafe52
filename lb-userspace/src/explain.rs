//! The question "what would happen to this flow?" and its answer.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{config::Protocol, core::ids::Family, status::NextHop};

/// A flow, as its first packet would show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainQuery {
    /// The client's address and port.
    pub from: SocketAddr,
    /// The address and port the client connects to.
    pub to: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl ExplainQuery {
    /// Refuses what no packet can be.
    ///
    /// # Errors
    /// When the two addresses are of different families.
    pub fn check(&self) -> Result<(), MixedFamilies> {
        let (from, to) = (Family::of(self.from.ip()), Family::of(self.to.ip()));
        if from == to { Ok(()) } else { Err(MixedFamilies { from, to }) }
    }
}

/// One packet cannot carry addresses of two families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("`from` is an IP{from} address and `to` is an IP{to} address; both must be of one family")]
pub struct MixedFamilies {
    from: Family,
    to: Family,
}

/// What the program in the kernel would do with the flow's next packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The service it is for; `None` when it is for none.
    pub service: Option<String>,
    /// Its slot in the service's Maglev table.
    pub slot: Option<u32>,
    /// The backend it would reach.
    pub backend: Option<ChosenBackend>,
    /// Whether the flow table knows it.
    pub flow: FlowState,
    /// Where the packet would be sent.
    pub next_hop: Option<NextHop>,
    /// What would become of the packet.
    pub verdict: Verdict,
    /// The data path's own word for why, as in `packets` of the status.
    pub reason: String,
}

/// The backend that a flow reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChosenBackend {
    /// Its name within the service.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// What the flow table says about a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowState {
    /// It has an entry; the backend is the one that entry names.
    Known,
    /// It has none; the backend is the one the Maglev table names.
    New,
    /// Not asked: the packet is for no service.
    None,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Sent to a backend.
    Forward,
    /// Left to the node's own network stack.
    Pass,
    /// Thrown away.
    Drop,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Forward => "forward",
            Verdict::Pass => "pass",
            Verdict::Drop => "drop",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(from: &str, to: &str) -> ExplainQuery {
        ExplainQuery {
            from: from.parse().expect("socket address"),
            to: to.parse().expect("socket address"),
            protocol: Protocol::Tcp,
        }
    }

    #[test]
    fn one_family_is_required() {
        assert_eq!(query("198.51.100.7:40001", "192.0.2.11:80").check(), Ok(()));
        assert_eq!(query("[2001:db8::7]:40001", "[2001:db8:1::11]:80").check(), Ok(()));
        let refused = query("198.51.100.7:40001", "[2001:db8:1::11]:80").check().expect_err("mixed families");
        assert_eq!(
            refused.to_string(),
            "`from` is an IPv4 address and `to` is an IPv6 address; both must be of one family"
        );
    }

    #[test]
    fn wire_form_is_plain_text() {
        let json = serde_json::to_value(query("198.51.100.7:40001", "192.0.2.11:80")).expect("query is JSON");
        assert_eq!(
            json,
            serde_json::json!({"from": "198.51.100.7:40001", "to": "192.0.2.11:80", "protocol": "tcp"})
        );
    }
}
