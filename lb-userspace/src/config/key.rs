//! How a setting is named in messages and found in the file.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
};

use super::{Backend, Service, error::printable};

/// The path of a setting, from the section to the value: `service "web": backend "b1": weight`.
///
/// A value of a list is named by itself: `node: addresses: 192.0.2.11`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Key(String);

/// Stands between two segments; [`Key::child`] keeps it out of them.
const SEPARATOR: char = '\n';

impl Key {
    /// The file as a whole.
    pub fn root() -> Key {
        Key::default()
    }

    /// A section: `node`.
    pub fn section(name: &str) -> Key {
        Key::root().child(name)
    }

    /// A peer's section.
    pub fn peer(name: &str) -> Key {
        Key::root().named("peer", name)
    }

    /// A service's section.
    pub fn service(service: &Service) -> Key {
        Key::root().named("service", &service.name)
    }

    /// One address that a service's checks leave from.
    pub fn check_source(service: &Service, source: IpAddr) -> Key {
        Key::service(service).child("check").child("source").child(source)
    }

    /// One address of a backend.
    pub fn backend_address(service: &Service, backend: &Backend, address: IpAddr) -> Key {
        Key::service(service).named("backend", &backend.name).child("address").child(address)
    }

    /// Whether this is the file as a whole.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// A key of this table, or one value of this list; control characters are shown escaped.
    pub fn child(&self, segment: impl fmt::Display) -> Key {
        let mut path = self.0.clone();
        if !path.is_empty() {
            path.push(SEPARATOR);
        }
        let start = path.len();
        // Nothing fails that is written to a string.
        let _ = write!(path, "{segment}");
        if path[start..].contains(char::is_control) {
            let segment = printable(&path[start..]);
            path.truncate(start);
            path.push_str(&segment);
        }
        Key(path)
    }

    /// A table of an array of tables, by its name: `service "web"`.
    pub fn named(&self, array: &str, name: &str) -> Key {
        self.child(format_args!("{array} \"{name}\""))
    }

    /// The same while the name may be missing: `service #2`, counted from 1 (`index` from 0).
    pub fn element(&self, array: &str, name: Option<&str>, index: usize) -> Key {
        match name {
            Some(name) => self.named(array, name),
            None => self.child(format_args!("{array} #{}", index + 1)),
        }
    }

    /// The table or list that this one is in; the root is its own.
    pub fn parent(&self) -> Key {
        Key(self.0.rsplit_once(SEPARATOR).map_or_else(String::new, |(parent, _)| parent.to_owned()))
    }

    /// Whether this is `other` or something inside it.
    pub fn is_within(&self, other: &Key) -> bool {
        match self.0.strip_prefix(&other.0) {
            Some(rest) => other.is_root() || rest.is_empty() || rest.starts_with(SEPARATOR),
            None => false,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.replace(SEPARATOR, ": "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_from_the_section_to_the_value() {
        let weight = Key::root().named("service", "web").element("backend", None, 1).child("weight");
        assert_eq!(weight.to_string(), "service \"web\": backend #2: weight");
        assert_eq!(
            Key::section("nat").child("a\nb").to_string(),
            "nat: a\\nb",
            "one line, whatever the file says"
        );
    }

    #[test]
    fn inside_is_judged_by_whole_segments() {
        let peer = Key::section("peer");
        assert!(peer.child("name").is_within(&peer) && peer.is_within(&peer) && peer.is_within(&Key::root()));
        assert!(!Key::section("peer_check").is_within(&peer));
        assert_eq!(peer.child("name").parent(), peer);
        assert!(peer.parent().is_root());
    }
}
