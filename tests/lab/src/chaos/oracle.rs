//! Which losses an event may cause. Every other one is a failure.

use std::{collections::BTreeMap, fmt, time::Instant};

/// What was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A connection that exchanged numbered requests.
    Kept,
    /// A connection that was just being opened.
    New,
    /// A datagram, or its answer.
    Datagram,
}

/// A loss, as the client saw it.
#[derive(Debug, Clone)]
pub(crate) struct Loss {
    pub(crate) kind: Kind,
    /// The node that it went to.
    pub(crate) node: u8,
    /// The backend that had answered before; empty when none had.
    pub(crate) backend: String,
    /// When a kept connection was last seen well, or when another thing was sent; and when the loss was seen.
    pub(crate) since: Instant,
    pub(crate) seen: Instant,
    pub(crate) why: String,
}

/// What an event takes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A backend's web server: its connections, and new ones until every node has seen it down.
    Backend(String),
    /// The way to a node.
    Node(u8),
}

/// An event that may cause losses, from its begin until nothing of it is left.
#[derive(Debug, Clone)]
pub(crate) struct Excuse {
    pub(crate) cause: Cause,
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

impl Excuse {
    fn covers(&self, loss: &Loss) -> bool {
        let at_the_time = loss.since <= self.until && self.from <= loss.seen;
        at_the_time
            && match &self.cause {
                Cause::Node(node) => loss.node == *node,
                Cause::Backend(backend) => match loss.kind {
                    Kind::Kept => loss.backend == *backend,
                    Kind::New => true,
                    // Its echo lives on: checks ask the web server.
                    Kind::Datagram => false,
                },
            }
    }
}

/// How many losses were excused, by kind; and those that nothing excuses.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) excused: BTreeMap<Kind, usize>,
    pub(crate) guilty: Vec<Loss>,
}

/// Judges every loss.
pub(crate) fn judge(losses: Vec<Loss>, excuses: &[Excuse]) -> Verdict {
    let mut verdict = Verdict::default();
    for loss in losses {
        match excuses.iter().any(|excuse| excuse.covers(&loss)) {
            true => *verdict.excused.entry(loss.kind).or_default() += 1,
            false => verdict.guilty.push(loss),
        }
    }
    verdict
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Kept => "a connection",
            Kind::New => "a new connection",
            Kind::Datagram => "a datagram",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn loss(start: Instant, kind: Kind, backend: &str, since: u64, seen: u64) -> Loss {
        let at = |seconds| start + Duration::from_secs(seconds);
        Loss {
            kind,
            node: 1,
            backend: backend.to_owned(),
            since: at(since),
            seen: at(seen),
            why: String::new(),
        }
    }

    #[test]
    fn only_what_an_event_takes_away_while_it_lasts_is_excused() {
        let start = Instant::now();
        let excuse = |cause| Excuse {
            cause,
            from: start + Duration::from_secs(10),
            until: start + Duration::from_secs(12),
        };
        let backend = excuse(Cause::Backend("backend1".to_owned()));
        let node = excuse(Cause::Node(1));
        let other = excuse(Cause::Node(2));
        for (kind, of, sent, seen, expected) in [
            (Kind::Kept, "backend1", 9, 11, [true, true, false]),
            (Kind::Kept, "backend1", 12, 20, [true, true, false]),
            (Kind::Kept, "backend1", 13, 14, [false; 3]),
            (Kind::Kept, "backend1", 5, 9, [false; 3]),
            (Kind::Kept, "backend2", 10, 11, [false, true, false]),
            (Kind::New, "", 10, 11, [true, true, false]),
            (Kind::Datagram, "backend1", 10, 11, [false, true, false]),
        ] {
            let covered = [&backend, &node, &other].map(|excuse| {
                let verdict = judge(vec![loss(start, kind, of, sent, seen)], std::slice::from_ref(excuse));
                assert_eq!(verdict.guilty.len() + verdict.excused.len(), 1);
                verdict.guilty.is_empty()
            });
            assert_eq!(covered, expected, "{kind} of {of}, {sent} to {seen}");
        }
    }
}
