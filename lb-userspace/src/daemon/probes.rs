//! Starts the tasks that check backends and peers.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    net::facts::HostFacts,
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

/// What a peer says of itself.
pub(super) struct Word {
    pub(super) id: PeerId,
    pub(super) serves: bool,
}

/// Where the tasks that check peers send what they find.
#[derive(Clone)]
pub(super) struct PeerNews {
    pub(super) reports: mpsc::Sender<Report<PeerId>>,
    pub(super) words: mpsc::Sender<Word>,
}

/// One check per peer and TCP service and family; and per peer and family one question to its DNS server:
/// for services that no connection can probe its answer is the check, for the others it is its word.
pub(super) fn start_peers(
    config: &Arc<Config>,
    host: &HostFacts,
    steering: &Steering,
    news: &PeerNews,
) -> Vec<Running> {
    let timing = config.peer_check.timing;
    let mut running = Vec::new();
    for peer in &config.peers {
        for family in Family::ALL {
            let Some(address) = address_of(&peer.addresses, family) else { continue };
            let (mut unprobed, mut probed) = (Vec::new(), Vec::new());
            for (service, pool) in plan::pools(config).filter(|(_, pool)| pool.family == family) {
                let id = PeerId { peer: peer.name.clone(), pool };
                if service.protocol == Protocol::Udp {
                    unprobed.push(id);
                    continue;
                }
                let source = probe_source(config, service, address, host);
                let probe = Probe {
                    kind: CheckKind::Tcp,
                    target: SocketAddr::new(address, service.port),
                    source,
                    source_port: source.map(|source| steer(source, service, &id.pool, steering.clone())),
                    timeout: timing.timeout,
                };
                probed.push(id.clone());
                let handle = probe::start(id, probe, timing, news.reports.clone());
                running.push(Running::Probe { _handle: handle });
            }
            if let Some(dns) = &config.dns {
                let server = SocketAddr::new(address, peer.dns_port);
                let question = Question { server, dns: dns.clone(), unprobed, probed };
                running
                    .push(Running::Asking(tokio::spawn(ask(question, timing, news.clone())).abort_handle()));
            }
        }
    }
    running
}

fn address_of(addresses: &[NodeAddress], family: Family) -> Option<IpAddr> {
    addresses.iter().map(|node| node.address).find(|&address| Family::of(address) == family)
}

/// The address from which a peer's service is probed: the kernel's choice, unless that is a VIP which the
/// backends hold too (DSR): they would answer themselves. Then another address of this node, the NAT
/// address first.
fn probe_source(config: &Config, service: &Service, peer: IpAddr, host: &HostFacts) -> Option<IpAddr> {
    let held_by_backends: BTreeSet<IpAddr> = config
        .services
        .iter()
        .filter(|service| service.forward == Forward::DsrL2)
        .flat_map(|service| service.addresses.iter().copied())
        .collect();
    let choice = host.check_source.get(&peer).copied();
    if service.forward != Forward::DsrL2 || choice.is_none_or(|choice| !held_by_backends.contains(&choice)) {
        return choice;
    }
    let own = host
        .interfaces
        .iter()
        .filter(|interface| config.node.interfaces.contains(&interface.link.name))
        .flat_map(|interface| interface.addresses.iter().copied())
        .filter(|address| !is_link_local(*address));
    config
        .nat
        .source
        .iter()
        .copied()
        .chain(own)
        .find(|address| Family::of(*address) == Family::of(peer) && !held_by_backends.contains(address))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
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

/// What a peer's DNS server is asked.
struct Question {
    server: SocketAddr,
    dns: Dns,
    /// Pools for which the answer is the check.
    unprobed: Vec<PeerId>,
    /// Pools for which it is the peer's word beside the check.
    probed: Vec<PeerId>,
}

/// Asks a peer's DNS server again and again what the peer serves.
async fn ask(question: Question, timing: Timing, news: PeerNews) {
    let mut due = Instant::now() + health::first_check(&timing, rand::random());
    loop {
        sleep_until(due).await;
        let start = Instant::now();
        let answer = dns::ask_serves(question.server, &question.dns.zone, timing.timeout).await;
        for id in &question.unprobed {
            let result = judge(&answer, id, start.elapsed());
            if news.reports.send(Report { id: id.clone(), result }).await.is_err() {
                return;
            }
        }
        for id in &question.probed {
            // Silence is no word: a peer that has said no and stopped must not seem to take it back.
            let Some(serves) = answer.as_ref().ok().and_then(|pools| pools.get(&id.pool).copied()) else {
                continue;
            };
            if news.words.send(Word { id: id.clone(), serves }).await.is_err() {
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
