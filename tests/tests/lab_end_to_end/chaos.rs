//! Anything at any time; see `cargo xtask chaos`.

use std::time::Duration;

use anyhow::Result;
use usher_lab::{Lab, chaos};

/// Always the same events, for what a change breaks shall show and not what luck brings: `cargo xtask chaos` takes other
/// seeds, other ways of forwarding, and minutes.
const SEED: u64 = 1;
const TIME: Duration = Duration::from_secs(30);

pub(crate) fn half_a_minute_of_anything_loses_only_what_it_may(lab: &Lab) -> Result<()> {
    let mut log = Vec::new();
    let summary = chaos(lab, SEED, TIME, &mut |line| log.push(line.to_owned()));
    let summary = summary.map_err(|error| error.context(log.join("\n")))?;
    println!("{summary:?}");
    Ok(())
}
