//! Which addresses each DNS name shows, and why.
//!
//! One function, [`publication`], decides it. Status, the log and the zone are made from its result and
//! decide nothing themselves.
//!
//! - A name may belong to several services (`http` and `https`, say). A node's address is published only
//!   while the node serves **all** services of the name that exist in that address's family, or with
//!   `require = "any"` at least one of them: [`Name::judge`].
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
    time::Duration,
};

use crate::{
    config::{AllDown, Config, Dns, NodeAddress, Peer, Require, Service},
    core::{
        health::Health,
        ids::{Family, PoolId},
        peers::{PeerId, PeerState},
        policy::Member,
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
    /// So few are up that clients are better off elsewhere.
    TooFew {
        /// Backends that are up.
        up: usize,
        /// Backends with a weight.
        of: usize,
    },
    /// The program is not attached to an interface, so packets would not be taken.
    NotAttached,
    /// An administrator wants it out of DNS.
    Drained,
    /// The daemon is about to stop serving.
    Stopping,
}

impl SelfState {
    /// What a pool's backends allow. One without weight takes no flows, so its health does not matter. `withdraw_below` is a
    /// share in percent of those that are no backups, once all of them have been checked; backups that stand in for them
    /// are enough.
    pub fn of_members(members: &[Member], withdraw_below: u8) -> SelfState {
        let able = || members.iter().filter(|member| member.standing.weight > 0);
        let state =
            able().fold(SelfState::NoBackend, |state, member| match (state, member.standing.health) {
                (SelfState::Serves, _) | (_, Some(Health::Up)) => SelfState::Serves,
                (_, None) => SelfState::NotChecked,
                (state, Some(Health::Down)) => state,
            });
        let primaries = || able().filter(|member| !member.is_backup);
        let up = primaries().filter(|member| member.standing.is_up()).count();
        let of = primaries().count();
        let is_judged = up > 0 && primaries().all(|member| member.standing.health.is_some());
        if is_judged && up * 100 < of * usize::from(withdraw_below) {
            return SelfState::TooFew { up, of };
        }
        state
    }
}

impl fmt::Display for SelfState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SelfState::TooFew { up, of } => return write!(f, "only {up} of {of} backends are up"),
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
    /// The node serves what the name requires of its services in this family.
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

    /// Whether the peer itself says so.
    pub fn says_no(&self) -> bool {
        matches!(self, Why::Peer(_, PeerState::SaysNo))
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

/// An address that seems to come or to go, as it would be then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt(Entry);

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Entry { node, address, why, .. } = &self.0;
        match why.serves() {
            true => write!(f, "{address} of {node} seems to serve soon"),
            false => write!(f, "{address} of {node} seems to stop serving ({why})"),
        }
    }
}

/// What one DNS name shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NameView {
    /// This node's addresses, then the peers' in the file's order.
    pub addresses: Vec<Entry>,
    /// Set while no node can serve the name: the policy that then decides what is published.
    pub policy_in_force: Option<AllDown>,
    /// How many of the name's services a node must serve.
    pub require: Require,
}

/// What this node's DNS shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Publication {
    /// The services' names: absolute, lower case, without the final dot.
    pub names: BTreeMap<Arc<str>, NameView>,
    /// Every pool of this node, also those without a DNS name; peers ask for it.
    pub own: BTreeMap<PoolId, SelfState>,
    /// Names that will soon show something else, as it seems, and what of each: their answers should not be kept for long.
    pub in_doubt: BTreeMap<Arc<str>, Vec<Doubt>>,
}

impl Publication {
    /// The same, while `expected` would come of what checks have begun to find and what is about to end.
    #[must_use]
    pub fn expecting(self, expected: &Publication) -> Publication {
        let doubts = |(name, view): (&Arc<str>, &NameView)| {
            let soon = &expected.names.get(name)?.addresses;
            // Both were decided for one configuration.
            let both = view.addresses.iter().zip(soon);
            let differ = both.filter(|(now, soon)| now.why.serves() != soon.why.serves());
            let doubts: Vec<Doubt> = differ.map(|(_, soon)| Doubt(soon.clone())).collect();
            (!doubts.is_empty()).then(|| (name.clone(), doubts))
        };
        let in_doubt = self.names.iter().filter_map(doubts).collect();
        Publication { in_doubt, ..self }
    }

    /// For how long a name's answers may be kept.
    pub fn ttl(&self, dns: &Dns, name: &str) -> Duration {
        if self.in_doubt.contains_key(name) { dns.ttl_in_doubt } else { dns.ttl }
    }

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
        Some(dns) => names(config)
            .into_iter()
            .map(|(label, name)| (label, view(config, &name, dns.all_down, &own, peers)))
            .collect(),
        None => BTreeMap::new(),
    };
    Publication { names, own, in_doubt: BTreeMap::new() }
}

/// A DNS name: its services, and how many of them it requires.
struct Name<'a> {
    services: Vec<&'a Service>,
    require: Require,
}

impl<'a> Name<'a> {
    fn in_family(&self, family: Family) -> impl Iterator<Item = &'a Service> {
        self.services.iter().copied().filter(move |service| service.families().any(|have| have == family))
    }

    /// Whether a node can serve the name at an address, by what is known of each service there: `None` of one that is not
    /// offered. `None` for an address that is not for the name.
    fn judge(&self, services: impl Iterator<Item = Option<Why>>) -> Option<Why> {
        let services: Vec<Option<Why>> = services.collect();
        let offered: Vec<&Why> = services.iter().flatten().collect();
        let is_enough = self.require == Require::Any || offered.len() == services.len();
        if offered.is_empty() || !is_enough {
            return None;
        }
        let first = |is_it: fn(&Why) -> bool| offered.iter().copied().find(|why| is_it(why));
        let why = match self.require {
            // A peer's own word tells more than what this node found.
            Require::All => first(Why::says_no).or(first(|why| !why.serves())),
            // What nobody knows yet may still be what serves; and a peer says no only if it does so of each.
            Require::Any => first(Why::serves)
                .or(first(|why| !why.judged()))
                .or(first(|why| !why.says_no()))
                .or(offered.first().copied()),
        };
        Some(why.cloned().unwrap_or(Why::Serves))
    }
}

fn names(config: &Config) -> BTreeMap<Arc<str>, Name<'_>> {
    let mut names: BTreeMap<Arc<str>, Name<'_>> = BTreeMap::new();
    for service in &config.services {
        if let Some(label) = &service.dns_name {
            let new = || Name { services: Vec::new(), require: service.require };
            names.entry(Arc::clone(label)).or_insert_with(new).services.push(service);
        }
    }
    names
}

fn view(
    config: &Config,
    name: &Name<'_>,
    all_down: AllDown,
    own: &BTreeMap<PoolId, SelfState>,
    peers: &PeerStates,
) -> NameView {
    let require = name.require;
    let mut addresses = own_entries(config, name, own);
    addresses.extend(peer_entries(config, name, peers));
    if addresses.iter().any(|entry| entry.published) {
        return NameView { addresses, policy_in_force: None, require };
    }
    for entry in &mut addresses {
        entry.published = all_down == AllDown::All;
    }
    NameView { addresses, policy_in_force: Some(all_down), require }
}

/// This node's addresses, each judged by the services that are offered on it.
fn own_entries(config: &Config, name: &Name<'_>, own: &BTreeMap<PoolId, SelfState>) -> Vec<Entry> {
    let judge = |address: IpAddr, service: &Service| {
        let pool = pool(service, Family::of(address));
        service.addresses.contains(&address).then(|| match own.get(&pool).copied() {
            Some(SelfState::Serves) => Why::Serves,
            state => Why::Own(pool, state.unwrap_or(SelfState::NotChecked)),
        })
    };
    entries(&config.node.name, &config.node.addresses, name, judge)
}

/// The peers' addresses: on which of them a service is offered shows only in what the probes find there.
fn peer_entries(config: &Config, name: &Name<'_>, peers: &PeerStates) -> Vec<Entry> {
    let judge = |peer: &Arc<str>, address: IpAddr, service: &Service| {
        let pool = pool(service, Family::of(address));
        let id = PeerId { peer: Arc::clone(peer), address, pool };
        match peers.get(&id).copied().unwrap_or(PeerState::Unknown) {
            PeerState::Serves => Why::Serves,
            state => Why::Peer(id.pool, state),
        }
    };
    let of_peer = |peer: &Peer| {
        entries(&peer.name, &peer.addresses, name, |address, service| {
            Some(judge(&peer.name, address, service))
        })
    };
    config.peers.iter().flat_map(of_peer).collect()
}

/// The entries of one node, in families that the name has. `judge` says what is known of a service on an address, and `None`
/// where it is not offered.
fn entries(
    node: &Arc<str>,
    addresses: &[NodeAddress],
    name: &Name<'_>,
    judge: impl Fn(IpAddr, &Service) -> Option<Why>,
) -> Vec<Entry> {
    addresses
        .iter()
        .filter_map(|address| {
            let family = Family::of(address.address);
            let why = name.judge(name.in_family(family).map(|service| judge(address.address, service)))?;
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
