//! What nodes tell each other of themselves, every half second: facts, no decisions.
//!
//! It travels as the strings of a TXT record, in an answer that only holders of the cluster's secret get:
//!
//! ```text
//! boot=4fd3a1c09be27715            this run of the daemon
//! sequence=17                      of what it says; grows with every change
//! config=5c1a90f3                  what all nodes' configurations must have in common
//! key=77ab21e0                     the secret
//! serial=1781234567                the zone that it serves
//! serves web/v4=up 2/3             a pool, whether it serves it, and how many of its backends are up
//! sees node3/192.0.2.13=silent     what it knows of a peer's address
//! ```
//!
//! What a version does not know it skips.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr, sync::Arc};

use crate::core::ids::{Family, PoolId};

/// One node's word.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerWord {
    /// A random number that each start of the daemon chooses anew.
    pub boot: u64,
    /// Grows with every change of what follows.
    pub sequence: u64,
    /// Of what all nodes' configurations must have in common: [`Config::digest`](crate::config::Config::digest).
    pub config: u32,
    /// Of the key by which backends are chosen.
    pub key: u32,
    /// Serial of the zone that the node serves.
    pub serial: u32,
    /// Of each of its pools.
    pub serves: BTreeMap<PoolId, Serving>,
    /// Of each address of each peer.
    pub sees: BTreeMap<(Arc<str>, IpAddr), Sight>,
}

/// Whether a node serves a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    /// Its own verdict.
    pub serves: bool,
    /// Backends that are up.
    pub up: usize,
    /// Backends in all.
    pub of: usize,
}

/// What a node knows of an address of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Not judged yet.
    Unknown,
    /// The peer's daemon answers there, or connections through its data path work.
    Answers,
    /// Its daemon answers, and says that it cannot serve there.
    Declines,
    /// Neither answers.
    Silent,
}

impl Sight {
    /// Whether anything there answers.
    pub fn is_alive(self) -> bool {
        matches!(self, Sight::Answers | Sight::Declines)
    }
}

impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Sight::Unknown => "unknown",
            Sight::Answers => "answers",
            Sight::Declines => "declines",
            Sight::Silent => "silent",
        })
    }
}

impl PeerWord {
    /// The record's strings.
    pub fn strings(&self) -> Vec<String> {
        let mut strings = vec![
            format!("boot={:016x}", self.boot),
            format!("sequence={}", self.sequence),
            format!("config={:08x}", self.config),
            format!("key={:08x}", self.key),
            format!("serial={}", self.serial),
        ];
        strings.extend(self.serves.iter().map(|(pool, Serving { serves, up, of })| {
            format!("serves {pool}={} {up}/{of}", if *serves { "up" } else { "down" })
        }));
        strings.extend(
            self.sees.iter().map(|((peer, address), sight)| format!("sees {peer}/{address}={sight}")),
        );
        strings
    }

    /// Reads the record's strings; what says nothing that is known here is left out.
    pub fn parse<'a>(strings: impl IntoIterator<Item = &'a str>) -> PeerWord {
        let mut word = PeerWord::default();
        for text in strings {
            // Names hold no `=`.
            if let Some((what, value)) = text.split_once('=') {
                let _unknown = word.take(what, value);
            }
        }
        word
    }

    fn take(&mut self, what: &str, value: &str) -> Option<()> {
        match what.split_once(' ') {
            None => match what {
                "boot" => self.boot = u64::from_str_radix(value, 16).ok()?,
                "sequence" => self.sequence = value.parse().ok()?,
                "config" => self.config = u32::from_str_radix(value, 16).ok()?,
                "key" => self.key = u32::from_str_radix(value, 16).ok()?,
                "serial" => self.serial = value.parse().ok()?,
                _ => return None,
            },
            Some(("serves", pool)) => {
                let (service, family) = pool.rsplit_once('/')?;
                let family = Family::ALL.into_iter().find(|known| known.to_string() == family)?;
                let serving = value.parse().ok()?;
                self.serves.insert(PoolId { service: service.into(), family }, serving);
            }
            Some(("sees", address)) => {
                let (peer, address) = address.rsplit_once('/')?;
                let sights = [Sight::Unknown, Sight::Answers, Sight::Declines, Sight::Silent];
                let sight = sights.into_iter().find(|sight| sight.to_string() == value)?;
                self.sees.insert((peer.into(), address.parse().ok()?), sight);
            }
            Some(_) => return None,
        }
        Some(())
    }
}

impl FromStr for Serving {
    type Err = ();

    fn from_str(text: &str) -> Result<Serving, ()> {
        let (verdict, count) = text.split_once(' ').ok_or(())?;
        let (up, of) = count.split_once('/').ok_or(())?;
        let serves = match verdict {
            "up" => true,
            "down" => false,
            _ => return Err(()),
        };
        Ok(Serving { serves, up: up.parse().map_err(drop)?, of: of.parse().map_err(drop)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::publish::fixture::{ip, pool};

    fn word() -> PeerWord {
        PeerWord {
            boot: 0x00d3_a1c0_9be2_7715,
            sequence: 17,
            config: 0x0c1a_90f3,
            key: 7,
            serial: 1_781_234_567,
            serves: BTreeMap::from([
                (pool("web/v4"), Serving { serves: true, up: 2, of: 3 }),
                (pool("web/v6"), Serving { serves: false, up: 0, of: 3 }),
            ]),
            sees: BTreeMap::from([
                (("node3".into(), ip("192.0.2.13")), Sight::Silent),
                (("node3".into(), ip("2001:db8:1::13")), Sight::Answers),
                (("node4".into(), ip("192.0.2.14")), Sight::Unknown),
                (("node4".into(), ip("192.0.2.24")), Sight::Declines),
            ]),
        }
    }

    #[test]
    fn a_word_is_read_as_it_was_meant() {
        let strings = word().strings();
        assert_eq!(PeerWord::parse(strings.iter().map(String::as_str)), word());
        assert_eq!(strings[5], "serves web/v4=up 2/3");
        assert_eq!(strings[7], "sees node3/192.0.2.13=silent");
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let odd = [
            "",
            "=",
            "boot",
            "boot=x",
            "moon=full",
            "serves web/v9=up 1/2",
            "serves web/v4=up",
            "serves web/v4=maybe 1/2",
            "sees node3=silent",
            "sees node3/192.0.2.13=gone",
        ];
        assert_eq!(PeerWord::parse(odd), PeerWord::default());
    }
}
