use std::time::Duration;

use super::*;
use crate::core::{exchange::Serving, ids::Family};

fn id(peer: &str) -> PeerId {
    PeerId {
        peer: peer.into(),
        address: "192.0.2.12".parse().unwrap(),
        pool: PoolId { service: "web".into(), family: Family::V4 },
    }
}

fn check() -> PeerCheck {
    let half = Duration::from_millis(500);
    let timing = Timing { interval: half, fast_interval: half, timeout: half, rise: 2, fall: 3, jitter: 0.1 };
    PeerCheck { timing, restart_grace: Duration::from_secs(60), peer_probe_rate: 50 }
}

fn peers(names: &[&str]) -> Peers {
    let ids = names.iter().map(|name| (id(name), Judge::Probe));
    Peers::new(ids, asked(names), &check(), Instant::now())
}

fn asked(names: &[&str]) -> Vec<PeerAddress> {
    names.iter().map(|name| ((*name).into(), id(name).address)).collect()
}

/// Its daemon answers, and says whether it serves the pool.
fn says(peers: &mut Peers, id: &PeerId, serves: bool) -> Vec<(PeerId, bool)> {
    says_of_all(peers, &id.at(), [&id.pool], serves)
}

/// The same of several pools.
fn says_of_all<'a>(
    peers: &mut Peers,
    at: &PeerAddress,
    pools: impl IntoIterator<Item = &'a PoolId>,
    serves: bool,
) -> Vec<(PeerId, bool)> {
    let serving = |pool: &PoolId| (pool.clone(), Serving { serves, up: 1, of: 1 });
    let word = PeerWord { serves: pools.into_iter().map(serving).collect(), ..PeerWord::default() };
    peers.hear(at, &result(Code::L7Ok), Some(word), Instant::now()).said
}

fn result(code: Code) -> CheckResult {
    CheckResult::new(code, Duration::ZERO, "")
}

#[test]
fn what_is_known_of_peers_that_stay_is_kept() {
    let now = Instant::now();
    let mut peers = peers(&["node2", "node3"]);
    for peer in ["node2", "node3"] {
        peers.observe(&id(peer), &result(Code::L4Ok), now);
    }
    says(&mut peers, &id("node2"), false);
    let quick = PeerCheck { timing: Timing { fall: 1, ..check().timing }, ..check() };
    let ids = ["node2", "node4"].map(|name| (id(name), Judge::Probe));
    let mut next = peers.successor(ids, asked(&["node2", "node4"]), &quick, now);
    let states: Vec<_> = next.iter().map(|(id, state, _)| (&*id.peer, state)).collect();
    assert_eq!(states, [("node2", PeerState::SaysNo), ("node4", PeerState::Unknown)]);
    next.observe(&id("node2"), &result(Code::L4Tout), now);
    assert_eq!(next.state(&id("node2")), PeerState::Unreachable(Code::L4Tout), "by the new `fall`");
}

#[test]
fn a_no_is_seen_while_its_daemon_is_heard() {
    let now = Instant::now();
    let mut peers = peers(&["node2"]);
    peers.observe(&id("node2"), &result(Code::L4Ok), now);
    let sight = |peers: &Peers| peers.sights()[&asked(&["node2"])[0]];
    for (serves, seen) in [(true, Sight::Answers), (false, Sight::Declines), (true, Sight::Answers)] {
        says(&mut peers, &id("node2"), serves);
        assert_eq!(sight(&peers), seen);
    }
    says(&mut peers, &id("node2"), false);
    fall_silent(&mut peers, &asked(&["node2"])[0]);
    assert_eq!(sight(&peers), Sight::Unknown, "nobody has tried connections while it was heard");
    peers.observe(&id("node2"), &result(Code::L4Ok), now);
    assert_eq!(sight(&peers), Sight::Answers, "connections work");
    assert_eq!(peers.state(&id("node2")), PeerState::SaysNo);
}

/// It does not answer three questions.
fn fall_silent(peers: &mut Peers, at: &PeerAddress) {
    for _ in 0..3 {
        peers.hear(at, &result(Code::L7Tout), None, Instant::now());
    }
}

#[test]
fn a_pool_is_declined_while_the_peer_is_heard() {
    let mut peers = peers(&["node2", "node3"]);
    let (node2, at) = (id("node2"), id("node2").at());
    assert!(!peers.declines(&node2), "not heard yet");
    for (serves, declined) in [(true, false), (false, true), (true, false), (false, true)] {
        says(&mut peers, &node2, serves);
        assert_eq!(peers.declines(&node2), declined);
    }
    assert!(!peers.declines(&id("node3")) && !peers.declines(&echo("node2")), "it said nothing of others");
    // One answer that is lost tells nothing; silence does, until it is heard again for good.
    peers.hear(&at, &result(Code::L7Tout), None, Instant::now());
    assert!(peers.declines(&node2));
    fall_silent(&mut peers, &at);
    assert!(!peers.declines(&node2));
    says(&mut peers, &node2, false);
    assert!(!peers.declines(&node2));
    says(&mut peers, &node2, false);
    assert!(peers.declines(&node2));
    // Its next configuration does not have it.
    says(&mut peers, &echo("node2"), false);
    assert!(!peers.declines(&node2));
}

#[test]
fn what_was_found_before_a_peer_declined_does_not_count_afterwards() {
    for (code, state) in [(Code::L4Ok, PeerState::Serves), (Code::L4Con, PeerState::Unreachable(Code::L4Con))]
    {
        for before in [Code::L4Ok, Code::L4Tout] {
            let mut peers = peers(&["node2"]);
            peers.observe(&id("node2"), &result(before), Instant::now());
            says(&mut peers, &id("node2"), false);
            assert_eq!(peers.state(&id("node2")), PeerState::SaysNo);
            says(&mut peers, &id("node2"), true);
            assert_eq!(peers.state(&id("node2")), PeerState::Unknown, "nobody has tried yet");
            peers.observe(&id("node2"), &result(code), Instant::now());
            assert_eq!(peers.state(&id("node2")), state);
        }
    }
}

/// Nothing was probed while it was drained.
#[test]
fn a_drained_peer_that_dies_is_silent_when_connections_have_failed_too() {
    let mut peers = peers(&["node2"]);
    let (node2, at) = (id("node2"), id("node2").at());
    peers.observe(&node2, &result(Code::L4Ok), Instant::now());
    says(&mut peers, &node2, false);
    fall_silent(&mut peers, &at);
    for (sight, state) in [
        (Sight::Unknown, PeerState::SaysNo),
        (Sight::Unknown, PeerState::SaysNo),
        (Sight::Unknown, PeerState::SaysNo),
        (Sight::Silent, PeerState::Unreachable(Code::L4Tout)),
    ] {
        assert_eq!((peers.sights()[&at], peers.state(&node2)), (sight, state));
        peers.observe(&node2, &result(Code::L4Tout), Instant::now());
    }
}

/// It declines one service, and dies: that it served the other one is found out as soon as ever.
#[test]
fn a_peer_that_declines_one_service_and_dies_is_silent_when_the_other_one_has_failed() {
    let tls = PeerId { pool: PoolId { service: "tls".into(), family: Family::V4 }, ..id("node2") };
    let at = tls.at();
    let ids = [(id("node2"), Judge::Probe), (tls.clone(), Judge::Probe), (echo("node2"), Judge::Word)];
    let mut peers = Peers::new(ids, asked(&["node2"]), &check(), Instant::now());
    for (id, code) in [(id("node2"), Code::L4Ok), (tls.clone(), Code::L4Ok), (echo("node2"), Code::L7Ok)] {
        peers.observe(&id, &result(code), Instant::now());
    }
    says(&mut peers, &tls, false);
    fall_silent(&mut peers, &at);
    for _ in 0..3 {
        peers.observe(&echo("node2"), &result(Code::L7Tout), Instant::now());
    }
    assert_eq!(peers.state(&echo("node2")), PeerState::Serves, "connections work");
    for _ in 0..3 {
        peers.observe(&id("node2"), &result(Code::L4Tout), Instant::now());
    }
    assert_eq!(peers.sights()[&at], Sight::Silent);
    assert_eq!(peers.state(&echo("node2")), PeerState::Unreachable(Code::L7Tout));
    // Unless that one answers.
    peers.observe(&tls, &result(Code::L4Ok), Instant::now());
    assert_eq!(peers.sights()[&at], Sight::Answers);
}

#[test]
fn states() {
    use Code::*;
    use PeerState::*;
    for (codes, expected) in [
        (&[] as &[Code], Unknown),
        (&[L4Ok], Serves),
        (&[L4Tout], Unreachable(L4Tout)),
        (&[L4Ok, L4Tout, L4Tout], Serves),
        (&[L4Ok, L4Tout, L4Tout, L4Tout], Unreachable(L4Tout)),
        (&[L7Ok, L7Sts, L7Sts, L7Sts], SaysNo),
        (&[L7Ok, L7Sts, L7Sts, L7Sts, L4Con], Unreachable(L4Con)),
        (&[L4Tout, L4Ok], Unreachable(L4Tout)),
        (&[L7Sts, L7Ok], SaysNo),
        (&[L4Tout, L4Ok, L4Ok], Serves),
        // Our own trouble is not the peer's.
        (&[Sockerr], Unknown),
        (&[L4Ok, Sockerr, Sockerr, Sockerr], Serves),
        (&[L4Con, Sockerr], Unreachable(L4Con)),
    ] {
        let mut peers = peers(&["node2", "node3"]);
        for &code in codes {
            peers.observe(&id("node2"), &result(code), Instant::now());
        }
        assert_eq!(peers.state(&id("node2")), expected, "{codes:?}");
        assert_eq!(peers.state(&id("node3")), Unknown, "{codes:?}");
    }
}

#[test]
fn a_peers_own_no_counts_at_once_until_it_says_yes() {
    let mut peers = peers(&["node2"]);
    let (node2, node9) = (id("node2"), id("node9"));
    assert_eq!(says(&mut peers, &node2, false), [(node2.clone(), false)]);
    assert_eq!(peers.state(&node2), PeerState::SaysNo, "though never seen");
    peers.observe(&node2, &result(Code::L4Ok), Instant::now());
    assert_eq!(peers.state(&node2), PeerState::SaysNo);
    assert_eq!(says(&mut peers, &node2, false), [], "no news");
    assert_eq!(says(&mut peers, &node2, true), [(node2.clone(), true)]);
    peers.observe(&node2, &result(Code::L4Ok), Instant::now());
    assert_eq!(peers.state(&node2), PeerState::Serves);
    assert_eq!(says(&mut peers, &node2, true), []);
    assert_eq!(says(&mut peers, &node9, false), []);
}

/// A node that stops says no, falls silent, and is probed down; the next one there may never speak.
#[test]
fn a_no_holds_until_the_probes_have_judged() {
    let mut peers = peers(&["node2"]);
    peers.observe(&id("node2"), &result(Code::L4Ok), Instant::now());
    says(&mut peers, &id("node2"), false);
    for (code, expected) in [
        (Code::L4Ok, PeerState::SaysNo),
        (Code::L4Con, PeerState::SaysNo),
        (Code::L4Con, PeerState::SaysNo),
        (Code::L4Con, PeerState::Unreachable(Code::L4Con)),
        (Code::L4Ok, PeerState::Unreachable(Code::L4Con)),
        (Code::L4Ok, PeerState::Serves),
    ] {
        peers.observe(&id("node2"), &result(code), Instant::now());
        assert_eq!(peers.state(&id("node2")), expected);
    }
}

fn echo(peer: &str) -> PeerId {
    PeerId { pool: PoolId { service: "echo".into(), family: Family::V4 }, ..id(peer) }
}

#[test]
fn while_a_daemon_starts_again_its_data_path_tells() {
    let start = Instant::now();
    let ids = [(id("node2"), Judge::Probe), (echo("node2"), Judge::Word), (echo("node3"), Judge::Word)];
    let mut peers = Peers::new(ids, asked(&["node2", "node3"]), &check(), start);
    peers.observe(&id("node2"), &result(Code::L4Ok), start);
    for peer in ["node2", "node3"] {
        peers.observe(&echo(peer), &result(Code::L7Ok), start);
    }
    for _ in 0..3 {
        peers.observe(&echo("node2"), &result(Code::L7Tout), start);
        peers.observe(&echo("node3"), &result(Code::L4Con), start);
    }
    assert_eq!(peers.state(&echo("node2")), PeerState::Serves, "connections work");
    assert_eq!(peers.state(&echo("node3")), PeerState::Unreachable(Code::L4Con), "nothing else tells");

    // Three intervals and a timeout until a silent daemon would be noticed, and the grace.
    assert!(peers.fall_silent(start + Duration::from_secs(62)).is_empty());
    assert_eq!(peers.fall_silent(start + Duration::from_secs(63)), ["node2".into(), "node3".into()]);
    assert!(peers.fall_silent(start + Duration::from_secs(64)).is_empty(), "said once");
    assert_eq!(peers.state(&id("node2")), PeerState::Silent);
    assert_eq!(peers.state(&echo("node2")), PeerState::Unreachable(Code::L7Tout));
    let (address, word) = (&asked(&["node2"])[0], Some(PeerWord::default()));
    let heard = peers.hear(address, &result(Code::L7Ok), word, start + Duration::from_secs(65));
    assert!(heard.answers_again);
    assert_eq!(peers.state(&id("node2")), PeerState::Serves);
}

#[test]
fn a_word_that_is_the_judge_counts_at_once_when_it_is_no() {
    let ids = [(id("node2"), Judge::Probe), (echo("node2"), Judge::Word)];
    let mut peers = Peers::new(ids, asked(&["node2"]), &check(), Instant::now());
    peers.observe(&id("node2"), &result(Code::L4Ok), Instant::now());
    peers.observe(&echo("node2"), &result(Code::L7Ok), Instant::now());
    assert_eq!(says(&mut peers, &echo("node2"), false), [(echo("node2"), false)]);
    assert_eq!(peers.state(&echo("node2")), PeerState::SaysNo);
    for code in [Code::L7Sts, Code::L7Tout] {
        for _ in 0..3 {
            peers.observe(&echo("node2"), &result(code), Instant::now());
        }
        assert_eq!(peers.state(&echo("node2")), PeerState::SaysNo, "silence takes nothing back");
    }
    assert_eq!(says(&mut peers, &echo("node2"), true), [(echo("node2"), true)]);
    for _ in 0..2 {
        peers.observe(&echo("node2"), &result(Code::L7Ok), Instant::now());
    }
    assert_eq!(peers.state(&echo("node2")), PeerState::Serves);
}

#[test]
fn a_dead_data_path_tells_more_than_a_silent_daemon() {
    let start = Instant::now();
    let ids = [(id("node2"), Judge::Probe), (echo("node2"), Judge::Word)];
    let mut peers = Peers::new(ids, asked(&["node2"]), &check(), start);
    peers.observe(&id("node2"), &result(Code::L4Ok), start);
    peers.observe(&echo("node2"), &result(Code::L7Ok), start);
    for _ in 0..3 {
        peers.observe(&echo("node2"), &result(Code::L7Tout), start);
        peers.observe(&id("node2"), &result(Code::L4Tout), start);
    }
    assert_eq!(peers.state(&echo("node2")), PeerState::Unreachable(Code::L7Tout));
    assert_eq!(peers.state(&id("node2")), PeerState::Unreachable(Code::L4Tout));
    let mut unasked = Peers::new([(id("node2"), Judge::Probe)], [], &check(), start);
    assert!(unasked.fall_silent(start + Duration::from_secs(1_000)).is_empty(), "without DNS nobody asks");
}

/// 300 pools on one address of each of two peers: at 50 a second each has its turn every 12 s.
fn in_turn(start: Instant) -> (Peers, Vec<PeerId>) {
    let service = |number: u32| PoolId { service: format!("s{number}").into(), family: Family::V4 };
    let of = |peer| move |number| PeerId { pool: service(number), ..id(peer) };
    let ids: Vec<_> = (0..300).flat_map(|number| [of("node2")(number), of("node3")(number)]).collect();
    let probed = ids.iter().cloned().map(|id| (id, Judge::Probe));
    let mut peers = Peers::new(probed, asked(&["node2", "node3"]), &check(), start);
    for id in &ids {
        peers.observe(id, &result(Code::L4Ok), start);
    }
    (peers, ids)
}

/// Lets probes take their turns for a while, each answered as its pool is; when a peer's pools were first all given up.
fn take_turns(
    peers: &mut Peers,
    ids: &[PeerId],
    (start, time): (Instant, Duration),
    answers: impl Fn(&PeerId) -> bool,
    given_up: &str,
) -> Option<Duration> {
    let turn = Duration::from_millis(20);
    let mut found = None;
    for (number, id) in (0..).zip(ids.iter().cycle()).take((time.as_millis() / turn.as_millis()) as usize) {
        let at = turn * number;
        let code = if answers(id) { Code::L4Ok } else { Code::L4Tout };
        peers.observe(id, &result(code), start + at);
        let serves = peers.iter().any(|(id, state, _)| &*id.peer == given_up && state == PeerState::Serves);
        if !serves {
            found.get_or_insert(at);
        }
    }
    found
}

#[test]
fn a_dead_peer_is_found_in_time_however_many_services_take_turns() {
    let start = Instant::now();
    let (mut peers, ids) = in_turn(start);
    let minute = Duration::from_secs(60);
    let dead = take_turns(&mut peers, &ids, (start, minute), |id| &*id.peer != "node2", "node2");
    let found = dead.expect("node2 is given up");
    assert!(found < check().timing.interval * check().timing.fall, "{found:?}");
    assert!(peers.iter().all(|(id, state, _)| (&*id.peer == "node3") == (state == PeerState::Serves)));
    let seen = peers.iter().find(|(id, ..)| &*id.peer == "node2").map(|(.., checked)| checked.is_up());
    assert_eq!(seen, Some(false), "status tells what was found");

    // All of it is back at once.
    let later = start + minute;
    take_turns(&mut peers, &ids, (later, Duration::from_secs(1)), |_| true, "node2");
    assert!(peers.iter().all(|(_, state, _)| state == PeerState::Serves));
}

#[test]
fn a_dead_service_is_given_up_alone() {
    let start = Instant::now();
    let (mut peers, ids) = in_turn(start);
    let is_dead = |id: &PeerId| &*id.peer == "node2" && id.pool.service.ends_with('7');
    let minute = Duration::from_secs(60);
    assert_eq!(take_turns(&mut peers, &ids, (start, minute), |id| !is_dead(id), "node2"), None);
    for (id, state, _) in peers.iter() {
        assert_eq!(state == PeerState::Serves, !is_dead(id), "{id}");
    }
}

#[test]
fn a_row_of_services_of_which_the_peer_says_no_takes_nothing_else_with_it() {
    let start = Instant::now();
    let (mut peers, ids) = in_turn(start);
    let is_dead = |id: &PeerId| id.pool.service.len() == 3;
    ids.iter().filter(|id| is_dead(id)).for_each(|id| drop(says(&mut peers, id, false)));
    let minute = Duration::from_secs(60);
    assert_eq!(take_turns(&mut peers, &ids, (start, minute), |id| !is_dead(id), "node2"), None);
    for (id, state, _) in peers.iter() {
        assert_eq!(state == PeerState::Serves, !is_dead(id), "{id}");
    }
}

#[test]
fn a_drained_peer_is_judged_anew_when_it_is_back_or_dies_though_services_take_turns() {
    let start = Instant::now();
    let (mut peers, ids) = in_turn(start);
    let at = ids[0].at();
    let says = |peers: &mut Peers, serves| {
        let there = ids.iter().filter(|id| id.at() == at).map(|id| &id.pool);
        assert_eq!(says_of_all(peers, &at, there, serves).len(), 300);
    };
    says(&mut peers, false);
    assert!(ids.iter().all(|id| peers.declines(id) == (id.at() == at)));
    says(&mut peers, true);
    assert_eq!(peers.state(&ids[2]), PeerState::Unknown, "nobody has tried yet");
    peers.observe(&ids[0], &result(Code::L4Ok), start);
    assert_eq!(peers.state(&ids[2]), PeerState::Serves);

    says(&mut peers, false);
    fall_silent(&mut peers, &at);
    let second = Duration::from_secs(1);
    take_turns(&mut peers, &ids, (start + second, second * 3), |id| id.at() != at, "node2");
    assert_eq!(peers.sights()[&at], Sight::Silent);
    assert!(ids.iter().all(|id| id.at() == at || peers.state(id) == PeerState::Serves));
}

/// Its daemon was restarted by a file that has fewer of them.
#[test]
fn services_that_a_drained_peer_has_lost_do_not_speak_against_it_when_it_is_back() {
    let start = Instant::now();
    let (mut peers, ids) = in_turn(start);
    let at = ids[0].at();
    let there: Vec<_> = ids.iter().filter(|id| id.at() == at).collect();
    says_of_all(&mut peers, &at, there.iter().map(|id| &id.pool), false);
    let is_kept = |id: &PeerId| id.pool.service.ends_with('7');
    let kept = || there.iter().filter(|id| is_kept(id)).map(|id| &id.pool);
    says_of_all(&mut peers, &at, kept(), false);
    says_of_all(&mut peers, &at, kept(), true);
    let minute = Duration::from_secs(60);
    take_turns(&mut peers, &ids, (start, minute), |id| id.at() != at || is_kept(id), "node2");
    for id in ids {
        assert_eq!(peers.state(&id) == PeerState::Serves, id.at() != at || is_kept(&id), "{id}");
    }
}

#[test]
fn who_worked_before_probes_took_turns_is_not_judged_by_the_first_of_them() {
    let start = Instant::now();
    let (all, ids) = in_turn(start);
    let few = |ids: &[PeerId]| ids.iter().cloned().map(|id| (id, Judge::Probe)).collect::<Vec<_>>();
    let asked = || asked(&["node2", "node3"]);
    let before = all.successor(few(&ids[..4]), asked(), &check(), start);
    let mut next = before.successor(few(&ids), asked(), &check(), start);
    next.observe(&ids[4], &result(Code::L4Con), start);
    assert_eq!(next.state(&ids[0]), PeerState::Serves);

    // And none of what worked is left: the first that is there now tells.
    let others: Vec<_> = ids
        .iter()
        .map(|id| PeerId {
            pool: PoolId { service: format!("{}x", id.pool.service).into(), ..id.pool.clone() },
            ..id.clone()
        })
        .collect();
    let mut next = all.successor(few(&others), asked(), &check(), start);
    next.observe(&others[0], &result(Code::L4Tout), start);
    assert!(next.iter().all(|(id, state, _)| &*id.peer == "node3" || state != PeerState::Serves));
    let sight = next.sights()[&others[0].at()];
    assert_eq!(sight, Sight::Unknown, "its daemon was not asked yet");
}

#[test]
fn what_had_no_turn_yet_is_judged_by_the_peers_word() {
    let start = Instant::now();
    let (_, ids) = in_turn(start);
    let probed = ids.iter().cloned().map(|id| (id, Judge::Probe));
    let mut peers = Peers::new(probed, asked(&["node2", "node3"]), &check(), start);
    says(&mut peers, &ids[2], true);
    assert_eq!(peers.state(&ids[2]), PeerState::Unknown, "no connection has worked");
    peers.observe(&ids[0], &result(Code::L4Ok), start);
    assert_eq!(peers.state(&ids[2]), PeerState::Serves);
    assert_eq!(peers.state(&ids[4]), PeerState::Unknown, "it has said nothing of it");
    peers.observe(&ids[2], &result(Code::L4Con), start);
    assert_eq!(peers.state(&ids[2]), PeerState::Unreachable(Code::L4Con), "it is not offered there");
}

#[test]
fn a_peer_is_silent_when_neither_daemon_nor_data_path_answers() {
    use Code::{L4Ok, L4Tout, L7Ok, L7Tout};
    let now = Instant::now();
    for (asked_codes, probed_codes, expected) in [
        (&[] as &[Code], &[] as &[Code], Sight::Unknown),
        (&[L7Tout], &[], Sight::Unknown),
        (&[L7Ok], &[], Sight::Answers),
        (&[L7Tout], &[L4Ok], Sight::Answers),
        (&[L7Ok, L7Tout, L7Tout, L7Tout], &[L4Ok, L4Tout, L4Tout, L4Tout], Sight::Silent),
        (&[L7Ok, L7Tout, L7Tout, L7Tout], &[L4Ok, L4Tout, L4Tout], Sight::Answers),
        // One failure may be of a peer that starts, too.
        (&[L7Tout], &[L4Tout], Sight::Unknown),
        (&[L7Tout; 3], &[L4Tout, L4Tout], Sight::Unknown),
        (&[L7Tout; 3], &[L4Tout; 3], Sight::Silent),
        (&[L7Tout; 3], &[L4Tout, L4Tout, L4Tout, L4Ok], Sight::Unknown),
        (&[L7Ok], &[L4Ok, L4Tout, L4Tout, L4Tout], Sight::Answers),
    ] {
        let mut peers = peers(&["node2"]);
        let address = &asked(&["node2"])[0];
        for code in asked_codes {
            let word = code.passed().then(PeerWord::default);
            peers.hear(address, &result(*code), word, now);
        }
        for code in probed_codes {
            peers.observe(&id("node2"), &result(*code), now);
        }
        assert_eq!(peers.sights()[address], expected, "{asked_codes:?} {probed_codes:?}");
    }
}

#[test]
fn a_word_counts_while_the_peer_answers() {
    let mut peers = peers(&["node2"]);
    let address = &asked(&["node2"])[0];
    assert_eq!(peers.word("node2"), None);
    let word = PeerWord { boot: 7, ..PeerWord::default() };
    let mut hear = |code, word| {
        let heard = peers.hear(address, &result(code), word, Instant::now());
        (heard.is_news, peers.word("node2").map(|word| word.boot))
    };
    assert_eq!(hear(Code::L7Ok, Some(word.clone())), (true, Some(7)));
    assert_eq!(hear(Code::L7Ok, Some(word)), (false, Some(7)));
    assert_eq!(hear(Code::L7Tout, None), (false, Some(7)));
    assert_eq!(hear(Code::L7Tout, None), (false, Some(7)));
    assert_eq!(hear(Code::L7Tout, None), (false, None), "silent");
}

#[test]
fn a_result_for_nobody_is_left_out() {
    let mut peers = peers(&["node2"]);
    assert_eq!(peers.observe(&id("node9"), &result(Code::L4Ok), Instant::now()), Observed::default());
    assert_eq!(peers.state(&id("node9")), PeerState::Unknown);
    assert_eq!(peers.iter().count(), 1);
}
