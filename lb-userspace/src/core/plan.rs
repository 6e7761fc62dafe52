//! From configuration and health to the desired content of the maps.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::{
    Address, Backend, Features, Forward, HashKey, Hop, MAX_NAT_SOURCES, QuicKey, Service, ServiceKey,
    Settings, Shape,
    flow::{self, IdleLimits, MAX_IDLE_TICKS, TICK_SHIFT},
    nat::{self, PORTS_PER_GROUP},
};

use super::{
    admin::Standing,
    ids::{BackendId, Family, PoolId},
    image::Image,
    maglev::{self, Candidate},
    numbers::Numbers,
    policy::{self, Mode},
    slots::Slots,
    slow_start::{self, SlowStarts},
};
use crate::config::{self, Config, HashInput, NoBackend, OnBackendDown, Protocol};

/// Every service in every family that it has.
pub fn pools(config: &Config) -> impl Iterator<Item = (&config::Service, PoolId)> {
    config.services.iter().flat_map(families)
}

/// A service in every family that it has.
pub fn families(service: &config::Service) -> impl Iterator<Item = (&config::Service, PoolId)> {
    service.families().map(move |family| (service, pool(service, family)))
}

/// A service in a family.
pub fn pool(service: &config::Service, family: Family) -> PoolId {
    PoolId { service: service.name.clone(), family }
}

/// A pool's backends and their addresses.
pub fn backends(
    service: &config::Service,
    pool: PoolId,
) -> impl Iterator<Item = (&config::Backend, BackendId, IpAddr)> {
    service.backends.iter().filter_map(move |backend| {
        let address = service.backend_address(backend, pool.family)?;
        let id = BackendId { pool: pool.clone(), backend: backend.name.clone() };
        Some((backend, id, address))
    })
}

/// A backend that a pool's flows may go to.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// The backend.
    pub backend: &'a config::Backend,
    /// What it is called in this pool: `backend1`, or `sorry/backend1` when it is lent by the service `sorry`.
    pub id: BackendId,
    /// Its address.
    pub address: IpAddr,
    /// What it is called in the pool that lends it, which checks it; `None` for the pool's own.
    pub lent: Option<BackendId>,
}

/// A pool's own backends, then those of the service that stands in when none of them is usable. The latter have numbers of
/// their own here, because an entry of the flow table is valid for the backends of its service only.
pub fn members<'a>(
    config: &'a Config,
    service: &'a config::Service,
    pool: PoolId,
) -> impl Iterator<Item = Member<'a>> {
    let lent = config.fallback(service).into_iter().flat_map({
        let pool = pool.clone();
        move |other| {
            let pool = pool.clone();
            backends(other, self::pool(other, pool.family)).map(move |(backend, lent, address)| {
                let name = format!("{}/{}", other.name, lent.backend).into();
                let id = BackendId { pool: pool.clone(), backend: name };
                Member { backend, id, address, lent: Some(lent) }
            })
        }
    });
    backends(service, pool)
        .map(|(backend, id, address)| Member { backend, id, address, lent: None })
        .chain(lent)
}

/// What decides the image beside the configuration.
pub struct Situation<'a> {
    /// What counts of a backend with this weight in the configuration.
    pub standing: &'a dyn Fn(&BackendId, u16) -> Standing,
    /// The next hops that are known, by backend address.
    pub hops: &'a BTreeMap<IpAddr, KnownHop>,
    /// The longest IP packet in bytes that every interface with the program takes; 0 when not known.
    pub mtu: u16,
    /// The time.
    pub now: Instant,
}

/// The way to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownHop {
    /// To the backend itself or to the gateway.
    pub hop: Hop,
    /// `None` when the backend is on the link.
    pub gateway: Option<IpAddr>,
    /// The longest IP packet in bytes that goes this way; 0 when not known.
    pub mtu: u16,
}

impl KnownHop {
    /// Whether packets may go this way. Under DSR on the link they still carry the VIP, and a gateway would
    /// route them back to this node, for ever.
    pub fn serves(&self, forward: config::Forward) -> bool {
        forward != config::Forward::DsrL2 || self.gateway.is_none()
    }
}

/// How large the data path's tables are: made by the configuration that was in force when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tables {
    /// The flow table.
    pub flows: Shape,
    /// The NAT records; [`nat::NONE`] where nothing is under NAT.
    pub nat: Shape,
    /// Buckets of the table of clients' backends.
    pub affinity_buckets: u32,
}

impl Tables {
    /// What a configuration wants.
    pub fn of_config(config: &Config) -> Tables {
        let features = features(config);
        let flows = config.flows.max;
        Tables {
            flows: flow::shape_for(flows),
            nat: if features.has(Features::NAT) { nat::shape_for(flows) } else { nat::NONE },
            affinity_buckets: match features.has(Features::AFFINITY) {
                true => flow::affinity_buckets_for(config.flows.affinity),
                false => 1,
            },
        }
    }
}

/// Makes images, and remembers Maglev tables so that only changed pools are built again.
pub struct Planner {
    numbers: Numbers,
    hash_key: HashKey,
    /// CPUs of this host.
    cpus: u32,
    sizes: Tables,
    tables: BTreeMap<PoolId, (Vec<Candidate>, Slots)>,
    modes: BTreeMap<PoolId, Mode>,
    slow_starts: SlowStarts,
}

impl Planner {
    /// A planner for these numbers, the cluster's hash key, a number of CPUs and tables of these sizes.
    pub fn new(numbers: Numbers, hash_key: HashKey, cpus: u32, sizes: Tables) -> Planner {
        Planner {
            numbers,
            hash_key,
            cpus,
            sizes,
            tables: BTreeMap::new(),
            modes: BTreeMap::new(),
            slow_starts: SlowStarts::default(),
        }
    }

    /// The numbers it works with.
    pub fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// Works with other numbers from now on; tables of pools that are gone are forgotten.
    pub fn set_numbers(&mut self, numbers: Numbers) {
        self.tables.retain(|pool, _| numbers.pool(pool) != 0);
        self.modes.retain(|pool, _| numbers.pool(pool) != 0);
        self.slow_starts.retain(|pool| numbers.pool(pool) != 0);
        self.numbers = numbers;
    }

    /// What decided about each pool's new flows in the last image.
    pub fn modes(&self) -> &BTreeMap<PoolId, Mode> {
        &self.modes
    }

    /// Backends that do not have their whole weight yet, as of the last image.
    pub fn slow_starts(&self) -> &SlowStarts {
        &self.slow_starts
    }

    /// The cluster's hash key.
    pub fn hash_key(&self) -> &HashKey {
        &self.hash_key
    }

    /// What the maps should hold now.
    pub fn image(&mut self, config: &Config, situation: &Situation) -> Image {
        let reply_mtu = situation.mtu;
        let settings = Settings { reply_mtu, ..settings(config, self.hash_key, self.cpus, &self.sizes) };
        let mut image = Image { settings: Some(Box::new(settings)), ..Image::default() };
        let mut counted = self.count_all(config, situation);
        let mut wanted = Vec::new();
        for (service, pool) in pools(config) {
            let number = self.numbers.pool(&pool);
            let mut candidates = Vec::new();
            let members = members(config, service, pool.clone());
            let counted = counted.remove(&pool).unwrap_or_default();
            let is_panic = matches!(self.modes.get(&pool), Some(Mode::Panic { .. }));
            for (Member { backend, id, address, lent }, (standing, share)) in members.zip(counted) {
                let backend_number = self.numbers.backend(&id);
                let known = situation.hops.get(&address).filter(|known| known.serves(service.forward));
                let mut record = backend_record(service, backend, address, number, standing, known);
                if is_panic && standing.is_up() && !(situation.standing)(&id, backend.weight).is_up() {
                    record.flags |= Backend::BY_POLICY;
                }
                if let (Some(id), Some(quic), None) = (backend.quic_server_id, service.flows.quic, &lent) {
                    image.quic_ids.insert(QuicKey::new(number, id, quic.server_id_length), backend_number);
                }
                if standing.is_up() {
                    let weight = u32::from(standing.weight) * u32::from(share);
                    candidates.push(candidate(backend_number, &record, weight));
                }
                image.backends.insert(backend_number, record);
            }
            for address in service.addresses.iter().filter(|&&vip| Family::of(vip) == pool.family) {
                let key = ServiceKey::new((*address).into(), service.port, protocol_number(service.protocol));
                image.services.insert(key, service_record(number, service));
                image.services.insert(ServiceKey::any((*address).into()), Service::MARK);
                let icmp = if address.is_ipv4() { 1 } else { 58 };
                image.services.insert(ServiceKey::new((*address).into(), 0, icmp), Service::MARK);
            }
            wanted.push((pool, candidates));
        }
        self.build_tables(wanted);
        for (pool, (_, table)) in &self.tables {
            image.tables.insert(self.numbers.pool(pool), table.clone());
        }
        for address in config.nat.source.iter().filter(|_| features(config).has(Features::NAT)) {
            image.services.insert(ServiceKey::any((*address).into()), Service::MARK);
        }
        image
    }

    /// What counts of each pool's members, and what share of their weight, in percent.
    fn count_all(&mut self, config: &Config, situation: &Situation) -> BTreeMap<PoolId, Vec<(Standing, u8)>> {
        let mut all = BTreeMap::new();
        // Those that may be needed by others first; they need nobody themselves.
        let (alone, others): (Vec<_>, Vec<_>) =
            pools(config).partition(|(service, _)| config.fallback(service).is_none());
        for (service, pool) in alone.into_iter().chain(others) {
            let lender = config.fallback(service);
            let mut lent: Vec<(Standing, u8)> = lender
                .and_then(|other| all.get(&self::pool(other, pool.family)))
                .cloned()
                .unwrap_or_default();
            let fallback = lender.filter(|_| lent.iter().any(|(standing, _)| standing.takes_flows()));
            let mut counted = self.count(service, &pool, situation, fallback.map(|other| &other.name));
            if !matches!(self.modes.get(&pool), Some(Mode::Fallback { .. })) {
                lent.iter_mut().for_each(|(standing, _)| standing.weight = 0);
            }
            counted.extend(lent);
            all.insert(pool, counted);
        }
        all
    }

    /// What counts of each of a pool's own backends, and what share of its weight. `fallback`: the service whose backends
    /// could take the flows.
    fn count(
        &mut self,
        service: &config::Service,
        pool: &PoolId,
        situation: &Situation,
        fallback: Option<&Arc<str>>,
    ) -> Vec<(Standing, u8)> {
        let (names, members): (Vec<_>, Vec<_>) = backends(service, pool.clone())
            .map(|(backend, id, _)| {
                let standing = (situation.standing)(&id, backend.weight);
                (id.backend, policy::Member { is_backup: backend.backup, standing })
            })
            .unzip();
        let (mode, counted) = policy::apply(&members, service.panic_below, fallback);
        self.modes.insert(pool.clone(), mode.clone());
        let members: Vec<_> = names
            .into_iter()
            .zip(members.iter().zip(&counted))
            .map(|(name, (member, &counted))| slow_start::Member { name, own: member.standing, counted })
            .collect();
        let shares = self.slow_starts.follow(pool, &members, &mode, service.slow_start, situation.now);
        counted.into_iter().zip(shares).collect()
    }

    /// A pool's Maglev table as it was last planned.
    pub fn current_table(&self, pool: &PoolId) -> Option<&Slots> {
        self.tables.get(pool).map(|(_, table)| table)
    }

    /// Builds the tables of pools whose candidates are others than before; there is one for each of `wanted` then.
    fn build_tables(&mut self, mut wanted: Vec<(PoolId, Vec<Candidate>)>) {
        wanted.retain(|(pool, candidates)| {
            self.tables.get(pool).is_none_or(|(built_from, _)| built_from != candidates)
        });
        let built = maglev::build_all(&wanted, |(_, candidates)| candidates, self.cpus as usize);
        for ((pool, candidates), table) in wanted.into_iter().zip(built) {
            self.tables.insert(pool, (candidates, table));
        }
    }
}

/// IP protocol number.
pub fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

fn service_record(number: u32, service: &config::Service) -> Service {
    let flows = &service.flows;
    let (rate, quic) = (flows.rate_limit, flows.quic);
    Service {
        flags: flag(flows.hash == HashInput::Client, Service::CLIENT_HASH)
            | flag(service.all_down == NoBackend::Drop, Service::DROPS),
        affinity: flows.affinity.map_or(0, ticks),
        quic_id_length: quic.map_or(0, |quic| quic.server_id_length),
        quic_config: quic.map_or(0, |quic| quic.config_id),
        source_rate: rate.map_or(0, |limit| limit.per_source),
        source_burst: rate.map_or(0, |limit| limit.burst),
        ..Service::new(number, forward(service.forward), ticks(flows.idle_timeout))
    }
}

fn forward(forward: config::Forward) -> Forward {
    match forward {
        config::Forward::Nat => Forward::Nat,
        config::Forward::DsrL2 => Forward::DsrL2,
        config::Forward::DsrIpip => Forward::DsrIpip,
        config::Forward::DsrGue => Forward::DsrGue,
    }
}

fn flag(is_set: bool, flag: u8) -> u8 {
    if is_set { flag } else { 0 }
}

fn flags(service: &config::Service, standing: Standing) -> u8 {
    let up = standing.is_up();
    let config::FlowOptions { on_backend_down, on_drain_end, .. } = service.flows;
    let resets = |way| way == OnBackendDown::Reset;
    let lost = !up && (resets(on_backend_down) || standing.drain_ended && resets(on_drain_end));
    flag(up, Backend::UP) | flag(standing.weight > 0, Backend::ACCEPTS) | flag(lost, Backend::LOST)
}

fn backend_record(
    service: &config::Service,
    backend: &config::Backend,
    address: IpAddr,
    number: u32,
    standing: Standing,
    known: Option<&KnownHop>,
) -> Backend {
    Backend {
        address: address.into(),
        hop: known.map(|known| known.hop).unwrap_or_default(),
        service: number,
        port: backend.port.to_be_bytes(),
        mtu: known.map_or(0, |known| known.mtu),
        idle: ticks(service.flows.idle_timeout),
        flags: flags(service, standing),
        ..Backend::default()
    }
}

fn candidate(number: u16, backend: &Backend, weight: u32) -> Candidate {
    let mut identity = [0; 18];
    identity[..16].copy_from_slice(&backend.address.octets_v6());
    identity[16..].copy_from_slice(&backend.port);
    Candidate { number, identity, weight }
}

fn settings(config: &Config, hash_key: HashKey, cpus: u32, sizes: &Tables) -> Settings {
    let sources = |family| {
        let mut sources = [Address::NONE; MAX_NAT_SOURCES];
        let configured = nat_sources(config, family).map(Address::from);
        sources.iter_mut().zip(configured).for_each(|(source, address)| *source = address);
        sources
    };
    let nat = features(config).has(Features::NAT);
    let nat_groups = if nat { nat_groups(config) } else { 0 };
    Settings {
        hash_key,
        nat_sources: Family::ALL.map(sources),
        tunnel_source: Family::ALL.map(|family| tunnel_source(config, family).0),
        tunnel_hosts: Family::ALL.map(|family| tunnel_source(config, family).1),
        longest_idle: ticks(longest_idle(config)),
        flow_table: sizes.flows,
        nat_table: sizes.nat,
        nat_port_first: *config.nat.ports.start(),
        nat_groups,
        // 8 addresses of 8,064 groups at the most.
        nat_groups_of_all: Family::ALL.map(|family| nat_groups * nat_sources(config, family).count() as u16),
        new_per_tick: new_per_tick(config.flows.new_per_second, cpus),
        affinity_buckets: sizes.affinity_buckets,
        closing_idle: ticks(config.flows.closing_timeout),
        icmp_limit: per_tick(config.node.icmp_rate),
        gue_port: config.tunnel.gue_port,
        reply_by_route: u8::from(config.nat.reply == config::Reply::Route),
        reply_mtu: 0,
        zero: 0,
        zeros: [0; 2],
    }
}

/// Ports of addresses that lead to services.
pub fn service_keys(config: &Config) -> u32 {
    config.services.iter().map(|service| service.addresses.len() as u32).sum()
}

/// The first address of a family's network from which tunnelled packets come, and which of its last 32 bits are
/// free.
pub(super) fn tunnel_source(config: &Config, family: Family) -> (Address, [u8; 4]) {
    let mut networks = config.tunnel.source.iter();
    let Some(network) = networks.find(|network| Family::of(network.addr()) == family) else {
        return (Address::NONE, [0; 4]);
    };
    let free = u32::from(network.max_prefix_len() - network.prefix_len());
    let hosts = u32::MAX.checked_shr(32 - free.min(32)).unwrap_or(0);
    (network.addr().into(), hosts.to_be_bytes())
}

/// What the program is loaded with.
pub fn features(config: &Config) -> Features {
    let of_service = |service: &config::Service| match service.forward {
        config::Forward::Nat => Features::NAT,
        config::Forward::DsrL2 => Features::DSR_L2,
        config::Forward::DsrIpip => Features::DSR_IPIP,
        config::Forward::DsrGue => Features::DSR_GUE,
    };
    let several = Family::ALL.into_iter().any(|family| nat_sources(config, family).count() > 1);
    let node = [
        (several, Features::NAT_SOURCES),
        (config.defence.is_some(), Features::DENY),
        (config.flows.new_per_second > 0, Features::NEW_FLOW_LIMIT),
    ];
    let options = config.services.iter().flat_map(|service| {
        let flows = &service.flows;
        [
            (flows.on_backend_down == OnBackendDown::Reset, Features::RESET_LOST),
            (flows.on_drain_end == OnBackendDown::Reset, Features::RESET_LOST),
            (flows.hash == HashInput::Client, Features::CLIENT_HASH),
            (flows.affinity.is_some(), Features::AFFINITY),
            (flows.rate_limit.is_some(), Features::RATE_LIMIT),
            (flows.quic.is_some(), Features::QUIC),
        ]
    });
    let wanted = options.chain(node).filter(|(wanted, _)| *wanted).map(|(_, feature)| feature);
    config.services.iter().map(of_service).chain(wanted).collect()
}

/// The share of one CPU in a limit per second, in flows per tick; at least one when there is a limit.
fn new_per_tick(per_second: u32, cpus: u32) -> u32 {
    let per_tick = (u64::from(per_second) << TICK_SHIFT) / 1_000_000_000;
    (per_tick.div_ceil(u64::from(cpus.max(1)))) as u32
}

/// The NAT source addresses of a family.
fn nat_sources(config: &Config, family: Family) -> impl Iterator<Item = IpAddr> {
    config.nat.source.iter().copied().filter(move |&address| Family::of(address) == family)
}

/// After how many ticks an entry of any protocol is certainly idle.
pub fn idle_limits(config: &Config) -> IdleLimits {
    IdleLimits::new(ticks(longest_idle(config)), ticks(config.flows.closing_timeout))
}

fn longest_idle(config: &Config) -> Duration {
    config.services.iter().map(|service| service.flows.idle_timeout).max().unwrap_or_default()
}

/// Groups of NAT ports of each source address.
fn nat_groups(config: &Config) -> u16 {
    let ports = &config.nat.ports;
    ((u32::from(*ports.end()) + 1 - u32::from(*ports.start())) / u32::from(PORTS_PER_GROUP)) as u16
}

/// The port that a flow has as the data path numbers them: by its group, among those of all source addresses, and its way
/// in there.
pub fn nat_port(config: &Config, group: u16, way: u16) -> u16 {
    config.nat.ports.start() + group % nat_groups(config).max(1) * PORTS_PER_GROUP + way
}

/// A rate per second as one per tick, rounded up.
fn per_tick(rate: u32) -> u32 {
    (u64::from(rate) << TICK_SHIFT).div_ceil(1_000_000_000) as u32
}

/// A duration in ticks of the data path's clock, rounded up.
pub fn ticks(duration: Duration) -> u16 {
    let ticks = duration.as_nanos().div_ceil(1 << TICK_SHIFT);
    u16::try_from(ticks).unwrap_or(u16::MAX).min(MAX_IDLE_TICKS)
}

#[cfg(test)]
mod tests;
