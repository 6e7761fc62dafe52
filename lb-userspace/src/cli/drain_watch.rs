//! When a drained node is safe to stop, by what was seen of it look after look.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::text::{age, count};
use crate::status::millis;

/// Flows that have begun, by service, backend and where it answers.
pub(super) type Begun = BTreeMap<(String, String, IpAddr, u16), u64>;

/// What was seen.
pub(super) struct Watch {
    /// For how long no flow may have begun.
    quiet: Duration,
    /// A server that named the node at the last look.
    named: Option<String>,
    /// Since when none does.
    unnamed: Option<Instant>,
    /// The counters at the last look.
    begun: Begun,
    /// Since when they have been looked at, or a flow began at last.
    still: Option<Instant>,
    /// Flows that began lately, and when that was seen.
    recent: VecDeque<(Instant, u64)>,
}

impl Watch {
    pub(super) fn new(quiet: Duration) -> Watch {
        Watch { quiet, named: None, unnamed: None, begun: Begun::new(), still: None, recent: VecDeque::new() }
    }

    /// Takes a look at `now`: who names the node, and what the counters say.
    pub(super) fn look(&mut self, named: Option<String>, begun: Begun, now: Instant) {
        match &named {
            Some(_) => self.unnamed = None,
            None => drop(self.unnamed.get_or_insert(now)),
        }
        self.named = named;
        // A counter that was not there before, or fell, belongs to another configuration or data path: it says nothing of
        // the time between two looks.
        let growth = |(backend, now): (_, &u64)| {
            self.begun.get(backend).map_or(0, |before| now.saturating_sub(*before))
        };
        let flows: u64 = begun.iter().map(growth).sum();
        self.begun = begun;
        if flows > 0 {
            self.recent.push_back((now, flows));
            self.still = Some(now);
        }
        self.still.get_or_insert(now);
        while self.recent.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= self.quiet) {
            self.recent.pop_front();
        }
    }

    /// For how long no server has named the node.
    pub(super) fn unnamed(&self, now: Instant) -> Duration {
        since(self.unnamed, now)
    }

    /// What keeps the node from being safe to stop, for people; nothing when it is.
    pub(super) fn left(&self, ttl: Duration, now: Instant) -> Vec<String> {
        let mut left = Vec::new();
        match &self.named {
            Some(server) => left.push(format!("{server} still names this node")),
            None if self.unnamed(now) < ttl * 2 => {
                left.push("no server names this node any more, but caches may still hold it".to_owned());
            }
            None => {}
        }
        let quiet = self.quiet.as_secs_f64();
        let flows: u64 = self.recent.iter().map(|(_, flows)| flows).sum();
        if flows > 0 {
            left.push(format!("clients still open flows: {} in the last {quiet} s", count(flows)));
        } else if since(self.still, now) < self.quiet {
            let still = since(self.still, now).as_secs();
            left.push(format!("no flow has begun for {still} s, but that was not for {quiet} s yet"));
        }
        left
    }

    /// What makes it safe, for people.
    pub(super) fn seen(&self, now: Instant) -> String {
        if self.quiet.is_zero() {
            return format!("no server has named it for {}", age(millis(self.unnamed(now))));
        }
        format!("0 new flows for {} s", since(self.still, now).as_secs())
    }
}

fn since(start: Option<Instant>, now: Instant) -> Duration {
    start.map_or(Duration::ZERO, |start| now.saturating_duration_since(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(1);
    const QUIET: Duration = Duration::from_secs(3);

    /// Counters of backends by name.
    fn begun(counters: &[(&str, u64)]) -> Begun {
        let key = |name: &str| ("web".to_owned(), name.to_owned(), IpAddr::from([203, 0, 113, 21]), 80);
        counters.iter().map(|&(name, count)| (key(name), count)).collect()
    }

    /// Looks once a second, each time with the next of these counters, while `named` names the node.
    fn watched(quiet: Duration, named: Option<&str>, looks: &[&[(&str, u64)]]) -> (Watch, Instant) {
        let (mut watch, mut now) = (Watch::new(quiet), Instant::now());
        for (number, look) in looks.iter().enumerate() {
            if number > 0 {
                now += Duration::from_secs(1);
            }
            watch.look(named.map(str::to_owned), begun(look), now);
        }
        (watch, now)
    }

    fn left(quiet: Duration, looks: &[&[(&str, u64)]]) -> Vec<String> {
        let (watch, now) = watched(quiet, None, looks);
        watch.left(TTL, now)
    }

    #[test]
    fn it_is_safe_when_nobody_names_it_and_nobody_comes() {
        let still: &[(&str, u64)] = &[("b1", 7), ("b2", 0)];
        let caches = "no server names this node any more, but caches may still hold it";
        assert_eq!(
            left(QUIET, &[still; 2]),
            [caches, "no flow has begun for 1 s, but that was not for 3 s yet"]
        );
        assert_eq!(left(QUIET, &[still; 3]), ["no flow has begun for 2 s, but that was not for 3 s yet"]);
        let (watch, now) = watched(QUIET, None, &[still; 4]);
        assert!(watch.left(TTL, now).is_empty());
        assert_eq!(watch.seen(now), "0 new flows for 3 s");
    }

    #[test]
    fn it_is_not_safe_while_flows_begin() {
        let looks: Vec<Vec<(&str, u64)>> = (0..9).map(|look| vec![("b1", 2 * look), ("b2", 40)]).collect();
        let looks: Vec<&[(&str, u64)]> = looks.iter().map(Vec::as_slice).collect();
        assert_eq!(left(QUIET, &looks), ["clients still open flows: 6 in the last 3 s"]);
        // They end.
        let last = *looks.last().unwrap();
        let ended = |more| [&looks[..], &vec![last; more]].concat();
        assert_eq!(left(QUIET, &ended(2)), ["clients still open flows: 2 in the last 3 s"]);
        assert!(left(QUIET, &ended(3)).is_empty());
    }

    #[test]
    fn while_somebody_names_it_nothing_else_helps() {
        let still: &[(&str, u64)] = &[("b1", 7)];
        let (watch, now) = watched(QUIET, Some("192.0.2.53:53"), &[still; 9]);
        assert_eq!(watch.left(TTL, now), ["192.0.2.53:53 still names this node"]);
    }

    #[test]
    fn counters_that_fall_come_or_go_are_no_flows() {
        let before: &[(&str, u64)] = &[("b1", 7), ("b2", 9)];
        let changes: [&[(&str, u64)]; 5] = [
            // Another data path, which counts from 0; a backend less, a backend more, others, none.
            &[("b1", 0), ("b2", 3)],
            &[("b1", 7)],
            &[("b1", 7), ("b2", 9), ("b3", 1_000)],
            &[("b4", 90), ("b5", 12)],
            &[],
        ];
        for changed in changes {
            assert!(left(QUIET, &[before, before, changed, changed]).is_empty(), "{changed:?}");
        }
        let restarted: [&[(&str, u64)]; 4] = [&[("b1", 7)], &[("b1", 0)], &[("b1", 2)], &[("b1", 2)]];
        assert_eq!(left(QUIET, &restarted), ["clients still open flows: 2 in the last 3 s"]);
    }

    #[test]
    fn who_does_not_ask_for_quiet_does_not_wait_for_it() {
        let looks: [&[(&str, u64)]; 3] = [&[("b1", 7)], &[("b1", 8)], &[("b1", 9)]];
        let (watch, now) = watched(Duration::ZERO, None, &looks);
        assert!(watch.left(TTL, now).is_empty());
        assert_eq!(watch.seen(now), "no server has named it for 2.0 s");
    }
}
