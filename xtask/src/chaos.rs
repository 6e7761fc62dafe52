//! `cargo xtask chaos`: random faults and chores in the lab, under traffic that never ceases.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use usher_lab::{Forward, Lab, Options, chaos};

use crate::lab;

/// How long, and which events.
#[derive(Args)]
pub(crate) struct Chaos {
    /// The same seed gives the same events; any one unless given
    #[arg(long)]
    seed: Option<u64>,
    /// How long
    #[arg(long, default_value_t = 5.0, value_name = "M")]
    minutes: f64,
    /// How nodes forward: nat, dsr-l2, dsr-ipip, dsr-gue
    #[arg(long, default_value_t = Options::default().forward)]
    forward: Forward,
    /// Hosts that run usher: 2 to 9
    #[arg(long, default_value_t = Options::default().nodes)]
    nodes: u8,
}

/// Raises a lab, lets things happen there, and removes it.
///
/// # Errors
/// When something was lost that no event may cause, or the lab does not recover; the nodes' last log lines are part
/// of it.
pub(crate) fn run(options: &Chaos) -> Result<()> {
    lab::build()?;
    let seed = options.seed.unwrap_or_else(rand::random);
    let time = Duration::try_from_secs_f64(options.minutes * 60.0).context("--minutes")?;
    let shape = Options { forward: options.forward, nodes: options.nodes, ..Options::default() };
    let lab = Lab::up(&shape)?;
    let summary = chaos(&lab, seed, time, &mut |line| println!("{line}"));
    let summary = summary.inspect_err(|_| {
        for node in 1..=shape.nodes {
            eprintln!("log of usher on node{node}:\n{}", lab.node_log(node).unwrap_or_default());
        }
    })?;
    let [kept, new, datagrams] = summary.answered;
    println!(
        "seed {seed}: {} events; {kept} requests on kept connections, {new} new connections and {datagrams} datagrams \
         answered; {} lost, each by an event that may cause it",
        summary.events, summary.excused
    );
    lab.down()
}
