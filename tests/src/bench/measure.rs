//! Runs the rows in turns and takes the wrapper's cost away.

use std::env;

use anyhow::{Context as _, Result, ensure};
use lb_userspace::dataplane::{Run, Wrapper};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::{Pid, geteuid},
};

use super::{
    bed::{self, Bed},
    machine::machine,
    matrix::{Row, Traffic},
    report::{Figures, Host, Report},
};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Rounds: in each, every row is run once.
    pub rounds: usize,
    /// Divides the packets of a run.
    pub shorter: u32,
}

// enum xdp_action, include/uapi/linux/bpf.h.
const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;

/// Percent of the packets that must end as their row wants it. Not all: where the tables hold as many proven
/// flows as they were made for, some of the new ones find no NAT port.
const AT_LEAST: u64 = 95;

/// Measures the rows. `None`, with a word to the reader, when that needs a privilege which is not there.
///
/// # Errors
/// When the kernel refuses something, or packets are not treated as their row wants it.
///
/// # Panics
/// When the privilege is missing and the variable `USHER_NO_SKIP` forbids to skip anything.
pub fn measure(rows: &[Row], extent: Extent) -> Result<Option<Report>> {
    if !geteuid().is_root() {
        assert!(env::var_os("USHER_NO_SKIP").is_none(), "loading a BPF program needs root");
        println!("skipped: loading a BPF program needs root");
        return Ok(None);
    }
    ensure!(!rows.is_empty(), "no row of the benchmark was selected");
    stay_on_one_cpu()?;
    let mut wrapper = bed::wrapper()?;
    let (mut beds, places) = beds(rows, &mut wrapper)?;
    let mut taken: Vec<Vec<Taken>> = vec![Vec::new(); rows.len()];
    for round in 0..extent.rounds {
        eprint!("\r  round {} of {} …", round + 1, extent.rounds);
        for ((row, &place), taken) in rows.iter().zip(&places).zip(&mut taken) {
            let bed = &mut beds[place];
            if round == 0 {
                bed.check(row)?;
            }
            taken.push(run(row, bed, &mut wrapper, round as u64, extent)?);
        }
    }
    eprintln!();
    let figures = rows.iter().zip(taken).map(|(row, taken)| figures(*row, &taken)).collect();
    let host = Host {
        machine: machine()?,
        rounds: extent.rounds,
        instructions: instructions(rows, &mut beds, &places)?,
    };
    Ok(Some(Report { host, figures }))
}

/// Time per packet in one run, and what of it is the wrapper's.
#[derive(Debug, Clone, Copy)]
struct Taken {
    whole: i64,
    wrapper: i64,
}

/// A data path for each way to forward, family and protocol, and one with a deny list for each way to forward;
/// and the index of each row's.
fn beds(rows: &[Row], wrapper: &mut Wrapper) -> Result<(Vec<Bed>, Vec<usize>)> {
    let mut keys = Vec::new();
    let mut beds = Vec::new();
    let mut places = Vec::new();
    for row in rows {
        // The deny list is a feature, which would cost the other rows something; it takes both families.
        let denies = row.traffic == Traffic::Denied;
        let key = (row.forward, (!denies).then_some(row.case));
        let place = keys.iter().position(|known| *known == key).unwrap_or(keys.len());
        if place == keys.len() {
            eprint!("\r  filling tables, {} …", keys.len() + 1);
            keys.push(key);
            let bed = match denies {
                true => Bed::with_deny_list(row.forward),
                false => Bed::new(row.forward, row.case, wrapper),
            };
            beds.push(bed.with_context(|| format!("{row}"))?);
        }
        places.push(place);
    }
    eprintln!();
    Ok((beds, places))
}

fn run(row: &Row, bed: &mut Bed, wrapper: &mut Wrapper, seed: u64, extent: Extent) -> Result<Taken> {
    let count = packets(row.traffic) / extent.shorter;
    let frames = bed.frames(row, seed, count);
    bed.warm_up(wrapper, row)?;
    let before = bed.reasons()?;
    let whole = wrapper.run(&frames.plan, &frames.frame, count)?;
    let after = bed.reasons()?;
    wrapper.aim_at(None)?;
    let null = wrapper.run(&frames.plan, &frames.frame, count)?;

    let reason = row.reason() as usize;
    let right = after[reason] - before[reason];
    ensure!(
        if row.traffic == Traffic::Denied {
            whole.action == DROP
        } else {
            [PASS, TX].contains(&whole.action)
        } && [PASS, TX].contains(&null.action)
            && right * 100 >= u64::from(count) * AT_LEAST,
        "{row}: of {count} packets {right} ended as they should; by reason: {before:?}, then {after:?}"
    );
    let ns = |run: Run| run.per_frame.as_nanos() as i64;
    Ok(Taken { whole: ns(whole), wrapper: ns(null) })
}

/// Packets of one run: some 0.1 s.
fn packets(traffic: Traffic) -> u32 {
    match traffic {
        Traffic::Known(flows) if flows > 100_000 => 1_000_000,
        Traffic::Known(_) | Traffic::NotOurs | Traffic::Reply | Traffic::Denied => 500_000,
        Traffic::New | Traffic::Flood => 300_000,
    }
}

/// The least of both, one taken from the other; and the median of the differences.
fn figures(row: Row, taken: &[Taken]) -> Figures {
    let least = |of: fn(&Taken) -> i64| taken.iter().map(of).min().unwrap_or_default();
    let mut differences: Vec<i64> = taken.iter().map(|taken| taken.whole - taken.wrapper).collect();
    differences.sort_unstable();
    Figures {
        row,
        min_ns: least(|taken| taken.whole) - least(|taken| taken.wrapper),
        median_ns: differences[differences.len() / 2],
        wrapper_ns: least(|taken| taken.wrapper),
    }
}

fn instructions(rows: &[Row], beds: &mut [Bed], places: &[usize]) -> Result<Vec<(&'static str, u32)>> {
    let mut counts: Vec<(&'static str, u32)> = Vec::new();
    for (row, &place) in rows.iter().zip(places) {
        if counts.iter().all(|(label, _)| *label != row.forward_label()) {
            counts.push((row.forward_label(), beds[place].verified_instructions()?));
        }
    }
    Ok(counts)
}

/// The last CPU that this thread may use: the kernel's own work prefers the first.
fn stay_on_one_cpu() -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).context("which CPUs there are")?;
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.context("no CPU")?)?;
    sched_setaffinity(this, &one).context("stay on one CPU")
}
