//! The state as `usher status` and `usher explain` show it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use anyhow::Context as _;
use lb_common::{BackendCounters, Fate, Reason, Trace};

use super::{
    nat_ports,
    publisher::{Failing, Publisher, Standing},
    state::State,
};
use crate::{
    config,
    core::{
        health::Checked,
        lateness::Lateness,
        peers::{PeerAddress, PeerId},
        plan::{self, Member},
        policy::Mode,
        slots::Slots,
    },
    dataplane::{self, AttachedMode, FlowCounts, Query},
    explain::{ChosenBackend, ExplainQuery, Explanation, FlowState, Verdict},
    net::NextHop,
    status::{self, LastCheck, Status, millis},
    unix_time::unix_seconds,
};

/// The state at `now`; counters are read from the kernel.
pub(super) fn status(state: &State, now: Instant) -> anyhow::Result<Status> {
    // Before the answer takes some itself: of ten thousand backends it has several MiB.
    let memory = memory(state)?;
    let numbers = state.planner.numbers();
    let measured = Measured {
        flows: state.dataplane.count_flows(&plan::idle_limits(&state.config))?,
        counters: state.dataplane.counters(numbers.backends())?,
        begun: state.dataplane.begun(numbers.backends())?,
        silences: state.silences(now).collect(),
        slots: count_slots(state),
        names: interface_names(),
        reasons: reasons(state)?,
    };
    let reasons = measured.reasons.values().fold(vec![0; Reason::COUNT], |all, of_pool| sum(&all, of_pool));
    let packets = |wanted: fn(Reason) -> bool| {
        let counted = Reason::ALL.iter().zip(&reasons).filter(|(reason, _)| wanted(**reason));
        counted.map(|(reason, &count)| (reason.label().to_owned(), count)).collect()
    };
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: state.config.node.name.to_string(),
        started_ago_ms: millis(now.duration_since(state.started)),
        config_path: state.path.clone(),
        set: state.administration.lines(),
        drained: state.administration.drained().map(|left| status::Drained { left_s: left }),
        interfaces: state.interfaces.iter().map(interface).collect(),
        services: state.config.services.iter().map(|one| service(state, one, &measured, now)).collect(),
        peers: state
            .config
            .peers
            .iter()
            .map(|peer| status::Peer {
                name: peer.name.to_string(),
                pools: peer_pools(state, peer, now),
                answers: state.peers.answers(&peer.name),
                drift: state.drift_of(&peer.name).map(str::to_owned),
            })
            .collect(),
        dns: dns(state, now),
        nat_shortages: nat_ports::shortages(state, now)?,
        checks: checks(&state.lateness, now),
        flow_table: status::FlowTable {
            capacity: u64::from(state.config.flows.max),
            used: measured.flows.new + measured.flows.proven + measured.flows.closing,
            new: measured.flows.new,
            proven: measured.flows.proven,
            closing: measured.flows.closing,
        },
        memory,
        packets: packets(|_| true),
        drops: packets(|reason| {
            !matches!(reason.fate(), Fate::Pass | Fate::Forward | Fate::Odd | Fate::Icmp)
        }),
    })
}

fn memory(state: &State) -> anyhow::Result<status::Memory> {
    let memory = state.dataplane.memory(plan::pools(&state.config).count())?;
    Ok(status::Memory {
        flow_table: memory.flow_table,
        nat: memory.nat,
        maglev: memory.maglev,
        other: memory.other,
        daemon: dataplane::resident().context("cannot read how much memory the daemon takes")?,
    })
}

fn checks(lateness: &Lateness, now: Instant) -> status::Checks {
    status::Checks {
        begun: lateness.begun(),
        worst_late_ms: lateness.worst(now).as_secs_f64() * 1_000.0,
        later_than_ms: lateness.later().collect(),
    }
}

/// What was read from the kernel for one snapshot.
struct Measured {
    flows: FlowCounts,
    counters: BTreeMap<u16, BackendCounters>,
    /// Flows that have begun, by backend number.
    begun: BTreeMap<u16, u64>,
    /// Backends that were silent, by number.
    silences: BTreeMap<u16, status::Silence>,
    /// Maglev slots by backend number.
    slots: BTreeMap<u16, u32>,
    names: BTreeMap<u32, String>,
    /// Packets by pool number and reason. Pool 0: packets of no service.
    reasons: BTreeMap<u32, Vec<u64>>,
}

fn reasons(state: &State) -> anyhow::Result<BTreeMap<u32, Vec<u64>>> {
    let pools = [0].into_iter().chain(state.planner.numbers().pools());
    pools.map(|pool| Ok((pool, state.dataplane.reasons_of(pool)?))).collect()
}

/// Counters by reason, added up.
fn sum(one: &[u64], other: &[u64]) -> Vec<u64> {
    one.iter().zip(other).map(|(a, b)| a + b).collect()
}

fn count_slots(state: &State) -> BTreeMap<u16, u32> {
    let mut slots = BTreeMap::new();
    for (_, pool) in plan::pools(&state.config) {
        slots.extend(state.planner.current_table(&pool).into_iter().flat_map(Slots::shares).copied());
    }
    slots
}

pub(super) fn interface_names() -> BTreeMap<u32, String> {
    let interfaces = nix::net::if_::if_nameindex().ok();
    let names = interfaces.iter().flat_map(|interfaces| interfaces.iter());
    names.map(|interface| (interface.index(), interface.name().to_string_lossy().into_owned())).collect()
}

fn interface(interface: &super::state::Interface) -> status::Interface {
    let attached = &interface.attached;
    let (xdp_mode, detail) = match (interface.present, attached.mode) {
        (false, _) => (status::AttachedMode::None, "the program is no longer attached"),
        (true, AttachedMode::Native) => (status::AttachedMode::Native, ""),
        (true, AttachedMode::Generic) => (status::AttachedMode::Generic, attached.why_not_native.as_str()),
    };
    status::Interface { name: attached.interface.clone(), xdp_mode, detail: detail.to_owned() }
}

fn service(state: &State, service: &config::Service, measured: &Measured, now: Instant) -> status::Service {
    let backends: Vec<status::Backend> = service
        .families()
        .flat_map(|family| plan::members(&state.config, service, plan::pool(service, family)))
        .map(|member| backend(state, &member, measured, now))
        .collect();
    let modes = plan::families(service)
        .filter_map(|(_, pool)| Some((pool.family, state.planner.modes().get(&pool)?)));
    let unusual = modes.filter(|(_, mode)| **mode != Mode::Ordinary);
    let pools = plan::families(service).map(|(_, pool)| state.planner.numbers().pool(&pool));
    let packets = pools.filter_map(|pool| measured.reasons.get(&pool));
    let packets = packets.fold(vec![0; Reason::COUNT], |all, of_pool| sum(&all, of_pool));
    status::Service {
        name: service.name.to_string(),
        dns_name: service.dns_name.as_ref().map(ToString::to_string),
        protocol: service.protocol,
        port: service.port,
        addresses: service.addresses.clone(),
        forward: service.forward,
        flows: backends.iter().map(|backend| backend.flows).sum(),
        packets: Reason::ALL.iter().map(|reason| reason.label().to_owned()).zip(packets).collect(),
        unusual: unusual.map(|(family, mode)| (family.to_string(), mode.to_string())).collect(),
        backends,
    }
}

fn backend(state: &State, member: &Member<'_>, measured: &Measured, now: Instant) -> status::Backend {
    let Member { backend, id, address, lent } = member;
    let number = state.planner.numbers().backend(id);
    let counters = measured.counters.get(&number).copied().unwrap_or_default();
    let next_hop = state.next_hops.get(address).copied().flatten();
    // What its own service knows of it.
    let known = lent.as_ref().unwrap_or(id);
    let checked = state.backends.get(known);
    let set = state.administration.counts(known, checked);
    status::Backend {
        name: id.backend.to_string(),
        family: id.pool.family,
        address: *address,
        port: backend.port,
        admin: set.state,
        drain_left_s: set.left(unix_seconds()),
        health: checked.and_then(Checked::health).into(),
        since_ms: since(checked, state.started, now),
        forced_health: set.health,
        last_check: checked.and_then(|checked| last_check(checked, now)),
        weight: set.weight(backend.weight),
        configured_weight: backend.weight,
        slow_start: state
            .planner
            .slow_starts()
            .of(known)
            .map(|start| status::SlowStart { share: start.share(), left_ms: millis(start.left(now)) }),
        silence: measured.silences.get(&number).copied(),
        backup: backend.backup,
        fallback: lent.is_some(),
        slots: measured.slots.get(&number).copied().unwrap_or(0),
        next_hop: next_hop.map(|hop| shown(&hop, &measured.names)),
        flows: measured.flows.by_backend.get(&number).copied().unwrap_or(0),
        flows_begun: measured.begun.get(&number).copied().unwrap_or(0),
        packets: counters.packets,
        bytes: counters.bytes,
    }
}

fn shown(hop: &NextHop, names: &BTreeMap<u32, String>) -> status::NextHop {
    let name = names.get(&hop.interface_index).cloned();
    status::NextHop {
        interface: name.unwrap_or_else(|| format!("interface {}", hop.interface_index)),
        mac: hop.destination_mac.map(|byte| format!("{byte:02x}")).join(":"),
        gateway: hop.gateway,
    }
}

/// For how long a state has been so; one that was never measured, since the daemon started.
fn since(checked: Option<&Checked>, started: Instant, now: Instant) -> u64 {
    let since = checked.and_then(Checked::seen).map_or(started, |seen| seen.since);
    millis(now.duration_since(since))
}

fn last_check(checked: &Checked, now: Instant) -> Option<LastCheck> {
    checked.last().map(|(result, at)| LastCheck::new(result, now.duration_since(at)))
}

fn peer_pools(state: &State, peer: &config::Peer, now: Instant) -> Vec<status::PeerPool> {
    let of_peer = state.peers.iter().filter(|(id, ..)| id.peer == peer.name);
    let checked_at = |address: &IpAddr| {
        let found = peer.addresses.iter().find(|have| have.address == *address);
        found.map_or(*address, |have| have.check_address)
    };
    of_peer
        .map(|(PeerId { address, pool, .. }, _, checked)| status::PeerPool {
            service: pool.service.to_string(),
            family: pool.family,
            address: checked_at(address),
            state: checked.health().into(),
            since_ms: since(Some(checked), state.started, now),
            last_check: last_check(checked, now),
        })
        .collect()
}

fn dns(state: &State, now: Instant) -> Option<status::Dns> {
    let dns = state.config.dns.as_ref()?;
    let queries = state.dns_counters.as_ref().map(|counters| counters.values());
    let names = state.publication.names.iter().map(|(name, view)| status::DnsName {
        name: name.to_string(),
        require: view.require,
        policy_in_force: view.policy_in_force,
        ttl_s: state.publication.ttl(dns, name).as_secs(),
        in_doubt: state
            .publication
            .in_doubt
            .get(name)
            .into_iter()
            .flatten()
            .map(ToString::to_string)
            .collect(),
        addresses: view
            .addresses
            .iter()
            .map(|entry| status::DnsAddress {
                node: entry.node.to_string(),
                family: entry.family,
                address: entry.address,
                published: entry.published,
                since_ms: state
                    .shown
                    .get(&(name.clone(), entry.address))
                    .map_or(0, |(_, since)| millis(now.saturating_duration_since(*since))),
                why: entry.why.to_string(),
            })
            .collect(),
    });
    Some(status::Dns {
        zone: dns.zone.to_string(),
        serial: state.zone()?.borrow().soa().serial,
        queries: queries.map_or(0, |values| values.udp + values.tcp),
        names: names.collect(),
        publishers: state.publishers.iter().map(|publisher| published(publisher, now)).collect(),
        ttl_s: dns.ttl.as_secs(),
        servers: servers(&state.config, dns),
        sights: sights(state),
    })
}

fn servers(config: &config::Config, dns: &config::Dns) -> Vec<status::DnsServer> {
    let own = dns.listen.iter().map(|&address| (&config.node.name, address));
    let peers = config.peers.iter().flat_map(|peer| {
        peer.addresses
            .iter()
            .map(move |have| (&peer.name, SocketAddr::new(have.check_address, peer.dns_port)))
    });
    let server = |(node, address): (&Arc<str>, _)| status::DnsServer { node: node.to_string(), address };
    own.chain(peers).map(server).collect()
}

fn sights(state: &State) -> Vec<status::Sighting> {
    let config = &state.config;
    let own = state.peers.sights().into_iter().map(|(at, sight)| (config.node.name.clone(), at, sight));
    let words =
        config.peers.iter().filter_map(|peer| Some((peer.name.clone(), state.peers.word(&peer.name)?)));
    let said = words.flat_map(|(by, word)| {
        word.sees.iter().map(move |(at, sight)| (by.clone(), at.clone(), *sight)).collect::<Vec<_>>()
    });
    let nodes = std::iter::once((&config.node.name, &config.node.addresses));
    let nodes: Vec<_> = nodes.chain(config.peers.iter().map(|peer| (&peer.name, &peer.addresses))).collect();
    let publish = |(node, address): &PeerAddress| {
        let found =
            nodes.iter().filter(|(name, _)| *name == node).flat_map(|(_, addresses)| addresses.iter());
        found.clone().find(|have| have.address == *address).map_or(*address, |have| have.publish)
    };
    own.chain(said)
        .map(|(by, at, sight)| status::Sighting {
            by: by.to_string(),
            node: at.0.to_string(),
            address: publish(&at),
            sight: sight.to_string(),
        })
        .collect()
}

fn published(publisher: &Publisher, now: Instant) -> status::Publisher {
    let progress = publisher.progress();
    let address = |((name, node, address), standing): (_, Standing)| {
        let (name, node): (Arc<str>, Arc<str>) = (name, node);
        status::PublishedAddress {
            name: name.to_string(),
            node: node.to_string(),
            address,
            state: standing.state.to_string(),
            lease_age_ms: standing.lease_age.map(millis),
        }
    };
    let publish = publisher.publish();
    status::Publisher {
        zone: publish.zone.to_string(),
        primary: progress.primary.unwrap_or(publish.primaries[0]),
        read_ago_ms: progress.read.map(|at| millis(now.saturating_duration_since(at))),
        failing: progress.failing.map(|Failing { since, kind, why, again }| status::Failing {
            since_ms: millis(now.saturating_duration_since(since)),
            kind: kind.to_owned(),
            why,
            again_in_ms: millis(again.saturating_duration_since(now)),
        }),
        addresses: progress.addresses.into_iter().map(address).collect(),
        troubles: progress.troubles.iter().map(ToString::to_string).collect(),
        last_change: progress.last_change.map(|(at, what, not_made)| status::LastChange {
            ago_ms: millis(now.saturating_duration_since(at)),
            what,
            not_made,
        }),
    }
}

/// What the program in the kernel would do with a flow.
pub(super) fn explain(state: &mut State, query: &ExplainQuery) -> anyhow::Result<Explanation> {
    let ExplainQuery { from, to, protocol } = *query;
    let trace = state.dataplane.explain(&Query { from, to, protocol })?;
    let numbers = state.planner.numbers();
    let reason = Reason::from_number(trace.reason)
        .ok_or_else(|| anyhow::anyhow!("the program gave the unknown reason {}", trace.reason))?;
    let backend = numbers.backend_of(trace.backend).and_then(|id| {
        let service = state.config.services.iter().find(|service| service.name == id.pool.service)?;
        let mut members = plan::members(&state.config, service, id.pool.clone());
        let Member { backend, address, .. } = members.find(|member| member.id == *id)?;
        Some(ChosenBackend { name: id.backend.to_string(), address, port: backend.port })
    });
    let forwarded = reason.fate() == Fate::Forward;
    let next_hop = backend
        .as_ref()
        .filter(|_| forwarded)
        .and_then(|backend| state.next_hops.get(&backend.address).copied().flatten());
    Ok(Explanation {
        service: numbers.pool_of(trace.service).map(|pool| pool.service.to_string()),
        slot: (trace.slot != Trace::NO_SLOT).then_some(trace.slot),
        flow: match (trace.service, trace.known) {
            (0, _) => FlowState::None,
            (_, 0) => FlowState::New,
            _ => FlowState::Known,
        },
        backend,
        next_hop: next_hop.map(|hop| shown(&hop, &interface_names())),
        verdict: match reason.fate() {
            Fate::Pass | Fate::Odd | Fate::Icmp => Verdict::Pass,
            Fate::Forward => Verdict::Forward,
            Fate::Drop | Fate::Refuse | Fate::TooBig | Fate::Expired => Verdict::Drop,
        },
        reason: reason.label().to_owned(),
    })
}
