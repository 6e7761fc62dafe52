//! `usher explain`: what it says is what happens, and asking is without effect.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use lb_userspace::explain::{Explanation, FlowState, Verdict};
use usher_lab::{Family, Host, Lab};

use crate::support::{client, expect_equal, explain, first_line, service, status, vip, way_out};

/// Flows per family.
const FLOWS: u16 = 50;

const WEB_PORT: u16 = 80;
const ECHO_PORT: u16 = 7;

pub(crate) fn b22_both_nodes_name_the_backend_that_100_flows_then_reach(lab: &Lab) -> Result<()> {
    for family in Family::ALL {
        for port in 24_000..24_000 + FLOWS {
            let from = client(lab, family, port)?;
            let explained = both_nodes(lab, from, FlowState::New)?;
            // Through one node this time, through the other next time.
            let node = 1 + (port % 2) as u8;
            expect_equal(&format!("backend of {from}"), &fetch(lab, node, from)?, &explained)?;
            let known = explain(lab, node, from, vip(lab, node, family, WEB_PORT)?, "tcp")?;
            expect_equal("a flow that was seen", &known.flow, &FlowState::Known)?;
            expect_equal(&format!("known backend of {from}"), &name(&known)?, &explained)?;
        }
    }
    Ok(())
}

/// The backend that every node names for a flow.
fn both_nodes(lab: &Lab, from: SocketAddr, flow: FlowState) -> Result<String> {
    let family = crate::support::family_of(from.ip());
    let ask = |node| explain(lab, node, from, vip(lab, node, family, WEB_PORT)?, "tcp");
    let (one, two) = (ask(1)?, ask(2)?);
    for explained in [&one, &two] {
        expect_equal("service", &explained.service.as_deref(), &Some("web"))?;
        expect_equal("verdict", &explained.verdict, &Verdict::Forward)?;
        expect_equal("flow", &explained.flow, &flow)?;
        let hop = explained.next_hop.as_ref().context("no next hop")?;
        expect_equal("interface", &hop.interface.as_str(), &way_out(lab))?;
    }
    expect_equal("slot on node2", &two.slot, &one.slot)?;
    expect_equal(&format!("backend of {from} on node2"), &name(&two)?, &name(&one)?)?;
    name(&one)
}

fn name(explained: &Explanation) -> Result<String> {
    Ok(explained.backend.as_ref().with_context(|| format!("no backend: {explained:?}"))?.name.clone())
}

/// The backend that a request from this address and port reaches.
fn fetch(lab: &Lab, node: u8, from: SocketAddr) -> Result<String> {
    let url = format!("http://{}/", vip(lab, node, crate::support::family_of(from.ip()), WEB_PORT)?);
    let (address, port) = (from.ip().to_string(), from.port().to_string());
    let page = lab.run(
        Host::Client,
        &["curl", "-sSf", "-m", "2", "--interface", &address, "--local-port", &port, &url],
    )?;
    Ok(first_line(&page))
}

/// Asks about the echo: nothing else uses it meanwhile, so its counters stand still.
pub(crate) fn asking_changes_nothing(lab: &Lab) -> Result<()> {
    let counted = || -> Result<(u64, Vec<[u64; 2]>)> {
        let status = status(lab, 1)?;
        let echo = service(&status, "echo")?;
        let sent = echo.backends.iter().map(|backend| [backend.packets, backend.bytes]);
        Ok((echo.flows, sent.collect()))
    };
    let (flows_before, sent_before) = counted()?;
    for family in Family::ALL {
        let to = vip(lab, 1, family, ECHO_PORT)?;
        for port in 25_000..25_000 + FLOWS {
            let explained = explain(lab, 1, client(lab, family, port)?, to, "udp")?;
            expect_equal("an unseen flow", &explained.flow, &FlowState::New)?;
        }
        // Asked for a second time it is as new as before.
        let again = explain(lab, 1, client(lab, family, 25_000)?, to, "udp")?;
        expect_equal("an explained flow", &again.flow, &FlowState::New)?;
        let foreign = explain(lab, 1, client(lab, family, 25_000)?, vip(lab, 1, family, 22)?, "tcp")?;
        expect_equal("verdict on ssh", &foreign.verdict, &Verdict::Pass)?;
        ensure!(foreign.backend.is_none() && foreign.service.is_none(), "{foreign:?}");
    }
    let (flows, sent) = counted()?;
    expect_equal("packets and bytes after asking", &sent, &sent_before)?;
    // Those of earlier checks may have become too old meanwhile.
    ensure!(flows <= flows_before, "{flows_before} flows before asking, {flows} after");
    Ok(())
}
