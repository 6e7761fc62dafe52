//! The benchmark of the data path works. Needs root. It says nothing of how fast anything is.

use usher_tests::bench::{Extent, Selection, measure, rows};

/// More than any packet takes, and less than a row that measured something else than packets.
const IMPLAUSIBLE_NS: i64 = 100_000;

#[test]
fn the_benchmark_measures_every_case() {
    let all = rows(&Selection::default());
    assert!(all.len() >= 48, "6 cases of TCP and UDP over IPv4 and IPv6, by NAT and directly: {}", all.len());

    let family = ["v4", "v6"];
    let protocol = ["tcp", "udp"];
    let mut figures = Vec::new();
    // Every other combination is enough to reach each frame and each case.
    for (forward, family, protocol) in [("nat", family[0], protocol[1]), ("dsr-l2", family[1], protocol[0])] {
        let one = |text: &str| vec![text.to_owned()];
        let selection = Selection {
            forward: one(forward),
            family: one(family),
            protocol: one(protocol),
            ..Selection::default()
        };
        let rows = rows(&selection);
        let Some(report) = measure(&rows, Extent { rounds: 1, shorter: 50 }).unwrap() else { return };
        assert_eq!(report.figures.len(), rows.len());
        let json = report.json();
        figures.extend(json["rows"].as_array().unwrap().clone());
        let table = report.to_string();
        assert!(rows.iter().all(|row| table.contains(&row.traffic.to_string())), "{table}");
    }
    let cases: Vec<_> = figures.iter().map(|row| row["case"].as_str().unwrap()).collect();
    for case in ["known-1", "known-10k", "known-500k", "new", "flood", "not-ours", "reply", "denied"] {
        assert!(cases.contains(&case), "{case} is not among {cases:?}");
    }
    for row in &figures {
        for key in ["forward", "family", "proto", "case"] {
            assert!(row[key].is_string(), "{row}");
        }
        for key in ["min_ns", "median_ns"] {
            let ns = row[key].as_i64().unwrap();
            assert!(ns.abs() < IMPLAUSIBLE_NS, "{row}");
        }
    }
}
