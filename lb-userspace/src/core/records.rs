//! Records of a zone that others hold, too, and changes to it (RFC 2136), as plain data.
//!
//! Names are written as in [`zone`](super::zone): lower case, absolute, without the final dot.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use crate::core::ids::Family;

/// What a zone holds of the names that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// Address records by name; a name without any is there, too.
    pub names: BTreeMap<Arc<str>, Addresses>,
    /// The TXT records at each name that was asked for them, each record's strings joined; none: the list is empty.
    pub texts: BTreeMap<Arc<str>, Vec<String>>,
}

/// The addresses at one name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses {
    /// A and AAAA records; a family without any is absent.
    pub sets: BTreeMap<Family, AddressSet>,
    /// The name is an alias of this one (CNAME), and so can have no addresses.
    pub alias: Option<String>,
}

/// All A records of a name, or all AAAA records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressSet {
    /// Of all of them, in seconds.
    pub ttl: u32,
    /// At least one.
    pub addresses: BTreeSet<IpAddr>,
}

/// What must be so for an update to be made (RFC 2136 section 2.4); the server looks and changes in one step.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Prerequisite {
    /// The name has exactly this one TXT record.
    TextIs {
        /// Whose record.
        name: Arc<str>,
        /// All its strings, joined.
        text: String,
    },
    /// The name has no TXT record.
    NoText {
        /// Which name.
        name: Arc<str>,
    },
    /// The name's addresses of the family are exactly these; empty: it has none.
    AddressesAre {
        /// Which name.
        name: Arc<str>,
        /// A or AAAA.
        family: Family,
        /// The whole set.
        addresses: BTreeSet<IpAddr>,
    },
}

/// One change (RFC 2136 section 2.5).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Change {
    /// The name has this TXT record and no other afterwards.
    SetText {
        /// Which name.
        name: Arc<str>,
        /// At most 255 bytes per string; a longer text is cut into several strings of one record.
        text: String,
        /// In seconds.
        ttl: u32,
    },
    /// The name has no TXT record afterwards.
    RemoveText {
        /// Which name.
        name: Arc<str>,
    },
    /// The address is there afterwards, beside the others.
    AddAddress {
        /// Which name.
        name: Arc<str>,
        /// An A or AAAA record.
        address: IpAddr,
        /// In seconds.
        ttl: u32,
    },
    /// The address is not there afterwards; the others are untouched.
    RemoveAddress {
        /// Which name.
        name: Arc<str>,
        /// An A or AAAA record.
        address: IpAddr,
    },
}

/// Changes that are made together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    /// All must hold.
    pub prerequisites: Vec<Prerequisite>,
    /// Made in this order.
    pub changes: Vec<Change>,
}

/// What became of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was made.
    Applied,
    /// A prerequisite did not hold (NXRRSET, YXRRSET, NXDOMAIN, YXDOMAIN); nothing was changed.
    NotAsExpected,
}
