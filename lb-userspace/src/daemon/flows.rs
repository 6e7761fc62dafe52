//! The flow table and the NAT records as `usher flows` shows them.
//!
//! The loop resolves names to numbers ([`Search::new`]); the tables, which may be gigabytes, are read beside
//! it ([`Search::run`]).

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use lb_common::{
    Address, Entry, FlowHash, State as EntryState,
    flow::{self, IdleLimits, TICK_SHIFT},
};

use super::state::State;
use crate::{
    api::Refusal,
    config::{Config, Forward, Protocol, Service},
    core::{
        ids::{BackendId, Family},
        plan,
    },
    dataplane::{DataplaneError, NatFlow, SharedTables},
    flows::{Clients, Counts, Flow, Flows, FlowsQuery, MOST_FLOWS, Stage},
};

/// A question, and all that is needed to answer it beside the loop.
pub(super) struct Search {
    tables: Arc<SharedTables>,
    /// The data path's tick.
    now: u16,
    limits: IdleLimits,
    /// The backends that are meant, by number.
    backends: BTreeMap<u16, Found>,
    clients: Option<Clients>,
    /// Where one client's flows are in the flow table.
    places: Vec<Place>,
    stage: Option<Stage>,
    limit: usize,
    config: Arc<Config>,
}

/// What the kernel said, as the answer to a question.
pub(super) fn failed(error: DataplaneError) -> Refusal {
    Refusal::Failed(format!("{:#}", anyhow::Error::from(error)))
}

/// A backend as rows name it.
struct Found {
    id: BackendId,
    protocol: Protocol,
    forward: Forward,
}

/// Where the flow table keeps a flow of a client's port.
struct Place {
    hash: FlowHash,
    tag: u32,
    client: SocketAddr,
    vip: SocketAddr,
}

impl Search {
    /// # Errors
    /// When the question names a service or backend that is not there, or the kernel refuses to run the clock.
    pub(super) fn new(state: &State, query: &FlowsQuery) -> Result<Search, Refusal> {
        let services = super::names::services(&state.config, query.service.as_deref())?;
        super::names::check_member(&state.config, &services, query.backend.as_deref())?;
        let numbers = state.planner.numbers();
        let pools = services.iter().flat_map(|&service| plan::families(service));
        let ids = pools.flat_map(|(service, pool)| {
            plan::members(&state.config, service, pool).map(move |member| (service, member.id))
        });
        let wanted = ids.filter(|(_, id)| query.backend.as_deref().is_none_or(|name| *id.backend == *name));
        let backends = wanted.map(|(service, id)| {
            let found = Found { protocol: service.protocol, forward: service.forward, id };
            (numbers.backend(&found.id), found)
        });
        let places = match query.client {
            Some(Clients::One(client)) => {
                services.iter().flat_map(|service| places(state, service, client)).collect()
            }
            _ => Vec::new(),
        };
        let now = state.dataplane.tick().map_err(failed)?;
        Ok(Search {
            tables: state.dataplane.shared_tables(),
            now,
            limits: plan::idle_limits(&state.config),
            backends: backends.collect(),
            clients: query.client,
            places,
            stage: query.state,
            limit: query.limit.min(MOST_FLOWS) as usize,
            config: state.config.clone(),
        })
    }

    /// Reads the tables.
    ///
    /// # Errors
    /// When the kernel refuses to run the program that reads them.
    pub(super) fn run(&self) -> Result<Flows, DataplaneError> {
        let now = self.now;
        let mut answer =
            Flows { flow_table: None, nat: Counts::default(), flows: Vec::new(), truncated: false };
        self.tables.each_nat(&self.limits, |flow| {
            let client = socket(flow.client);
            if self.clients.is_some_and(|clients| !clients.contain(client)) {
                return;
            }
            let Some((stage, found)) = self.wants(flow.entry) else { return };
            answer.nat.add(stage);
            self.list(&mut answer, || self.under_nat(&flow, stage, found, now));
        })?;
        match self.clients {
            None => {
                let mut counts = Counts::default();
                self.tables.each_flow(&self.limits, |entry| {
                    self.take(&mut answer, &mut counts, entry, None, now);
                })?;
                answer.flow_table = Some(counts);
            }
            Some(Clients::One(_)) => {
                let mut counts = Counts::default();
                for place in &self.places {
                    if let Some(entry) = self.tables.flow(place.hash, place.tag, &self.limits)? {
                        self.take(&mut answer, &mut counts, entry, Some(place), now);
                    }
                }
                answer.flow_table = Some(counts);
            }
            Some(Clients::All(_)) => {}
        }
        Ok(answer)
    }

    /// Takes an entry of the flow table. Flows under NAT are listed by their records, which tell more.
    fn take(&self, answer: &mut Flows, counts: &mut Counts, entry: Entry, place: Option<&Place>, now: u16) {
        let Some((stage, found)) = self.wants(entry) else { return };
        counts.add(stage);
        if found.forward != Forward::Nat {
            let client = place.map(|place| (place.client, place.vip));
            self.list(answer, || row(entry, stage, found, client, None, now));
        }
    }

    /// The state and backend of an entry that is meant.
    fn wants(&self, entry: Entry) -> Option<(Stage, &Found)> {
        let stage = match entry.state() {
            EntryState::Empty => return None,
            EntryState::New => Stage::New,
            EntryState::Proven => Stage::Proven,
            EntryState::Closing => Stage::Closing,
        };
        if self.stage.is_some_and(|wanted| wanted != stage) {
            return None;
        }
        Some((stage, self.backends.get(&entry.backend())?))
    }

    fn list(&self, answer: &mut Flows, flow: impl FnOnce() -> Flow) {
        if answer.flows.len() < self.limit {
            answer.flows.push(flow());
        } else {
            answer.truncated = true;
        }
    }

    fn under_nat(&self, flow: &NatFlow, stage: Stage, found: &Found, now: u16) -> Flow {
        let ends = (socket(flow.client), socket(flow.vip));
        let port = plan::nat_port(&self.config, flow.group, flow.way);
        row(flow.entry, stage, found, Some(ends), Some(port), now)
    }
}

fn socket((address, port): (Address, u16)) -> SocketAddr {
    SocketAddr::new(IpAddr::from(address), port)
}

fn row(
    entry: Entry,
    stage: Stage,
    found: &Found,
    ends: Option<(SocketAddr, SocketAddr)>,
    nat_port: Option<u16>,
    now: u16,
) -> Flow {
    Flow {
        service: found.id.pool.service.to_string(),
        backend: found.id.backend.to_string(),
        family: found.id.pool.family,
        protocol: found.protocol,
        state: stage,
        idle_s: (u64::from(entry.idle(now)) << TICK_SHIFT) / 1_000_000_000,
        client: ends.map(|(client, _)| client),
        vip: ends.map(|(_, vip)| vip),
        nat_port,
    }
}

/// Where the flow table keeps a client's flows with a service: one place for each of its VIPs.
fn places(state: &State, service: &Service, client: SocketAddr) -> Vec<Place> {
    let family = Family::of(client.ip());
    let number = state.planner.numbers().pool(&plan::pool(service, family));
    let protocol = plan::protocol_number(service.protocol);
    let key = state.planner.hash_key();
    let hash = key.flow(&client.ip().into(), client.port(), service.port, protocol);
    let vips = service.addresses.iter().filter(|vip| Family::of(**vip) == family);
    let places = vips.map(|vip| Place {
        hash,
        tag: flow::tag(hash.identity, number, &Address::from(*vip)),
        client,
        vip: SocketAddr::new(*vip, service.port),
    });
    places.collect()
}
