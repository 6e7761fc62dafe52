//! Which servers answer for a name: the nodes, the primaries of zones that they publish in, and those zones' other servers.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use futures_util::future::join_all;

use crate::{
    dns::{Way, look_up},
    status::{DnsServer, Publisher},
};

/// The port of servers that NS records name.
const PORT: u16 = 53;

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    /// A node, the primary of a zone, or the name in a zone's NS record.
    pub(super) label: String,
    pub(super) address: SocketAddr,
    /// The zone whose serial tells how new what it has is.
    pub(super) zone: Option<String>,
}

impl Server {
    /// All of them, each address once; how long one question to find them may take.
    pub(super) async fn all(
        nodes: &[DnsServer],
        publishers: &[Publisher],
        patience: Duration,
    ) -> Vec<Server> {
        let nodes = nodes.iter().map(|server| Server {
            label: server.node.clone(),
            address: server.address,
            zone: None,
        });
        let primaries = publishers.iter().map(|publisher| Server {
            label: format!("primary of {}", publisher.zone),
            address: publisher.primary,
            zone: Some(publisher.zone.clone()),
        });
        let named = join_all(publishers.iter().map(|publisher| named(publisher, patience))).await;
        let mut known = BTreeSet::new();
        let all = nodes.chain(primaries).chain(named.into_iter().flatten());
        all.filter(|server| known.insert(server.address)).collect()
    }

    /// The serial of its zone there.
    pub(super) async fn serial(&self, patience: Duration) -> Option<u32> {
        let soa = ask(self.address, self.zone.as_deref()?, "SOA", patience).await;
        // Primary, mailbox, serial, and times.
        soa.first()?.split_whitespace().nth(2)?.parse().ok()
    }
}

/// The servers in the NS records of a zone, as its primary has them.
async fn named(publisher: &Publisher, patience: Duration) -> Vec<Server> {
    let Publisher { zone, primary, .. } = publisher;
    let names = ask(*primary, zone, "NS", patience).await;
    let servers = names.iter().map(async |name| {
        let server = |address| Server {
            label: name.trim_end_matches('.').to_owned(),
            address,
            zone: Some(zone.clone()),
        };
        addresses(*primary, name, patience).await.into_iter().map(server).collect::<Vec<_>>()
    });
    join_all(servers).await.into_iter().flatten().collect()
}

/// Of a server: as the primary has them, or, for a name that is not in its zone, this host's resolver.
async fn addresses(primary: SocketAddr, name: &str, patience: Duration) -> Vec<SocketAddr> {
    let both = join_all(["A", "AAAA"].map(|record| ask(primary, name, record, patience))).await;
    let found: Vec<SocketAddr> = both
        .iter()
        .flatten()
        .filter_map(|address| Some(SocketAddr::new(address.parse().ok()?, PORT)))
        .collect();
    if !found.is_empty() {
        return found;
    }
    let resolved = tokio::time::timeout(patience, tokio::net::lookup_host((name, PORT))).await;
    resolved.ok().and_then(Result::ok).map(Iterator::collect).unwrap_or_default()
}

async fn ask(server: SocketAddr, name: &str, record: &str, patience: Duration) -> Vec<String> {
    let answer = look_up(server, Way::ANY, name, record, patience).await;
    answer.map(|found| found.records).unwrap_or_default()
}
