//! What `usher backend status` says, as data.

use std::collections::BTreeMap;

use lb_common::Verdict;
use serde::Serialize;

use super::Record;

/// The state of a backend host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether `usher backend run` runs. If not, an earlier one has left what `record` names.
    pub running: bool,
    /// What was asked for and what was changed.
    pub record: Record,
    /// Packets since the program was loaded, by verdict; empty without a program.
    pub packets: BTreeMap<&'static str, u64>,
}

impl Report {
    /// The report, from the counters in the order of [`Verdict::ALL`].
    pub fn new(running: bool, record: Record, counters: &[u64]) -> Report {
        let labels = Verdict::ALL.iter().map(|verdict| verdict.label());
        Report { running, record, packets: labels.zip(counters.iter().copied()).collect() }
    }
}
