//! The path gets narrower in the middle of a transfer: the packets' sender must learn of it, by an ICMP
//! message that finds its way past the balancer, or the transfer stalls.

use anyhow::Result;
use usher_lab::{Family, Forward, Host, Lab, STALL, until};

use crate::{
    support::{RECOVERY, expect_equal, vip},
    udp,
};

/// Enough that most of it is neither sent nor in buffers when the path changes half-way.
const SIZE: u64 = 128 << 20;

const WIDE: u16 = 1500;
const NARROW: u16 = 1280;

const WEB_PORT: u16 = 80;

/// For what is to go on in a tunnel: IPv6 packets of 1280 bytes, which every path carries (RFC 8200,
/// section 5), still fit with headers around them.
const NARROW_TUNNEL: u16 = 1400;

/// An end of a link, and how narrow it gets.
type End = (Host, &'static str, u16);

pub(crate) fn e53_download_over_ipv4_goes_on_when_the_path_narrows(lab: &Lab) -> Result<()> {
    download(lab, Family::V4)
}

pub(crate) fn e53_download_over_ipv6_goes_on_when_the_path_narrows(lab: &Lab) -> Result<()> {
    download(lab, Family::V6)
}

pub(crate) fn upload_over_ipv4_goes_on_when_the_path_narrows(lab: &Lab) -> Result<()> {
    upload(lab, Family::V4)
}

pub(crate) fn upload_over_ipv6_goes_on_when_the_path_narrows(lab: &Lab) -> Result<()> {
    upload(lab, Family::V6)
}

pub(crate) fn e53_datagrams_over_ipv4_go_on_when_the_path_narrows(lab: &Lab) -> Result<()> {
    datagrams(lab, Family::V4)
}

pub(crate) fn e53_datagrams_over_ipv6_go_on_when_the_path_narrows(lab: &Lab) -> Result<()> {
    datagrams(lab, Family::V6)
}

pub(crate) fn e54_download_over_ipv4_arrives_by_a_node_whose_own_way_to_clients_is_narrow(
    lab: &Lab,
) -> Result<()> {
    download_by_narrow_node(lab, Family::V4)
}

pub(crate) fn e54_download_over_ipv6_arrives_by_a_node_whose_own_way_to_clients_is_narrow(
    lab: &Lab,
) -> Result<()> {
    download_by_narrow_node(lab, Family::V6)
}

/// Only the node itself can tell the backend, once it knows: it looks at its interfaces every second.
fn download_by_narrow_node(lab: &Lab, family: Family) -> Result<()> {
    let name = "narrow";
    lab.big_file(name, SIZE)?;
    narrowing(lab, &[(Host::Node(1), "front", NARROW)], |narrow| {
        narrow()?;
        let whole = || lab.download(vip(lab, 1, family, WEB_PORT)?, name, || Ok(()));
        until("a download arrives by the narrow node", RECOVERY, whole)
    })
}

/// Questions and answers are too long for the narrow link. The client knows so of its own interface; the
/// backend is told by the router, and both send fragments from then on.
fn datagrams(lab: &Lab, family: Family) -> Result<()> {
    const FLOW: u16 = 24_567;
    let payload = "x".repeat(1_350);
    let ask = || udp::ask(lab, 1, family, FLOW, &payload);
    let backend = ask()?;
    narrowing(lab, &client_ends(), |narrow| {
        narrow()?;
        let stays = || expect_equal("the flow's backend", &ask()?, &backend);
        until("an answer comes over the narrow path", STALL, stays)?;
        // And the others do so at once.
        (0..10).try_for_each(|_| stays())
    })
}

/// Where the answers become too big: the link between router and client.
fn client_ends() -> Vec<End> {
    vec![(Host::Router, "client", NARROW), (Host::Client, "client", NARROW)]
}

/// The backend's packets become too big for the link between router and client; the router tells so to
/// the VIP.
fn download(lab: &Lab, family: Family) -> Result<()> {
    let name = "narrow";
    lab.big_file(name, SIZE)?;
    narrowing(lab, &client_ends(), |narrow| lab.download(vip(lab, 1, family, WEB_PORT)?, name, narrow))
}

fn upload(lab: &Lab, family: Family) -> Result<()> {
    let file = lab.big_file("narrow", SIZE)?;
    let name = format!("narrow-{family}");
    narrowing(lab, &upload_ends(lab), |narrow| {
        lab.upload(vip(lab, 1, family, WEB_PORT)?, &file, &name, narrow)
    })
}

/// Where the client's packets become too big.
fn upload_ends(lab: &Lab) -> Vec<End> {
    match lab.options().forward {
        // The router's way to the nodes: it tells the client itself, as on any path.
        Forward::Nat | Forward::DsrL2 => vec![(Host::Router, "front", NARROW)],
        // Both ends of that way: what the router still lets through is too big for a node once it is in the
        // tunnel, and the node tells the client so.
        Forward::DsrIpip | Forward::DsrGue => [Host::Router]
            .into_iter()
            .chain(lab.options().node_hosts())
            .map(|host| (host, "front", NARROW_TUNNEL))
            .collect(),
    }
}

/// Runs a transfer that narrows links at `ends` in its middle; makes them wide again.
fn narrowing(
    lab: &Lab,
    ends: &[End],
    transfer: impl FnOnce(&(dyn Fn() -> Result<()> + Sync)) -> Result<()>,
) -> Result<()> {
    let narrow = || ends.iter().try_for_each(|&(host, interface, mtu)| lab.set_mtu(host, interface, mtu));
    let result = transfer(&narrow);
    ends.iter().try_for_each(|&(host, interface, _)| lab.set_mtu(host, interface, WIDE))?;
    // Or the next transfer would know from the start.
    let hosts = [Host::Client, Host::Router].into_iter().chain(lab.options().backend_hosts());
    hosts.chain(lab.options().node_hosts()).try_for_each(|host| lab.forget_path_mtu(host))?;
    result
}
