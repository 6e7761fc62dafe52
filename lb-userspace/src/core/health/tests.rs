use proptest::prelude::*;

use super::*;
use crate::config::Aim;

fn timing(rise: u32, fall: u32) -> Timing {
    Timing {
        interval: Duration::from_secs(2),
        fast_interval: Duration::from_millis(500),
        timeout: Duration::from_secs(1),
        rise,
        fall,
        jitter: 0.1,
    }
}

fn result(passed: bool) -> CheckResult {
    let (code, detail) = if passed { (Code::L4Ok, "") } else { (Code::L4Con, "Connection refused") };
    CheckResult::new(code, Duration::from_millis(1), detail)
}

/// Feeds one result per character (`+` passed, `-` failed) and writes one state per result (`U` or `D`).
fn states(rise: u32, fall: u32, results: &str) -> String {
    let mut checked = Checked::new(&timing(rise, fall));
    let now = Instant::now();
    results
        .chars()
        .map(|character| {
            checked.observe(&result(character == '+'), now);
            if checked.is_up() { 'U' } else { 'D' }
        })
        .collect()
}

/// Scenario 58; rise 2, fall 3. What went in, what came out.
#[test]
fn what_was_up_before_a_restart_stays_up_until_checks_fail_in_a_row() {
    let timing = timing(2, 2);
    let now = Instant::now();
    let mut checked = Checked::presumed_up(&timing, now);
    assert_eq!((checked.health(), checked.seen().is_none()), (Some(Health::Up), true));
    assert_eq!(checked.observe(&result(false), now), None, "one is not enough");
    assert!(checked.is_up());
    let transition = checked.observe(&result(false), now).expect("two are");
    assert_eq!((transition.from, transition.to), (Some(Health::Up), Health::Down));
    let mut checked = Checked::presumed_up(&timing, now);
    assert_eq!(checked.observe(&result(true), now), None, "nothing new");
    assert_eq!(checked.seen().map(|seen| seen.since), Some(now));
}

fn check(kind: CheckKind, passive: Passive) -> Check {
    let timing = timing(2, 2);
    Check { kind: kind.into(), port: None, aim: Aim::Address, source: Vec::new(), passive, timing }
}

#[test]
fn what_an_earlier_daemon_has_left_tells_what_it_knew() {
    let (tcp, agent) = (check(CheckKind::Tcp, Passive::Off), check(CheckKind::Agent, Passive::Off));
    let now = Instant::now();
    let left = |flags| Backend { flags, ..Backend::default() };
    let (up, drained, forced) = (
        left(Backend::UP | Backend::ACCEPTS),
        left(Backend::UP),
        left(Backend::UP | Backend::ACCEPTS | Backend::BY_POLICY),
    );
    let resumed = |left, check| Checked::resumed(left, check, true, now);
    assert_eq!((resumed(&up, &tcp).health(), resumed(&up, &agent).advice()), (Some(Health::Up), None));
    // By a panic: as many passing checks as ever bring it up.
    let mut down = resumed(&forced, &tcp);
    assert_eq!(down.health(), Some(Health::Down));
    assert_eq!(down.observe(&result(true), now), None);
    assert_eq!(down.observe(&result(true), now).expect("two").to, Health::Up);
    // Its agent keeps flows from it: until the agent says something else.
    let mut by_agent = resumed(&drained, &agent);
    assert_eq!(by_agent.advice().expect("a drain").state, Admin::Drain);
    by_agent.observe(&CheckResult { advice: Some(Override::default()), ..result(true) }, now);
    assert_eq!(by_agent.advice(), Some(Override::default()));
    assert_eq!(resumed(&drained, &tcp).advice(), None, "there is no agent");
    assert_eq!(Checked::resumed(&drained, &agent, false, now).advice(), None, "somebody else does");
}

#[test]
fn another_check_takes_back_what_only_the_old_one_could_say() {
    let now = Instant::now();
    let (agent, tcp) = (check(CheckKind::Agent, Passive::Fail), check(CheckKind::Tcp, Passive::Fail));
    let drain = Override { state: Admin::Drain, ..Override::default() };
    let mut checked = Checked::new(&agent.timing);
    checked.observe(&CheckResult { advice: Some(drain), ..result(true) }, now);
    while checked.hear_silence(&SILENCE, true, now).is_none() {}
    let held = checked.held(now);
    assert!(held.is_some());
    checked.follow(&agent);
    assert_eq!((checked.advice(), checked.held(now)), (Some(drain), held));
    checked.follow(&tcp);
    assert_eq!((checked.advice(), checked.held(now)), (None, held));
    checked.follow(&check(CheckKind::Tcp, Passive::Check));
    assert_eq!((checked.held(now), checked.is_up()), (None, false));
    for _ in 0..tcp.timing.rise {
        checked.observe(&result(true), now);
    }
    assert!(checked.is_up(), "nothing holds it");
}

#[test]
fn rise_and_fall() {
    for (results, expected) in [
        // The first result decides.
        ("+", "U"),
        ("-", "D"),
        // Up: fewer failures than `fall` change nothing, `fall` do.
        ("+--", "UUU"),
        ("+---", "UUUD"),
        // Down: fewer successes than `rise` change nothing, `rise` do.
        ("-+", "DD"),
        ("-++", "DDU"),
        // What interrupts a row starts the count anew.
        ("+--+--", "UUUUUU"),
        ("+--+---", "UUUUUUD"),
        ("-+-+", "DDDD"),
        ("-+-++", "DDDDU"),
        // The first result is the first of its row.
        ("----++---", "DDDDDUUUD"),
    ] {
        assert_eq!(states(2, 3, results), expected, "{results}");
    }
    assert_eq!(states(1, 1, "+-+-"), "UDUD");
}

#[test]
fn checks_are_fast_while_results_contradict_the_state() {
    let now = Instant::now();
    let mut checked = Checked::new(&timing(2, 3));
    assert_eq!(checked.pace(), Pace::Usual, "nothing is known yet");
    let mut paces = String::new();
    for passed in "+--+----+-++".chars() {
        checked.observe(&result(passed == '+'), now);
        paces.push(if checked.pace() == Pace::Fast { 'F' } else { '.' });
    }
    // Up, two failures, back; three failures take it down; one success, a failure, and two that bring it back.
    assert_eq!(paces, ".FF.FF..F.F.");

    let mut presumed = Checked::presumed_up(&timing(2, 3), now);
    assert_eq!(presumed.pace(), Pace::Usual);
    assert_eq!(presumed.expected(), Some(Health::Up));
    presumed.observe(&result(false), now);
    assert_eq!(presumed.pace(), Pace::Fast);
    assert_eq!((presumed.health(), presumed.expected()), (Some(Health::Up), Some(Health::Down)));
    presumed.observe(&CheckResult::new(Code::Sockerr, Duration::ZERO, ""), now);
    assert_eq!(presumed.pace(), Pace::Fast, "what cannot be checked says nothing new");
}

const SILENCE: Silence = Silence { opened: 23, window_ms: 2_000 };

#[test]
fn silence_has_it_checked_fast_until_checks_have_passed() {
    let now = Instant::now();
    let mut checked = Checked::new(&timing(2, 3));
    assert_eq!(checked.hear_silence(&SILENCE, true, now), None, "it was not up");
    checked.observe(&result(true), now);
    for _ in 0..100 {
        assert_eq!(checked.hear_silence(&SILENCE, false, now), None);
    }
    assert_eq!((checked.is_up(), checked.pace()), (true, Pace::Fast));
    checked.observe(&result(true), now);
    assert_eq!(checked.pace(), Pace::Fast);
    checked.observe(&result(true), now);
    assert_eq!(checked.pace(), Pace::Usual);
}

#[test]
fn silence_takes_it_down_although_checks_pass_and_holds_it() {
    let start = Instant::now();
    let at = |second| start + Duration::from_secs(second);
    let mut checked = Checked::new(&timing(2, 3));
    let mut second = 0;
    let mut windows = |checked: &mut Checked| {
        let down = (1..).find_map(|window| {
            second += 2;
            checked.observe(&result(true), at(second));
            let transition = checked.hear_silence(&SILENCE, true, at(second))?;
            Some((window, transition))
        });
        (down.expect("it does not end"), second)
    };
    let ((count, transition), down_at) = windows(&mut checked);
    assert_eq!(count, 3, "passing checks are no answers");
    let line = "up -> down: L4TOUT 23 connections opened in the last 2 s, none answered (3 in a row)";
    assert_eq!(transition.to_string(), line);
    // Checks pass, and do not count for ten seconds.
    for later in 1..10 {
        assert_eq!(checked.observe(&result(true), at(down_at + later)), None);
        assert_eq!(checked.pace(), Pace::Usual);
    }
    let up = checked.observe(&result(true), at(down_at + 10)).expect("up");
    assert_eq!((up.to, up.in_a_row), (Health::Up, 10));
    // One window is enough now, and it is held twice as long.
    let ((count, _), _) = windows(&mut checked);
    assert_eq!(count, 1);
    assert_eq!(checked.held(checked.seen().unwrap().since), Some(Duration::from_secs(20)));
    // An answer ends all that.
    checked.hear_answers();
    assert_eq!(checked.held(checked.seen().unwrap().since), None);
}

#[test]
fn not_checked_is_neither_up_nor_down() {
    let checked = Checked::new(&timing(2, 3));
    assert_eq!(checked.health(), None);
    assert!(!checked.is_up());
    assert!(checked.seen().is_none());
}

#[test]
fn remembers_when_and_how_often() {
    let start = Instant::now();
    let at = |second| start + Duration::from_secs(second);
    let mut checked = Checked::new(&timing(2, 3));
    for (second, passed) in [(1, true), (2, true), (3, false), (4, false)] {
        checked.observe(&result(passed), at(second));
    }
    let seen = checked.seen().unwrap();
    assert_eq!((seen.health, seen.since, seen.last_at, seen.in_a_row), (Health::Up, at(1), at(4), 2));

    checked.observe(&result(false), at(5));
    let seen = checked.seen().unwrap();
    assert_eq!((seen.health, seen.since, seen.last_at, seen.in_a_row), (Health::Down, at(5), at(5), 3));
    assert_eq!(seen.last, result(false));
}

#[test]
fn checks_that_cannot_be_made_change_nothing_and_are_known() {
    let now = Instant::now();
    let mut checked = Checked::new(&timing(2, 3));
    let sockerr = CheckResult::new(Code::Sockerr, Duration::ZERO, "Too many open files here");
    assert_eq!(checked.observe(&sockerr, now), None);
    assert_eq!((checked.health(), checked.last()), (None, Some((&sockerr, now))));
    for passed in [true, false, false] {
        checked.observe(&result(passed), now);
        assert_eq!((checked.trouble(), checked.last()), (None, Some((&result(passed), now))));
        for _ in 0..100 {
            checked.observe(&sockerr, now);
            assert_eq!(checked.trouble().map(|trouble| &trouble.result), Some(&sockerr));
        }
        assert!(checked.is_up());
    }
    let transition = checked.observe(&result(false), now).unwrap();
    assert_eq!((transition.to, transition.in_a_row), (Health::Down, 3));
}

#[test]
fn a_transition_is_one_line() {
    let mut checked = Checked::new(&timing(2, 2));
    let now = Instant::now();
    let lines: Vec<String> = [true, false, false]
        .iter()
        .filter_map(|&passed| checked.observe(&result(passed), now))
        .map(|transition| transition.to_string())
        .collect();
    assert_eq!(lines, ["not checked -> up: L4OK", "up -> down: L4CON Connection refused (2 in a row)"]);
}

proptest! {
    /// Against a model that looks at the whole history: the state flips when the latest `rise`
    /// or `fall` results all contradict it.
    #[test]
    fn agrees_with_the_model(
        rise in 1_u32..5,
        fall in 1_u32..5,
        results in prop::collection::vec(prop::bool::weighted(0.5), 1..60),
    ) {
        let start = Instant::now();
        let mut checked = Checked::new(&timing(rise, fall));
        let (mut up, mut since) = (results[0], start);
        for (index, &passed) in results.iter().enumerate() {
            let now = start + Duration::from_secs(index as u64);
            let transition = checked.observe(&result(passed), now);

            let history = &results[..=index];
            let needed = if up { fall } else { rise } as usize;
            let contradicting = history.iter().rev().take_while(|&&passed| passed != up).count();
            let flips = contradicting >= needed;
            if flips {
                (up, since) = (!up, now);
            }

            prop_assert_eq!(checked.is_up(), up);
            prop_assert_eq!(transition.is_some(), flips || index == 0);
            let seen = checked.seen().unwrap();
            prop_assert_eq!(seen.since, since);
            prop_assert_eq!(
                seen.in_a_row as usize,
                history.iter().rev().take_while(|&&earlier| earlier == passed).count()
            );
        }
    }

    #[test]
    fn checks_stay_near_their_rhythm(random in 0.0..1.0, jitter in 0.0_f32..0.5) {
        let timing = Timing { jitter, ..timing(2, 3) };
        prop_assert!(first_check(&timing, random) <= START_SPREAD);
        for (pace, interval) in [(Pace::Usual, timing.interval), (Pace::Fast, timing.fast_interval)] {
            let next = next_check(&timing, pace, random).as_secs_f64();
            let deviation = (next / interval.as_secs_f64() - 1.0).abs();
            prop_assert!(deviation <= f64::from(jitter) + 1e-6, "{pace:?}: {deviation}");
        }
    }
}

#[test]
fn the_random_number_spreads_checks() {
    let timing = timing(2, 3);
    assert_eq!(first_check(&timing, 0.0), Duration::ZERO);
    assert_eq!(first_check(&timing, 0.5), START_SPREAD / 2);
    let next = |random| next_check(&timing, Pace::Usual, random);
    assert!(next(0.0) < timing.interval && next(0.9) > timing.interval);
    assert_eq!(next(0.5), timing.interval);
}
