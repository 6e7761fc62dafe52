//! Chaos: random faults and chores, one after the other and one within the other, under traffic that never ceases. What may
//! be lost by each is known beforehand ([`oracle`]); everything else is a failure.

mod events;
mod oracle;
mod traffic;

use std::{
    collections::BTreeMap,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use rand::{SeedableRng as _, rngs::StdRng};

use self::{
    events::Stage,
    oracle::{Kind, judge},
    traffic::Traffic,
};
use crate::lab::Lab;

/// What a run came to.
#[derive(Debug)]
pub struct Summary {
    /// Events, the undoing of faults not counted.
    pub events: usize,
    /// Requests on connections that were kept, new connections, and datagrams that were answered.
    pub answered: [u64; 3],
    /// Losses that an event may cause.
    pub excused: usize,
}

/// Runs chaos in a lab for a time. The same seed gives the same events; `say` hears of each.
///
/// # Errors
/// When something was lost that nothing excuses, or the lab does not recover.
pub fn chaos(lab: &Lab, seed: u64, time: Duration, say: &mut dyn FnMut(&str)) -> Result<Summary> {
    let begin = Instant::now();
    say(&format!("seed {seed}, {time:?}, forwarding by {}", lab.options().forward));
    let traffic = Traffic::start(lab)?;
    let mut say_when = |what: &str| say(&format!("{:7.2} s  {what}", begin.elapsed().as_secs_f64()));
    let mut stage = Stage::new(lab, StdRng::seed_from_u64(seed), &mut say_when)?;
    while begin.elapsed() < time {
        stage.scene()?;
    }
    let (events, excuses) = stage.end()?;
    let (losses, answered) = traffic.finish()?;
    let verdict = judge(losses, &excuses);
    let mut guilty: BTreeMap<Kind, usize> = BTreeMap::new();
    for loss in &verdict.guilty {
        *guilty.entry(loss.kind).or_default() += 1;
        let at = |when: Instant| when.saturating_duration_since(begin).as_secs_f64();
        say(&format!(
            "{:7.2} s  LOST: {} through node{}, since {:.2} s: {}",
            at(loss.seen),
            loss.kind,
            loss.node,
            at(loss.since),
            loss.why
        ));
    }
    if !guilty.is_empty() {
        bail!("seed {seed}: lost without an excuse: {guilty:?}");
    }
    let answered =
        [&answered.kept, &answered.new, &answered.datagrams].map(|count| count.load(Ordering::Relaxed));
    Ok(Summary { events, answered, excused: verdict.excused.values().sum() })
}
