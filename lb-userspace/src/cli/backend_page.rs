//! What `usher backend` prints.

use std::net::IpAddr;

use super::text::{Cell, Tone, count, printable, table};
use crate::backend::{Finding, Weight, record::Change, report::Report};

/// The findings, each with what mends it; one line when all is well.
pub(super) fn findings(findings: &[Finding], colour: bool) -> String {
    if findings.is_empty() {
        return "nothing is wrong\n".to_owned();
    }
    let rows = findings.iter().flat_map(|finding| {
        let weight = match finding.weight {
            Weight::Wrong => Cell::text("wrong").tone(Tone::Bad),
            Weight::Note => Cell::text("note"),
        };
        let mend = Cell::text(format!("mend: {}", finding.mend));
        [vec![weight, Cell::text(&finding.what)], vec![Cell::text(""), mend]]
    });
    table(&rows.collect::<Vec<_>>(), colour)
}

/// The state of the host as a backend.
pub(super) fn status(report: &Report, colour: bool) -> String {
    let record = &report.record;
    let state = match report.running {
        true if record.ready => format!("usher backend runs (process {})", record.pid),
        true => format!("usher backend starts or stops (process {})", record.pid),
        false => format!(
            "usher backend does not run; process {} has left its changes: `usher backend stop` undoes them",
            record.pid
        ),
    };
    let forward: Vec<&str> = record.settings.forward.iter().map(|forward| forward.as_str()).collect();
    let mut out = format!("{state}\nForwarded by {}\n", forward.join(", "));
    if let Some(program) = &record.program {
        let interfaces = printable(&record.settings.interfaces.join(", "));
        out.push_str(&format!("Program {} on {interfaces}, {}\n", program.id, program.mode));
    }
    out.push_str("\nVIPs\n");
    let vip = |vip: &IpAddr| {
        let whose = if record.vips.contains(vip) { "on lo" } else { "was there before" };
        vec![Cell::text(vip.to_string()), Cell::text(whose)]
    };
    out.push_str(&table(&record.settings.vips.iter().map(vip).collect::<Vec<_>>(), colour));
    if !record.sysctls.is_empty() {
        out.push_str("\nKernel settings\n");
        let change = |(key, change): (&String, &Change)| {
            vec![Cell::text(key), Cell::text(format!("{} -> {}", change.found, change.set))]
        };
        out.push_str(&table(&record.sysctls.iter().map(change).collect::<Vec<_>>(), colour));
    }
    if !report.packets.is_empty() {
        out.push_str("\nPackets\n");
        let row = |(label, packets): (&&str, &u64)| vec![Cell::text(label), Cell::number(count(*packets))];
        out.push_str(&table(&report.packets.iter().map(row).collect::<Vec<_>>(), colour));
    }
    out
}
