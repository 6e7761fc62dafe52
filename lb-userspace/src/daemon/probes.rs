//! Starts the tasks that check backends and peers.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use lb_common::{HashKey, SLOTS, flow};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use crate::{
    config::{Check, CheckKind, Config, Dns, Forward, NodeAddress, Protocol, Service, Timing},
    core::{
        check::{CheckResult, Code},
        health,
        ids::{BackendId, Family, PoolId},
        peers::{PeerId, PortChooser},
        plan,
    },
    dns::{self, AskError},
    probe::{self, Probe, Report, SourcePort},
};

/// Local ports of peer probes: the kernel's usual ephemeral ports, which no NAT port is.
const PROBE_PORTS: RangeInclusive<u16> = 32_768..=60_999;

/// A running check of any kind; dropping it ends it.
pub(super) enum Running {
    Probe { _handle: probe::Handle },
    Asking(AbortHandle),
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Running::Asking(task) = self {
            task.abort();
        }
    }
}

/// What steers peer probes: every pool's Maglev table as this node has it.
pub(super) type Tables = BTreeMap<PoolId, Arc<[u16]>>;

/// The hash key, and the tables as they change.
#[derive(Clone)]
pub(super) struct Steering {
    pub(super) hash_key: HashKey,
    pub(super) tables: watch::Receiver<Arc<Tables>>,
}

/// One check per backend and family.
pub(super) fn start_backends(config: &Config, reports: &mpsc::Sender<Report<BackendId>>) -> Vec<Running> {
    plan::pools(config)
        .flat_map(|(service, pool)| plan::backends(service, pool).map(move |found| (service, found)))
        .map(|(service, (backend, id, address))| {
            let Check { kind, port, timing } = &service.check;
            let probe = Probe {
                kind: kind.clone(),
                target: SocketAddr::new(address, port.unwrap_or(backend.port)),
                source: None,
                source_port: None,
                timeout: timing.timeout,
            };
            Running::Probe { _handle: probe::start(id, probe, *timing, reports.clone()) }
        })
        .collect()
}

/// What is to be probed of the peers.
pub(super) fn peer_ids(config: &Config) -> Vec<PeerId> {
    config
        .peers
        .iter()
        .flat_map(|peer| {
            plan::pools(config)
                .filter(|(_, pool)| address_of(&peer.addresses, pool.family).is_some())
                .map(|(_, pool)| PeerId { peer: peer.name.clone(), pool })
        })
        .collect()
}

/// One check per peer and TCP service and family; and for services that no connection can probe, one
/// question per peer and family to its DNS server.
pub(super) fn start_peers(
    config: &Arc<Config>,
    sources: &BTreeMap<IpAddr, IpAddr>,
    steering: &Steering,
    reports: &mpsc::Sender<Report<PeerId>>,
) -> Vec<Running> {
    let timing = config.peer_check.timing;
    let mut running = Vec::new();
    for peer in &config.peers {
        for family in Family::ALL {
            let Some(address) = address_of(&peer.addresses, family) else { continue };
            let mut asked = Vec::new();
            for (service, pool) in plan::pools(config).filter(|(_, pool)| pool.family == family) {
                let id = PeerId { peer: peer.name.clone(), pool };
                if service.protocol == Protocol::Udp {
                    asked.push(id);
                    continue;
                }
                let source = probe_source(config, service, sources, address);
                let probe = Probe {
                    kind: CheckKind::Tcp,
                    target: SocketAddr::new(address, service.port),
                    source,
                    source_port: source.map(|source| steer(source, service, &id.pool, steering.clone())),
                    timeout: timing.timeout,
                };
                running.push(Running::Probe { _handle: probe::start(id, probe, timing, reports.clone()) });
            }
            if let Some(dns) = &config.dns
                && !asked.is_empty()
            {
                let server = SocketAddr::new(address, peer.dns_port);
                let asking = ask(server, dns.clone(), asked, timing, reports.clone());
                running.push(Running::Asking(tokio::spawn(asking).abort_handle()));
            }
        }
    }
    running
}

fn address_of(addresses: &[NodeAddress], family: Family) -> Option<IpAddr> {
    addresses.iter().map(|node| node.address).find(|&address| Family::of(address) == family)
}

/// The address from which a peer's service is probed: the kernel's choice towards the peer, unless that is
/// a VIP which the backends hold too (DSR): they drop what comes from their own address. Then the one that
/// the backends are checked from, which the configuration's check has made sure is none.
fn probe_source(
    config: &Config,
    service: &Service,
    sources: &BTreeMap<IpAddr, IpAddr>,
    peer: IpAddr,
) -> Option<IpAddr> {
    let held_by_backends: BTreeSet<IpAddr> = config
        .services
        .iter()
        .filter(|service| service.forward == Forward::DsrL2)
        .flat_map(|service| service.addresses.iter().copied())
        .collect();
    let backends = service.backends.iter().filter_map(|backend| backend.address(Family::of(peer)));
    iter::once(peer)
        .chain(backends)
        .filter_map(|destination| sources.get(&destination).copied())
        .find(|source| service.forward != Forward::DsrL2 || !held_by_backends.contains(source))
}

/// Chooses source ports that lead to a backend which this node sees up, another one each time.
fn steer(source: IpAddr, service: &Service, pool: &PoolId, steering: Steering) -> SourcePort {
    let (service_port, protocol) = (service.port, plan::protocol_number(service.protocol));
    let pool = pool.clone();
    let ports = PROBE_PORTS.end() - PROBE_PORTS.start() + 1;
    let mut chooser = PortChooser::new(*PROBE_PORTS.start(), ports, rand::random());
    SourcePort::new(move || {
        let tables = steering.tables.borrow().clone();
        let table = tables.get(&pool)?;
        let slot_of = |port| {
            let hash = steering.hash_key.flow(&source.into(), port, service_port, protocol);
            flow::scale(hash.place, SLOTS as u32)
        };
        // This node's tables hold up backends only.
        let up: BTreeSet<u16> = table.iter().copied().filter(|&number| number != 0).collect();
        chooser.choose(slot_of, table, &Vec::from_iter(up))
    })
}

/// Asks a peer's DNS server again and again what the peer serves.
async fn ask(
    server: SocketAddr,
    dns: Dns,
    ids: Vec<PeerId>,
    timing: Timing,
    reports: mpsc::Sender<Report<PeerId>>,
) {
    let mut due = Instant::now() + health::first_check(&timing, rand::random());
    loop {
        sleep_until(due).await;
        let start = Instant::now();
        let answer = dns::ask_serves(server, &dns.zone, timing.timeout).await;
        for id in &ids {
            let result = judge(&answer, id, start.elapsed());
            if reports.send(Report { id: id.clone(), result }).await.is_err() {
                return;
            }
        }
        due = Instant::now().max(due + health::next_check(&timing, rand::random()));
    }
}

fn judge(answer: &Result<BTreeMap<PoolId, bool>, AskError>, id: &PeerId, duration: Duration) -> CheckResult {
    let (code, detail) = match answer {
        Ok(pools) => match pools.get(&id.pool) {
            Some(true) => (Code::L7Ok, "says that it serves".to_owned()),
            Some(false) => (Code::L7Sts, "says that it does not serve".to_owned()),
            None => (Code::L7Rsp, "does not know the service; do the configurations differ?".to_owned()),
        },
        Err(error @ AskError::Timeout { .. }) => (Code::L7Tout, error.to_string()),
        Err(error @ AskError::Io { .. }) => (Code::L4Con, error.to_string()),
        Err(error) => (Code::L7Rsp, error.to_string()),
    };
    CheckResult { code, duration, detail }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn peers_are_probed_from_an_address_that_no_backend_holds() {
        let file = |forward: &str| {
            format!(
                r#"version = 1
[node]
name = "node1"
interfaces = ["front"]
addresses = ["192.0.2.11"]
secret_file = "/etc/usher/secret"
[nat]
source = ["203.0.113.11"]
[[peer]]
name = "node2"
addresses = ["192.0.2.12"]
[[service]]
name = "web"
protocol = "tcp"
port = 80
forward = "{forward}"
[[service.backend]]
name = "b1"
address = "203.0.113.21"
"#
            )
        };
        let peer = ip("192.0.2.12");
        let (vip, back) = (ip("192.0.2.11"), ip("203.0.113.11"));
        let sources = BTreeMap::from([(peer, vip), (ip("203.0.113.21"), back)]);
        for (forward, expected) in [("nat", vip), ("dsr-l2", back)] {
            let config = Config::parse(&file(forward), Path::new("usher.toml")).unwrap();
            assert_eq!(
                probe_source(&config, &config.services[0], &sources, peer),
                Some(expected),
                "{forward}"
            );
        }
    }
}
