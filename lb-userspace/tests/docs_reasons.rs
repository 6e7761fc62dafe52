//! The operator's table of reasons names each reason with what becomes of the packet, and no other.

use lb_common::{Fate, Reason};

const PAGE: &str = include_str!("../../docs/operations.md");

/// The rows of the page's table, as `(reason, fate)`.
fn rows() -> Vec<(&'static str, &'static str)> {
    let (_, section) = PAGE.split_once("\n## Reasons\n").expect("a section of reasons");
    let (section, _) = section.split_once("\n## ").expect("a section after it");
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    cells.map(|(reason, rest)| (reason, rest.split(" | ").next().unwrap_or_default())).collect()
}

#[test]
fn every_reason_is_explained_in_the_order_of_the_counters() {
    let fate = |reason: &Reason| match reason.fate() {
        Fate::Pass | Fate::Odd | Fate::Icmp => "pass",
        Fate::Forward => "forward",
        Fate::Drop => "drop",
        Fate::Refuse | Fate::TooBig | Fate::Expired => "answer",
    };
    let reasons: Vec<_> = Reason::ALL.iter().map(|reason| (reason.label(), fate(reason))).collect();
    assert_eq!(rows(), reasons);
}
