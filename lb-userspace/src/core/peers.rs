//! What this node sees of its peers: who could serve which pool.

use std::{
    collections::{BTreeMap, BTreeSet},
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

    fn is_at(&self, at: &PeerAddress) -> bool {
        (&self.peer, self.address) == (&at.0, at.1)
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
        let is_up = |probed: &Probed| probed.judge == Judge::Probe && probed.checked.is_up();
        let up: BTreeSet<PeerAddress> =
            next.probed.iter().filter(|(_, probed)| is_up(probed)).map(|(id, _)| id.at()).collect();
        // Without a pool that was up, no failure could speak against what is known of a path.
        for (address, path) in next.data_paths.iter_mut().filter(|(address, _)| up.contains(address)) {
            match self.data_paths.get(address) {
                Some(known) => {
                    *path = known.clone();
                    path.set_timing(&check.timing);
                }
                None => *path = DataPath::presumed_up(&check.timing, now),
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
        at: &PeerAddress,
        result: &CheckResult,
        word: Option<PeerWord>,
        now: Instant,
    ) -> Heard {
        let mut heard = Heard::default();
        let Some(checked) = self.asked.get_mut(at) else { return heard };
        heard.transition = checked.observe(result, now);
        if heard.transition.as_ref().is_some_and(|transition| transition.to == Health::Down) {
            self.forget_declined(at, |_| true);
        }
        let Some(word) = word else { return heard };
        let said = |pool: &PoolId| word.serves.get(pool).map(|serving| serving.serves);
        self.forget_declined(at, |pool| said(pool) == Some(true));
        let Some(voice) = self.voices.get_mut(&at.0) else { return heard };
        voice.heard = now;
        heard.answers_again = std::mem::take(&mut voice.lost);
        for (id, probed) in self.probed.iter_mut().filter(|(id, _)| id.is_at(at)) {
            // Silence about a pool is no word on it: a peer that has said no must not seem to take it back.
            if let Some(serves) = said(&id.pool).filter(|serves| probed.says_no == *serves) {
                probed.says_no = !serves;
                heard.said.push((id.clone(), serves));
            }
        }
        let before = voice.word.replace(Arc::new(word));
        heard.is_news = before != voice.word;
        heard
    }

    /// Connections for what a peer declines are left out while it is heard, so what they found before is too old to tell
    /// anything once it is silent, or serves again. Where they take turns, a pool is judged late in any case, but the path
    /// must not be.
    fn forget_declined(&mut self, at: &PeerAddress, pools: impl Fn(&PoolId) -> bool) {
        let declines_all = self.declines_all(at);
        let is_one = |id: &PeerId, probed: &Probed| {
            id.is_at(at) && probed.judge == Judge::Probe && probed.says_no && pools(&id.pool)
        };
        if let Some(path) = self.data_paths.get_mut(at) {
            if declines_all && self.probed.iter().any(|(id, probed)| is_one(id, probed)) {
                path.forget();
            }
            return;
        }
        for (_, probed) in self.probed.iter_mut().filter(|(id, probed)| is_one(id, probed)) {
            probed.checked.forget();
        }
    }

    /// Whether a peer that is heard says that it cannot serve the pool: no connection is needed to find that out. It is heard
    /// until it has not answered `fall` questions in a row; a lost one must not lead connections to a node that is drained.
    pub fn declines(&self, id: &PeerId) -> bool {
        self.says(id).is_some() && self.probed.get(id).is_some_and(|probed| probed.says_no)
    }

    /// The pools at an address that only the daemon's word can tell of.
    pub fn told_by_word(&self, at: &PeerAddress) -> impl Iterator<Item = &PeerId> {
        let told = self.probed.iter().filter(move |(id, probed)| probed.judge == Judge::Word && id.is_at(at));
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
    fn sight(&self, at: &PeerAddress, asked: &Checked) -> Sight {
        let mut there = self.probed.iter().filter(|(id, _)| id.is_at(at));
        if asked.is_up() && there.any(|(_, probed)| probed.says_no) {
            return Sight::Declines;
        }
        let connections = self.connections(at);
        // A pool that was not tried yet tells nothing, but they are another means only if one was.
        let tried: Vec<_> = connections.iter().filter(|checked| checked.health().is_some()).collect();
        let is_known = tried.is_empty() == connections.is_empty();
        if asked.is_up() || connections.iter().any(|checked| checked.is_up()) {
            Sight::Answers
        } else if is_known && asked.is_surely_down() && tried.iter().all(|checked| checked.is_surely_down()) {
            Sight::Silent
        } else {
            // Also of a peer that starts while this node does, and that a first question did not reach.
            Sight::Unknown
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
        let speaks = result.code.passed() || self.should_serve(id);
        let Some(probed) = self.probed.get_mut(id) else { return observed };
        let path = self.data_paths.get_mut(&id.at()).filter(|_| probed.judge == Judge::Probe);
        if let Some(path) = path {
            let was_dead = path.checked().is_surely_down();
            if speaks {
                observed.data_path = path.observe(result, probed.checked.is_up(), now);
            }
            // While nothing works there, a failure says nothing of the pool: what was known of it holds when the rest works
            // again, and need not be found anew in turn.
            if path.health() == Some(Health::Down) && !result.code.passed() && result.code != Code::Sockerr {
                if !was_dead && path.checked().is_surely_down() {
                    self.forget_noes(&id.at());
                }
                return observed;
            }
        }
        if !result.code.passed() && result.code != Code::Sockerr {
            probed.last_failure = Some(result.code);
        }
        let was_dead = probed.checked.is_surely_down();
        observed.pool = probed.checked.observe(result, now);
        if observed.pool.as_ref().is_some_and(|transition| transition.to == Health::Up) {
            probed.has_served = true;
        }
        if probed.judge == Judge::Probe && !was_dead && probed.checked.is_surely_down() {
            probed.says_no = false;
        }
        observed
    }

    /// Whether a failed connection for a pool may speak against the peer's data path: of a peer that is heard, if it says that it
    /// serves the pool. (Its configuration may not have it any more.) Of one that is not, unless it said no; but where it said no to
    /// everything, nothing else could tell that it is dead.
    fn should_serve(&self, id: &PeerId) -> bool {
        match self.heard_at(&id.at()) {
            Some(word) => word.serves.get(&id.pool).is_some_and(|serving| serving.serves),
            None => self.probed.get(id).is_some_and(|probed| !probed.says_no) || self.declines_all(&id.at()),
        }
    }

    /// Whether the peer's last word was that it serves nothing at an address that connections could tell of.
    fn declines_all(&self, at: &PeerAddress) -> bool {
        let there = self.probed.iter().filter(|(id, _)| id.is_at(at));
        there.filter(|(_, probed)| probed.judge == Judge::Probe).all(|(_, probed)| probed.says_no)
    }

    /// Probes that failed take back what the peer said of pools that connections can tell of.
    fn forget_noes(&mut self, at: &PeerAddress) {
        let there =
            self.probed.iter_mut().filter(|(id, probed)| id.is_at(at) && probed.judge == Judge::Probe);
        there.for_each(|(_, probed)| probed.says_no = false);
    }

    /// Whether the peer serves the pool; `Unknown` also for one that is not probed.
    pub fn state(&self, id: &PeerId) -> PeerState {
        let state = |probed| self.state_of(id, probed, Checked::health);
        self.probed.get(id).map_or(PeerState::Unknown, state)
    }

    /// The same if the latest results of probes lead to what they seem to.
    pub fn outlook(&self, id: &PeerId) -> PeerState {
        let state = |probed| self.state_of(id, probed, Checked::expected);
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
            // Whatever was known of the pool, no connection has told since the path was forgotten.
            (None, PeerState::Serves) => PeerState::Unknown,
            (Some(Health::Up), PeerState::Unknown) if self.says(id) == Some(true) => PeerState::Serves,
            (_, state) => state,
        }
    }

    /// Whether the peer says that it serves the pool, while it answers at the address.
    fn says(&self, id: &PeerId) -> Option<bool> {
        self.heard_at(&id.at())?.serves.get(&id.pool).map(|serving| serving.serves)
    }

    /// What the peer last said, while it answers at the address.
    fn heard_at(&self, at: &PeerAddress) -> Option<&PeerWord> {
        self.asked.get(at).filter(|asked| asked.is_up())?;
        self.voices.get(&at.0)?.word.as_deref()
    }

    /// Whether connections through the same address of the peer work.
    fn connects(&self, id: &PeerId) -> bool {
        self.connections(&id.at()).into_iter().any(Checked::is_up)
    }

    /// What probes say of an address: each pool's, or where they take turns, all of them together.
    fn connections(&self, at: &PeerAddress) -> Vec<&Checked> {
        if let Some(path) = self.data_paths.get(at) {
            return vec![path.checked()];
        }
        let there = self.probed.iter().filter(|(id, _)| id.is_at(at));
        let probed = there.filter(|(_, probed)| probed.judge == Judge::Probe);
        probed.map(|(_, probed)| &probed.checked).collect()
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
            _ if self.says_no => PeerState::SaysNo,
            (None, _) => PeerState::Unknown,
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

#[cfg(test)]
mod tests;
