//! Starts the tasks that check backends and peers.

use std::{
    collections::BTreeMap,
    convert,
    iter::{self, once},
    mem,
    net::{IpAddr, SocketAddr},
    ops::{Range, RangeInclusive},
    sync::Arc,
};

use lb_common::{HashKey, SLOTS, check_path::Way, flow};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::exchange::{self, Word};
use crate::{
    config::{
        Check, CheckKind, Config, Forward, HashInput, NodeAddress, Protocol, Service, Timing,
        host::{HostFacts, ProbeSources},
    },
    core::{
        check_path,
        health::{self, Pace},
        ids::{BackendId, Family, PoolId},
        peers::{Judge, PeerId, Peers},
        plan,
        port_chooser::PortChooser,
        rotation,
        slots::Slots,
    },
    dataplane::Ways,
    dns::PeerKeys,
    net::source,
    probe::{self, Probe, Report, Source, Through},
};

/// What steers peer probes: every pool's Maglev table as this node has it.
pub(super) type Tables = BTreeMap<PoolId, Slots>;

/// The hash key, and the tables as they change.
#[derive(Clone)]
pub(super) struct Steering {
    pub(super) hash_key: HashKey,
    pub(super) tables: watch::Receiver<Arc<Tables>>,
}

/// Ports that are tried for one peer probe. In the lab another connection of the node has one once in hundreds of probes.
const PORTS: usize = 4;

/// One check per backend and family.
#[derive(Default)]
pub(super) struct BackendProbes(BTreeMap<BackendId, (BackendProbe, probe::Handle)>);

/// What makes a backend's check what it is.
#[derive(PartialEq)]
struct BackendProbe {
    /// The service's.
    check: Arc<Check>,
    target: SocketAddr,
    forward: Forward,
    /// Through the data path; none when it goes to the target as any connection.
    ways: Vec<Way>,
}

impl BackendProbes {
    /// Starts and ends checks as the configuration has it; those that stay as they are go on in their rhythm. `ways`
    /// leads through the data path, where that can be.
    pub(super) fn follow(
        &mut self,
        config: &Config,
        ways: Option<&Ways>,
        reports: &mpsc::Sender<Report<BackendId>>,
    ) {
        let mut before = mem::take(&mut self.0);
        let wanted = plan::pools(config).flat_map(|(service, pool)| {
            let check = Arc::new(service.check.clone());
            let timing = Arc::new(check.timing);
            plan::backends(service, pool).map(move |found| (service, check.clone(), timing.clone(), found))
        });
        let followed = wanted.map(|(service, check, timing, (backend, id, address))| {
            let wanted = BackendProbe {
                target: SocketAddr::new(address, check.port.unwrap_or(backend.port)),
                check,
                forward: service.forward,
                ways: ways
                    .map_or_else(Vec::new, |_| check_path::ways(config, service, id.pool.family, address)),
            };
            let running = match before.remove(&id) {
                Some((was, running)) if was == wanted => running,
                _ => start_backend(id.clone(), &wanted, timing, ways, reports),
            };
            (id, (wanted, running))
        });
        self.0 = followed.collect();
    }

    /// Has a backend checked at once.
    pub(super) fn check_now(&self, id: &BackendId) {
        if let Some((_, handle)) = self.0.get(id) {
            handle.check_now();
        }
    }

    /// Has a backend checked at this pace.
    pub(super) fn set_pace(&self, id: &BackendId, pace: Pace) {
        if let Some((_, handle)) = self.0.get(id) {
            handle.set_pace(pace);
        }
    }
}

fn start_backend(
    id: BackendId,
    wanted: &BackendProbe,
    timing: Arc<Timing>,
    ways: Option<&Ways>,
    reports: &mpsc::Sender<Report<BackendId>>,
) -> probe::Handle {
    let BackendProbe { check, target, forward, ways: aims } = wanted;
    let mut probe = Probe::new(check.kind.clone(), *target, timing.timeout);
    probe.source = check.source(target.ip()).map(Source::address);
    if let Some(ways) = ways
        && let Some(through) = Through::new(ways.clone(), *forward, aims.clone())
    {
        probe.through = Some(Box::new(through));
        if let (true, Err(error)) = (forward.is_tunnel(), ways.watch(target.ip())) {
            warn!(
                error = &error as &dyn std::error::Error,
                "backend {id}: refused tunnel packets are not noticed"
            );
        }
    }
    probe::start(id, probe, timing, reports.clone())
}

/// What is to be probed of the peers, and how.
pub(super) fn peer_ids(config: &Config) -> Vec<(PeerId, Judge)> {
    pools_there(config).map(|(service, _, id)| (id, judge_of(service))).collect()
}

fn judge_of(service: &Service) -> Judge {
    match service.protocol {
        Protocol::Tcp => Judge::Probe,
        Protocol::Udp => Judge::Word,
    }
}

/// Every pool on every address of a peer: of each service, all addresses before the next service.
fn pools_there(config: &Config) -> impl Iterator<Item = (&Service, &NodeAddress, PeerId)> {
    let addresses =
        || config.peers.iter().flat_map(|peer| peer.addresses.iter().map(move |have| (peer, have)));
    config.services.iter().flat_map(move |service| {
        addresses().filter_map(move |(peer, have)| {
            let family = Family::of(have.address);
            service.families().find(|offered| *offered == family)?;
            let pool = PoolId { service: service.name.clone(), family };
            Some((service, have, PeerId { peer: peer.name.clone(), address: have.address, pool }))
        })
    })
}

/// Where the tasks that check peers send what they find.
#[derive(Clone)]
pub(super) struct PeerNews {
    pub(super) reports: mpsc::Sender<Report<PeerId>>,
    pub(super) words: mpsc::Sender<Word>,
}

/// One check per TCP service at each address of a peer, and one question to the daemon there.
pub(super) struct PeerProbes {
    connections: Vec<(PeerId, probe::Handle)>,
    take_turns: bool,
    _questions: Vec<AbortOnDropHandle<()>>,
}

impl PeerProbes {
    /// Leaves out the connections for services that a peer, or one of them all, itself declines: each would be a new flow on a
    /// node that is drained. When one is needed again, it is made at once, or where they take turns, in turn.
    pub(super) fn follow(&self, peers: &Peers, whose: Option<&str>) {
        let of_peer = |id: &PeerId| whose.is_none_or(|peer| *id.peer == *peer);
        for (id, connection) in self.connections.iter().filter(|(id, _)| of_peer(id)) {
            let declined = peers.declines(id);
            if connection.set_paused(declined) && !declined && !self.take_turns {
                connection.check_now();
            }
        }
    }
}

/// Starts all that checks peers.
pub(super) fn start_peers(
    config: &Config,
    host: &HostFacts,
    steering: &Steering,
    keys: Option<&PeerKeys>,
    news: &PeerNews,
) -> PeerProbes {
    let connections = connections(config);
    let mut timing = config.peer_check.timing;
    let turns = rotation::interval(&config.peer_check, connections.len());
    if let Some(interval) = turns {
        (timing.interval, timing.fast_interval) = (interval, interval);
        // They would lose their order, and with it the even pauses between the probes of one address.
        timing.jitter = 0.0;
    }
    let mut started = Vec::new();
    // Anywhere: if each reload began with the first, frequent ones would never come to the last.
    let start = rand::random::<f64>();
    for (turn, (service, have, id)) in connections.iter().enumerate() {
        let probe = peer_probe(config, host, steering, service, have, &id.pool);
        let first = match turns {
            Some(interval) => interval.mul_f64((turn as f64 / connections.len() as f64 + start).fract()),
            None => health::first_check(&timing, rand::random()),
        };
        let handle = probe::start_after(first, id.clone(), probe, timing, news.reports.clone());
        started.push((id.clone(), handle));
    }
    let questions = keys.map(|keys| exchange::start(config, keys, &news.words));
    PeerProbes {
        connections: started,
        take_turns: turns.is_some(),
        _questions: questions.unwrap_or_default(),
    }
}

/// All connections that probe peers, in the order in which they take turns: every address has its turn before the next
/// service has.
fn connections(config: &Config) -> Vec<(&Service, &NodeAddress, PeerId)> {
    pools_there(config).filter(|(service, ..)| judge_of(service) == Judge::Probe).collect()
}

fn peer_probe(
    config: &Config,
    host: &HostFacts,
    steering: &Steering,
    service: &Service,
    at: &NodeAddress,
    pool: &PoolId,
) -> Probe {
    let target = SocketAddr::new(at.check_address, service.port);
    let mut probe = Probe::new(CheckKind::Tcp, target, config.peer_check.timing.timeout);
    let sources = ProbeSources::new(config, service, at.check_address, host);
    let mut port = steer(service, pool, chooser(host), steering.clone());
    let (node, at) = (config.node.clone(), *at);
    probe.source = Some(Source::new(move || {
        let address = sources.choose(source::kernels_choice(target), source::is_here);
        let port = address.and_then(|source| free_port(source, || port(node.seen_as(source, &at))));
        (address, port)
    }));
    probe
}

/// The first of a few chosen ports that no other connection has; `None`, and so the kernel's choice, when there is none. A probe
/// from a taken one could not be made, and a peer that has just died would be found 0.5 s later.
fn free_port(from: IpAddr, choose: impl FnMut() -> Option<u16>) -> Option<u16> {
    let mut chosen = iter::repeat_with(choose).map_while(convert::identity).take(PORTS);
    chosen.find(|port| source::is_free(SocketAddr::new(from, *port)))
}

/// Chooses among the ports of the host's own connections: the configuration is refused if NAT ports are
/// among them, whose answers the program would take.
fn chooser(host: &HostFacts) -> PortChooser {
    let ports = longest_free(&host.ip_local_port_range, &host.ip_local_reserved_ports);
    let count = u16::try_from(ports.len()).unwrap_or(u16::MAX);
    PortChooser::new(ports.start as u16, count, rand::random())
}

/// The longest run of ports in `range` without any of `reserved`, which are ascending: NAT and services may
/// have those.
fn longest_free(range: &RangeInclusive<u16>, reserved: &[RangeInclusive<u16>]) -> Range<u32> {
    let half_open = |ports: &RangeInclusive<u16>| u32::from(*ports.start())..u32::from(*ports.end()) + 1;
    let Range { start, end } = half_open(range);
    let mut longest = start..start;
    let mut first = start;
    for taken in reserved.iter().map(half_open).chain(once(end..end)) {
        let run = first..taken.start.min(end);
        if run.len() > longest.len() {
            longest = run;
        }
        first = first.max(taken.end);
    }
    longest
}

/// Chooses source ports that lead from an address to a backend which this node sees up, another one each time.
fn steer(
    service: &Service,
    pool: &PoolId,
    mut chooser: PortChooser,
    steering: Steering,
) -> impl FnMut(IpAddr) -> Option<u16> + Send + use<> {
    let (service_port, protocol) = (service.port, plan::protocol_number(service.protocol));
    let by_client = service.flows.hash == HashInput::Client;
    let pool = pool.clone();
    move |source| {
        let tables = steering.tables.borrow().clone();
        let table = tables.get(&pool)?;
        let slot_of = |port| {
            let hash = match by_client {
                true => steering.hash_key.flow(&source.into(), 0, 0, 0),
                false => steering.hash_key.flow(&source.into(), port, service_port, protocol),
            };
            flow::scale(hash.place, SLOTS as u32)
        };
        chooser.choose(slot_of, table)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use tokio::net::TcpSocket;

    use super::*;
    use crate::{
        config::{AllDown, host::Kernel},
        core::publish::fixture::{config, ip, same},
    };

    #[test]
    fn probes_leave_from_the_ports_of_the_hosts_own_connections() {
        for range in [1024..=1026, 65_533..=65_535, 1..=u16::MAX] {
            let host = HostFacts {
                interfaces: Vec::new(),
                settings: BTreeMap::new(),
                ip_local_port_range: range.clone(),
                ip_local_reserved_ports: Vec::new(),
                check_route: BTreeMap::new(),
                kernel: Kernel::default(),
            };
            let mut chooser = chooser(&host);
            for _ in 0..4 {
                let port = chooser.choose(|_| 0, &vec![1].into()).expect("a backend is up");
                assert!(range.contains(&port), "{port} of {range:?}");
            }
        }
    }

    #[test]
    fn a_probe_takes_a_port_that_no_connection_has() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = server.local_addr().unwrap();
        let connections = [(); PORTS].map(|()| TcpStream::connect(to).unwrap());
        let taken = connections.each_ref().map(|connection| connection.local_addr().unwrap().port());
        // It shares its port with other probes.
        let probe = TcpSocket::new_v4().unwrap();
        probe.set_reuseaddr(true).unwrap();
        probe.bind(SocketAddr::new(to.ip(), 0)).unwrap();
        let free = probe.local_addr().unwrap().port();
        let choose = |ports: &[u16]| {
            let mut ports = ports.iter().copied();
            free_port(to.ip(), || ports.next())
        };
        assert_eq!(choose(&[taken[0], free]), Some(free));
        assert_eq!(choose(&taken[..2]), None);
        assert_eq!(choose(&[&taken[..], &[free]].concat()), None, "it does not look for ever");
    }

    #[test]
    fn probes_leave_reserved_ports_to_others() {
        let cases: [(_, &[_], _); 6] = [
            (1_000..=1_999, &[], 1_000..2_000),
            (1_000..=1_999, &[80..=80, 1_500..=1_500, 3_000..=3_000], 1_000..1_500),
            (1_000..=1_999, &[900..=1_100, 1_102..=1_105], 1_106..2_000),
            (1_000..=1_999, &[1_100..=2_100], 1_000..1_100),
            (1_000..=1_999, &[900..=2_100], 1_000..1_000),
            (1..=u16::MAX, &[1..=1, u16::MAX..=u16::MAX], 2..65_535),
        ];
        for (range, reserved, free) in cases {
            assert_eq!(longest_free(&range, reserved), free, "{range:?} without {reserved:?}");
        }
    }

    #[test]
    fn a_node_is_seen_translated_where_its_peer_is() {
        let mut config = config(AllDown::All);
        let seen = |config: &Config, source: &str| {
            config.node.seen_as(ip(source), &config.peers[0].addresses[0]).to_string()
        };
        assert_eq!(seen(&config, "10.0.0.11"), "10.0.0.11");
        config.peers[0].addresses[0].address = ip("10.0.0.12");
        assert_eq!(seen(&config, "10.0.0.11"), "192.0.2.11");
        assert_eq!(seen(&config, "203.0.113.11"), "203.0.113.11", "nobody knows of what is not configured");
    }

    #[test]
    fn every_address_of_a_peer_is_probed() {
        let mut config = config(AllDown::All);
        config.peers[0].addresses.push(same("192.0.2.22"));
        let probed = |address: &str| -> Vec<String> {
            let ids = peer_ids(&config).into_iter().map(|(id, _)| id).filter(|id| id.address == ip(address));
            ids.map(|id| format!("{}/{}", id.peer, id.pool)).collect()
        };
        let v4 = ["node2/web/v4", "node2/tls/v4", "node2/echo/v4", "node2/internal/v4"];
        assert_eq!(probed("192.0.2.12"), v4);
        assert_eq!(probed("192.0.2.22"), v4);
        assert_eq!(probed("2001:db8:1::12"), ["node2/web/v6", "node2/echo/v6"]);
        assert_eq!(peer_ids(&config).len(), 3 * 4 + 2);
    }
}
