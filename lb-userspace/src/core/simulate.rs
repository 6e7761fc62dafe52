//! What every node would publish if something were so: the decisions of all nodes, made here from one configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    config::{Config, Dns, Peer, Publish},
    core::{
        check::Code,
        exchange::{PeerWord, Sight},
        ids::{Family, PoolId},
        peers::{PeerAddress, PeerId, PeerState},
        plan::pools,
        publish::{PeerStates, Publication, SelfState, publication},
        shared::{InMemory, Others, SharedZone, State, situation},
    },
};

/// Something that is supposed to be so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Supposition {
    /// The node is dead.
    Down(Arc<str>),
    /// Two nodes do not reach each other.
    Cut(Arc<str>, Arc<str>),
    /// A service has no backend on a node, or on any.
    NoBackend(Arc<str>, Option<Arc<str>>),
    /// A node does not reach the primaries of shared zones.
    NoPrimary(Arc<str>),
}

/// What is no supposition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SuppositionError {
    /// None of the forms.
    #[error(
        "cannot read \"{0}\"; write \"NODE down\", \"NODE unreachable from NODE\", \"primary unreachable from NODE\", \
         \"SERVICE down\" or \"SERVICE down on NODE\""
    )]
    Form(String),
    /// There is no such node.
    #[error("there is no node \"{0}\"; there is {1}")]
    Node(String, String),
    /// There is no such service.
    #[error("there is no node or service \"{0}\"; nodes are {1}, services {2}")]
    Name(String, String, String),
}

impl Supposition {
    /// Reads one, as a person writes it.
    ///
    /// # Errors
    /// When it is of no known form, or names what the configuration does not.
    pub fn parse(text: &str, config: &Config) -> Result<Supposition, SuppositionError> {
        let nodes: Vec<Arc<str>> = config.node_names().cloned().collect();
        let services: Vec<Arc<str>> = config.services.iter().map(|service| service.name.clone()).collect();
        let list = |names: &[Arc<str>]| names.iter().map(|name| &**name).collect::<Vec<_>>().join(", ");
        let known = |all: &[Arc<str>], name: &str| all.iter().find(|known| ***known == *name).cloned();
        let node = |name: &str| {
            known(&nodes, name).ok_or_else(|| SuppositionError::Node(name.to_owned(), list(&nodes)))
        };
        match text.split_whitespace().collect::<Vec<_>>()[..] {
            ["primary", "unreachable", "from", of] => Ok(Supposition::NoPrimary(node(of)?)),
            [one, "unreachable", "from", other] => Ok(Supposition::Cut(node(one)?, node(other)?)),
            [service, "down", "on", of] => match known(&services, service) {
                Some(service) => Ok(Supposition::NoBackend(service, Some(node(of)?))),
                None => Err(SuppositionError::Name(service.to_owned(), list(&nodes), list(&services))),
            },
            [name, "down" | "unreachable"] => match (known(&nodes, name), known(&services, name)) {
                (Some(node), _) => Ok(Supposition::Down(node)),
                (None, Some(service)) => Ok(Supposition::NoBackend(service, None)),
                (None, None) => Err(SuppositionError::Name(name.to_owned(), list(&nodes), list(&services))),
            },
            _ => Err(SuppositionError::Form(text.to_owned())),
        }
    }
}

/// What DNS shows in the end, when all nodes have noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// What each node that lives answers.
    pub answers: Vec<(Arc<str>, Publication)>,
    /// What each shared zone holds.
    pub zones: Vec<ZoneOutlook>,
}

/// A shared zone in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneOutlook {
    /// Its name.
    pub zone: Arc<str>,
    /// By name, node and address: how it stands, as its own node says, or the others.
    pub addresses: BTreeMap<(Arc<str>, Arc<str>, IpAddr), State>,
}

/// Finds out what would be published.
pub fn simulate(config: &Config, suppositions: &[Supposition], now: Instant) -> Outlook {
    let world = World { config, suppositions: suppositions.iter().cloned().collect(), now };
    let living: Vec<_> = config.node_names().filter(|node| world.lives(node)).cloned().collect();
    let answers = living.iter().map(|node| (node.clone(), world.publication(node))).collect();
    let publish = config.dns.iter().flat_map(|dns| dns.publish.iter().map(move |publish| (dns, publish)));
    let zones = publish.map(|(dns, publish)| world.zone(dns, publish, &living)).collect();
    Outlook { answers, zones }
}

struct World<'a> {
    config: &'a Config,
    suppositions: BTreeSet<Supposition>,
    /// The beginning.
    now: Instant,
}

impl World<'_> {
    fn lives(&self, node: &Arc<str>) -> bool {
        !self.suppositions.contains(&Supposition::Down(node.clone()))
    }

    fn reach(&self, one: &Arc<str>, other: &Arc<str>) -> bool {
        let cut = |one: &Arc<str>, other: &Arc<str>| {
            self.suppositions.contains(&Supposition::Cut(one.clone(), other.clone()))
        };
        self.lives(one) && self.lives(other) && !cut(one, other) && !cut(other, one)
    }

    fn serves(&self, node: &Arc<str>, pool: &PoolId) -> bool {
        let none = |on| self.suppositions.contains(&Supposition::NoBackend(pool.service.clone(), on));
        !none(None) && !none(Some(node.clone()))
    }

    /// The configuration as another node has it: that one is the node, and this one a peer.
    fn config_of(&self, node: &Arc<str>) -> Config {
        let mut config = self.config.clone();
        let Some(at) = config.peers.iter().position(|peer| peer.name == *node) else { return config };
        let other = config.peers[at].clone();
        config.peers[at] = Peer {
            name: config.node.name.clone(),
            addresses: config.node.addresses.clone(),
            dns_port: config.dns.iter().flat_map(|dns| &dns.listen).map(|at| at.port()).next().unwrap_or(53),
        };
        let own: Vec<IpAddr> = other.addresses.iter().map(|have| have.address).collect();
        config.node.name = other.name;
        config.node.addresses = other.addresses;
        for service in &mut config.services {
            let families: BTreeSet<Family> =
                service.addresses.iter().map(|&address| Family::of(address)).collect();
            service.addresses =
                own.iter().copied().filter(|&address| families.contains(&Family::of(address))).collect();
        }
        config
    }

    fn publication(&self, node: &Arc<str>) -> Publication {
        let config = self.config_of(node);
        let own = pools(&config).map(|(_, pool)| {
            let state = if self.serves(node, &pool) { SelfState::Serves } else { SelfState::NoBackend };
            (pool, state)
        });
        let mut peers = PeerStates::new();
        for peer in &config.peers {
            for address in peer.addresses.iter().map(|have| have.address) {
                for (_, pool) in pools(&config) {
                    let state = match (self.reach(node, &peer.name), self.serves(&peer.name, &pool)) {
                        (false, _) => PeerState::Unreachable(Code::L4Tout),
                        (true, false) => PeerState::SaysNo,
                        (true, true) => PeerState::Serves,
                    };
                    peers.insert(PeerId { peer: peer.name.clone(), address, pool }, state);
                }
            }
        }
        publication(&config, &own.collect(), &peers)
    }

    /// What a node sees of the others' addresses.
    fn sights(&self, node: &Arc<str>) -> BTreeMap<PeerAddress, Sight> {
        let config = self.config_of(node);
        let sight = |peer: &Peer, address: IpAddr| {
            let mut there = pools(&config).filter(|(_, pool)| pool.family == Family::of(address));
            match self.reach(node, &peer.name) {
                false => Sight::Silent,
                true if there.any(|(_, pool)| !self.serves(&peer.name, &pool)) => Sight::Declines,
                true => Sight::Answers,
            }
        };
        let addresses =
            config.peers.iter().flat_map(|peer| peer.addresses.iter().map(move |have| (peer, have.address)));
        addresses.map(|(peer, address)| ((peer.name.clone(), address), sight(peer, address))).collect()
    }

    /// All nodes have published themselves, and then it is so.
    fn zone(&self, dns: &Dns, publish: &Publish, living: &[Arc<str>]) -> ZoneOutlook {
        let well = World { config: self.config, suppositions: BTreeSet::new(), now: self.now };
        let all: Vec<_> = self.config.node_names().cloned().collect();
        let settings = publish.settings(dns.ttl);
        let start = self.now;
        let mut primary = InMemory::default();
        let new = |(boot, node): (usize, &Arc<str>)| {
            (node.clone(), SharedZone::new(node.clone(), boot as u64, settings))
        };
        let mut zones: BTreeMap<Arc<str>, SharedZone> = all.iter().enumerate().map(new).collect();
        for node in &all {
            well.act(dns, publish, node, &mut zones, &mut primary, start);
        }
        // Longer than a lease, and than it takes the others to be sure.
        let step = publish.renew.max(Duration::from_secs(1));
        let reaches =
            |node: &&Arc<str>| !self.suppositions.contains(&Supposition::NoPrimary((*node).clone()));
        let writers: Vec<&Arc<str>> = living.iter().filter(reaches).collect();
        let steps = (publish.lease.as_secs_f64() / step.as_secs_f64()).ceil() as u32 + 2;
        for round in 1..=steps {
            for node in &writers {
                self.act(dns, publish, node, &mut zones, &mut primary, start + step * round);
            }
        }
        let mut addresses = BTreeMap::new();
        for (name, view) in &well.publication(&self.config.node.name).names {
            for entry in &view.addresses {
                let teller = writers.iter().find(|node| ***node == entry.node).or(writers.first());
                let state = teller.and_then(|node| zones.get(*node));
                let state = state.map_or(State::Absent, |zone| zone.state(name, &entry.node, entry.address));
                addresses.insert((name.clone(), entry.node.clone(), entry.address), state);
            }
        }
        addresses.retain(|(name, ..), _| crate::config::is_within(name, &publish.zone));
        ZoneOutlook { zone: publish.zone.clone(), addresses }
    }

    /// One node reads and writes until nothing is left to do.
    fn act(
        &self,
        dns: &Dns,
        publish: &Publish,
        node: &Arc<str>,
        zones: &mut BTreeMap<Arc<str>, SharedZone>,
        primary: &mut InMemory,
        now: Instant,
    ) {
        /// More than one node ever does at once.
        const MOST: usize = 64;
        let Some(zone) = zones.get_mut(node) else { return };
        let config = self.config_of(node);
        let sights = self.sights(node);
        let words = config.peers.iter().filter(|peer| self.reach(node, &peer.name)).map(|peer| {
            let word = PeerWord { sees: self.sights(&peer.name), ..PeerWord::default() };
            (peer.name.clone(), Arc::new(word))
        });
        let others = Others { sights: &sights, words: words.collect() };
        let wanted = situation(&config, dns, publish, &self.publication(node), &others);
        let names: Vec<Arc<str>> = wanted.names.keys().cloned().collect();
        let all: Vec<_> = self.config.node_names().cloned().collect();
        for _ in 0..MOST {
            zone.observe(&primary.contents(&names, &all), &all, now);
            let Some(planned) = zone.decide(&wanted, now, &mut Vec::new()) else { return };
            let outcome = primary.update(&planned.update);
            zone.note(&planned, outcome, now);
        }
    }
}

impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.answers.is_empty() {
            writeln!(f, "no node answers")?;
        }
        for (node, publication) in &self.answers {
            writeln!(f, "{node} answers")?;
            for (name, view) in &publication.names {
                let named = view.addresses.iter().filter(|entry| entry.published);
                let named: Vec<_> = named.map(|entry| entry.address.to_string()).collect();
                let named = if named.is_empty() { "no address".to_owned() } else { named.join(" ") };
                let policy = if view.policy_in_force.is_some() { "  (nobody serves: all_down)" } else { "" };
                writeln!(f, "  {name}: {named}{policy}")?;
                for entry in view.addresses.iter().filter(|entry| !entry.published) {
                    writeln!(f, "    without {} of {}: {}", entry.address, entry.node, entry.why)?;
                }
            }
        }
        for ZoneOutlook { zone, addresses } in &self.zones {
            writeln!(f, "shared zone {zone} holds")?;
            for ((name, node, address), state) in addresses {
                writeln!(f, "  {name}: {address} of {node}: {state}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{AllDown, Require},
        core::publish::fixture::{config as fixture, publish},
        core::shared::TwoNodes,
    };

    fn config() -> Config {
        let mut config = fixture(AllDown::All);
        config.services.truncate(1);
        config.services[0].addresses.truncate(1);
        config.dns.as_mut().unwrap().publish.push(publish());
        config
    }

    /// What node1 answers, and what the shared zone holds.
    fn outlook(config: &Config, texts: &[&str]) -> (String, String) {
        let suppositions: Vec<_> =
            texts.iter().map(|text| Supposition::parse(text, config).unwrap()).collect();
        let outlook = simulate(config, &suppositions, Instant::now());
        let last = |address: IpAddr| address.to_string().rsplit('.').next().unwrap().to_owned();
        let named = outlook.answers.iter().map(|(node, publication)| {
            let view = &publication.names["www.example.test"];
            let named = view.addresses.iter().filter(|entry| entry.published);
            let mut named: Vec<_> = named.map(|entry| last(entry.address)).collect();
            named.sort();
            format!("{node}: {}", named.join(" "))
        });
        let held = outlook.zones[0].addresses.iter().filter(|(_, state)| **state == State::Published);
        let held: Vec<_> = held.map(|((_, _, address), _)| last(*address)).collect();
        (named.collect::<Vec<_>>().join(", "), held.join(" "))
    }

    #[test]
    fn each_node_answers_what_it_sees_and_the_zone_holds_what_a_majority_leaves() {
        let three = config();
        for (texts, answers, zone) in [
            (&[] as &[&str], "node1: 11 12 13, node2: 11 12 13, node3: 11 12 13", "11 12 13"),
            (&["node2 down"], "node1: 11 13, node3: 11 13", "11 13"),
            (&["node2 unreachable from node1"], "node1: 11 13, node2: 12 13, node3: 11 12 13", "11 12 13"),
            (
                &["node2 unreachable from node1", "node2 unreachable from node3"],
                "node1: 11 13, node2: 12, node3: 11 13",
                "11 13",
            ),
            (&["web down on node3"], "node1: 11 12, node2: 11 12, node3: 11 12", "11 12"),
            (
                &["web down on node3", "primary unreachable from node3"],
                "node1: 11 12, node2: 11 12, node3: 11 12",
                "11 12",
            ),
            (&["web down"], "node1: 11 12 13, node2: 11 12 13, node3: 11 12 13", "11 12 13"),
            (&["node1 down", "node2 down"], "node3: 13", "11 12 13"),
        ] {
            assert_eq!(outlook(&three, texts), (answers.to_owned(), zone.to_owned()), "{texts:?}");
        }
    }

    #[test]
    fn a_name_that_requires_any_of_its_services_is_foretold_as_it_will_be() {
        let mut config = fixture(AllDown::All);
        config.services.truncate(2);
        config.services.iter_mut().for_each(|service| service.addresses.truncate(1));
        config.dns.as_mut().unwrap().publish.push(publish());
        let one: &[_] = &["web down on node3"];
        let both: &[_] = &["web down on node3", "tls down on node3"];
        let with = "node1: 11 12 13, node2: 11 12 13, node3: 11 12 13";
        let without = "node1: 11 12, node2: 11 12, node3: 11 12";
        for (require, texts, answers, zone) in [
            (Require::All, one, without, "11 12"),
            (Require::Any, one, with, "11 12 13"),
            (Require::Any, both, without, "11 12"),
        ] {
            config.services.iter_mut().for_each(|service| service.require = require);
            let found = outlook(&config, texts);
            assert_eq!(found, (answers.to_owned(), zone.to_owned()), "{require:?}, {texts:?}");
        }
    }

    #[test]
    fn of_two_nodes_one_is_removed_after_its_lease_unless_it_reaches_the_primary() {
        let mut two = config();
        two.peers.truncate(1);
        assert_eq!(outlook(&two, &["node2 down"]).1, "11");
        assert_eq!(outlook(&two, &["node2 unreachable from node1"]).1, "11 12", "both renew");
        let cut_off = &["node2 unreachable from node1", "primary unreachable from node2"];
        assert_eq!(outlook(&two, cut_off).1, "11");
        two.dns.as_mut().unwrap().publish[0].two_nodes = TwoNodes::Never;
        assert_eq!(outlook(&two, &["node2 down"]).1, "11 12");
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_what_there_is() {
        let refused = |text| Supposition::parse(text, &config()).unwrap_err().to_string();
        assert!(refused("node2 is tired").contains("write \"NODE down\""));
        assert!(refused("node9 unreachable from node1").contains("there is node1, node2, node3"));
        assert!(refused("wbe down").contains("services web"));
    }
}
