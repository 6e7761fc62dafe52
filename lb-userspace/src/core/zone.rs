//! The zone that this node serves, as plain data.
//!
//! Every node serves its own view of the zone, so serials of two nodes may differ; nothing transfers it.
//! Names are lower case, absolute and without the final dot.
//!
//! ```text
//! example.test                SOA, NS of this node and of every peer
//! node1.example.test          A/AAAA: the node's published addresses, whatever its health
//! www.example.test            A/AAAA: what `core::publish` decided
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use crate::{
    config::{Config, Dns, NodeAddress, is_within},
    core::{ids::Family, publish::Publication},
};

/// TTL of NS and the name servers' addresses, in seconds. They change with the configuration only;
/// five minutes let a new node take part soon.
pub const INFRASTRUCTURE_TTL: u32 = 300;

/// The largest TTL, RFC 2181 section 8.
const MAX_TTL: u64 = 0x7fff_ffff;

/// A zone, ready to be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    origin: Arc<str>,
    soa: Soa,
    name_servers: Vec<Arc<str>>,
    names: BTreeMap<Arc<str>, Records>,
}

/// The start of authority (RFC 1035 section 3.3.13). Times in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Soa {
    /// This node's name.
    pub mname: Arc<str>,
    /// The responsible mailbox, as a name.
    pub rname: Arc<str>,
    /// Grows with each change (RFC 1982).
    pub serial: u32,
    /// For secondaries, of which there are none.
    pub refresh: u32,
    /// For secondaries.
    pub retry: u32,
    /// For secondaries.
    pub expire: u32,
    /// TTL of negative answers (RFC 2308), and of the record itself.
    pub minimum: u32,
}

/// What a name has besides SOA and NS. Without records it exists all the same: its answer is NODATA.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Records {
    addresses: Vec<IpAddr>,
    /// Of all of them, in seconds.
    pub ttl: u32,
}

impl Records {
    /// The addresses of one family, in a fixed order.
    pub fn addresses(&self, family: Family) -> Vec<IpAddr> {
        self.addresses.iter().copied().filter(|&address| Family::of(address) == family).collect()
    }

    /// Whether the name has no record (other than SOA and NS).
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }
}

/// What the zone knows about a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// The name is not in the zone.
    Outside,
    /// In the zone, and nothing has this name or a name below it.
    Missing,
    /// The name exists, perhaps only because of names below it.
    Found(&'a Records),
}

impl Zone {
    /// The zone of this node.
    pub fn new(config: &Config, dns: &Dns, publication: &Publication, serial: u32) -> Zone {
        let zone = &dns.zone;
        let servers = config.peers.iter().map(|peer| (&peer.name, &peer.addresses));
        let servers: Vec<(Arc<str>, &Vec<NodeAddress>)> =
            std::iter::once((&config.node.name, &config.node.addresses))
                .chain(servers)
                .map(|(name, addresses)| (server_name(name, zone), addresses))
                .collect();

        let mut builder = Builder::new(zone);
        for (name, addresses) in &servers {
            let published = addresses.iter().map(|address| address.publish);
            builder.addresses(name, published, INFRASTRUCTURE_TTL);
        }
        for (name, view) in publication.names.iter().filter(|(name, _)| is_within(name, zone)) {
            let published = view.addresses.iter().filter(|entry| entry.published).map(|entry| entry.address);
            builder.addresses(name, published, seconds(publication.ttl(dns, name)));
        }

        Zone {
            origin: Arc::clone(zone),
            soa: Soa {
                mname: server_name(&config.node.name, zone),
                rname: Arc::clone(&dns.contact),
                serial,
                refresh: 3600,
                retry: 600,
                expire: 86_400,
                minimum: seconds(dns.negative_ttl),
            },
            name_servers: servers.into_iter().map(|(name, _)| name).collect(),
            names: builder.names,
        }
    }

    /// The zone after a change: `None` when its content stays the same, else with the next serial.
    /// `unix_seconds` is the time, cut to 32 bits.
    pub fn successor(
        &self,
        config: &Config,
        dns: &Dns,
        publication: &Publication,
        unix_seconds: u32,
    ) -> Option<Zone> {
        let mut next = Zone::new(config, dns, publication, self.soa.serial);
        if next == *self {
            return None;
        }
        next.soa.serial = next_serial(self.soa.serial, unix_seconds);
        Some(next)
    }

    /// The zone's own name.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The start of authority.
    pub fn soa(&self) -> &Soa {
        &self.soa
    }

    /// This node's name and the peers', in the file's order.
    pub fn name_servers(&self) -> &[Arc<str>] {
        &self.name_servers
    }

    /// What the zone has for a name (lower case, without the final dot; see [`escape_label`]).
    pub fn lookup(&self, name: &str) -> Lookup<'_> {
        match self.names.get(name) {
            Some(records) => Lookup::Found(records),
            None if is_within(name, &self.origin) => Lookup::Missing,
            None => Lookup::Outside,
        }
    }
}

/// Writes one label of a queried name as names are written here. A dot or another byte that no name of
/// ours has becomes `\DDD` (RFC 1035 section 5.1), so that no label can be taken for two.
pub fn escape_label(label: &[u8], out: &mut String) {
    for &byte in label {
        let byte = byte.to_ascii_lowercase();
        if byte.is_ascii_graphic() && byte != b'.' && byte != b'\\' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("\\{byte:03}"));
        }
    }
}

/// The serial after `previous`: the time, unless that would not be an increase (RFC 1982).
pub fn next_serial(previous: u32, unix_seconds: u32) -> u32 {
    let ahead = unix_seconds.wrapping_sub(previous);
    if (1..0x8000_0000).contains(&ahead) { unix_seconds } else { previous.wrapping_add(1) }
}

/// The DNS name of a node.
pub fn server_name(node: &str, zone: &str) -> Arc<str> {
    format!("{}.{zone}", node.to_ascii_lowercase()).into()
}

fn seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_secs().min(MAX_TTL)).unwrap_or(u32::MAX)
}

/// Collects names, and with each the names between it and the zone's.
struct Builder<'a> {
    origin: &'a str,
    names: BTreeMap<Arc<str>, Records>,
}

impl<'a> Builder<'a> {
    fn new(origin: &'a str) -> Builder<'a> {
        Builder { origin, names: BTreeMap::from([(origin.into(), Records::default())]) }
    }

    fn addresses(&mut self, name: &str, addresses: impl Iterator<Item = IpAddr>, ttl: u32) {
        let records = self.entry(name);
        let mut seen: BTreeSet<IpAddr> = records.addresses.iter().copied().collect();
        records.addresses.extend(addresses.filter(|&address| seen.insert(address)));
        records.ttl = ttl;
    }

    fn entry(&mut self, name: &str) -> &mut Records {
        let mut parent = name;
        while let Some((_, rest)) = parent.split_once('.') {
            if !is_within(rest, self.origin) {
                break;
            }
            self.names.entry(rest.into()).or_default();
            parent = rest;
        }
        self.names.entry(name.into()).or_default()
    }
}

#[cfg(test)]
mod tests;
