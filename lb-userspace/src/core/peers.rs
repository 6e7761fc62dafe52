//! What this node sees of its peers: who could serve which pool.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    config::{PeerCheck, Timing},
    core::{
        check::{CheckResult, Code},
        exchange::{PeerWord, Sight},
        health::{Checked, Health, Transition},
        ids::PoolId,
        rotation::{self, DataPath},
        slots::Slots,
    },
};

/// One pool on one address of a peer: the unit that is probed. A peer need not offer a service on each of its
/// addresses, and this node's configuration does not say on which it does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId {
    /// The peer's name.
    pub peer: Arc<str>,
    /// Where its packets arrive, of the pool's family.
    pub address: IpAddr,
    /// What it should serve.
    pub pool: PoolId,
}

impl PeerId {
    /// The address, and whose it is.
    pub fn at(&self) -> PeerAddress {
        (self.peer.clone(), self.address)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} at {}", self.peer, self.pool, self.address)
    }
}

/// What this node knows of a pool on a peer's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// It was seen to serve.
    Serves,
    /// Not judged yet; not published until it was seen once.
    Unknown,
    /// The check of its service address failed, with this result.
    Unreachable(Code),
    /// It answers, and says that it cannot serve.
    SaysNo,
    /// Connections through it work, but its daemon has been silent for too long: nobody takes dead backends away there.
    Silent,
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerState::Serves => f.write_str("serves"),
            PeerState::Unknown => f.write_str("not seen yet"),
            PeerState::Unreachable(code) => write!(f, "does not answer ({code})"),
            PeerState::SaysNo => f.write_str("says that it cannot serve"),
            PeerState::Silent => f.write_str("serves, but its daemon is silent"),
        }
    }
}

/// By what it is judged whether a peer serves a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judge {
    /// Connections through its data path.
    Probe,
    /// The word of its daemon, where no connection can tell.
    Word,
}

/// All peers and pools that are probed.
#[derive(Debug, Clone)]
pub struct Peers {
    probed: BTreeMap<PeerId, Probed>,
    /// The questions to peers' daemons, one rhythm for each address.
    asked: BTreeMap<PeerAddress, Checked>,
    voices: BTreeMap<Arc<str>, Voice>,
    /// What the probes of each address say together, where they are so many that they take turns; empty otherwise.
    data_paths: BTreeMap<PeerAddress, DataPath>,
    /// How long a daemon may be silent.
    patience: Duration,
}

/// A peer's name, and one of its addresses.
pub type PeerAddress = (Arc<str>, IpAddr);

/// A peer's daemon.
#[derive(Debug, Clone)]
struct Voice {
    /// When it last answered a question, or when it was first asked.
    heard: Instant,
    /// It has been silent for too long.
    lost: bool,
    /// What it last said.
    word: Option<Arc<PeerWord>>,
}

#[derive(Debug, Clone)]
struct Probed {
    judge: Judge,
    /// It was seen to serve once.
    has_served: bool,
    checked: Checked,
    last_failure: Option<Code>,
    /// The peer's own word is that it cannot serve. It knows best, and first: no need to wait for `fall`
    /// probes to fail when a node stops as planned. Silence takes nothing back, for that is what follows
    /// when it has stopped; probes that failed do, and then passing ones alone bring the peer back. Where its word is
    /// the judge, nothing else than its word does.
    says_no: bool,
}

/// What is new after a probe.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The pool answers now, or no longer.
    pub pool: Option<Transition>,
    /// All that is probed at the address, or no longer: only where probes take turns.
    pub data_path: Option<Transition>,
}

/// What is new after a question to a peer's daemon.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// It answers at this address now, or no longer.
    pub transition: Option<Transition>,
    /// It had been silent for too long.
    pub answers_again: bool,
    /// Pools that it serves now by its own word, or no longer.
    pub said: Vec<(PeerId, bool)>,
    /// It said something else than the last time.
    pub is_news: bool,
}

impl Peers {
    /// Peers that have not been probed yet; `asked`: where their daemons are asked.
    pub fn new(
        ids: impl IntoIterator<Item = (PeerId, Judge)>,
        asked: impl IntoIterator<Item = PeerAddress>,
        check: &PeerCheck,
        now: Instant,
    ) -> Peers {
        let new = |judge| Probed {
            judge,
            has_served: false,
            checked: Checked::new(&check.timing),
            last_failure: None,
            says_no: false,
        };
        let asked: BTreeMap<PeerAddress, Checked> =
            asked.into_iter().map(|address| (address, Checked::new(&check.timing))).collect();
        let voice = Voice { heard: now, lost: false, word: None };
        let probed: BTreeMap<PeerId, Probed> = ids.into_iter().map(|(id, judge)| (id, new(judge))).collect();
        let connections = || probed.iter().filter(|(_, probed)| probed.judge == Judge::Probe);
        let takes_turns = rotation::interval(check, connections().count()).is_some();
        let addresses = connections().filter(|_| takes_turns).map(|(id, _)| id.at());
        Peers {
            data_paths: addresses.map(|at| (at, DataPath::new(&check.timing))).collect(),
            probed,
            voices: asked.keys().map(|(peer, _)| (peer.clone(), voice.clone())).collect(),
            asked,
            patience: patience(check),
        }
    }

    /// Other peers and pools, with what is known of those that stay.
    pub fn successor(
        &self,
        ids: impl IntoIterator<Item = (PeerId, Judge)>,
        asked: impl IntoIterator<Item = PeerAddress>,
        check: &PeerCheck,
        now: Instant,
    ) -> Peers {
        let mut next = Peers::new(ids, asked, check, now);
        for (id, probed) in &mut next.probed {
            if let Some(known) = self.probed.get(id).filter(|known| known.judge == probed.judge) {
                *probed = known.clone();
                probed.checked.set_timing(&check.timing);
            }
        }
        for (address, checked) in &mut next.asked {
            if let Some(known) = self.asked.get(address) {
                *checked = known.clone();
                checked.set_timing(&check.timing);
            }
        }
        for (address, path) in &mut next.data_paths {
            if let Some(known) = self.data_paths.get(address) {
                *path = known.clone();
                path.set_timing(&check.timing);
            }
        }
        for (peer, voice) in &mut next.voices {
            if let Some(known) = self.voices.get(peer) {
                *voice = known.clone();
            }
        }
        next
    }

    /// Takes what became of a question to a peer's daemon that ended at `now`.
    pub fn hear(
        &mut self,
        (peer, address): &PeerAddress,
        result: &CheckResult,
        word: Option<PeerWord>,
        now: Instant,
    ) -> Heard {
        let mut heard = Heard::default();
        let Some(checked) = self.asked.get_mut(&(peer.clone(), *address)) else { return heard };
        heard.transition = checked.observe(result, now);
        let (Some(word), Some(voice)) = (word, self.voices.get_mut(peer)) else { return heard };
        voice.heard = now;
        heard.answers_again = std::mem::take(&mut voice.lost);
        let said = |id: &PeerId| word.serves.get(&id.pool).map(|serving| serving.serves);
        for (id, probed) in &mut self.probed {
            let is_there = (&id.peer, &id.address) == (peer, address);
            // Silence about a pool is no word on it: a peer that has said no must not seem to take it back.
            if let Some(serves) = said(id).filter(|serves| is_there && probed.says_no == *serves) {
                probed.says_no = !serves;
                heard.said.push((id.clone(), serves));
            }
        }
        let before = voice.word.replace(Arc::new(word));
        heard.is_news = before != voice.word;
        heard
    }

    /// The pools at an address that only the daemon's word can tell of.
    pub fn told_by_word(&self, (peer, address): &PeerAddress) -> impl Iterator<Item = &PeerId> {
        let is_there = move |id: &PeerId| (&id.peer, &id.address) == (peer, address);
        let told = self.probed.iter().filter(move |(id, probed)| probed.judge == Judge::Word && is_there(id));
        told.map(|(id, _)| id)
    }

    /// Whether a peer's daemon answers at any of its addresses; `None` while nobody knows.
    pub fn answers(&self, peer: &str) -> Option<bool> {
        let asked = self.asked.iter().filter(|((asked, _), _)| **asked == *peer);
        let healths = asked.filter_map(|(_, checked)| checked.health());
        healths.map(|health| health == Health::Up).reduce(|one, other| one || other)
    }

    /// What a peer last said of itself, while it answers.
    pub fn word(&self, peer: &str) -> Option<&Arc<PeerWord>> {
        self.voices.get(peer)?.word.as_ref().filter(|_| self.answers(peer) == Some(true))
    }

    /// What is known of each address of the peers.
    pub fn sights(&self) -> BTreeMap<PeerAddress, Sight> {
        self.asked.iter().map(|(address, checked)| (address.clone(), self.sight(address, checked))).collect()
    }

    /// Its daemon and its data path are two means; both must have failed for it to be silent. Its daemon's own "no" counts
    /// while it is heard.
    fn sight(&self, (peer, address): &PeerAddress, asked: &Checked) -> Sight {
        let mut there = self.probed.iter().filter(|(id, _)| (&id.peer, &id.address) == (peer, address));
        if asked.is_up() && there.any(|(_, probed)| probed.says_no) {
            return Sight::Declines;
        }
        let healths: Vec<_> =
            self.connections(&(peer.clone(), *address)).into_iter().chain([asked.health()]).collect();
        if healths.contains(&Some(Health::Up)) {
            Sight::Answers
        } else if healths.contains(&None) {
            Sight::Unknown
        } else {
            Sight::Silent
        }
    }

    /// The peers whose daemons have been silent for too long since this was last asked.
    pub fn fall_silent(&mut self, now: Instant) -> Vec<Arc<str>> {
        let patience = self.patience;
        let is_lost = |voice: &Voice| now.saturating_duration_since(voice.heard) > patience;
        let lost = self.voices.iter_mut().filter(|(_, voice)| !voice.lost && is_lost(voice));
        lost.map(|(peer, voice)| {
            voice.lost = true;
            peer.clone()
        })
        .collect()
    }

    /// Takes the result of a probe that ended at `now`, and says if the peer's health changed. One that could
    /// not be made here changes nothing ([`Checked::observe`]), nor does one that was cancelled meanwhile.
    pub fn observe(&mut self, id: &PeerId, result: &CheckResult, now: Instant) -> Observed {
        let mut observed = Observed::default();
        let Some(probed) = self.probed.get_mut(id) else { return observed };
        let path = self.data_paths.get_mut(&id.at()).filter(|_| probed.judge == Judge::Probe);
        if let Some(path) = path {
            observed.data_path = path.observe(result, probed.checked.is_up(), now);
            // While nothing works there, a failure says nothing of the pool: what was known of it holds when the rest works
            // again, and need not be found anew in turn.
            if path.health() == Some(Health::Down) && !result.code.passed() && result.code != Code::Sockerr {
                if observed.data_path.is_some() {
                    self.forget_noes(&id.at());
                }
                return observed;
            }
        }
        if !result.code.passed() && result.code != Code::Sockerr {
            probed.last_failure = Some(result.code);
        }
        observed.pool = probed.checked.observe(result, now);
        match observed.pool.as_ref().map(|transition| transition.to) {
            Some(Health::Up) => probed.has_served = true,
            Some(Health::Down) if probed.judge == Judge::Probe => probed.says_no = false,
            Some(Health::Down) | None => {}
        }
        observed
    }

    /// Probes that failed take back what the peer said of pools that connections can tell of.
    fn forget_noes(&mut self, at: &PeerAddress) {
        let there =
            self.probed.iter_mut().filter(|(id, probed)| id.at() == *at && probed.judge == Judge::Probe);
        there.for_each(|(_, probed)| probed.says_no = false);
    }

    /// Whether the peer serves the pool; `Unknown` also for one that is not probed.
    pub fn state(&self, id: &PeerId) -> PeerState {
        let state = |probed| self.state_of(id, probed, Checked::health);
        self.probed.get(id).map_or(PeerState::Unknown, state)
    }

    /// What is known of every peer and pool if the latest results of probes lead to what they seem to.
    pub fn expected(&self) -> impl Iterator<Item = (&PeerId, PeerState)> {
        self.probed.iter().map(|(id, probed)| (id, self.state_of(id, probed, Checked::expected)))
    }

    /// While a daemon starts again, its data path tells whether the peer serves; when none has come for too long, nobody
    /// knows whether its backends live. `health`: what of the probes' results counts.
    fn state_of(&self, id: &PeerId, probed: &Probed, health: fn(&Checked) -> Option<Health>) -> PeerState {
        let lost = self.voices.get(&id.peer).is_some_and(|voice| voice.lost);
        let state = match self.data_paths.get(&id.at()).filter(|_| probed.judge == Judge::Probe) {
            Some(path) => self.state_in_turn(id, probed, path, health),
            None => probed.state(health(&probed.checked)),
        };
        match state {
            PeerState::Serves if lost => PeerState::Silent,
            PeerState::Unreachable(_)
                if !lost && probed.judge == Judge::Word && probed.has_served && self.connects(id) =>
            {
                PeerState::Serves
            }
            state => state,
        }
    }

    /// What is known of a pool whose probes come rarely. Until its first one, it is judged as where no connection can tell:
    /// by the peer's word, while other connections to the address work.
    fn state_in_turn(
        &self,
        id: &PeerId,
        probed: &Probed,
        path: &DataPath,
        health: fn(&Checked) -> Option<Health>,
    ) -> PeerState {
        let last = path.checked().last().map(|(result, _)| result.code);
        match (health(path.checked()), probed.state(health(&probed.checked))) {
            (Some(Health::Down), PeerState::Serves) => PeerState::Unreachable(last.unwrap_or(Code::L4Tout)),
            (Some(Health::Up), PeerState::Unknown) if self.says_yes(id) => PeerState::Serves,
            (_, state) => state,
        }
    }

    fn says_yes(&self, id: &PeerId) -> bool {
        let answers = self.asked.get(&id.at()).is_some_and(Checked::is_up);
        let word = self.voices.get(&id.peer).and_then(|voice| voice.word.as_ref());
        answers && word.and_then(|word| word.serves.get(&id.pool)).is_some_and(|serving| serving.serves)
    }

    /// Whether connections through the same address of the peer work.
    fn connects(&self, id: &PeerId) -> bool {
        self.connections(&id.at()).contains(&Some(Health::Up))
    }

    /// What probes say of an address: each pool's, or where they take turns, all of them together.
    fn connections(&self, at: &PeerAddress) -> Vec<Option<Health>> {
        if let Some(path) = self.data_paths.get(at) {
            return vec![path.health()];
        }
        let there = self.probed.iter().filter(|(id, _)| (&id.peer, id.address) == (&at.0, at.1));
        let probed = there.filter(|(_, probed)| probed.judge == Judge::Probe);
        probed.map(|(_, probed)| probed.checked.health()).collect()
    }

    /// What the probes found; `None` for what is not probed.
    pub fn checked(&self, id: &PeerId) -> Option<&Checked> {
        self.probed.get(id).map(|probed| &probed.checked)
    }

    /// All that is probed, in order, with the probes that tell: the pool's own, or while nothing works at its address, those
    /// that found that out.
    pub fn iter(&self) -> impl Iterator<Item = (&PeerId, PeerState, &Checked)> {
        self.probed.iter().map(|(id, probed)| {
            let path = self.data_paths.get(&id.at()).filter(|_| probed.judge == Judge::Probe);
            let dead = path.filter(|path| path.health() == Some(Health::Down));
            let checked = dead.map_or(&probed.checked, DataPath::checked);
            (id, self.state_of(id, probed, Checked::health), checked)
        })
    }
}

impl Probed {
    fn state(&self, health: Option<Health>) -> PeerState {
        match (health, self.last_failure) {
            (None, _) => PeerState::Unknown,
            _ if self.says_no => PeerState::SaysNo,
            (Some(Health::Up), _) => PeerState::Serves,
            (Some(Health::Down), Some(Code::L7Sts | Code::L7Rsp) | None) => PeerState::SaysNo,
            (Some(Health::Down), Some(code)) => PeerState::Unreachable(code),
        }
    }
}

/// The grace, from when a dead daemon would be noticed.
fn patience(check: &PeerCheck) -> Duration {
    let Timing { interval, timeout, fall, .. } = check.timing;
    check.restart_grace + interval * fall + timeout
}

/// Ports that are tried for one probe. With two backends of equal weight all lead to the same one once in
/// 10^19 probes.
const TRIES: u16 = 64;

/// Chooses source ports for probes of one pool of a peer.
///
/// The peer sends a probe on to the backend that its flow hash leads to, which is the one that
/// ours leads to. So a port is chosen whose slot belongs to a backend that this node sees up, and
/// each time another backend: one that has just died fails one probe and not `fall` in a row.
#[derive(Debug, Clone)]
pub struct PortChooser {
    first: u16,
    count: u16,
    /// Offset of the next port to try. It runs on, so that a port rests before it is used again.
    next: u16,
    last_backend: u16,
}

impl PortChooser {
    /// Chooses among `count` ports from `first` on, beginning anywhere among them: `start` is a
    /// random number, so that a restarted node does not meet flows of its former self.
    pub fn new(first: u16, count: u16, start: u16) -> PortChooser {
        PortChooser { first, count, next: start.checked_rem(count).unwrap_or(0), last_backend: 0 }
    }

    /// The next probe's source port; `None` when the table is empty.
    ///
    /// `slot_of` is the flow hash of a probe from that port, `table` the pool's Maglev table as this node
    /// has it: it holds backends that are up here, or is empty. Tries 64 ports at most; if they all
    /// lead to the last probe's backend, that one is taken again.
    pub fn choose(&mut self, slot_of: impl Fn(u16) -> u32, table: &Slots) -> Option<u16> {
        let mut same_again = None;
        for tried in 0..self.count.min(TRIES) {
            let offset = ((u32::from(self.next) + u32::from(tried)) % u32::from(self.count)) as u16;
            let backend = table.get(slot_of(self.first + offset) as usize).unwrap_or(0);
            if backend == 0 {
                continue;
            }
            if backend != self.last_backend {
                return Some(self.take(offset, backend));
            }
            same_again.get_or_insert(offset);
        }
        same_again.map(|offset| self.take(offset, self.last_backend))
    }

    fn take(&mut self, offset: u16, backend: u16) -> u16 {
        self.last_backend = backend;
        self.next = if offset + 1 == self.count { 0 } else { offset + 1 };
        self.first + offset
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeSet, time::Duration};

    use proptest::prelude::*;

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
        let timing =
            Timing { interval: half, fast_interval: half, timeout: half, rise: 2, fall: 3, jitter: 0.1 };
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
        let serving = Serving { serves, up: 1, of: 1 };
        let word = PeerWord { serves: BTreeMap::from([(id.pool.clone(), serving)]), ..PeerWord::default() };
        let address = (id.peer.clone(), id.address);
        peers.hear(&address, &result(Code::L7Ok), Some(word), Instant::now()).said
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
        for _ in 0..3 {
            peers.hear(&asked(&["node2"])[0], &result(Code::L4Tout), None, now);
        }
        assert_eq!(sight(&peers), Sight::Answers, "connections work");
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
        assert_eq!(peers.state(&node2), PeerState::Unknown, "never seen");
        peers.observe(&node2, &result(Code::L4Ok), Instant::now());
        assert_eq!(peers.state(&node2), PeerState::SaysNo);
        assert_eq!(says(&mut peers, &node2, false), [], "no news");
        assert_eq!(says(&mut peers, &node2, true), [(node2.clone(), true)]);
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
        assert!(
            unasked.fall_silent(start + Duration::from_secs(1_000)).is_empty(),
            "without DNS nobody asks"
        );
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
        for (number, id) in (0..).zip(ids.iter().cycle()).take((time.as_millis() / turn.as_millis()) as usize)
        {
            let at = turn * number;
            let code = if answers(id) { Code::L4Ok } else { Code::L4Tout };
            peers.observe(id, &result(code), start + at);
            let serves =
                peers.iter().any(|(id, state, _)| &*id.peer == given_up && state == PeerState::Serves);
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

    const TABLE: [u16; 6] = [1, 2, 3, 1, 2, 3];

    fn slot_of(port: u16) -> u32 {
        u32::from(port) % 6
    }

    #[test]
    fn another_backend_and_another_port_each_time() {
        let mut chooser = PortChooser::new(40_000, 100, 77);
        let table = TABLE[..].into();
        let mut last = 0;
        let mut ports = BTreeSet::new();
        for _ in 0..20 {
            let port = chooser.choose(slot_of, &table).unwrap();
            assert!((40_000..40_100).contains(&port));
            assert!(ports.insert(port), "{port} again");
            let backend = TABLE[slot_of(port) as usize];
            assert!(backend != last, "{backend} after {last}");
            last = backend;
        }
    }

    #[test]
    fn the_only_backend_is_taken_again_after_few_tries() {
        let tries = Cell::new(0);
        let slot_of = |port| {
            tries.set(tries.get() + 1);
            slot_of(port)
        };
        let mut chooser = PortChooser::new(32_768, 28_232, 0);
        let ports: BTreeSet<u16> =
            (0..4).filter_map(|_| chooser.choose(slot_of, &vec![2; 6].into())).collect();
        assert_eq!(ports.len(), 4, "each time another port");
        assert_eq!(tries.get(), 1 + 3 * u32::from(TRIES));
    }

    #[test]
    fn no_port_without_a_backend() {
        let mut chooser = PortChooser::new(40_000, 100, 0);
        assert_eq!(chooser.choose(slot_of, &vec![0; 6].into()), None);
        assert_eq!(chooser.choose(slot_of, &Slots::default()), None);
        assert_eq!(PortChooser::new(40_000, 0, 0).choose(slot_of, &TABLE[..].into()), None);
    }

    proptest! {
        #[test]
        fn chosen_ports_are_in_range_and_lead_to_a_backend(
            table in prop::collection::vec(0_u16..6, 1..40),
            first in 1_u16..=u16::MAX,
            count in 0..=TRIES,
            start: u16,
        ) {
            let count = count.min(u16::MAX - first);
            let slot_of = |port: u16| u32::from(port.wrapping_mul(40_503)) % table.len() as u32;
            let leads = |port: u16| table[slot_of(port) as usize] != 0;
            let reachable = (first..first + count).any(leads);
            let mut chooser = PortChooser::new(first, count, start);
            let slots = Slots::from(table.clone());
            for _ in 0..8 {
                match chooser.choose(slot_of, &slots) {
                    Some(port) => {
                        prop_assert!((first..first + count).contains(&port));
                        prop_assert!(leads(port));
                    }
                    None => prop_assert!(!reachable),
                }
            }
        }
    }
}
