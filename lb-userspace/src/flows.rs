//! The question "which flows are there?" and its answer.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{config::Protocol, core::ids::Family};

/// Most flows in one answer, some 25 MB of JSON.
pub const MOST_FLOWS: u32 = 100_000;

/// Which flows are meant. What is not said does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowsQuery {
    /// Of this service.
    pub service: Option<String>,
    /// To the backends of this name.
    pub backend: Option<String>,
    /// Of these clients.
    pub client: Option<Clients>,
    /// In this state.
    pub state: Option<Stage>,
    /// List this many at most, [`MOST_FLOWS`] at the very most; all are counted.
    pub limit: u32,
}

/// One client's port, or all clients of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// This port of this client.
    One(SocketAddr),
    /// Every port of every client in the network.
    All(IpNet),
}

impl Clients {
    /// Whether a client is one of them.
    pub fn contain(&self, client: SocketAddr) -> bool {
        match self {
            Clients::One(one) => *one == client,
            Clients::All(network) => network.contains(&client.ip()),
        }
    }
}

/// What a text lacks to say which clients are meant.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{0}` names no client; write 198.51.100.7, 198.51.100.0/24, 198.51.100.7:4711 or [2001:db8::7]:4711"
)]
pub struct NoClient(String);

impl FromStr for Clients {
    type Err = NoClient;

    fn from_str(text: &str) -> Result<Clients, NoClient> {
        if let Ok(one) = text.parse::<SocketAddr>() {
            return Ok(Clients::One(one));
        }
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(|network| Clients::All(network.trunc())).map_err(|_| NoClient(text.to_owned()))
    }
}

impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Clients::One(one) => one.fmt(f),
            Clients::All(network) => network.fmt(f),
        }
    }
}

impl Serialize for Clients {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Clients {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Clients, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How far a flow has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Seen only once or without an answer so far.
    New,
    /// Alive beyond doubt.
    Proven,
    /// Saw FIN or RST.
    Closing,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::New => "new",
            Stage::Proven => "proven",
            Stage::Closing => "closing",
        })
    }
}

/// The flows that are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// Those in the flow table, which holds every flow. `None` when the question is about a network of
    /// clients: the table holds no addresses.
    pub flow_table: Option<Counts>,
    /// Those that have a NAT record.
    pub nat: Counts,
    /// The first of them, in no particular order: those under NAT by their records, all others by their
    /// entries in the flow table.
    pub flows: Vec<Flow>,
    /// Whether there are more than are listed.
    pub truncated: bool,
}

/// How many flows are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Seen only once or without an answer so far.
    pub new: u64,
    /// Alive beyond doubt.
    pub proven: u64,
    /// Saw FIN or RST.
    pub closing: u64,
}

impl Counts {
    /// All of them.
    pub fn all(&self) -> u64 {
        self.new + self.proven + self.closing
    }

    /// Counts one.
    pub fn add(&mut self, stage: Stage) {
        match stage {
            Stage::New => self.new += 1,
            Stage::Proven => self.proven += 1,
            Stage::Closing => self.closing += 1,
        }
    }
}

/// One flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Its service.
    pub service: String,
    /// Its backend.
    pub backend: String,
    /// The address family.
    pub family: Family,
    /// The service's protocol.
    pub protocol: Protocol,
    /// How far it has come.
    pub state: Stage,
    /// Seconds since its last packet, to 1.07 s.
    pub idle_s: u64,
    /// The client. Known under NAT, or when one client's port was asked for: the flow table holds no
    /// addresses.
    pub client: Option<SocketAddr>,
    /// The VIP and port that the client uses; known with the client.
    pub vip: Option<SocketAddr>,
    /// The port from which the node talks to the backend; under NAT only.
    pub nat_port: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_a_network_an_address_or_one_port() {
        let cases = [
            ("198.51.100.7", Ok("198.51.100.7/32")),
            ("198.51.100.7/24", Ok("198.51.100.0/24")),
            ("198.51.100.7:4711", Ok("198.51.100.7:4711")),
            ("2001:db8::7", Ok("2001:db8::7/128")),
            ("2001:db8::/32", Ok("2001:db8::/32")),
            ("[2001:db8::7]:4711", Ok("[2001:db8::7]:4711")),
            ("198.51.100.0/33", Err("`198.51.100.0/33` names no client; write 198.51.100.7, ")),
            ("www.example.test", Err("`www.example.test` names no client; write ")),
            ("", Err("`` names no client; write ")),
        ];
        for (text, expected) in cases {
            match (text.parse::<Clients>(), expected) {
                (Ok(clients), Ok(shown)) => assert_eq!(clients.to_string(), shown),
                (Err(error), Err(start)) => assert!(error.to_string().starts_with(start), "{error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn clients_contain_their_own() {
        let contain = |clients: &str, client: &str| {
            let clients: Clients = clients.parse().expect("clients");
            clients.contain(client.parse().expect("socket address"))
        };
        assert!(contain("198.51.100.0/24", "198.51.100.7:4711"));
        assert!(!contain("198.51.100.0/24", "198.51.101.7:4711"));
        assert!(contain("198.51.100.7:4711", "198.51.100.7:4711"));
        assert!(!contain("198.51.100.7:4711", "198.51.100.7:4712"));
        assert!(!contain("0.0.0.0/0", "[2001:db8::7]:4711"));
    }

    #[test]
    fn what_is_not_asked_does_not_matter() {
        let query: FlowsQuery = serde_json::from_str(r#"{"client": "198.51.100.0/24"}"#).expect("query");
        let clients = "198.51.100.0/24".parse().ok();
        assert_eq!(query, FlowsQuery { client: clients, ..FlowsQuery::default() });
    }
}
