//! From what this node knows to what it wants of a shared zone.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{Gone, Situation, Wish};
use crate::{
    config::{AllDown, Config, Dns, NodeAddress, Publish, is_within},
    core::{
        exchange::{PeerWord, Sight},
        peers::PeerAddress,
        publish::{NameView, Publication},
    },
};

/// What peers are known to be and to say.
pub struct Others<'a> {
    /// What this node sees of each address.
    pub sights: &'a BTreeMap<PeerAddress, Sight>,
    /// What each that answers says.
    pub words: BTreeMap<Arc<str>, Arc<PeerWord>>,
}

/// What this node wants of one of its shared zones.
pub fn situation(
    config: &Config,
    dns: &Dns,
    publish: &Publish,
    publication: &Publication,
    others: &Others<'_>,
) -> Situation {
    let witness = usize::from(publish.witness);
    let names = publication.names.iter().filter(|(name, _)| is_within(name, &publish.zone));
    let seen_at = |have: &NodeAddress| {
        let at = (config.node.name.clone(), have.address);
        let sees_us = |word: &&Arc<PeerWord>| word.sees.get(&at).is_some_and(|sight| sight.is_alive());
        1 + others.words.values().filter(sees_us).count()
    };
    Situation {
        names: names
            .map(|(name, view)| (name.clone(), wish(config, dns.all_down, view, others, witness)))
            .collect(),
        voters: 1 + config.peers.len() + witness,
        seen_by: config.node.addresses.iter().map(|have| (have.publish, seen_at(have))).collect(),
    }
}

fn wish(config: &Config, all_down: AllDown, view: &NameView, others: &Others<'_>, witness: usize) -> Wish {
    let mut wish = Wish { keep_last: all_down == AllDown::All, ..Wish::default() };
    for entry in &view.addresses {
        if entry.why.serves() {
            wish.serving.insert(entry.address);
        }
        if entry.node == config.node.name {
            wish.own.insert(entry.address);
            if entry.published {
                wish.wanted.insert(entry.address);
            }
        } else {
            wish.peers.entry(entry.node.clone()).or_default().insert(entry.address);
        }
    }
    for peer in &config.peers {
        for have in &peer.addresses {
            let at = (peer.name.clone(), have.address);
            let found = |sights: &[Sight]| 1 + witness + others.agreeing(&at, sights);
            match others.sights.get(&at) {
                Some(Sight::Silent) => {
                    let agreeing = found(&[Sight::Silent]);
                    wish.gone.insert(have.publish, Gone { agreeing, why: "silent", can_act: false });
                }
                Some(Sight::Declines) if view.declines(&peer.name, have.publish) => {
                    // It is of the same mind.
                    let agreeing = found(&[Sight::Silent, Sight::Declines]) + 1;
                    wish.gone.insert(have.publish, Gone { agreeing, why: "declines", can_act: true });
                }
                _ => {}
            }
        }
    }
    wish
}

impl NameView {
    /// Whether a node says of itself that it cannot serve the name at an address.
    fn declines(&self, node: &Arc<str>, address: IpAddr) -> bool {
        let mut entries =
            self.addresses.iter().filter(|entry| (&entry.node, entry.address) == (node, address));
        entries.any(|entry| entry.why.says_no())
    }
}

impl Others<'_> {
    /// How many of the others, the one that it is about left out, see an address so, too.
    fn agreeing(&self, at: &PeerAddress, sights: &[Sight]) -> usize {
        let others = self.words.iter().filter(|(peer, _)| **peer != at.0);
        others.filter(|(_, word)| word.sees.get(at).is_some_and(|sight| sights.contains(sight))).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        peers::PeerState,
        publish::{
            SelfState,
            fixture::{all, config, ip, peer_states, publish, same},
            publication,
        },
    };

    fn word(sees: &[(&str, &str, Sight)]) -> Arc<PeerWord> {
        let sees = sees.iter().map(|&(peer, address, sight)| ((peer.into(), ip(address)), sight));
        Arc::new(PeerWord { sees: sees.collect(), ..PeerWord::default() })
    }

    /// node1 finds node3 silent, and node2 says what it sees.
    fn seen(witness: bool, word_of_node2: Option<Arc<PeerWord>>) -> Situation {
        let dead = PeerState::Unreachable(crate::core::check::Code::L4Tout);
        seen_so(Sight::Silent, dead, witness, word_of_node2)
    }

    fn seen_so(
        sight: Sight,
        state: PeerState,
        witness: bool,
        word_of_node2: Option<Arc<PeerWord>>,
    ) -> Situation {
        let mut config = config(AllDown::All);
        config.peers[1].addresses[0].address = ip("10.0.0.13");
        config.peers[0].addresses.push(same("192.0.2.22"));
        let mut peers = peer_states(&config, "node2", &all(PeerState::Serves));
        peers.extend(peer_states(&config, "node3", &all(state)));
        let publication = publication(&config, &all(SelfState::Serves), &peers);
        let sights = BTreeMap::from([
            (("node2".into(), ip("192.0.2.12")), Sight::Answers),
            (("node3".into(), ip("10.0.0.13")), sight),
        ]);
        let words = word_of_node2.into_iter().map(|word| ("node2".into(), word)).collect();
        let others = Others { sights: &sights, words };
        situation(
            &config,
            config.dns.as_ref().unwrap(),
            &Publish { witness, ..publish() },
            &publication,
            &others,
        )
    }

    #[test]
    fn those_who_find_a_peer_silent_are_counted() {
        let agrees = word(&[("node3", "10.0.0.13", Sight::Silent), ("node1", "10.0.0.11", Sight::Answers)]);
        let differs = word(&[("node3", "10.0.0.13", Sight::Answers), ("node1", "10.0.0.11", Sight::Silent)]);
        for (witness, word, agreeing, seen_by, voters) in [
            (false, None, 1, 1, 3),
            (false, Some(agrees.clone()), 2, 2, 3),
            (false, Some(differs), 1, 1, 3),
            // A witness agrees with whoever asks, and so tells nothing of who sees this node.
            (true, Some(agrees), 3, 2, 4),
        ] {
            let situation = seen(witness, word);
            let wish = &situation.names["www.example.test"];
            let gone = Gone { agreeing, why: "silent", can_act: false };
            assert_eq!(wish.gone, BTreeMap::from([(ip("192.0.2.13"), gone)]));
            assert_eq!((situation.seen_by[&ip("192.0.2.11")], situation.voters), (seen_by, voters));
        }
    }

    /// It votes against itself, and those who hear it vote so, too.
    #[test]
    fn a_node_that_says_that_it_cannot_serve_is_gone_as_soon_as_it_cannot_act() {
        let hears = word(&[("node3", "10.0.0.13", Sight::Declines)]);
        let differs = word(&[("node3", "10.0.0.13", Sight::Answers)]);
        for (word, agreeing) in [(None, 2), (Some(hears), 3), (Some(differs), 2)] {
            let situation = seen_so(Sight::Declines, PeerState::SaysNo, false, word);
            let gone = Gone { agreeing, why: "declines", can_act: true };
            let wish = &situation.names["www.example.test"];
            assert_eq!(wish.gone, BTreeMap::from([(ip("192.0.2.13"), gone)]));
        }
        let other_name = seen_so(Sight::Declines, PeerState::Serves, false, None);
        assert_eq!(other_name.names["www.example.test"].gone, BTreeMap::new());
    }

    #[test]
    fn a_name_wants_what_serves() {
        let situation = seen(false, None);
        let wish = &situation.names["www.example.test"];
        assert_eq!(wish.wanted, [ip("192.0.2.11"), ip("2001:db8:1::11")].into());
        let serving = ["192.0.2.11", "192.0.2.12", "192.0.2.22", "2001:db8:1::11", "2001:db8:1::12"].map(ip);
        assert_eq!(wish.serving, serving.into());
        assert_eq!(wish.peers.keys().map(|peer| &**peer).collect::<Vec<_>>(), ["node2", "node3"]);
        assert!(wish.keep_last);
    }
}
