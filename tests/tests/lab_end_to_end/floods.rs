//! Floods of packets with forged sources, while real connections are in use.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use lb_common::flow::{WAYS, shape_for};
use lb_userspace::explain::FlowState;
use usher_lab::{Connection, Connections, Flood, Lab, until};

use crate::support::{RECOVERY, expect_equal, explain, status};

/// Flows that a table is configured for where it is to overflow: a node gets ten times as many in each flood.
pub(crate) const SMALL_TABLE: u32 = 50_000;

/// Packets of each kind, all nodes together.
const PACKETS: u32 = 1_000_000;

const CONNECTIONS: usize = 1_000;

/// Further connections on which nothing is said meanwhile, for longer than datagrams' flows live.
const SILENT: usize = 100;

/// Rounds of requests, half a second apart, that take longer than a tick.
const ROUNDS_OF_TWO_TICKS: u64 = 4;

/// Connections that are looked up at a time.
const AT_ONCE: usize = 4;

pub(crate) fn c38_1000_connections_and_their_entries_outlive_floods_of_a_million_packets(
    lab: &Lab,
) -> Result<()> {
    let connections = Connections::open(lab, CONNECTIONS)?;
    let silent = Connections::open(lab, SILENT)?;
    let sources: BTreeSet<_> = connections.all().iter().map(|one| one.from.ip()).collect();
    ensure!(sources.len() >= 16, "connections come from {} addresses only", sources.len());
    let all: Vec<_> = connections.all().iter().chain(silent.all()).cloned().collect();
    until("every connection is proven", RECOVERY, || expect_proven(lab, &all))?;
    // Of others' flows some are proven too: time enough that every connection has spoken in two ticks.
    silent.wait_rounds(ROUNDS_OF_TWO_TICKS)?;
    silent.silence(true);

    for kind in Flood::ALL {
        flood(lab, kind).with_context(|| format!("flood {kind:?}"))?;
        // Datagrams' flows live for two seconds here, less than their flood takes.
        if kind != Flood::Udp {
            expect_full_tables(lab).with_context(|| format!("after {kind:?}"))?;
        }
    }
    expect_proven(lab, &all)?;
    expect_all_known(lab, silent.all()).context("silent ones")?;
    expect_all_known(lab, connections.all()).context("busy ones")?;
    silent.silence(false);
    silent.wait_rounds(2)?;
    connections.wait_rounds(2)?;

    silent.finish()?.expect_whole(SILENT, 3)?;
    connections.finish()?.expect_whole(CONNECTIONS, 3)
}

/// Floods all nodes at once, and makes sure that their programs saw every packet.
fn flood(lab: &Lab, kind: Flood) -> Result<()> {
    let nodes = lab.options().nodes;
    let share = PACKETS / u32::from(nodes);
    let before = seen(lab)?;
    thread::scope(|scope| -> Result<()> {
        let floods: Vec<_> =
            (1..=nodes).map(|node| scope.spawn(move || lab.flood(node, kind, share))).collect();
        floods.into_iter().try_for_each(|flood| flood.join().map_err(|_| anyhow!("a flood panicked"))?)
    })?;
    until("the nodes saw the whole flood", RECOVERY, || {
        for (node, after) in seen(lab)? {
            let grew = after - before[&node];
            ensure!(grew >= u64::from(share), "node{node} saw {grew} packets of {share}");
        }
        Ok(())
    })
}

/// Packets that each node's program has treated so far, without backends' answers.
fn seen(lab: &Lab) -> Result<BTreeMap<u8, u64>> {
    let seen = |node| {
        let packets = status(lab, node)?.packets;
        Ok((node, packets.iter().filter(|(reason, _)| *reason != "nat_reply").map(|(_, count)| count).sum()))
    };
    (1..=lab.options().nodes).map(seen).collect()
}

/// Each node has at least as many proven flows as connections.
fn expect_proven(lab: &Lab, connections: &[Connection]) -> Result<()> {
    for node in 1..=lab.options().nodes {
        let own = connections.iter().filter(|one| one.node == node).count();
        let proven = status(lab, node)?.flow_table.proven;
        ensure!(proven >= own as u64, "node{node} has {proven} proven flows and {own} connections");
    }
    Ok(())
}

/// Every entry of the tables is taken, or all but a few.
fn expect_full_tables(lab: &Lab) -> Result<()> {
    for node in 1..=lab.options().nodes {
        let table = status(lab, node)?.flow_table;
        let flows = u32::try_from(table.capacity).context("capacity")?;
        let entries = shape_for(flows).count() * WAYS as u64;
        ensure!(
            table.used >= entries * 99 / 100,
            "node{node}: of {entries} entries only {} are taken",
            table.used
        );
    }
    Ok(())
}

/// Every connection is known to its node by itself.
fn expect_all_known(lab: &Lab, connections: &[Connection]) -> Result<()> {
    thread::scope(|scope| {
        let shares = connections.chunks(connections.len().div_ceil(AT_ONCE)).map(|share| {
            scope.spawn(move || share.iter().try_for_each(|connection| expect_known_soon(lab, connection)))
        });
        let shares: Vec<_> = shares.collect();
        shares.into_iter().try_for_each(|share| share.join().map_err(|_| anyhow!("a look-up panicked"))?)
    })
}

/// While its backend fails its checks, as it may where a flood leaves them no processor, what a node is asked about is a new
/// connection and goes elsewhere. The silent ones' entries do not come back by themselves.
fn expect_known_soon(lab: &Lab, connection: &Connection) -> Result<()> {
    until("the connection is known", RECOVERY, || expect_known(lab, connection))
}

/// The node knows the flow, with the backend that answers on it.
fn expect_known(lab: &Lab, connection: &Connection) -> Result<()> {
    let explained = explain(lab, connection.node, connection.from, connection.to, "tcp")?;
    let what = format!("{} -> {}", connection.from, connection.to);
    expect_equal(&what, &explained.flow, &FlowState::Known)?;
    let backend = explained.backend.map(|backend| backend.name);
    expect_equal(&format!("backend of {what}"), &backend.as_deref(), &Some(&connection.backend))
}
