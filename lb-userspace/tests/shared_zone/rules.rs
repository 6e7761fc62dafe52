//! Each rule by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use lb_userspace::core::{
    lease::{Claim, owner},
    records::Outcome,
    shared::{Gone, InMemory, Settings, Situation, State, Trouble, TwoNodes, Wish},
};

use crate::{
    cluster::{
        NAME, Node, address, cluster, declining, ip, ips, seconds, seen_by, settings, situation, wish,
        without,
    },
    simulated::addresses,
};

#[test]
fn a_lease_is_renewed_and_nothing_else_is_written() {
    let start = Instant::now();
    let mut primary = InMemory::default();
    let [mut one, ..] = cluster(&mut primary, start);
    let before = primary.clone();
    one.act(&mut primary, &situation(wish(0)), start + seconds(9));
    assert_eq!(primary.texts, before.texts, "not due");
    one.act(&mut primary, &situation(wish(0)), start + seconds(20));
    let owner = owner("node1", NAME);
    let claim = |primary: &InMemory| primary.texts[&owner].parse::<Claim>().unwrap();
    assert_eq!(claim(&primary).sequence, claim(&before).sequence + 1);
    assert_eq!(primary.addresses, before.addresses);
}

#[test]
fn a_majority_removes_a_silent_node_and_a_minority_does_not() {
    let now = Instant::now();
    let mut primary = InMemory::default();
    let [mut one, ..] = cluster(&mut primary, now);
    one.act(&mut primary, &without(wish(0), 2, 1), now + seconds(500));
    assert_eq!(addresses(&primary), ips(&[0, 1, 2]), "one of three");
    one.act(&mut primary, &without(wish(0), 2, 2), now + seconds(1));
    assert_eq!(addresses(&primary), ips(&[0, 1]));
    assert_eq!(one.state(2), State::RemovedBy(Some("node1".into())));
}

/// Its own "I cannot serve" is no veto, and it is given the time to take itself away.
#[test]
fn a_node_that_cannot_serve_and_does_not_reach_the_primary_is_removed_by_a_majority() {
    let start = Instant::now();
    for (agreeing, left) in [(1, &[0, 1, 2][..]), (2, &[0, 1])] {
        let mut primary = InMemory::default();
        let [mut one, mut two, _] = cluster(&mut primary, start);
        for time in [0, 20, 40, 59] {
            let now = start + seconds(time);
            one.act(&mut primary, &declining(wish(0), 2, agreeing), now);
            two.act(&mut primary, &declining(wish(1), 2, agreeing), now);
            assert_eq!(addresses(&primary), ips(&[0, 1, 2]), "after {time} s");
        }
        one.act(&mut primary, &declining(wish(0), 2, agreeing), start + seconds(60));
        assert_eq!(addresses(&primary), ips(left), "{agreeing} of three");
    }
}

#[test]
fn a_node_that_cannot_serve_takes_itself_away() {
    let start = Instant::now();
    let mut primary = InMemory::default();
    let [mut one, _, mut three] = cluster(&mut primary, start);
    one.act(&mut primary, &declining(wish(0), 2, 3), start + seconds(20));
    let nothing = situation(Wish { wanted: BTreeSet::new(), ..wish(2) });
    three.act(&mut primary, &nothing, start + seconds(21));
    one.act(&mut primary, &declining(wish(0), 2, 3), start + seconds(21));
    assert_eq!((addresses(&primary), one.state(2)), (ips(&[0, 1]), State::Withdrawn));
}

/// All of them, say: then `all_down` applies.
#[test]
fn nobody_is_removed_for_what_the_remover_cannot_do_either() {
    let start = Instant::now();
    let mut primary = InMemory::default();
    let [mut one, ..] = cluster(&mut primary, start);
    let mut all = declining(wish(0), 2, 3);
    all.names.get_mut(NAME).unwrap().serving.clear();
    one.act(&mut primary, &all, start + seconds(60));
    assert_eq!(addresses(&primary), ips(&[0, 1, 2]));
}

#[test]
fn a_node_that_was_removed_comes_back_after_a_hold_down_or_when_a_majority_sees_it() {
    let start = Instant::now();
    let mut primary = InMemory::default();
    let [mut one, _, mut three] = cluster(&mut primary, start);
    let mut unseen = situation(wish(2));
    unseen.seen_by = seen_by(&wish(2), 1);
    for (hold, time) in [(30, 0), (60, 100), (120, 300)] {
        let now = start + seconds(time);
        one.act(&mut primary, &without(wish(0), 2, 2), now);
        let said = three.act(&mut primary, &unseen, now);
        assert!(matches!(&said[..], [Trouble::Removed { by: Some(by), .. }] if **by == *"node1"), "{said:?}");
        assert_eq!(three.state(2), State::RemovedBy(Some("node1".into())));
        three.act(&mut primary, &unseen, now + seconds(hold - 1));
        assert_eq!(addresses(&primary), ips(&[0, 1]), "a renewal never re-adds");
        assert_eq!(three.act(&mut primary, &unseen, now + seconds(hold)), []);
        assert_eq!(addresses(&primary), ips(&[0, 1, 2]));
        assert_eq!(three.state(2), State::Published);
    }
    let now = start + seconds(1000);
    one.act(&mut primary, &without(wish(0), 2, 2), now);
    assert_eq!(addresses(&primary), ips(&[0, 1]));
    three.act(&mut primary, &situation(wish(2)), now);
    assert_eq!(addresses(&primary), ips(&[0, 1, 2]), "seen by a majority");
}

/// What a node wants that has another address, too.
fn with_another(node: usize, address: IpAddr) -> Wish {
    let mut wish = wish(node);
    wish.own.insert(address);
    wish.wanted.insert(address);
    wish
}

/// Of a node with several addresses some may be dead while others answer.
#[test]
fn an_address_that_nobody_sees_stays_away_while_another_one_is_seen() {
    let start = Instant::now();
    let mut primary = InMemory::default();
    let [mut one, _, mut three] = cluster(&mut primary, start);
    let v6 = ip("2001:db8:1::13");
    let seen_by = BTreeMap::from([(address(2), 1), (v6, 3)]);
    let half = || Situation { seen_by: seen_by.clone(), ..situation(with_another(2, v6)) };
    assert_eq!(three.act(&mut primary, &half(), start), []);
    let mut dead = without(wish(0), 2, 2);
    dead.names.get_mut(NAME).unwrap().peers.get_mut("node3").unwrap().insert(v6);
    one.act(&mut primary, &dead, start);
    // It finds out after a second.
    for (second, left) in [(1, ips(&[0, 1])), (30, ips(&[0, 1])), (31, ips(&[0, 1, 2]))] {
        three.act(&mut primary, &half(), start + seconds(second));
        assert_eq!(three.zone.state(NAME, "node3", v6), State::Published);
        let v4: BTreeSet<IpAddr> = addresses(&primary).into_iter().filter(IpAddr::is_ipv4).collect();
        assert_eq!(v4, left, "after {second} s");
    }
}

/// Addresses and records are read one after the other.
#[test]
fn a_removal_whose_mark_is_read_later_is_not_taken_for_one_by_hand() {
    let start = Instant::now();
    let mut primary = InMemory::default();
    let [mut one, _, mut three] = cluster(&mut primary, start);
    let before = primary.texts.clone();
    one.act(&mut primary, &without(wish(0), 2, 2), start);
    let after = std::mem::replace(&mut primary.texts, before);
    three.read(&mut primary, start);
    assert_eq!(three.state(2), State::RemovedBy(None));
    primary.texts = after;
    three.act(&mut primary, &situation(wish(2)), start + seconds(1));
    assert_eq!(addresses(&primary), ips(&[0, 1, 2]), "a majority sees it");
}

/// Families are taken away one after the other, and the node renews its lease in between.
#[test]
fn a_family_that_was_removed_stays_away_when_the_other_one_is_removed_too() {
    let start = Instant::now();
    let mut primary = InMemory::default();
    let [mut one, _, mut three] = cluster(&mut primary, start);
    let v6 = ip("2001:db8:1::13");
    let both = || {
        let wish = with_another(2, v6);
        Situation { seen_by: seen_by(&wish, 1), ..situation(wish) }
    };
    let gone = |dead: &[IpAddr]| {
        let mut wish = wish(0);
        wish.peers.get_mut("node3").unwrap().insert(v6);
        let gone = Gone { agreeing: 2, why: "silent", can_act: false };
        wish.gone.extend(dead.iter().map(|&address| (address, gone.clone())));
        situation(wish)
    };
    let state = |node: &Node, address| node.zone.state(NAME, "node3", address);
    assert_eq!(three.act(&mut primary, &both(), start), []);
    one.act(&mut primary, &gone(&[address(2)]), start);
    three.act(&mut primary, &both(), start + seconds(1));
    assert_eq!(state(&three, v6), State::Published, "its lease is for that alone");
    one.act(&mut primary, &gone(&[address(2), v6]), start + seconds(2));

    for (time, left) in [(3, ips(&[0, 1])), (30, ips(&[0, 1])), (31, ips(&[0, 1, 2]))] {
        three.act(&mut primary, &both(), start + seconds(time));
        assert_eq!(addresses(&primary), left, "after {time} s");
        assert_eq!(state(&three, v6), State::RemovedBy(Some("node1".into())));
    }
    three.act(&mut primary, &both(), start + seconds(33));
    assert_eq!(addresses(&primary), &ips(&[0, 1, 2]) | &[v6].into(), "each 30 s after that was seen");
}

/// Measured on a real server: with the victim's lease alone as a prerequisite the name was empty afterwards.
#[test]
fn two_nodes_that_remove_each_other_do_not_empty_the_name() {
    let now = Instant::now();
    let mut primary = InMemory::default();
    let [mut one, mut two, _] = cluster(&mut primary, now);
    let plan = |node: &mut Node, primary: &mut InMemory, me, dead| {
        node.read(primary, now);
        node.zone.decide(&without(wish(me), dead, 2), now, &mut Vec::new()).unwrap()
    };
    let of_one = plan(&mut one, &mut primary, 0, 1);
    let of_two = plan(&mut two, &mut primary, 1, 0);
    assert_eq!(primary.update(&of_one.update), Outcome::Applied);
    assert_eq!(primary.update(&of_two.update), Outcome::NotAsExpected);
    assert_eq!(addresses(&primary), ips(&[0, 2]));
}

#[test]
fn a_lease_that_was_renewed_after_the_read_is_not_removed() {
    let now = Instant::now();
    let mut primary = InMemory::default();
    let [mut one, mut two, _] = cluster(&mut primary, now);
    one.read(&mut primary, now);
    let removal = one.zone.decide(&without(wish(0), 1, 2), now, &mut Vec::new()).unwrap();
    two.act(&mut primary, &situation(wish(1)), now + seconds(20));
    assert_eq!(primary.update(&removal.update), Outcome::NotAsExpected);
    assert_eq!(addresses(&primary), ips(&[0, 1, 2]));
}

#[test]
fn nodes_that_withdraw_at_once_leave_the_last_one() {
    let now = Instant::now();
    let mut primary = InMemory::default();
    let mut nodes = cluster(&mut primary, now);
    let wishes = [0, 1, 2].map(|node| situation(Wish { wanted: BTreeSet::new(), ..wish(node) }));
    let mut plans = Vec::new();
    for (node, situation) in nodes.iter_mut().zip(&wishes) {
        node.read(&mut primary, now);
        plans.push(node.zone.decide(situation, now, &mut Vec::new()).unwrap());
    }
    for plan in &plans {
        primary.update(&plan.update);
    }
    assert_eq!(addresses(&primary).len(), 2, "the set was another one for the later ones");
    let said: Vec<_> = nodes
        .iter_mut()
        .zip(&wishes)
        .map(|(node, situation)| node.act(&mut primary, situation, now))
        .collect();
    assert_eq!(addresses(&primary).len(), 1);
    assert!(said.iter().flatten().any(|trouble| matches!(trouble, Trouble::Last { .. })), "{said:?}");
}

#[test]
fn where_empty_is_allowed_all_may_withdraw() {
    let now = Instant::now();
    let mut primary = InMemory::default();
    let mut nodes = cluster(&mut primary, now);
    for (index, node) in nodes.iter_mut().enumerate() {
        let wish = Wish { wanted: BTreeSet::new(), keep_last: false, ..wish(index) };
        node.act(&mut primary, &situation(wish), now);
        assert_eq!(node.state(index), State::Withdrawn);
    }
    assert_eq!(addresses(&primary), BTreeSet::new());
}

#[test]
fn nobody_is_removed_where_nobody_else_serves() {
    let now = Instant::now();
    let mut primary = InMemory::default();
    let [mut one, ..] = cluster(&mut primary, now);
    let mut shared_cause = without(wish(0), 2, 3);
    let wish = shared_cause.names.get_mut(NAME).unwrap();
    wish.serving.clear();
    wish.gone.insert(address(1), Gone { agreeing: 3, why: "silent", can_act: false });
    one.act(&mut primary, &shared_cause, now);
    assert_eq!(addresses(&primary), ips(&[0, 1, 2]));
}

#[test]
fn nobody_is_removed_for_a_lease_after_the_primary_could_not_be_read() {
    let start = Instant::now();
    let mut primary = InMemory::default();
    let [mut one, ..] = cluster(&mut primary, start);
    let dead = without(wish(0), 2, 2);
    one.zone.unreadable(start + seconds(1));
    assert_eq!(one.zone.decide(&dead, start + seconds(1), &mut Vec::new()), None);
    one.act(&mut primary, &dead, start + seconds(200));
    one.act(&mut primary, &dead, start + seconds(259));
    assert_eq!(addresses(&primary), ips(&[0, 1, 2]));
    one.act(&mut primary, &dead, start + seconds(260));
    assert_eq!(addresses(&primary), ips(&[0, 1]));
}

#[test]
fn of_two_nodes_one_removes_the_other_when_its_lease_has_run_out() {
    let start = Instant::now();
    for (two_nodes, left) in [(TwoNodes::RemoveAfterLease, &[0, 2][..]), (TwoNodes::Never, &[0, 1, 2])] {
        let mut primary = InMemory::default();
        let [mut one, ..] = cluster(&mut primary, start);
        one.zone.set_settings(Settings { two_nodes, ..settings() });
        let dead = Situation { voters: 2, ..without(wish(0), 1, 1) };
        for time in [0, 20, 40, 59] {
            one.act(&mut primary, &dead, start + seconds(time));
            assert_eq!(addresses(&primary), ips(&[0, 1, 2]), "after {time} s");
        }
        one.act(&mut primary, &dead, start + seconds(60));
        assert_eq!(addresses(&primary), ips(left), "{two_nodes:?}");
    }
}

#[test]
fn a_daemon_that_starts_again_takes_its_lease_over_and_a_copy_stops_the_first() {
    let start = Instant::now();
    let mut primary = InMemory::default();
    let [mut one, ..] = cluster(&mut primary, start);
    let mut other = Node::new(0, 99);
    assert_eq!(other.act(&mut primary, &situation(wish(0)), start), []);
    assert_eq!(other.state(0), State::Published);
    let said = one.act(&mut primary, &situation(wish(0)), start + seconds(20));
    assert!(matches!(&said[..], [Trouble::Contested { .. }]), "{said:?}");
    assert_eq!(one.state(0), State::Contested);
    assert_eq!(addresses(&primary), ips(&[0, 1, 2]));
    // The other one has ended.
    let later = start + seconds(100);
    one.act(&mut primary, &situation(wish(0)), later);
    assert_eq!(one.act(&mut primary, &situation(wish(0)), later), []);
    assert_eq!(one.state(0), State::Published);
    // Another one comes, and leaves properly.
    let mut third = Node::new(0, 100);
    third.act(&mut primary, &situation(wish(0)), later);
    one.act(&mut primary, &situation(wish(0)), later + seconds(1));
    assert_eq!(one.state(0), State::Contested);
    third.act(&mut primary, &Situation::default(), later + seconds(2));
    assert_eq!(addresses(&primary), ips(&[1, 2]));
    assert_eq!(one.act(&mut primary, &situation(wish(0)), later + seconds(3)), []);
    assert_eq!((one.state(0), addresses(&primary)), (State::Published, ips(&[0, 1, 2])));
}

#[test]
fn what_somebody_takes_away_by_hand_stays_away_for_the_hold_down() {
    let start = Instant::now();
    let mut primary = InMemory::default();
    let [mut one, ..] = cluster(&mut primary, start);
    primary.addresses.get_mut(NAME).unwrap().remove(&address(0));
    let said = one.act(&mut primary, &situation(wish(0)), start + seconds(1));
    assert!(matches!(&said[..], [Trouble::Removed { by: None, .. }]), "{said:?}");
    assert_eq!(one.state(0), State::RemovedBy(None));
    one.act(&mut primary, &situation(wish(0)), start + seconds(30));
    assert_eq!(addresses(&primary), ips(&[1, 2]));
    one.act(&mut primary, &situation(wish(0)), start + seconds(31));
    assert_eq!(addresses(&primary), ips(&[0, 1, 2]));
}

/// As PowerDNS does with what its policy does not grant.
#[test]
fn what_the_primary_leaves_out_was_taken_away_by_nobody() {
    let now = Instant::now();
    let mut primary = InMemory::default();
    let mut one = Node::new(0, 1);
    for _ in 0..3 {
        one.read(&mut primary, now);
        let mut troubles = Vec::new();
        let planned = one.zone.decide(&situation(wish(0)), now, &mut troubles).expect("it is not there");
        assert_eq!(troubles, []);
        primary.update(&planned.update);
        primary.addresses.clear();
        one.zone.note(&planned, Outcome::Applied, now);
    }
    assert_eq!(one.state(0), State::Absent);
}

#[test]
fn an_alias_and_others_addresses_are_in_the_way_and_are_left_alone() {
    let now = Instant::now();
    let mut primary = InMemory::default();
    primary.aliases.insert(NAME.into(), "elsewhere.test".to_owned());
    let mut one = Node::new(0, 1);
    let said = one.act(&mut primary, &situation(wish(0)), now);
    assert!(matches!(&said[..], [Trouble::Alias { .. }]), "{said:?}");
    primary.aliases.clear();
    let others: BTreeSet<_> = [ip("203.0.113.9")].into();
    primary.addresses.insert(NAME.into(), others.clone());
    let said = one.act(&mut primary, &situation(wish(0)), now);
    assert!(matches!(&said[..], [Trouble::Others { .. }]), "{said:?}");
    assert_eq!(addresses(&primary), others);
    one.zone.set_settings(Settings { share_rrset: true, ..settings() });
    assert_eq!(one.act(&mut primary, &situation(wish(0)), now), []);
    assert!(addresses(&primary).contains(&address(0)));
}

#[test]
fn a_name_that_left_the_configuration_is_left_as_if_nobody_had_been_there() {
    let now = Instant::now();
    let mut primary = InMemory::default();
    let mut one = Node::new(0, 1);
    one.act(&mut primary, &situation(wish(0)), now);
    one.act(&mut primary, &Situation { names: BTreeMap::new(), ..situation(wish(0)) }, now);
    assert_eq!(addresses(&primary), BTreeSet::new());
    assert!(primary.texts.is_empty(), "{:?}", primary.texts);
}
