//! UDP: the echo service.

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Result, ensure};
use usher_lab::{Family, Host, Lab};

use crate::support::{
    RECOVERY, SLACK, backends, check_timing, checks_take, client, expect_equal, explain, growth, service,
    status, vip, wait_health,
};

const ECHO: &str = "echo";
const PORT: u16 = 7;

/// Sends a datagram from one of the client's ports through a node; which backend answered.
pub(crate) fn ask(lab: &Lab, node: u8, family: Family, from: u16, payload: &str) -> Result<String> {
    let (from, to) = (client(lab, family, from)?, vip(lab, node, family, PORT)?);
    let answer = lab.ask_udp(&to.to_string(), payload, Some(&from.to_string()))?;
    let (backend, echoed) = answer.split_once(' ').unwrap_or((&answer, ""));
    ensure!(echoed == payload, "{} bytes sent, {} echoed", payload.len(), echoed.len());
    Ok(backend.to_owned())
}

/// Nothing but this check uses the echo: it is counted to the byte.
pub(crate) fn f63_every_datagram_is_answered_and_counted_once(lab: &Lab) -> Result<()> {
    const FLOWS: u16 = 40;
    let payload = "x".repeat(1_300);
    for family in Family::ALL {
        // IP header and UDP header.
        let headers = if family == Family::V4 { 20 + 8 } else { 40 + 8 };
        let before = Counted::read(lab, family)?;
        let mut answered = BTreeMap::<String, u64>::new();
        for port in 22_000..22_000 + FLOWS {
            *answered.entry(ask(lab, 1, family, port, &payload)?).or_default() += 1;
        }
        let after = Counted::read(lab, family)?;
        expect_equal("packets by backend", &growth(&before.packets, &after.packets), &answered)?;
        expect_equal("flows by backend", &growth(&before.flows, &after.flows), &answered)?;
        let bytes =
            answered.iter().map(|(name, count)| (name.clone(), count * (payload.len() as u64 + headers)));
        expect_equal("bytes by backend", &growth(&before.bytes, &after.bytes), &bytes.collect())?;
        ensure!(answered.len() == 3, "{FLOWS} flows used only {answered:?}");
    }
    Ok(())
}

#[derive(Default)]
struct Counted {
    packets: BTreeMap<String, u64>,
    bytes: BTreeMap<String, u64>,
    flows: BTreeMap<String, u64>,
}

impl Counted {
    /// node1's counters of the echo.
    fn read(lab: &Lab, family: Family) -> Result<Counted> {
        let mut counted = Counted::default();
        for backend in backends(&status(lab, 1)?, ECHO, family)? {
            counted.packets.insert(backend.name.clone(), backend.packets);
            counted.bytes.insert(backend.name.clone(), backend.bytes);
            counted.flows.insert(backend.name.clone(), backend.flows);
        }
        Ok(counted)
    }
}

/// The backend's web server dies, which is what checks ask; its echo lives on, and must get nothing more.
pub(crate) fn d43_flow_with_a_fixed_source_port_leaves_a_dead_backend_and_stays_away(
    lab: &Lab,
) -> Result<()> {
    const FLOW: u16 = 23_456;
    let timing = check_timing(lab, ECHO)?;
    // Both families' flows to one backend: it need not die twice.
    let victim_name = ask(lab, 1, Family::V4, FLOW, "first")?;
    let victim = backend_number(&victim_name)?;
    let mut v6_flow = 0;
    for port in FLOW..FLOW + 100 {
        if ask(lab, 1, Family::V6, port, "first")? == victim_name {
            v6_flow = port;
            break;
        }
    }
    ensure!(v6_flow != 0, "of 100 flows over IPv6 none reached {victim_name}");
    let flows = [(Family::V4, FLOW), (Family::V6, v6_flow)];
    for (family, port) in flows {
        expect_equal("same flow, same backend", &ask(lab, 1, family, port, "again")?, &victim_name)?;
    }

    lab.kill_backend(victim)?;
    wait_health(lab, victim, "down", Instant::now(), checks_take(timing.fall, &timing) + SLACK)?;
    let mut moved = Vec::new();
    for (family, port) in flows {
        let now_at = ask(lab, 1, family, port, "moved")?;
        ensure!(now_at != victim_name, "{family}: the flow still goes to {victim_name}, which is down");
        moved.push((family, port, now_at));
    }

    lab.start_backend(victim)?;
    wait_health(lab, victim, "up", Instant::now(), RECOVERY)?;
    for (family, port, now_at) in moved {
        let explained = explain(lab, 1, client(lab, family, port)?, vip(lab, 1, family, PORT)?, "udp")?;
        let named = explained.backend.map(|backend| backend.name).unwrap_or_default();
        expect_equal("the explained backend of a moved flow", &named, &now_at)?;
        expect_equal("a flow that moved", &ask(lab, 1, family, port, "stays")?, &now_at)?;
    }
    ensure!(service(&status(lab, 1)?, ECHO)?.flows > 0, "the flow table holds no flow of the echo");
    Ok(())
}

fn backend_number(name: &str) -> Result<u8> {
    match name.parse()? {
        Host::Backend(number) => Ok(number),
        other => anyhow::bail!("{other} is no backend"),
    }
}
