//! Single values: numbers, durations, addresses, names, paths.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use humantime::format_duration;
use toml::Spanned;

use super::reader::{Field, Reader, Seen};
use crate::{
    config::{
        file::{AddressPerFamily, Value},
        key::Key,
        shape::{form, nearest},
    },
    core::ids::Family,
};

impl Reader<'_> {
    /// A whole number within limits; `mend` says what to use instead.
    pub(super) fn whole<T: TryFrom<i64>>(
        &mut self,
        field: &Field<i64>,
        range: RangeInclusive<i64>,
        mend: &str,
    ) -> Option<T> {
        let value = field.value;
        if value < *range.start() {
            self.refuse(&field.key, format!("{value} is less than {}", range.start()), mend);
        } else if value > *range.end() {
            self.refuse(&field.key, format!("{value} is more than {}", range.end()), mend);
        } else {
            return T::try_from(value).ok();
        }
        None
    }

    pub(super) fn port(&mut self, field: &Field<i64>) -> Option<u16> {
        self.whole(field, 1..=65_535, "use a port from 1 to 65535")
    }

    /// A duration within limits; refused ones and those left out give the default.
    pub(super) fn duration_or(
        &mut self,
        table: &Key,
        name: &str,
        written: Value<String>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        self.optional(table, name, written).and_then(|field| self.duration(&field, range)).unwrap_or(default)
    }

    pub(super) fn duration(
        &mut self,
        Field { key, value: text, .. }: &Field<String>,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let Ok(duration) = humantime::parse_duration(text) else {
            let mend = r#"write a number and its unit, such as "500ms", "2s", "5m" or "1h""#;
            self.refuse(key, format!("\"{text}\" is not a duration"), mend);
            return None;
        };
        let (least, most) = (format_duration(*range.start()), format_duration(*range.end()));
        if duration < *range.start() {
            self.refuse(key, format!("\"{text}\" is less than {least}"), format!("use {least} to {most}"));
        } else if duration > *range.end() {
            self.refuse(key, format!("\"{text}\" is more than {most}"), format!("use {least} to {most}"));
        } else {
            return Some(duration);
        }
        None
    }

    /// One of a few words.
    pub(super) fn choice<T: Clone>(
        &mut self,
        field: &Field<String>,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let word = field.value.as_str();
        if let Some((_, value)) = choices.iter().find(|(choice, _)| *choice == word) {
            return Some(value.clone());
        }
        let words = || choices.iter().map(|(choice, _)| *choice);
        let mend = match nearest(word, words()) {
            Some(choice) => format!("did you mean \"{choice}\"?"),
            None => format!(
                "use {}",
                words().map(|choice| format!("\"{choice}\"")).collect::<Vec<_>>().join(" or ")
            ),
        };
        self.refuse(&field.key, format!("\"{word}\" is not possible here"), mend);
        None
    }

    /// An address that a host can have and others can reach. One that is an address, but of another
    /// kind, is refused and returned all the same, so that it can be recognized elsewhere.
    pub(super) fn address(&mut self, Field { key, value: text, .. }: &Field<String>) -> Option<IpAddr> {
        let Ok(address) = text.parse::<IpAddr>() else {
            let mend = if text.parse::<SocketAddr>().is_ok() {
                "write the address alone; the port has a key of its own"
            } else if text.contains('/') {
                "write the address alone, without a prefix length"
            } else if text.contains('%') {
                "write an address that needs no interface, such as \"2001:db8::1\""
            } else {
                "write one such as \"192.0.2.11\" or \"2001:db8::11\"; names are not looked up"
            };
            self.refuse(key, "is not an IP address", mend);
            return None;
        };
        if let Some((what, mend)) = unusable(address) {
            self.refuse(key, what, mend);
        }
        Some(address)
    }

    /// At most one address per family of `whose`; `mend` says what to do with a second one. None when left out.
    pub(super) fn address_per_family(
        &mut self,
        table: &Key,
        name: &str,
        written: Value<AddressPerFamily>,
        whose: &str,
        mend: &str,
    ) -> Vec<Field<IpAddr>> {
        let span = written.as_ref().map(Spanned::span).unwrap_or_default();
        let Some(Field { key, value: written, .. }) = self.optional(table, name, written) else {
            return Vec::new();
        };
        let items = match written {
            AddressPerFamily::One(address) => vec![Spanned::new(span, address)],
            AddressPerFamily::PerFamily(items) => items,
        };
        if items.is_empty() {
            self.refuse(&key, "is an empty list", format!("write {}", form(name)));
        }
        let mut families = HashSet::new();
        let mut addresses = Vec::new();
        for item in items {
            let field = self.take(key.child(item.get_ref()), item);
            let Some(address) = self.address(&field) else { continue };
            let family = Family::of(address);
            if !families.insert(family) {
                self.refuse(&field.key, format!("is a second IP{family} address of {whose}"), mend);
            }
            addresses.push(field.with(address));
        }
        addresses
    }

    /// Addresses with ports, each once; `port` is the usual one, for examples.
    pub(super) fn socket_addresses(
        &mut self,
        fields: Vec<Field<String>>,
        port: u16,
    ) -> Vec<Field<SocketAddr>> {
        let mut seen = Seen::default();
        let sockets = fields.into_iter().filter_map(|field| {
            let socket = self.socket_address(&field, port)?;
            self.unique(&mut seen, &field, socket);
            Some(field.with(socket))
        });
        sockets.collect()
    }

    /// Square brackets are around IPv6.
    fn socket_address(
        &mut self,
        Field { key, value: text, .. }: &Field<String>,
        port: u16,
    ) -> Option<SocketAddr> {
        match text.parse::<SocketAddr>() {
            Ok(socket) if socket.port() == 0 => {
                self.refuse(key, "has port 0", format!("name the port, which others must know: {port}"));
                None
            }
            Ok(socket) => Some(socket),
            Err(_) => {
                let mend = match text.parse::<IpAddr>() {
                    Ok(address) => format!("write \"{}\"", SocketAddr::new(address, port)),
                    Err(_) => format!("write one such as \"192.0.2.11:{port}\" or \"[2001:db8::11]:{port}\""),
                };
                self.refuse(key, "is not an address with a port", mend);
                None
            }
        }
    }

    /// The name of a service or backend.
    pub(super) fn name(&mut self, field: &Field<String>) -> Option<Arc<str>> {
        let name = field.value.as_str();
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if (1..=63).contains(&name.len()) && name.bytes().all(good) {
            return Some(name.into());
        }
        let mend =
            "use 1 to 63 letters, digits, \"-\", \"_\" and \".\": it stands in commands, logs and metrics";
        self.refuse(&field.key, format!("\"{name}\" is not a name"), mend);
        None
    }

    /// The name of a node: one label of a host name, since the zone names the nodes.
    pub(super) fn node_name(&mut self, field: &Field<String>) -> Option<Arc<str>> {
        let name = field.value.to_ascii_lowercase();
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let edges = name.starts_with('-') || name.ends_with('-');
        if (1..=63).contains(&name.len()) && name.bytes().all(good) && !edges {
            return Some(name.into());
        }
        let mend =
            "use 1 to 63 letters, digits and inner \"-\", such as \"node1\": it becomes a name in the zone";
        self.refuse(&field.key, format!("\"{name}\" is not a host name without dots"), mend);
        None
    }

    /// A DNS name: lower case, without the final dot.
    pub(super) fn dns_name(&mut self, field: &Field<String>, example: &str) -> Option<Arc<str>> {
        let name = field.value.strip_suffix('.').unwrap_or(&field.value).to_ascii_lowercase();
        if let Some(what) = malformed(&name) {
            self.refuse(&field.key, what, format!("write one such as \"{example}\""));
            return None;
        }
        Some(name.into())
    }

    /// A path that means the same whatever the directory usher is started in.
    pub(super) fn absolute_path(&mut self, field: &Field<String>, example: &str) -> Option<PathBuf> {
        let path = PathBuf::from(&field.value);
        if path.is_absolute() && !field.value.contains('\0') {
            return Some(path);
        }
        let what = format!("\"{}\" is not an absolute path", field.value);
        self.refuse(&field.key, what, format!("write the whole path, such as \"{example}\""));
        None
    }
}

/// Why nobody can be reached at this address, and what to write instead.
fn unusable(address: IpAddr) -> Option<(&'static str, String)> {
    let usual = || "use an address that other hosts can reach".to_owned();
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            let mend = v6.to_ipv4_mapped().map_or_else(usual, |v4| format!("write \"{v4}\""));
            Some(("is an IPv4 address mapped into IPv6", mend))
        }
        _ if address.is_unspecified() => Some(("is the unspecified address", usual())),
        _ if address.is_loopback() => Some(("is a loopback address", usual())),
        _ if address.is_multicast() => Some(("is a multicast address", usual())),
        IpAddr::V4(v4) if v4.is_broadcast() => Some(("is the broadcast address", usual())),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some(("is in 0.0.0.0/8, which no host has", usual())),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some(("is link-local, which means nothing without an interface", usual()))
        }
        _ => None,
    }
}

/// Why this is no DNS name (RFC 1035, section 2.3.4; letters, digits, `-` and `_`).
pub(super) fn malformed(name: &str) -> Option<String> {
    /// Text length of a name that has 255 bytes on the wire.
    const LONGEST: usize = 253;
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() {
        return Some("is empty".to_owned());
    }
    if name.len() > LONGEST {
        return Some(format!("is longer than {LONGEST} characters"));
    }
    name.split('.').find_map(|label| {
        if label.is_empty() {
            Some(format!("\"{name}\" is not a DNS name: a label is empty"))
        } else if label.len() > 63 {
            Some(format!("\"{name}\" is not a DNS name: \"{label}\" is longer than 63 characters"))
        } else if !label.bytes().all(good) || label.starts_with('-') || label.ends_with('-') {
            Some(format!("\"{name}\" is not a DNS name: \"{label}\" has a character that cannot stand there"))
        } else {
            None
        }
    })
}
