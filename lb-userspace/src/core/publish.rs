//! Which addresses each DNS name shows, and why.
//!
//! One function, [`publication`], decides it. Status, the log and the zone are made from its result and
//! decide nothing themselves.
//!
//! - A name may belong to several services (`http` and `https`, say). A node's address is published only
//!   while the node serves **all** services of the name that exist in that address's family.
//! - IPv4 and IPv6 are judged apart: a node without an IPv6 backend keeps its A record.
//! - When no node is known to serve the name in either family, `all_down` decides for the whole name. So
//!   "the last address" is the last of both families together.
//! - A peer is published once it was seen to serve, not before. [`Publication::settled`] tells when
//!   everything has been judged; the first DNS answer should wait for it (with a limit).

use std::{
    collections::{BTreeMap, btree_map::Entry as Slot},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use crate::{
    config::{AllDown, Config, NodeAddress, Service},
    core::{
        health::Health,
        ids::{Family, PoolId},
        peers::{PeerId, PeerState},
    },
};

/// Whether this node can serve a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelfState {
    /// It can.
    Serves,
    /// No check has finished yet.
    NotChecked,
    /// No backend is up, or none that is up has a weight.
    NoBackend,
    /// The program is not attached to an interface, so packets would not be taken.
    NotAttached,
    /// An administrator wants it out of DNS.
    Drained,
    /// The daemon is about to stop serving.
    Stopping,
}

impl SelfState {
    /// What a pool's backends allow, from each one's weight and health. One without weight takes no flows,
    /// so its health does not matter.
    pub fn of_backends(backends: impl IntoIterator<Item = (u16, Option<Health>)>) -> SelfState {
        let healths = backends.into_iter().filter(|&(weight, _)| weight > 0).map(|(_, health)| health);
        healths.fold(SelfState::NoBackend, |state, health| match (state, health) {
            (SelfState::Serves, _) | (_, Some(Health::Up)) => SelfState::Serves,
            (_, None) => SelfState::NotChecked,
            (state, Some(Health::Down)) => state,
        })
    }
}

impl fmt::Display for SelfState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SelfState::Serves => "serves",
            SelfState::NotChecked => "not checked yet",
            SelfState::NoBackend => "no backend with a weight is up",
            SelfState::NotAttached => "XDP is not attached",
            SelfState::Drained => "drained",
            SelfState::Stopping => "stopping",
        })
    }
}

/// What this node knows of every peer; what is absent is [`PeerState::Unknown`].
pub type PeerStates = BTreeMap<PeerId, PeerState>;

/// Why an address is published, or the first pool that keeps it from being so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The node serves all of the name's services in this family.
    Serves,
    /// This node cannot serve the pool.
    Own(PoolId, SelfState),
    /// The peer cannot, or is not known to, serve the pool.
    Peer(PoolId, PeerState),
}

impl Why {
    /// Whether the address deserves to be published; `all_down` may publish it all the same.
    pub fn serves(&self) -> bool {
        *self == Why::Serves
    }

    fn judged(&self) -> bool {
        !matches!(self, Why::Own(_, SelfState::NotChecked) | Why::Peer(_, PeerState::Unknown))
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Serves => f.write_str("serves"),
            Why::Own(pool, state) => write!(f, "{pool}: {state}"),
            Why::Peer(pool, state) => write!(f, "{pool}: {state}"),
        }
    }
}

/// One address that a name can show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The node that has the address.
    pub node: Arc<str>,
    /// What DNS names (the configuration's `publish`).
    pub address: IpAddr,
    /// The address's family.
    pub family: Family,
    /// Whether answers contain it.
    pub published: bool,
    /// The reason.
    pub why: Why,
}

/// What one DNS name shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NameView {
    /// This node's addresses, then the peers' in the file's order.
    pub addresses: Vec<Entry>,
    /// Set while no node can serve the name: the policy that then decides what is published.
    pub policy_in_force: Option<AllDown>,
}

/// What this node's DNS shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Publication {
    /// The services' names: absolute, lower case, without the final dot.
    pub names: BTreeMap<Arc<str>, NameView>,
    /// Every pool of this node, also those without a DNS name; peers ask for it.
    pub own: BTreeMap<PoolId, SelfState>,
}

impl Publication {
    /// Whether every pool of this node and every peer has been judged at least once.
    pub fn settled(&self) -> bool {
        self.names.values().flat_map(|view| &view.addresses).all(|entry| entry.why.judged())
            && !self.own.values().any(|&state| state == SelfState::NotChecked)
    }

    /// What happened between `self` and `new`, in the order of names and addresses; one log line each.
    pub fn transitions(&self, new: &Publication) -> Vec<Transition> {
        let mut names: Vec<&Arc<str>> = self.names.keys().chain(new.names.keys()).collect();
        names.sort();
        names.dedup();
        let gone = NameView::default();
        names
            .into_iter()
            .flat_map(|name| {
                let old_view = self.names.get(name).unwrap_or(&gone);
                let new_view = new.names.get(name).unwrap_or(&gone);
                name_transitions(name, old_view, new_view)
            })
            .collect()
    }
}

/// Decides what every name shows. What is absent from `own` and `peers` has not been judged yet.
pub fn publication(config: &Config, own: &BTreeMap<PoolId, SelfState>, peers: &PeerStates) -> Publication {
    let own: BTreeMap<PoolId, SelfState> = config
        .services
        .iter()
        .flat_map(|service| service.families().map(|family| pool(service, family)))
        .map(|pool| {
            let state = own.get(&pool).copied().unwrap_or(SelfState::NotChecked);
            (pool, state)
        })
        .collect();
    let names = match &config.dns {
        Some(dns) => services_by_name(config)
            .into_iter()
            .map(|(name, services)| (name, view(config, &services, dns.all_down, &own, peers)))
            .collect(),
        None => BTreeMap::new(),
    };
    Publication { names, own }
}

fn services_by_name(config: &Config) -> BTreeMap<Arc<str>, Vec<&Service>> {
    let mut names: BTreeMap<Arc<str>, Vec<&Service>> = BTreeMap::new();
    for service in &config.services {
        if let Some(name) = &service.dns_name {
            names.entry(Arc::clone(name)).or_default().push(service);
        }
    }
    names
}

fn view(
    config: &Config,
    services: &[&Service],
    all_down: AllDown,
    own: &BTreeMap<PoolId, SelfState>,
    peers: &PeerStates,
) -> NameView {
    let mut addresses = own_entries(config, services, own);
    addresses.extend(peer_entries(config, services, peers));
    if addresses.iter().any(|entry| entry.published) {
        return NameView { addresses, policy_in_force: None };
    }
    for entry in &mut addresses {
        entry.published = all_down == AllDown::All;
    }
    NameView { addresses, policy_in_force: Some(all_down) }
}

/// This node's addresses: those on which every service of the name (in that family) is offered.
fn own_entries(config: &Config, services: &[&Service], own: &BTreeMap<PoolId, SelfState>) -> Vec<Entry> {
    let judge = |_, pool: PoolId| match own.get(&pool).copied().unwrap_or(SelfState::NotChecked) {
        SelfState::Serves => Why::Serves,
        state => Why::Own(pool, state),
    };
    let offered = |address: &NodeAddress| {
        in_family(services, Family::of(address.address))
            .all(|service| service.addresses.contains(&address.address))
    };
    let addresses = config.node.addresses.iter().copied().filter(offered);
    entries(&config.node.name, addresses, services, judge)
}

/// The peers' addresses: on which of them a service is offered shows only in what the probes find there.
fn peer_entries(config: &Config, services: &[&Service], peers: &PeerStates) -> Vec<Entry> {
    let judge = |peer: &Arc<str>, address: IpAddr, pool: PoolId| {
        let id = PeerId { peer: Arc::clone(peer), address, pool };
        match peers.get(&id).copied().unwrap_or(PeerState::Unknown) {
            PeerState::Serves => Why::Serves,
            state => Why::Peer(id.pool, state),
        }
    };
    config
        .peers
        .iter()
        .flat_map(|peer| {
            let addresses = peer.addresses.iter().copied();
            entries(&peer.name, addresses, services, |address, pool| judge(&peer.name, address, pool))
        })
        .collect()
}

/// The entries of one node, in families that the name has.
fn entries(
    node: &Arc<str>,
    addresses: impl Iterator<Item = NodeAddress>,
    services: &[&Service],
    judge: impl Fn(IpAddr, PoolId) -> Why,
) -> Vec<Entry> {
    addresses
        .filter_map(|address| {
            let family = Family::of(address.address);
            let mut verdicts = in_family(services, family)
                .map(|service| judge(address.address, pool(service, family)))
                .peekable();
            verdicts.peek()?;
            let why = verdicts.find(|why| !why.serves()).unwrap_or(Why::Serves);
            Some(Entry {
                node: Arc::clone(node),
                address: address.publish,
                family,
                published: why.serves(),
                why,
            })
        })
        .collect()
}

fn in_family<'a>(services: &'a [&'a Service], family: Family) -> impl Iterator<Item = &'a Service> {
    services.iter().copied().filter(move |service| service.families().any(|have| have == family))
}

fn pool(service: &Service, family: Family) -> PoolId {
    PoolId { service: Arc::clone(&service.name), family }
}

/// One change in what DNS shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The DNS name.
    pub name: Arc<str>,
    /// What happened to it.
    pub change: Change,
}

/// What happened to a name or to one of its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Answers contain the address from now on.
    Published(Entry),
    /// Answers contain the address no longer.
    Withdrawn(Entry),
    /// A new address that answers do not contain.
    Withheld(Entry),
    /// A published address left the configuration.
    Removed(Entry),
    /// No node can serve the name; the policy decides.
    PolicyBegan(AllDown),
    /// A node can serve the name again.
    PolicyEnded,
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        let (verb, entry) = match &self.change {
            Change::Published(entry) => ("published", entry),
            Change::Withdrawn(entry) => ("withdrawn", entry),
            Change::Withheld(entry) => ("not published", entry),
            Change::Removed(entry) => {
                return write!(f, "{} of {} left the configuration", entry.address, entry.node);
            }
            Change::PolicyBegan(AllDown::All) => {
                return f.write_str("no node can serve; all_down = \"all\": answering with every address");
            }
            Change::PolicyBegan(AllDown::None) => {
                return f.write_str("no node can serve; all_down = \"none\": answering with no address");
            }
            Change::PolicyEnded => return f.write_str("a node can serve again; all_down no longer applies"),
        };
        write!(f, "{} of {} {verb} ({})", entry.address, entry.node, entry.why)
    }
}

fn name_transitions(name: &Arc<str>, old: &NameView, new: &NameView) -> Vec<Transition> {
    let mut changes = Vec::new();
    if old.policy_in_force != new.policy_in_force {
        match new.policy_in_force {
            Some(policy) => changes.push(Change::PolicyBegan(policy)),
            None if !new.addresses.is_empty() => changes.push(Change::PolicyEnded),
            None => {}
        }
    }
    let mut before: BTreeMap<(&str, IpAddr), &Entry> = BTreeMap::new();
    for entry in &old.addresses {
        before.insert((&entry.node, entry.address), entry);
    }
    for entry in &new.addresses {
        let change = match before.entry((&entry.node, entry.address)) {
            Slot::Vacant(_) if entry.published => Change::Published(entry.clone()),
            Slot::Vacant(_) => Change::Withheld(entry.clone()),
            Slot::Occupied(slot) => match (slot.remove().published, entry.published) {
                (false, true) => Change::Published(entry.clone()),
                (true, false) => Change::Withdrawn(entry.clone()),
                (true, true) | (false, false) => continue,
            },
        };
        changes.push(change);
    }
    let removed = before.into_values().filter(|entry| entry.published).cloned().map(Change::Removed);
    changes.extend(removed);
    changes.into_iter().map(|change| Transition { name: Arc::clone(name), change }).collect()
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
