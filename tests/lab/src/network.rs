//! Namespaces, cables, addresses: made, unplugged, removed.
//!
//! Every host is joined to the switch by a veth pair; client and router directly. Native XDP on a
//! node needs two things of the switch's end of its cables. An XDP program, even one that does
//! nothing: without one, frames that the node's program sends back (`XDP_TX`) stay in the ring
//! (`veth_xdp_flush` wakes a receiver only if it has a program; `gro on` is enough for redirects, but
//! not for this). And `tx off`: then the switch finishes checksums and segments before it delivers,
//! as a real network card would.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    command::{check, ip_batch, on},
    configs::state,
    host::Host,
    process::end_all,
    topology::{
        BACK, Net, Options, Pair, Port, SPOOFED, SPOOFED_BITS, checking_address, local_address, ports,
        public_address, switch_port, tunnel_sources,
    },
    translation,
    xdp::{self, Verdict},
};

/// Where iproute2 keeps files that replace those of /etc in a namespace.
const ETC_NETNS: &str = "/etc/netns";

/// What every host's kernel is told before it has interfaces: no address takes time to become
/// usable, none appears by itself, and packets may come by any way.
const HOST_SETTINGS: &[(&str, &str)] = &[
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
];

/// It sends nobody another way: nodes that know each other by public addresses need it in between.
const ROUTER_SETTINGS: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv6/conf/all/forwarding", "1"),
];

/// The switch carries frames and takes part in nothing.
const SWITCH_SETTINGS: &[(&str, &str)] =
    &[("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")];

/// Makes all namespaces, cables and addresses. There must be none.
pub(crate) fn build(options: &Options) -> Result<()> {
    let hosts = options.hosts();
    ip_batch(None, &hosts.iter().map(|host| format!("netns add {}", host.namespace())).collect::<Vec<_>>())?;
    for &host in &hosts {
        configure_kernel(host)?;
    }
    ip_batch(None, &cables(&hosts))?;
    ip_batch(Some(Host::Switch), &switch_lines(&hosts))?;
    options.node_hosts().try_for_each(prepare_node_ports)?;
    for &host in hosts.iter().filter(|&&host| host != Host::Switch) {
        ip_batch(Some(host), &host_lines(host, options))?;
    }
    translation::begin(options)
}

/// Removes everything that any lab may have left, whatever made it.
///
/// # Errors
/// When processes do not die or a namespace cannot be removed.
pub(crate) fn remove() -> Result<()> {
    for namespace in namespaces()? {
        end_all(&namespace)?;
        check(Command::new("ip").args(["netns", "delete", &namespace]), "here")?;
    }
    for folder in replaced_etc() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    // Ours alone, or it stays.
    let _ = fs::remove_dir(ETC_NETNS);
    Ok(())
}

/// The lab's namespaces that exist.
pub(crate) fn namespaces() -> Result<Vec<String>> {
    let list = check(Command::new("ip").args(["netns", "list"]), "here")?;
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    let ours =
        names.filter(|name| name.strip_prefix("usher-").is_some_and(|host| host.parse::<Host>().is_ok()));
    Ok(ours.map(str::to_owned).collect())
}

/// The folder whose files replace those of /etc on `host`.
pub(crate) fn etc(host: Host) -> PathBuf {
    Path::new(ETC_NETNS).join(host.namespace())
}

fn replaced_etc() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(ETC_NETNS) else { return Vec::new() };
    let ours = |name: &str| name.strip_prefix("usher-").is_some_and(|host| host.parse::<Host>().is_ok());
    let folders = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(ours));
    folders.map(|entry| entry.path()).collect()
}

/// Pulls a host's cables out, or plugs them in: both ends see it.
pub(crate) fn plug(host: Host, plugged: bool) -> Result<()> {
    let state = if plugged { "up" } else { "down" };
    let line = |port: &Port| format!("link set {} {state}", port.switch_port());
    change_switch(host, line)
}

/// Lets the switch take a host's frames and give it others', or lose them all without a sign.
pub(crate) fn bridge(host: Host, carried: bool) -> Result<()> {
    change_switch(host, |port| {
        if carried { port_joins(port) } else { format!("link set {} nomaster", port.switch_port()) }
    })
}

/// Lets frames through to a host, or loses them without a sign.
pub(crate) fn deliver(host: Host, delivered: bool) -> Result<()> {
    // The switch's kernel sends all of them itself, so that they pass a queue. One without room is in every kernel, as
    // filters are not.
    let queue = if delivered { "noqueue" } else { "pfifo limit 0" };
    let line = |port: &Port| format!("tc qdisc replace dev {} root {queue}", port.switch_port());
    let lines: Vec<_> = at_switch(host)?.iter().map(line).collect();
    check(&mut on(Host::Switch, &["sh", "-ec", &lines.join("\n")]), "switch").map(drop)
}

/// Lets frames from a host through, or loses them without a sign.
pub(crate) fn accept(host: Host, accepted: bool) -> Result<()> {
    // Nodes send frames past all queues: only XDP at the other end sees every one.
    if !accepted {
        return attach(host, Some(Verdict::Drop));
    }
    attach(host, matches!(host, Host::Node(_)).then_some(Verdict::Pass))
}

/// Loses without a sign what a host and some others send each other, or no longer what any do.
pub(crate) fn part(host: Host, others: &[Host]) -> Result<()> {
    // Of all that filters at the switch, nothing else knows both ends of a frame's way.
    let mut lines = vec![
        "add table bridge parted".to_owned(),
        "delete table bridge parted".to_owned(),
        "add table bridge parted".to_owned(),
        "add chain bridge parted forward { type filter hook forward priority 0; }".to_owned(),
    ];
    for (one, other) in others.iter().map(|&other| (host, other)) {
        for (from, to) in [(one, other), (other, one)] {
            for (port, end) in at_switch(from)?.iter().zip(at_switch(to)?) {
                let (port, end) = (port.switch_port(), end.switch_port());
                lines.push(format!("add rule bridge parted forward iifname {port:?} oifname {end:?} drop"));
            }
        }
    }
    check(&mut on(Host::Switch, &["nft", &lines.join("\n")]), "switch").map(drop)
}

/// Gives the switch's ends of a host's cables an XDP program, in place of one they have.
fn attach(host: Host, verdict: Option<Verdict>) -> Result<()> {
    change_switch(host, |port| format!("link set {} xdpdrv off", port.switch_port()))?;
    let Some(verdict) = verdict else { return Ok(()) };
    let object = state(&format!("{verdict:?}.o").to_lowercase());
    fs::write(&object, xdp::object(verdict)).with_context(|| format!("cannot write {}", object.display()))?;
    let (object, section) = (object.display(), xdp::SECTION);
    change_switch(host, |port| format!("link set {} xdpdrv obj {object} sec {section}", port.switch_port()))
}

fn change_switch(host: Host, line: impl Fn(&Port) -> String) -> Result<()> {
    ip_batch(Some(Host::Switch), &at_switch(host)?.iter().map(line).collect::<Vec<_>>())
}

/// The ports whose other end is at the switch, of a host that has such.
fn at_switch(host: Host) -> Result<Vec<Port>> {
    let ports = switched(host);
    if ports.is_empty() {
        bail!("{host} is not at the switch");
    }
    Ok(ports)
}

pub(crate) fn configure_kernel(host: Host) -> Result<()> {
    let own = match host {
        Host::Router => ROUTER_SETTINGS,
        Host::Switch => SWITCH_SETTINGS,
        Host::Client | Host::Resolver | Host::Dns | Host::Secondary | Host::Node(_) | Host::Backend(_) => &[],
    };
    let common = if host == Host::Switch { &[] } else { HOST_SETTINGS };
    let lines: Vec<_> =
        common.iter().chain(own).map(|(key, value)| format!("echo {value} >/proc/sys/net/{key}")).collect();
    // The shell and not sysctl(8), which small systems lack.
    check(&mut on(host, &["sh", "-ec", &lines.join("\n")]), &host.to_string()).map(drop)
}

/// The ports whose other end is at the switch.
fn switched(host: Host) -> Vec<Port> {
    ports(host).into_iter().filter(|port| port.net != Net::Client).collect()
}

/// Takes a node's interfaces away, and gives it new ones with the same names and addresses, as when a network card or its
/// driver comes back.
pub(crate) fn rewire(node: Host, options: &Options) -> Result<()> {
    let names = || switched(node).into_iter().map(|port| port.net.interface());
    let mac =
        |name: &str| check(&mut on(node, &["cat", &format!("/sys/class/net/{name}/address")]), "a node");
    let with_mac = |name| Ok(format!("link set {name} address {}", mac(name)?.trim()));
    let macs = names().map(with_mac).collect::<Result<Vec<_>>>()?;
    ip_batch(Some(node), &names().map(|name| format!("link delete {name}")).collect::<Vec<_>>())?;
    ip_batch(None, &switched(node).iter().map(to_switch).collect::<Vec<_>>())?;
    ip_batch(Some(node), &macs)?;
    bridge(node, true)?;
    prepare_node_ports(node)?;
    ip_batch(Some(node), &host_lines(node, options))
}

fn to_switch(port: &Port) -> String {
    format!(
        "link add {} netns {} type veth peer name {} netns {}",
        port.net.interface(),
        port.host.namespace(),
        port.switch_port(),
        Host::Switch.namespace()
    )
}

fn cables(hosts: &[Host]) -> Vec<String> {
    let name = Net::Client.interface();
    let direct = format!(
        "link add {name} netns {} type veth peer name {name} netns {}",
        Host::Client.namespace(),
        Host::Router.namespace()
    );
    hosts.iter().flat_map(|&host| switched(host)).map(|port| to_switch(&port)).chain([direct]).collect()
}

fn switch_lines(hosts: &[Host]) -> Vec<String> {
    // Without snooping: there is no querier, and neighbour discovery is multicast.
    let bridges = [Net::Front, Net::Back].map(Net::interface).into_iter().flat_map(|bridge| {
        [
            format!("link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"),
            format!("link set {bridge} up"),
        ]
    });
    let ports = hosts.iter().flat_map(|&host| switched(host)).map(|port| port_joins(&port));
    bridges.chain(ports).collect()
}

fn port_joins(port: &Port) -> String {
    format!("link set {} master {} up", port.switch_port(), port.net.interface())
}

/// See the module's text.
fn prepare_node_ports(node: Host) -> Result<()> {
    let ports = [Net::Front, Net::Back].map(|net| switch_port(node, net));
    // ethtool tells on stdout which other features follow.
    let offload: Vec<_> = ports.iter().map(|port| format!("ethtool -K {port} tx off >/dev/null")).collect();
    check(&mut on(Host::Switch, &["sh", "-ec", &offload.join("\n")]), "switch")?;
    attach(node, Some(Verdict::Pass))
}

fn host_lines(host: Host, options: &Options) -> Vec<String> {
    let mut lines = vec!["link set lo up".to_owned()];
    for port in ports(host).into_iter().filter(|port| is_used(port, options)) {
        let name = port.net.interface();
        lines.push(format!("link set {name} up"));
        for pair in &port.addresses {
            lines.push(format!("address add {}/24 dev {name}", pair.v4));
            lines.push(format!("address add {}/64 dev {name} nodad", pair.v6));
        }
    }
    // Backends that answer clients themselves need not send what the router throws away.
    if matches!(host, Host::Router | Host::Backend(_)) {
        lines.push(format!("route add blackhole {}/{}", SPOOFED.v4, SPOOFED_BITS.0));
        lines.push(format!("route add blackhole {}/{}", SPOOFED.v6, SPOOFED_BITS.1));
    }
    if host == Host::Router && options.public {
        lines.extend(
            options.node_hosts().filter_map(public_address).flat_map(|public| held(Net::Client, public)),
        );
    }
    lines.extend(default_routes(host));
    if options.forward.has_tunnel() {
        lines.extend(tunnel_lines(host, options));
    }
    lines
}

/// What makes a host answer for addresses in a network.
fn held(net: Net, addresses: Pair) -> [String; 2] {
    let name = net.interface();
    [
        format!("address add {}/32 dev {name}", addresses.v4),
        format!("address add {}/128 dev {name} nodad", addresses.v6),
    ]
}

/// With a tunnel, nodes are not in the backends' network, and reach it through the router.
fn is_used(port: &Port, options: &Options) -> bool {
    let apart = options.forward.has_tunnel() && port.net == Net::Back;
    !(apart && matches!(port.host, Host::Node(_)))
}

/// What tunnels need: checks that leave from no service's address, and a way to where tunnel packets come
/// from, for what the path says about them (ICMP).
fn tunnel_lines(host: Host, options: &Options) -> Vec<String> {
    let front = Net::Front.interface();
    let routers = Net::Front.router().both();
    match host {
        Host::Node(number) => {
            let own = checking_address(number);
            let routes = BACK.iter().zip(routers).zip(own.both());
            let routes =
                routes.map(|((net, router), source)| format!("route add {net} via {router} src {source}"));
            let addresses = [
                format!("address add {}/24 dev {front}", own.v4),
                format!("address add {}/64 dev {front} nodad", own.v6),
            ];
            addresses.into_iter().chain(routes).collect()
        }
        Host::Router => options
            .node_hosts()
            .filter_map(|node| match node {
                Host::Node(number) => Some((number, local_address(node)?.both())),
                _ => None,
            })
            .flat_map(|(number, addresses)| tunnel_sources(number).into_iter().zip(addresses))
            .map(|(net, node)| format!("route add {net} via {node}"))
            .collect(),
        _ => Vec::new(),
    }
}

/// Over the network that is nearest to the client.
fn default_routes(host: Host) -> Vec<String> {
    let ports = ports(host);
    let (Some(port), true) = (ports.first(), host != Host::Router) else { return Vec::new() };
    let router = port.net.router();
    // Several addresses per interface: the first is the one to be known by.
    let source = port.addresses.first().map_or_else(String::new, |pair| format!(" src {}", pair.v6));
    vec![
        format!("route add default via {}", router.v4),
        format!("route add default via {} dev {}{source}", router.v6, port.net.interface()),
    ]
}

/// What is wrong with the network of a lab that should stand.
pub(crate) fn verify(options: &Options) -> Result<()> {
    let present = namespaces()?;
    match options.hosts().into_iter().find(|host| !present.contains(&host.namespace())) {
        None => Ok(()),
        Some(host) => Err(anyhow!("{host} has no namespace")),
    }
}
