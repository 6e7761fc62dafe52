//! A node is a host like any other: its own traffic passes.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use usher_lab::{Family, Host, Lab, until};

use crate::support::{Background, first_line};

const NODE: Host = Host::Node(1);

/// Within the NAT ports, 1024 to 32767.
const NAT_PORT: &str = "20000";

pub(crate) fn ping_reaches_the_node(lab: &Lab) -> Result<()> {
    for address in addresses(lab)? {
        lab.run(Host::Client, &["ping", "-q", "-c", "3", "-i", "0.05", "-W", "1", &address.to_string()])?;
    }
    Ok(())
}

/// All of the node's addresses, front and back.
fn addresses(lab: &Lab) -> Result<Vec<IpAddr>> {
    Ok([lab.address(NODE)?.both(), lab.back_address(NODE)?.both()].concat())
}

/// The back addresses are those that NAT uses; from a backend they are reached over the back network.
pub(crate) fn server_on_the_node_works_inside_the_nat_ports_too(lab: &Lab) -> Result<()> {
    for address in addresses(lab)? {
        for from in [Host::Client, Host::Backend(1)] {
            for direction in [&[][..], &["-R"]] {
                transfer(lab, NODE, address, from, direction)?;
            }
        }
    }
    Ok(())
}

/// 20 MB by iperf3 between two hosts.
fn transfer(lab: &Lab, server: Host, address: IpAddr, client: Host, more: &[&str]) -> Result<()> {
    let address = address.to_string();
    let serving = Background::start(lab, server, &["iperf3", "-s", "-1", "-p", NAT_PORT, "-B", &address])?;
    let command: Vec<_> =
        ["iperf3", "-c", &address, "-p", NAT_PORT, "-n", "20M"].iter().chain(more).copied().collect();
    until(
        &format!("20 MB go from {client} to {address} and port {NAT_PORT}"),
        Duration::from_secs(5),
        || lab.run(client, &["timeout", "10"].iter().chain(&command).copied().collect::<Vec<_>>()),
    )?;
    let (code, output, errors) = serving.finish(Duration::from_secs(5))?;
    ensure!(code == Some(0), "iperf3 on {server}: {output}{errors}");
    Ok(())
}

pub(crate) fn connections_from_the_node_work(lab: &Lab) -> Result<()> {
    let fetch = |address: IpAddr, port: u16| -> Result<String> {
        let url = format!("http://{}/", std::net::SocketAddr::new(address, port));
        Ok(first_line(&lab.run(NODE, &["curl", "-sSf", "-m", "2", &url])?))
    };
    for family in Family::ALL {
        for _ in 0..20 {
            // A backend by itself, and a service of the other node.
            let direct = fetch(lab.address(Host::Backend(2))?.of(family), lab.options().forward.web_port())?;
            ensure!(direct == "backend2", "{family}: {direct}");
            let balanced = fetch(lab.address(Host::Node(2))?.of(family), 80)?;
            ensure!(balanced.starts_with("backend"), "{family}: {balanced}");
        }
        let backend = Host::Backend(1);
        transfer(lab, backend, lab.address(backend)?.of(family), NODE, &[])?;
    }
    Ok(())
}
