//! `[tunnel]`: where packets to backends behind tunnels come from.

use ipnet::IpNet;

use super::reader::{Field, Reader};
use crate::{
    config::{
        Tunnel,
        file::{self, Value},
        key::Key,
    },
    core::ids::Family,
};

/// GUE's own port (IANA service name "gue").
const GUE_PORT: u16 = 6_080;

pub(super) fn tunnel(reader: &mut Reader<'_>, root: &Key, section: Value<file::Tunnel>) -> Tunnel {
    let mut tunnel = Tunnel { source: Vec::new(), gue_port: GUE_PORT };
    let Some(section) = reader.optional(root, "tunnel", section) else { return tunnel };
    let (key, section) = (section.key, section.value);
    // An empty list is the default.
    let source = section.source.filter(|networks| !networks.get_ref().is_empty());
    for field in reader.list(&key, "source", source, String::clone).unwrap_or_default() {
        let Some(network) = network(reader, &field) else { continue };
        let family = Family::of(network.addr());
        if let Some(first) = tunnel.source.iter().find(|first| Family::of(first.addr()) == family) {
            let what = format!("is a second IP{family} network beside {first}");
            reader.refuse(&field.key, what, "keep one per family");
        } else {
            tunnel.source.push(network);
        }
    }
    if let Some(port) = reader.optional(&key, "gue_port", section.gue_port) {
        tunnel.gue_port = reader.port(&port).unwrap_or(tunnel.gue_port);
    }
    tunnel
}

/// A network that hosts can be in.
fn network(reader: &mut Reader<'_>, field: &Field<String>) -> Option<IpNet> {
    let Ok(network) = field.value.parse::<IpNet>() else {
        let mend = "write one such as \"198.51.100.0/28\" or \"2001:db8:ffff::/64\"";
        reader.refuse(&field.key, "is not a network", mend);
        return None;
    };
    if network.trunc() != network {
        let what = "has bits beyond its prefix length";
        reader.refuse(&field.key, what, format!("write \"{}\"", network.trunc()));
        return None;
    }
    reader.address(&field.with(network.addr().to_string()))?;
    Some(network)
}
