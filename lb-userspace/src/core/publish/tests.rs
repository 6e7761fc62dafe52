use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    fixture::{POOLS, all, config, ip, peer_states, pool, same},
    *,
};
use crate::core::{admin::Standing, check::Code};

const WWW: &str = "www.example.test";

fn peers(states: &[(&str, PeerState)]) -> PeerStates {
    let config = config(AllDown::All);
    states.iter().flat_map(|&(name, state)| peer_states(&config, name, &all(state))).collect()
}

fn everyone_serves() -> (BTreeMap<PoolId, SelfState>, PeerStates) {
    (all(SelfState::Serves), peers(&[("node2", PeerState::Serves), ("node3", PeerState::Serves)]))
}

/// The name's addresses as text, a withheld one in brackets.
fn shown(publication: &Publication, name: &str) -> Vec<String> {
    publication.names[name]
        .addresses
        .iter()
        .map(|entry| match entry.published {
            true => entry.address.to_string(),
            false => format!("({})", entry.address),
        })
        .collect()
}

fn lines(old: &Publication, new: &Publication) -> Vec<String> {
    old.transitions(new).iter().map(Transition::to_string).collect()
}

#[test]
fn all_nodes_that_serve_are_shown_by_their_published_address() {
    let (own, peers) = everyone_serves();
    let publication = publication(&config(AllDown::All), &own, &peers);
    assert_eq!(
        shown(&publication, WWW),
        ["192.0.2.11", "2001:db8:1::11", "192.0.2.12", "2001:db8:1::12", "192.0.2.13"]
    );
    assert_eq!(publication.names[WWW].policy_in_force, None);
    assert_eq!(publication.names.len(), 2, "a service without dns_name has no name");
    assert!(publication.settled());
}

#[test]
fn one_service_of_a_shared_name_takes_its_family_out() {
    let (mut own, peers) = everyone_serves();
    own.insert(pool("tls/v4"), SelfState::NoBackend);
    let publication = publication(&config(AllDown::All), &own, &peers);
    assert_eq!(
        shown(&publication, WWW),
        ["(192.0.2.11)", "2001:db8:1::11", "192.0.2.12", "2001:db8:1::12", "192.0.2.13"]
    );
    assert_eq!(publication.names[WWW].addresses[0].why.to_string(), "tls/v4: no backend with a weight is up");
    assert_eq!(
        shown(&publication, "echo.udp.example.test")[0],
        "192.0.2.11",
        "another name is not concerned"
    );
}

/// The fixture, in which any service of a name is enough.
fn any_is_enough() -> Config {
    let mut config = config(AllDown::All);
    config.services.iter_mut().for_each(|service| service.require = Require::Any);
    config
}

#[test]
fn where_any_service_is_enough_the_last_one_takes_the_address_out() {
    let (mut own, mut peers) = everyone_serves();
    own.insert(pool("tls/v4"), SelfState::NoBackend);
    own.insert(pool("web/v6"), SelfState::NoBackend);
    let dead = |name: &str| PeerId { peer: "node2".into(), address: ip("192.0.2.12"), pool: pool(name) };
    peers.insert(dead("web/v4"), PeerState::Unreachable(Code::L4Tout));
    let first = publication(&any_is_enough(), &own, &peers);
    // IPv6 has one service only, and is judged apart.
    assert_eq!(
        shown(&first, WWW),
        ["192.0.2.11", "(2001:db8:1::11)", "192.0.2.12", "2001:db8:1::12", "192.0.2.13"]
    );
    own.insert(pool("web/v4"), SelfState::NoBackend);
    peers.insert(dead("tls/v4"), PeerState::SaysNo);
    let second = publication(&any_is_enough(), &own, &peers);
    assert_eq!(
        shown(&second, WWW),
        ["(192.0.2.11)", "(2001:db8:1::11)", "(192.0.2.12)", "2001:db8:1::12", "192.0.2.13"]
    );
    assert_eq!(second.names[WWW].require, Require::Any);
}

#[test]
fn where_any_service_is_enough_nothing_is_settled_before_one_serves_or_all_are_judged() {
    let peers = peers(&[("node2", PeerState::Serves), ("node3", PeerState::Serves)]);
    let entry = |web, tls| {
        let own = BTreeMap::from([(pool("web/v4"), web), (pool("tls/v4"), tls)]);
        publication(&any_is_enough(), &own, &peers).names[WWW].addresses[0].why.clone()
    };
    use SelfState::*;
    assert_eq!(entry(NotChecked, Serves), Why::Serves);
    assert_eq!(entry(NoBackend, NotChecked), Why::Own(pool("tls/v4"), NotChecked));
    assert_eq!(entry(NoBackend, Drained), Why::Own(pool("web/v4"), NoBackend));
}

#[test]
fn where_any_service_is_enough_an_address_needs_to_offer_one() {
    let (own, peers) = everyone_serves();
    for (require, expected) in [(Require::All, None), (Require::Any, Some("192.0.2.11"))] {
        let mut config = any_is_enough();
        config.services[0].addresses = vec![ip("10.0.0.12")];
        config.services.iter_mut().for_each(|service| service.require = require);
        let publication = publication(&config, &own, &peers);
        let first = publication.names[WWW].addresses.iter().find(|entry| &*entry.node == "node1");
        assert_eq!(first.map(|entry| entry.address.to_string()).as_deref(), expected, "{require:?}");
    }
}

#[test]
fn a_peer_is_shown_only_after_it_was_seen() {
    let own = all(SelfState::Serves);
    let publication = publication(&config(AllDown::All), &own, &peers(&[("node2", PeerState::Serves)]));
    assert_eq!(shown(&publication, WWW)[4], "(192.0.2.13)");
    assert_eq!(publication.names[WWW].addresses[4].why.to_string(), "web/v4: not seen yet");
    assert!(!publication.settled());
}

#[test]
fn a_pool_without_a_check_result_is_not_settled() {
    let (mut own, peers) = everyone_serves();
    own.remove(&pool("internal/v4"));
    let publication = publication(&config(AllDown::All), &own, &peers);
    assert_eq!(publication.own[&pool("internal/v4")], SelfState::NotChecked);
    assert!(!publication.settled());
}

#[test]
fn a_pool_serves_by_a_backend_that_is_up_and_has_a_weight() {
    use SelfState::*;
    let (up, down, unchecked) = (Some(Health::Up), Some(Health::Down), None);
    for (backends, expected) in [
        (&[] as &[_], NoBackend),
        (&[(1, up)], Serves),
        (&[(1, down)], NoBackend),
        (&[(1, unchecked)], NotChecked),
        (&[(1, down), (1, unchecked), (1, up), (1, down), (1, unchecked)], Serves),
        (&[(1, unchecked), (1, down)], NotChecked),
        // Its table would be empty.
        (&[(0, up)], NoBackend),
        (&[(0, up), (0, unchecked), (1, down)], NoBackend),
        (&[(0, down), (1, up)], Serves),
    ] {
        let members: Vec<_> =
            backends.iter().map(|&(weight, health)| member(false, weight, health)).collect();
        assert_eq!(SelfState::of_members(&members, 0), expected, "{backends:?}");
    }
}

/// What a peer says itself takes away votes of others, so it must have said it of what the name needs.
#[test]
fn a_peer_says_no_to_a_name_if_it_does_to_what_is_required() {
    use PeerState::{SaysNo, Serves, Unreachable};
    let dead = Unreachable(Code::L4Tout);
    for (require, web, tls, says_no) in [
        (Require::All, SaysNo, Serves, true),
        (Require::All, dead, SaysNo, true),
        (Require::All, dead, Serves, false),
        (Require::Any, SaysNo, dead, false),
        (Require::Any, dead, SaysNo, false),
        (Require::Any, SaysNo, SaysNo, true),
    ] {
        let mut config = config(AllDown::All);
        config.services.iter_mut().for_each(|service| service.require = require);
        let mut peers = peer_states(&config, "node2", &all(Serves));
        for (id, state) in &mut peers {
            *state = if *id.pool.service == *"tls" { tls } else { web };
        }
        let publication = publication(&config, &all(SelfState::Serves), &peers);
        let mut entries = publication.names[WWW].addresses.iter();
        let entry = entries.find(|entry| *entry.node == *"node2").unwrap();
        assert_eq!(entry.why.says_no(), says_no, "{require:?} {web:?} {tls:?}: {:?}", entry.why);
    }
}

fn member(is_backup: bool, weight: u16, health: Option<Health>) -> Member {
    Member { is_backup, standing: Standing { health, weight, drain_ended: false } }
}

#[test]
fn too_few_backends_are_as_none() {
    use SelfState::*;
    let (up, down, unchecked) = (Some(Health::Up), Some(Health::Down), None);
    for (healths, withdraw_below, expected) in [
        ([up, up, down, down], 50, Serves),
        ([up, up, down, down], 51, TooFew { up: 2, of: 4 }),
        ([up, down, down, down], 50, TooFew { up: 1, of: 4 }),
        ([up, down, down, down], 0, Serves),
        ([up, up, up, down], 100, TooFew { up: 3, of: 4 }),
        ([up, up, up, up], 100, Serves),
        ([down; 4], 50, NoBackend),
        // Most may be up.
        ([up, down, down, unchecked], 50, Serves),
    ] {
        let mut members: Vec<_> = healths.iter().map(|&health| member(false, 1, health)).collect();
        // They count neither way.
        members.extend([member(false, 0, up), member(true, 1, down)]);
        assert_eq!(SelfState::of_members(&members, withdraw_below), expected, "{healths:?} {withdraw_below}");
    }
    let backups = [member(false, 1, down), member(true, 1, up)];
    assert_eq!(SelfState::of_members(&backups, 100), Serves, "backups stand in");
}

#[test]
fn every_reason_withdraws_and_is_named() {
    for (state, text) in [
        (SelfState::NotChecked, "web/v4: not checked yet"),
        (SelfState::NoBackend, "web/v4: no backend with a weight is up"),
        (SelfState::TooFew { up: 1, of: 4 }, "web/v4: only 1 of 4 backends are up"),
        (SelfState::NotAttached, "web/v4: XDP is not attached"),
        (SelfState::Stopping, "web/v4: stopping"),
    ] {
        let (_, peers) = everyone_serves();
        let publication = publication(&config(AllDown::All), &all(state), &peers);
        let entry = &publication.names[WWW].addresses[0];
        assert!(!entry.published, "{text}");
        assert_eq!(entry.why.to_string(), text);
    }
    for (state, text) in [
        (PeerState::Unreachable(Code::L4Tout), "web/v4: does not answer (L4TOUT)"),
        (PeerState::SaysNo, "web/v4: says that it cannot serve"),
    ] {
        let (own, _) = everyone_serves();
        let publication = publication(&config(AllDown::All), &own, &peers(&[("node2", state)]));
        let entry = &publication.names[WWW].addresses[2];
        assert!(!entry.published, "{text}");
        assert_eq!(entry.why.to_string(), text);
    }
}

#[test]
fn the_last_address_of_either_family_keeps_the_policy_away() {
    let mut own = all(SelfState::NoBackend);
    own.insert(pool("web/v6"), SelfState::Serves);
    let publication = publication(&config(AllDown::All), &own, &PeerStates::new());
    assert_eq!(
        shown(&publication, WWW),
        ["(192.0.2.11)", "2001:db8:1::11", "(192.0.2.12)", "(2001:db8:1::12)", "(192.0.2.13)"]
    );
    assert_eq!(publication.names[WWW].policy_in_force, None);
}

#[test]
fn b26_when_nobody_serves_the_policy_decides() {
    let own = all(SelfState::NoBackend);
    let peers = peers(&[("node2", PeerState::SaysNo), ("node3", PeerState::Unreachable(Code::L4Con))]);
    let with_all = publication(&config(AllDown::All), &own, &peers);
    assert!(with_all.names[WWW].addresses.iter().all(|entry| entry.published && !entry.why.serves()));
    assert_eq!(with_all.names[WWW].policy_in_force, Some(AllDown::All));
    let with_none = publication(&config(AllDown::None), &own, &peers);
    assert!(with_none.names[WWW].addresses.iter().all(|entry| !entry.published));
    assert_eq!(with_none.names[WWW].policy_in_force, Some(AllDown::None));
}

#[test]
fn a_service_on_a_part_of_the_addresses_shows_only_those() {
    let mut config = config(AllDown::All);
    for service in &mut config.services[..2] {
        service.addresses = vec![ip("10.0.0.11")];
    }
    let (own, peers) = everyone_serves();
    let publication = publication(&config, &own, &peers);
    assert_eq!(shown(&publication, WWW), ["192.0.2.11", "192.0.2.12", "192.0.2.13"]);
}

#[test]
fn a_peers_address_on_which_a_service_does_not_answer_is_not_shown() {
    let mut config = config(AllDown::All);
    config.peers[0].addresses.push(same("192.0.2.22"));
    let (own, mut peers) = everyone_serves();
    peers.extend(peer_states(&config, "node2", &all(PeerState::Serves)));
    let tls = PeerId { peer: "node2".into(), address: ip("192.0.2.22"), pool: pool("tls/v4") };
    peers.insert(tls, PeerState::Unreachable(Code::L4Con));
    let publication = publication(&config, &own, &peers);
    assert_eq!(shown(&publication, WWW)[2..], ["192.0.2.12", "2001:db8:1::12", "(192.0.2.22)", "192.0.2.13"]);
    assert_eq!(publication.names[WWW].addresses[4].why.to_string(), "tls/v4: does not answer (L4CON)");
    assert_eq!(
        shown(&publication, "echo.udp.example.test")[4],
        "192.0.2.22",
        "another name is not concerned"
    );
}

#[test]
fn without_dns_there_are_pools_and_no_names() {
    let mut config = config(AllDown::All);
    config.dns = None;
    let publication = publication(&config, &all(SelfState::Serves), &PeerStates::new());
    assert!(publication.names.is_empty());
    assert_eq!(publication.own.len(), POOLS.len());
}

#[test]
fn transitions_are_one_line_each() {
    let config = config(AllDown::All);
    let (own, reachable) = everyone_serves();
    let before = publication(&config, &own, &reachable);
    let after = publication(
        &config,
        &own,
        &peers(&[("node2", PeerState::Serves), ("node3", PeerState::Unreachable(Code::L4Tout))]),
    );
    assert_eq!(
        lines(&before, &after),
        [
            "echo.udp.example.test: 192.0.2.13 of node3 withdrawn (echo/v4: does not answer (L4TOUT))",
            "www.example.test: 192.0.2.13 of node3 withdrawn (web/v4: does not answer (L4TOUT))",
        ]
    );
    assert_eq!(lines(&after, &before)[1], "www.example.test: 192.0.2.13 of node3 published (serves)");
    assert!(lines(&before, &before).is_empty());
}

#[test]
fn the_policy_is_said_when_it_begins_and_ends() {
    let mut config = config(AllDown::All);
    config.services.truncate(1);
    let mut serving = everyone_serves();
    let before = publication(&config, &serving.0, &serving.1);
    serving.0 = all(SelfState::NoBackend);
    let down = peers(&[("node2", PeerState::SaysNo), ("node3", PeerState::SaysNo)]);
    let after = publication(&config, &serving.0, &down);
    assert_eq!(
        lines(&before, &after),
        ["www.example.test: no node can serve; all_down = \"all\": answering with every address"]
    );
    assert_eq!(
        lines(&after, &before),
        ["www.example.test: a node can serve again; all_down no longer applies"]
    );
}

#[test]
fn names_come_and_go_with_the_configuration() {
    let config = config(AllDown::All);
    let publication = publication(&config, &all(SelfState::Serves), &PeerStates::new());
    let begin = lines(&Publication::default(), &publication);
    assert!(
        begin.contains(&"www.example.test: 192.0.2.11 of node1 published (serves)".to_owned()),
        "{begin:?}"
    );
    assert!(
        begin.contains(
            &"www.example.test: 192.0.2.12 of node2 not published (web/v4: not seen yet)".to_owned()
        ),
        "{begin:?}"
    );
    let end = lines(&publication, &Publication::default());
    assert!(
        end.contains(&"www.example.test: 192.0.2.11 of node1 left the configuration".to_owned()),
        "{end:?}"
    );
    assert_eq!(end.len(), 4, "only what was published: {end:?}");
}

fn self_state() -> impl Strategy<Value = SelfState> {
    prop::sample::select(vec![
        SelfState::Serves,
        SelfState::NotChecked,
        SelfState::NoBackend,
        SelfState::NotAttached,
        SelfState::Stopping,
    ])
}

fn peer_state() -> impl Strategy<Value = PeerState> {
    prop::sample::select(vec![
        PeerState::Serves,
        PeerState::Unknown,
        PeerState::Unreachable(Code::L4Tout),
        PeerState::SaysNo,
    ])
}

fn states<S: fmt::Debug>(state: impl Strategy<Value = S>) -> impl Strategy<Value = BTreeMap<PoolId, S>> {
    prop::collection::vec(state, POOLS.len())
        .prop_map(|states| POOLS.iter().map(|name| pool(name)).zip(states).collect())
}

proptest! {
    /// With `all`, no name is ever empty; with either policy, what is published serves unless the policy is in force.
    #[test]
    fn names_never_empty_by_accident(
        own in states(self_state()),
        node2 in states(peer_state()),
        node3 in states(peer_state()),
        none in any::<bool>(),
        any_is_enough in any::<bool>(),
    ) {
        let policy = if none { AllDown::None } else { AllDown::All };
        let mut config = config(policy);
        if any_is_enough {
            config.services.iter_mut().for_each(|service| service.require = Require::Any);
        }
        let mut peers = peer_states(&config, "node2", &node2);
        peers.extend(peer_states(&config, "node3", &node3));
        let publication = publication(&config, &own, &peers);
        for view in publication.names.values() {
            let published = view.addresses.iter().filter(|entry| entry.published).count();
            let serving = view.addresses.iter().filter(|entry| entry.why.serves()).count();
            match view.policy_in_force {
                None => {
                    prop_assert!(serving > 0);
                    prop_assert!(view.addresses.iter().all(|entry| entry.published == entry.why.serves()));
                }
                Some(_) => {
                    prop_assert_eq!(serving, 0);
                    prop_assert_eq!(published, if none { 0 } else { view.addresses.len() });
                }
            }
        }
    }

    /// Transitions tell everything: applied to what was published, they give what is.
    #[test]
    fn transitions_lead_from_old_to_new(old in states(self_state()), new in states(self_state())) {
        let config = config(AllDown::All);
        let old = publication(&config, &old, &PeerStates::new());
        let new = publication(&config, &new, &PeerStates::new());
        let published = |publication: &Publication| -> std::collections::BTreeSet<(Arc<str>, IpAddr)> {
            publication.names.iter().flat_map(|(name, view)| {
                view.addresses.iter().filter(|entry| entry.published).map(|entry| (Arc::clone(name), entry.address))
            }).collect()
        };
        let mut state = published(&old);
        for Transition { name, change } in old.transitions(&new) {
            match change {
                Change::Published(entry) => prop_assert!(state.insert((name, entry.address))),
                Change::Withdrawn(entry) | Change::Removed(entry) => prop_assert!(state.remove(&(name, entry.address))),
                Change::Withheld(_) | Change::PolicyBegan(_) | Change::PolicyEnded => {}
            }
        }
        prop_assert_eq!(state, published(&new));
    }
}
