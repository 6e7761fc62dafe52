//! `[node]` and `[[peer]]`: names, interfaces and addresses of the nodes.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use toml::Spanned;

use super::reader::{Field, Reader, Seen};
use crate::config::{
    Node, NodeAddress, OnStop, Peer, XdpMode,
    file::{self, List, Value},
    key::Key,
};

/// As many as the Linux kernel sends (net.ipv4.icmp_msgs_per_sec).
const ICMP_RATE: u32 = 1_000;

/// Prometheus' own list of ports knows none for usher; OpenTelemetry's exporters have this one.
const METRICS_PORT: u16 = 9_464;

const SOCKET: &str = "/run/usher/usher.sock";
const STATE_FILE: &str = "/var/lib/usher/state.json";
const PIN_DIR: &str = "/sys/fs/bpf/usher";

pub(super) fn node(reader: &mut Reader<'_>, root: &Key, section: Value<file::Node>) -> Node {
    let mut node = Node {
        name: Arc::from(""),
        interfaces: Vec::new(),
        xdp_mode: XdpMode::Auto,
        addresses: Vec::new(),
        socket: PathBuf::from(SOCKET),
        secret_file: None,
        state_file: PathBuf::from(STATE_FILE),
        pin_dir: PathBuf::from(PIN_DIR),
        on_stop: OnStop::Keep,
        reload_on_change: false,
        icmp_rate: ICMP_RATE,
        metrics_listen: Vec::new(),
    };
    let Some(section) = reader.required(root, "node", section) else { return node };
    let (key, section) = (section.key, section.value);

    if let Some(name) = reader.required(&key, "name", section.name) {
        node.name = reader.node_name(&name).unwrap_or(node.name);
    }
    node.interfaces = interfaces(reader, &key, section.interfaces);
    if let Some(mode) = reader.optional(&key, "xdp_mode", section.xdp_mode) {
        let modes = [("auto", XdpMode::Auto), ("native", XdpMode::Native), ("generic", XdpMode::Generic)];
        node.xdp_mode = reader.choice(&mode, &modes).unwrap_or(node.xdp_mode);
    }
    node.addresses = addresses(reader, &key, section.addresses);
    if let Some(socket) = reader.optional(&key, "socket", section.socket) {
        node.socket = socket_path(reader, &socket).unwrap_or(node.socket);
    }
    if let Some(file) = reader.optional(&key, "secret_file", section.secret_file) {
        node.secret_file = reader.absolute_path(&file, "/etc/usher/secret");
    }
    if let Some(file) = reader.optional(&key, "state_file", section.state_file) {
        node.state_file = reader.absolute_path(&file, STATE_FILE).unwrap_or(node.state_file);
    }
    if let Some(dir) = reader.optional(&key, "pin_dir", section.pin_dir) {
        node.pin_dir = pin_dir(reader, &dir).unwrap_or(node.pin_dir);
    }
    if let Some(what) = reader.optional(&key, "on_stop", section.on_stop) {
        let choices = [("keep", OnStop::Keep), ("detach", OnStop::Detach)];
        node.on_stop = reader.choice(&what, &choices).unwrap_or(node.on_stop);
    }
    if let Some(wanted) = reader.optional(&key, "reload_on_change", section.reload_on_change) {
        node.reload_on_change = wanted.value;
    }
    if let Some(rate) = reader.optional(&key, "icmp_rate", section.icmp_rate) {
        let mend = "use 0 to 1000000; 1000 suits most";
        node.icmp_rate = reader.whole(&rate, 0..=1_000_000, mend).unwrap_or(node.icmp_rate);
    }
    node.metrics_listen = metrics_listen(reader, &key, section.metrics_listen);
    node
}

pub(super) fn peers(reader: &mut Reader<'_>, root: &Key, peers: Vec<Spanned<file::Peer>>) -> Vec<Peer> {
    let mut names = Seen::default();
    let mut checked = Vec::new();
    for (index, peer) in peers.into_iter().enumerate() {
        let Field { key, value: peer, .. } = reader.element(root, "peer", index, peer, |peer| &peer.name);
        let name = reader.required(&key, "name", peer.name).and_then(|name| {
            reader.unique_name(&mut names, &name, "peer");
            reader.node_name(&name)
        });
        let addresses = addresses(reader, &key, peer.addresses);
        let dns_port =
            reader.optional(&key, "dns_port", peer.dns_port).map_or(Some(53), |port| reader.port(&port));
        if let (Some(name), Some(dns_port)) = (name, dns_port) {
            checked.push(Peer { name, addresses, dns_port });
        }
    }
    checked
}

fn metrics_listen(reader: &mut Reader<'_>, node: &Key, list: List<String>) -> Vec<SocketAddr> {
    let fields = reader.list(node, "metrics_listen", list, String::clone).unwrap_or_default();
    let sockets = reader.socket_addresses(fields, METRICS_PORT);
    sockets.into_iter().map(|socket| socket.value).collect()
}

fn interfaces(reader: &mut Reader<'_>, node: &Key, list: List<String>) -> Vec<String> {
    /// `IFNAMSIZ` without the final zero byte.
    const LONGEST: usize = 15;
    let mut seen = Seen::default();
    let mut interfaces = Vec::new();
    for field in reader.required_list(node, "interfaces", list, String::clone) {
        let name = &field.value;
        let good = |c: char| !c.is_whitespace() && !c.is_control() && c != '/';
        if !(1..=LONGEST).contains(&name.len()) || !name.chars().all(good) {
            let mend = format!("use a name of at most {LONGEST} characters, as `ip link` shows it");
            reader.refuse(&field.key, "is not an interface name", mend);
        }
        reader.unique(&mut seen, &field, name.clone());
        interfaces.push(field.value);
    }
    interfaces
}

/// The addresses of a node, its own or a peer's.
fn addresses(reader: &mut Reader<'_>, node: &Key, list: List<file::NodeAddress>) -> Vec<NodeAddress> {
    let label = |entry: &file::NodeAddress| match entry {
        file::NodeAddress::Plain(address) => address.clone(),
        file::NodeAddress::Split(split) => {
            split.address.as_ref().map_or_else(|| "{ }".to_owned(), |address| address.get_ref().clone())
        }
    };
    let (mut seen, mut published, mut checked) = (Seen::default(), Seen::default(), Seen::default());
    let mut addresses = Vec::new();
    for entry in reader.required_list(node, "addresses", list, label) {
        let place = entry.with(());
        if let Some(found) = address(reader, entry) {
            if !reader.unique(&mut seen, &place, found.address) {
                continue;
            }
            addresses.push(found);
            let named = |key: &str| Field { key: place.key.child(key), ..place.with(()) };
            if reader.unique(&mut published, &named("publish"), found.publish) {
                reader.unique(&mut checked, &named("check_address"), found.check_address);
            }
        }
    }
    addresses
}

fn address(reader: &mut Reader<'_>, entry: Field<file::NodeAddress>) -> Option<NodeAddress> {
    let key = entry.key.clone();
    let place = entry.with(());
    let split = match entry.value {
        file::NodeAddress::Plain(address) => {
            let address = reader.address(&place.with(address))?;
            return Some(NodeAddress { address, publish: address, check_address: address });
        }
        file::NodeAddress::Split(split) => split,
    };
    let Some(written) = split.address else {
        reader.required(&key, "address", split.address);
        return None;
    };
    let address = reader.address(&place.with(written.into_inner()))?;
    let publish = match reader.optional(&key, "publish", split.publish) {
        Some(publish) => stand_in(reader, &publish, address, "publish")?,
        None => address,
    };
    let check_address = match reader.optional(&key, "check_address", split.check_address) {
        Some(check) => stand_in(reader, &check, address, "use")?,
        None => publish,
    };
    Some(NodeAddress { address, publish, check_address })
}

/// An address that stands for `address` elsewhere, so of the same family.
fn stand_in(reader: &mut Reader<'_>, field: &Field<String>, address: IpAddr, verb: &str) -> Option<IpAddr> {
    let other = reader.address(field)?;
    if other.is_ipv4() != address.is_ipv4() {
        let mend = format!("{verb} an IPv4 address for an IPv4 address, an IPv6 address for an IPv6 address");
        reader.refuse(&field.key, format!("{other} is of the other family"), mend);
    }
    Some(other)
}

fn pin_dir(reader: &mut Reader<'_>, field: &Field<String>) -> Option<PathBuf> {
    if field.value.contains('.') {
        let mend = format!("use a name without, such as \"{PIN_DIR}\"");
        reader.refuse(&field.key, "has a dot in it, which the BPF file system refuses", mend);
        return None;
    }
    reader.absolute_path(field, PIN_DIR)
}

fn socket_path(reader: &mut Reader<'_>, field: &Field<String>) -> Option<PathBuf> {
    /// `sun_path` in `sockaddr_un` has 108 bytes, one of them for the final zero (unix(7)).
    const LONGEST: usize = 107;
    if field.value.len() > LONGEST {
        let what = format!("is longer than {LONGEST} bytes, the most that a socket's path can have");
        reader.refuse(&field.key, what, format!("use a shorter path, such as \"{SOCKET}\""));
        return None;
    }
    reader.absolute_path(field, SOCKET)
}
