//! What stands beside a node's addresses in a zone that others write, too: who keeps them there, or who took them away.
//!
//! One TXT record for each node and name, at `_usher-<node>.<name>`, never at the name itself:
//!
//! ```text
//! usher=1 node=node1 boot=4fd3a1c09be27715 sequence=17 lease=60 addresses=192.0.2.11,2001:db8:1::11
//! usher=1 node=node1 boot=4fd3a1c09be27715 sequence=17 removed-by=node2 removed=192.0.2.11 why=silent
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
    sync::Arc,
};

/// The version of this format.
const VERSION: &str = "1";

/// Where a node's record for a name is.
pub fn owner(node: &str, name: &str) -> Arc<str> {
    format!("_usher-{}.{name}", node.to_ascii_lowercase()).into()
}

/// What the record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The node whose record it is.
    pub node: Arc<str>,
    /// The run of its daemon that wrote the lease.
    pub boot: u64,
    /// Grows with every renewal.
    pub sequence: u64,
    /// What is claimed.
    pub kind: Kind,
}

/// A lease, or the mark of a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The node keeps its addresses here.
    Lease {
        /// For so long without a renewal, in seconds.
        seconds: u32,
        /// Those that it has published; none while it has withdrawn itself.
        addresses: BTreeSet<IpAddr>,
    },
    /// Another node took addresses away: what remains of the lease with this boot and sequence.
    Removed {
        /// Who did.
        by: Arc<str>,
        /// Which addresses.
        addresses: BTreeSet<IpAddr>,
        /// In one word.
        why: Arc<str>,
    },
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Claim { node, boot, sequence, kind } = self;
        write!(f, "usher={VERSION} node={node} boot={boot:016x} sequence={sequence} ")?;
        match kind {
            Kind::Lease { seconds, addresses } => {
                write!(f, "lease={seconds} addresses={}", list(addresses))
            }
            Kind::Removed { by, addresses, why } => {
                write!(f, "removed-by={by} removed={} why={why}", list(addresses))
            }
        }
    }
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")
}

/// The text is none of usher's, or of a version that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a lease of this version of usher")]
pub struct NoClaim;

impl FromStr for Claim {
    type Err = NoClaim;

    fn from_str(text: &str) -> Result<Claim, NoClaim> {
        let fields: BTreeMap<&str, &str> =
            text.split(' ').filter_map(|field| field.split_once('=')).collect();
        let field = |name| fields.get(name).copied().ok_or(NoClaim);
        if field("usher")? != VERSION {
            return Err(NoClaim);
        }
        let kind = match fields.get("removed-by") {
            Some(&by) => Kind::Removed {
                by: by.into(),
                addresses: addresses(field("removed")?)?,
                why: field("why")?.into(),
            },
            None => Kind::Lease {
                seconds: field("lease")?.parse().map_err(|_| NoClaim)?,
                addresses: addresses(field("addresses")?)?,
            },
        };
        Ok(Claim {
            node: field("node")?.into(),
            boot: u64::from_str_radix(field("boot")?, 16).map_err(|_| NoClaim)?,
            sequence: field("sequence")?.parse().map_err(|_| NoClaim)?,
            kind,
        })
    }
}

fn addresses(list: &str) -> Result<BTreeSet<IpAddr>, NoClaim> {
    let parts = list.split(',').filter(|part| !part.is_empty());
    parts.map(|part| part.parse().map_err(|_| NoClaim)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(kind: Kind) -> Claim {
        Claim { node: "node1".into(), boot: 0xfd3, sequence: 17, kind }
    }

    fn ips(list: &[&str]) -> BTreeSet<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let removed = |addresses| Kind::Removed { by: "node2".into(), addresses, why: "silent".into() };
        for (kind, text) in [
            (
                Kind::Lease { seconds: 60, addresses: ips(&["192.0.2.11", "2001:db8:1::11"]) },
                "lease=60 addresses=192.0.2.11,2001:db8:1::11",
            ),
            (Kind::Lease { seconds: 60, addresses: ips(&[]) }, "lease=60 addresses="),
            (removed(ips(&["192.0.2.11"])), "removed-by=node2 removed=192.0.2.11 why=silent"),
        ] {
            let written = claim(kind.clone()).to_string();
            assert_eq!(written, format!("usher=1 node=node1 boot=0000000000000fd3 sequence=17 {text}"));
            assert_eq!(written.parse(), Ok(claim(kind)));
        }
    }

    #[test]
    fn what_is_no_claim_is_none() {
        for text in [
            "",
            "v=spf1 -all",
            "usher=2 node=node1 boot=1 sequence=1 lease=60 addresses=",
            "usher=1 node=node1 boot=1 sequence=1 lease=60",
            "usher=1 node=node1 boot=x sequence=1 lease=60 addresses=",
            "usher=1 node=node1 boot=1 sequence=1 lease=60 addresses=192.0.2.999",
        ] {
            assert_eq!(text.parse::<Claim>(), Err(NoClaim), "{text}");
        }
    }

    #[test]
    fn it_stands_below_the_name() {
        assert_eq!(&*owner("Node1", "www.example.test"), "_usher-node1.www.example.test");
    }
}
