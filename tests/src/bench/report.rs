//! The figures as a table and as JSON.

use std::fmt;

use serde_json::{Value, json};

use super::{matrix::Row, reference::reference};

/// What a row came to, in ns per packet, without the wrapper.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// The row.
    pub row: Row,
    /// Least.
    pub min_ns: i64,
    /// Median.
    pub median_ns: i64,
    /// Least of what the wrapper took, which is not in the others.
    pub wrapper_ns: i64,
}

/// Where and how it was measured.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) machine: String,
    pub(super) rounds: usize,
    /// Instructions that the verifier walked, by way to forward.
    pub(super) instructions: Vec<(&'static str, u32)>,
}

/// All figures.
#[derive(Debug, Clone)]
pub struct Report {
    pub(super) host: Host,
    /// In the order of the rows.
    pub figures: Vec<Figures>,
}

impl Report {
    /// `{"rows": [{"forward", "family", "proto", "case", "min_ns", "median_ns"}]}`.
    pub fn json(&self) -> Value {
        let row = |figures: &Figures| {
            json!({
                "forward": figures.row.forward_label(),
                "family": figures.row.family_label(),
                "proto": figures.row.protocol_label(),
                "case": figures.row.traffic.to_string(),
                "min_ns": figures.min_ns,
                "median_ns": figures.median_ns,
            })
        };
        json!({ "rows": self.figures.iter().map(row).collect::<Vec<_>>() })
    }
}

/// The table for readers.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Host { machine, rounds, instructions } = &self.host;
        writeln!(f, "{machine}, {rounds} runs of each row")?;
        for (forward, count) in instructions {
            writeln!(f, "{forward}: the verifier walked {count} instructions")?;
        }
        writeln!(
            f,
            "\n{:9}{:7}{:6}{:11}{:>8}{:>10}{:>9}{:>11}{:>7}{:>9}",
            "forward",
            "family",
            "proto",
            "case",
            "min ns",
            "median ns",
            "wrapper",
            "reference",
            "ratio",
            "goal"
        )?;
        self.figures.iter().try_for_each(|figures| writeln!(f, "{figures}"))
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = &self.row;
        let labels = (row.forward_label(), row.family_label(), row.protocol_label());
        write!(f, "{:9}{:7}{:6}{:11}", labels.0, labels.1, labels.2, row.traffic.to_string())?;
        write!(f, "{:8}{:10}{:9}", self.min_ns, self.median_ns, self.wrapper_ns)?;
        let Some(reference) = reference(row) else { return Ok(()) };
        let ratio = self.min_ns as f64 / reference.ns as f64;
        let goal = reference.percent as f64 / 100.0;
        let verdict = if ratio <= goal { "" } else { "  missed" };
        write!(f, "{:11}{ratio:7.2}   ≤ {goal:.2}{verdict}", reference.ns)
    }
}
