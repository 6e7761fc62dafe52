//! What this node tells its peers, and what they tell it.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::state::State;
use crate::{
    config::{Config, NodeAddress, Peer, Timing},
    core::{
        check::{CheckResult, Code},
        exchange::{PeerWord, Serving},
        health::{self, Checked, Health, Pace},
        peers::{PeerAddress, PeerId},
        plan,
        publish::SelfState,
    },
    dns::{self, AskError, Exchange, PeerKeys},
    probe::{self, Report},
    secret::Secret,
};

/// What became of a question to a peer's daemon.
pub(super) struct Word {
    pub(super) at: PeerAddress,
    pub(super) result: CheckResult,
    /// What it said, if it did.
    said: Option<PeerWord>,
    /// How late the question was.
    late: Duration,
}

/// What this node says, and the cluster's keys.
pub(super) struct OwnWord {
    keys: Option<PeerKeys>,
    word: watch::Sender<Arc<PeerWord>>,
}

impl OwnWord {
    pub(super) fn new(secret: Option<&Secret>) -> OwnWord {
        let word =
            PeerWord { boot: rand::random(), key: secret.map_or(0, Secret::id), ..PeerWord::default() };
        OwnWord { keys: secret.map(Secret::peer_keys), word: watch::channel(Arc::new(word)).0 }
    }

    /// A random number that each start of the daemon chooses anew.
    pub(super) fn boot(&self) -> u64 {
        self.word.borrow().boot
    }

    pub(super) fn keys(&self) -> Option<&PeerKeys> {
        self.keys.as_ref()
    }

    /// For the DNS server.
    pub(super) fn exchange(&self) -> Option<Exchange> {
        Some(Exchange { keys: self.keys.clone()?, word: self.word.subscribe() })
    }

    /// Says something else from now on, if it is something else.
    fn say(&self, word: PeerWord) {
        self.word.send_if_modified(|said| {
            let word = PeerWord { boot: said.boot, key: said.key, sequence: said.sequence, ..word };
            let is_news = word != **said;
            if is_news {
                *said = Arc::new(PeerWord { sequence: said.sequence + 1, ..word });
            }
            is_news
        });
    }

    /// How a peer differs from this node where it must not.
    pub(super) fn drift(&self, peer: &PeerWord) -> Option<&'static str> {
        let own = self.word.borrow();
        if peer.key != own.key {
            Some("its secret is another one, so it may choose other backends")
        } else if peer.config != own.config {
            Some("its services or their backends are others, so it may choose other backends")
        } else {
            None
        }
    }
}

/// Where the daemon of each peer is asked: nowhere without DNS, which carries the questions.
pub(super) fn asked(config: &Config) -> Vec<PeerAddress> {
    let peers = config.peers.iter().filter(|_| config.dns.is_some());
    peers.flat_map(|peer| peer.addresses.iter().map(|have| (peer.name.clone(), have.address))).collect()
}

/// Asks the daemon at each address of each peer, again and again, until what this gives is dropped.
pub(super) fn start(
    config: &Config,
    keys: &PeerKeys,
    words: &mpsc::Sender<Word>,
) -> Vec<AbortOnDropHandle<()>> {
    let Some(dns) = &config.dns else { return Vec::new() };
    let start = |peer: &Peer, have: &NodeAddress| {
        let server = SocketAddr::new(have.check_address, peer.dns_port);
        let at = (peer.name.clone(), have.address);
        let question = Question { keys: keys.clone(), server, zone: dns.zone.clone(), at };
        AbortOnDropHandle::new(tokio::spawn(question.ask(config.peer_check.timing, words.clone())))
    };
    let peers = config.peers.iter();
    peers.flat_map(|peer| peer.addresses.iter().map(move |have| start(peer, have))).collect()
}

struct Question {
    keys: PeerKeys,
    zone: Arc<str>,
    server: SocketAddr,
    at: PeerAddress,
}

impl Question {
    async fn ask(self, timing: Timing, words: mpsc::Sender<Word>) {
        let mut due = Instant::now() + health::first_check(&timing, rand::random());
        loop {
            sleep_until(due).await;
            let (start, late) = (Instant::now(), due.elapsed());
            let answer = dns::ask_peer(self.server, &self.keys, &self.zone, timing.timeout).await;
            let (result, said) = judge(answer, start.elapsed());
            if words.send(Word { at: self.at.clone(), result, said, late }).await.is_err() {
                return;
            }
            due = Instant::now().max(due + health::next_check(&timing, Pace::Usual, rand::random()));
        }
    }
}

fn judge(answer: Result<PeerWord, AskError>, duration: Duration) -> (CheckResult, Option<PeerWord>) {
    let (code, detail) = match answer {
        Ok(word) => return (CheckResult::new(Code::L7Ok, duration, ""), Some(word)),
        Err(error @ AskError::Timeout { .. }) => (Code::L7Tout, error.to_string()),
        Err(AskError::Io { address, source }) => {
            let code = if probe::is_local(&source) { Code::Sockerr } else { Code::L4Con };
            (code, format!("cannot ask {address}: {source}"))
        }
        Err(error) => (Code::L7Rsp, error.to_string()),
    };
    (CheckResult::new(code, duration, detail), None)
}

/// What a word says of a pool that no connection can probe.
fn judge_pool(word: &Word, id: &PeerId) -> CheckResult {
    let Some(said) = &word.said else { return word.result.clone() };
    let (code, detail) = match said.serves.get(&id.pool) {
        Some(Serving { serves: true, .. }) => (Code::L7Ok, "says that it serves"),
        Some(Serving { serves: false, .. }) => (Code::L7Sts, "says that it does not serve"),
        None => (Code::L7Rsp, "does not know the service; do the configurations differ?"),
    };
    CheckResult::new(code, word.result.duration, detail)
}

impl State {
    /// Takes what became of a question to a peer's daemon. Says whether other connections to the peer may be needed now.
    pub(super) fn hear_peer(&mut self, word: &Word) -> bool {
        let (peer, address) = &word.at;
        let report = |id: &PeerId| Report { result: judge_pool(word, id), id: id.clone(), late: word.late };
        let reports: Vec<_> = self.peers.told_by_word(&word.at).map(report).collect();
        let drifted = self.drift_of(peer);
        let heard = self.peers.hear(&word.at, &word.result, word.said.clone(), std::time::Instant::now());
        if heard.answers_again {
            info!("peer {peer}: its daemon answers again");
        }
        if let Some(transition) = &heard.transition {
            match transition.to {
                Health::Up => info!("peer {peer}: its daemon at {address}: {transition}"),
                Health::Down => warn!("peer {peer}: its daemon at {address}: {transition}"),
            }
        }
        for (id, serves) in &heard.said {
            match serves {
                false => warn!("peer {id}: says that it cannot serve"),
                true => info!("peer {id}: no longer says that it cannot serve"),
            }
        }
        match (drifted, self.drift_of(peer)) {
            (before, Some(how)) if before != Some(how) => warn!("peer {peer}: {how}"),
            (Some(_), None) if self.peers.word(peer).is_some() => {
                info!("peer {peer}: agrees with this node again");
            }
            _ => {}
        }
        let outlook = self.outlook(&reports);
        let changed = reports.iter().filter(|report| self.observe_peer(report)).count() > 0;
        let heard_news =
            heard.answers_again || heard.is_news || heard.transition.is_some() || !heard.said.is_empty();
        if changed || heard_news || self.outlook(&reports) != outlook {
            self.reconcile_dns();
        }
        heard.transition.is_some() || heard.is_news || !heard.said.is_empty()
    }

    /// How a peer that answers differs from this node where it must not.
    pub(super) fn drift_of(&self, peer: &str) -> Option<&'static str> {
        self.own_word.drift(self.peers.word(peer)?)
    }

    /// Tells peers what is true now.
    pub(super) fn tell_peers(&self) {
        let serves = plan::pools(&self.config).filter_map(|(service, pool)| {
            let serves = self.publication.own.get(&pool)? == &SelfState::Serves;
            let backends: Vec<_> = plan::backends(service, pool.clone()).map(|(_, id, _)| id).collect();
            let is_up = |id: &&_| self.backends.get(*id).is_some_and(Checked::is_up);
            let up = backends.iter().filter(is_up).count();
            Some((pool, Serving { serves, up, of: backends.len() }))
        });
        self.own_word.say(PeerWord {
            config: self.digest,
            serial: self.zone().map_or(0, |zone| zone.borrow().soa().serial),
            serves: serves.collect::<BTreeMap<_, _>>(),
            sees: self.peers.sights(),
            ..PeerWord::default()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AllDown;
    use crate::core::publish::fixture::{config, pool};

    #[test]
    fn a_question_that_cannot_be_asked_here_says_nothing_about_the_peer() {
        let address = SocketAddr::new(asked(&config(AllDown::All))[0].1, 53);
        for (errno, code) in [
            (libc::EMFILE, Code::Sockerr),
            (libc::EADDRNOTAVAIL, Code::Sockerr),
            (libc::ECONNREFUSED, Code::L4Con),
            (libc::ENETUNREACH, Code::L4Con),
            (libc::EACCES, Code::L4Con),
        ] {
            let source = std::io::Error::from_raw_os_error(errno);
            let (result, said) = judge(Err(AskError::Io { address, source }), Duration::ZERO);
            assert_eq!((result.code, said), (code, None), "{errno}");
        }
    }

    #[test]
    fn a_pool_without_a_word_is_a_difference_and_no_silence() {
        let config = config(AllDown::All);
        let at = asked(&config)[0].clone();
        let id = PeerId { peer: at.0.clone(), address: at.1, pool: pool("echo/v4") };
        let word = |serves: &[(&str, bool)]| {
            let serves = serves.iter().map(|&(name, serves)| (pool(name), Serving { serves, up: 0, of: 1 }));
            let said = PeerWord { serves: serves.collect(), ..PeerWord::default() };
            let (result, said) = judge(Ok(said), Duration::ZERO);
            Word { at: at.clone(), result, said, late: Duration::ZERO }
        };
        for (said, code) in [
            (&[("echo/v4", true)] as &[_], Code::L7Ok),
            (&[("echo/v4", false)], Code::L7Sts),
            (&[("echo/v6", true)], Code::L7Rsp),
        ] {
            assert_eq!(judge_pool(&word(said), &id).code, code, "{said:?}");
        }
    }

    #[test]
    fn what_is_said_again_is_no_news() {
        let own = OwnWord::new(None);
        let word = PeerWord { config: 1, ..PeerWord::default() };
        own.say(word.clone());
        own.say(word.clone());
        assert_eq!(own.word.borrow().sequence, 1);
        assert_eq!(own.drift(&PeerWord { config: 1, ..word.clone() }), None);
        assert!(own.drift(&PeerWord { config: 2, ..word.clone() }).unwrap().contains("backends are others"));
        assert!(own.drift(&PeerWord { key: 9, ..word }).unwrap().contains("secret"));
    }
}
