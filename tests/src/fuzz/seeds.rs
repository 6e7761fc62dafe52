//! Inputs to begin with: the scenario table as scripts.

use std::{collections::BTreeMap, net::SocketAddr};

use lb_common::Forward;

use super::{
    CASES, CONFIGURATIONS, Operation,
    script::{FORWARDS, Writer},
};
use crate::{
    packet::{NatPorts, Packet, Port, Transport, flag},
    scenario::{Frame, Scenario, Step},
    table::scenarios,
    world::{Case, Flow},
};

/// The clock when a scenario begins; in half of them it wraps.
const TICKS: [u16; 2] = [40_000, u16::MAX];

/// Inputs of the target `packet`, by name. What is the same script is there once.
pub fn packet() -> BTreeMap<String, Vec<u8>> {
    let mut names = BTreeMap::<Vec<u8>, String>::new();
    for (index, scenario) in scenarios().iter().enumerate() {
        for forward in FORWARDS {
            let script = script(scenario, forward, TICKS[index % TICKS.len()]);
            names.entry(script).or_insert_with(|| format!("{}-{}", file_name(&scenario.id), forward as u8));
        }
    }
    for (service, case) in (0..).zip(CASES) {
        for what in 0..CONFIGURATIONS {
            for (forward, odd) in FORWARDS.iter().flat_map(|&forward| [(forward, 0), (forward, 1)]) {
                let name = file_name(&format!("configure {what} {odd} {case} {}", forward as u8));
                names.entry(reconfigured(case, forward, what, ((2 * service) << 4) | odd)).or_insert(name);
            }
        }
    }
    names.into_iter().map(|(script, name)| (name, script)).collect()
}

/// A flow before and after a change of the configuration.
fn reconfigured(case: Case, forward: Forward, what: u8, value: u8) -> Vec<u8> {
    let flow = case.flow(0);
    let client = SocketAddr::new(flow.client.ip(), flow.client.port() + 1);
    let other = Flow { client, ..flow };
    let frames = [flow.opens(), flow.goes_on(), other.opens()].map(|packet| packet.bytes(&NatPorts::new()));
    let mut writer = Writer::new(forward, 0);
    writer.add(Operation::Frame(&frames[0]));
    writer.add(Operation::Answer { flags: flag::SYN | flag::ACK });
    writer.add(Operation::Configure { what, value });
    for frame in &frames {
        writer.add(Operation::Mended(frame));
        writer.add(Operation::Later(2));
    }
    writer.0
}

/// Inputs of the target `parse`, by name.
pub fn parse() -> BTreeMap<String, Vec<u8>> {
    let mut names = BTreeMap::<Vec<u8>, String>::new();
    for scenario in scenarios() {
        for (index, step) in scenario.steps.iter().enumerate() {
            if let Step::Packet { frame, .. } = step {
                let name = format!("{}-{index}", file_name(&scenario.id));
                names.entry(bytes(frame)).or_insert(name);
            }
        }
    }
    names.into_iter().map(|(frame, name)| (name, frame)).collect()
}

fn script(scenario: &Scenario, forward: Forward, tick: u16) -> Vec<u8> {
    let mut writer = Writer::new(forward, tick);
    for step in &scenario.steps {
        match step {
            Step::Packet { frame: Frame::Packet(packet), .. } if is_answer(packet) => {
                writer.add(Operation::Answer { flags: flags(packet) });
            }
            Step::Packet { frame, .. } => writer.add(Operation::Frame(&bytes(frame))),
            Step::Later(ticks) => writer.add(Operation::Later(*ticks)),
            // Whatever the scenario changes: here the first backend of a service goes down, or comes back.
            Step::Configure(_) => writer.add(Operation::Configure { what: 0, value: 0 }),
            Step::Deny(_) | Step::Disturb(_) | Step::OnCpu(_) => {}
        }
    }
    writer.0
}

/// From a backend to a NAT port, which is not known before the packet was sent.
fn is_answer(packet: &Packet) -> bool {
    !matches!(packet.to.port, Port::Number(_))
}

fn flags(packet: &Packet) -> u8 {
    match packet.transport {
        Transport::Tcp { flags, .. } => flags,
        Transport::Udp { .. } => 0,
    }
}

fn bytes(frame: &Frame) -> Vec<u8> {
    match frame {
        Frame::Packet(packet) => packet.bytes(&some_ports()),
        Frame::Made(made) => made.bytes(&some_ports()),
        Frame::Bytes(bytes) => bytes.clone(),
    }
}

/// Some port that may be a NAT port, for any flow.
fn some_ports() -> NatPorts {
    (0..1_000).map(|flow| (flow, 1_024)).collect()
}

fn file_name(id: &str) -> String {
    let kept: String =
        id.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    kept.split('-').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
}
