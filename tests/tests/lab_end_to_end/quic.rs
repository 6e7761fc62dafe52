//! QUIC: a real client (quinn) that changes its address in the middle of a connection.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use lb_userspace::explain::FlowState;
use usher_lab::{Family, Host, Journey, Lab, QUIC_PORT, Stop};

use crate::support::{expect_equal, explain, vip};

/// How often the client moves.
const MOVES: usize = 4;

/// The backend whose server id the nodes do not know.
const UNKNOWN: Host = Host::Backend(3);

/// Ports of the client that nothing else uses.
const PORTS: std::ops::Range<u16> = 31_000..31_100;

/// What the kernel's program would do with a packet that has no connection id: the flow's state, the backend.
fn without_id(lab: &Lab, from: SocketAddr, family: Family) -> Result<(FlowState, String)> {
    let explained = explain(lab, 1, from, vip(lab, 1, family, QUIC_PORT)?, "udp")?;
    let backend = explained.backend.with_context(|| format!("{from} reaches no backend"))?;
    Ok((explained.flow, backend.name))
}

/// The client's address number `index`, with a port whose slot leads to a backend that is `wanted`.
fn place(lab: &Lab, family: Family, index: usize, wanted: impl Fn(&str) -> bool) -> Result<SocketAddr> {
    let address = lab.client_addresses().get(index).context("the client has too few addresses")?.of(family);
    for port in PORTS {
        let from = SocketAddr::new(address, port);
        let (flow, backend) = without_id(lab, from, family)?;
        if flow == FlowState::New && wanted(&backend) {
            return Ok(from);
        }
    }
    bail!("no port of {address} leads to such a backend")
}

fn stops(from: &[SocketAddr], backend: Host) -> Vec<Stop> {
    from.iter().map(|&from| Stop { from, backend: backend.to_string() }).collect()
}

pub(crate) fn client_that_moves_keeps_its_backend(lab: &Lab) -> Result<()> {
    // What the client itself calls the server at first, by chance or to choose one, must not count.
    let (home, initial) = (Host::Backend(1), Host::Backend(2));
    for family in Family::ALL {
        let mut from = vec![place(lab, family, 0, |backend| backend == home.to_string())?];
        for index in 1..=MOVES {
            from.push(place(lab, family, index, |backend| backend != home.to_string())?);
        }
        // And back.
        from.push(from[0]);
        let Journey { stops: found, failure } =
            lab.quic_journey(vip(lab, 1, family, QUIC_PORT)?, initial, &from)?;
        ensure!(failure.is_none(), "{failure:?} after {found:?}");
        expect_equal("who answered where", &found, &stops(&from, home))?;
        for from in from {
            let known = (FlowState::Known, home.to_string());
            expect_equal(&format!("the flow of {from}"), &without_id(lab, from, family)?, &known)?;
        }
    }
    Ok(())
}

/// So the test above would fail without the server ids: nothing else makes packets follow.
pub(crate) fn id_that_names_no_backend_goes_where_the_flow_goes(lab: &Lab) -> Result<()> {
    for family in Family::ALL {
        let from = [
            place(lab, family, 5, |backend| backend == UNKNOWN.to_string())?,
            place(lab, family, 6, |backend| backend != UNKNOWN.to_string())?,
        ];
        let (_, other) = without_id(lab, from[1], family)?;
        let Journey { stops: found, failure } =
            lab.quic_journey(vip(lab, 1, family, QUIC_PORT)?, UNKNOWN, &from)?;
        let failure = failure.with_context(|| format!("the connection went on: {found:?}"))?;
        ensure!(failure.contains("no answer to question 0"), "{failure}");
        expect_equal("who answered where", &found, &stops(&from[..1], UNKNOWN))?;
        let known = (FlowState::Known, other);
        expect_equal("where the client's packets went", &without_id(lab, from[1], family)?, &known)?;
    }
    Ok(())
}
