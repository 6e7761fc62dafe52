//! The operator's table of metrics names each with its kind and meaning, and no other.

use lb_userspace::{metrics, status::Status};

const PAGE: &str = include_str!("../../docs/metrics.md");

/// The rows of the page's table, as `(name, kind, meaning)`.
fn rows() -> Vec<(String, String, String)> {
    let cells = PAGE.lines().filter_map(|line| line.strip_prefix("| `usher_")?.strip_suffix(" |"));
    let row = |line: &str| {
        let [name, kind, _, meaning] = line.splitn(4, " | ").collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        (format!("usher_{}", name.trim_end_matches('`')), kind.to_owned(), meaning.to_owned())
    };
    cells.map(row).collect()
}

/// What the text says of itself.
fn described(text: &str) -> Vec<(String, String, String)> {
    let of = |prefix: &'static str| {
        text.lines().filter_map(move |line| line.strip_prefix(prefix)?.split_once(' '))
    };
    let each = of("# HELP ").zip(of("# TYPE "));
    each.map(|((name, meaning), (_, kind))| {
        let suffix = if kind == "counter" { "_total" } else { "" };
        (format!("{name}{suffix}"), kind.to_owned(), meaning.to_owned())
    })
    .collect()
}

#[test]
fn every_metric_is_explained_in_the_order_of_the_text() {
    let status: Status = serde_json::from_str(include_str!("api/status.json")).expect("example is a status");
    let text = metrics::text(status).expect("text");
    let described = described(&text);
    assert_eq!(rows(), described);
    for (name, ..) in described {
        assert!(has_figure(&text, &name), "{name} has no figure:\n{text}");
    }
}

fn has_figure(text: &str, name: &str) -> bool {
    text.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
}
