//! The benchmark of checks works, in small. Needs root. It says nothing of how fast anything is.

use usher_tests::bench::checks::{Size, measure};

#[test]
fn the_benchmark_measures_checks_memory_and_reloads() {
    if !usher_lab::can_raise() {
        return;
    }
    let report = measure(Size { services: 20, backends: 3, seconds: 2 }).unwrap();
    let table = report.to_string();
    assert_eq!(report.rows.len(), 8);
    for row in &report.rows {
        assert!(row.measured.is_finite() && row.measured > 0.0 || row.what.starts_with("busy"), "{table}");
        assert!(table.contains(row.what), "{table}");
    }
    let kilobytes = report.rows.iter().find(|row| row.what.contains("for a service")).unwrap().measured;
    assert!((131.0..140.0).contains(&kilobytes), "{table}");
    assert_eq!(report.json()["rows"].as_array().unwrap().len(), 8);
}
