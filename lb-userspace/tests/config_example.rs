//! The example configuration and the reference cannot drift from the format: every key stands in both,
//! and what the example calls a default is one.

use std::path::Path;

use lb_userspace::config::{Config, Loaded, file::tables};

const EXAMPLE: &str = include_str!("../../dist/usher.toml");
const REFERENCE: &str = include_str!("../../docs/configuration.md");
const README: &str = include_str!("../../README.md");

/// The example with the `#` taken from every line that has a setting behind it.
fn uncommented() -> String {
    let line = |line: &'static str| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting,
        _ => line,
    };
    EXAMPLE.lines().map(|text| format!("{}\n", line(text))).collect()
}

fn parse(text: &str) -> Config {
    Config::parse(text, Path::new("dist/usher.toml")).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_example_is_accepted_without_warnings() {
    let loaded = Loaded::parse(EXAMPLE, Path::new("dist/usher.toml")).unwrap();
    assert_eq!(loaded.warnings, []);
}

#[test]
fn what_is_commented_out_is_the_default() {
    assert_ne!(uncommented(), EXAMPLE);
    assert_eq!(parse(&uncommented()), parse(EXAMPLE));
}

#[test]
fn the_example_has_every_key() {
    let document: toml::Table = uncommented().parse().unwrap();
    for (table, keys) in tables() {
        // A table may stand several times; a key in one of them is enough.
        let places = find(&document, table);
        for key in keys {
            // `{ address, publish }` is shown once, for the node.
            let shown = table == "peer.addresses" || places.iter().any(|place| place.contains_key(*key));
            assert!(shown, "dist/usher.toml does not show `{key}` in [{table}]");
        }
    }
}

/// All tables at a dotted path, looking into lists.
fn find<'a>(document: &'a toml::Table, path: &str) -> Vec<&'a toml::Table> {
    let mut places = vec![document];
    for name in path.split('.').filter(|name| !name.is_empty()) {
        places = places
            .iter()
            .filter_map(|place| place.get(name))
            .flat_map(|value| match value {
                toml::Value::Array(items) => items.iter().filter_map(toml::Value::as_table).collect(),
                value => value.as_table().into_iter().collect::<Vec<_>>(),
            })
            .collect();
    }
    places
}

#[test]
fn the_reference_has_every_key() {
    for (table, keys) in tables() {
        let section = section(table);
        for key in keys {
            assert!(
                section.contains(&format!("`{key}`")) || section.contains(&format!("[{key}]")),
                "docs/configuration.md does not explain `{key}` under the heading of [{table}]"
            );
        }
    }
}

/// The part of the reference under a table's heading, up to the next heading.
fn section(table: &str) -> &'static str {
    let heading = match table {
        "" => "## The file".to_owned(),
        "dns.publish" | "peer" | "service" | "service.backend" => format!("## `[[{table}]]`"),
        "node.addresses" | "peer.addresses" => "## `[node]`".to_owned(),
        _ => format!("## `[{table}]`"),
    };
    let (_, rest) = REFERENCE
        .split_once(&format!("{heading}\n"))
        .unwrap_or_else(|| panic!("docs/configuration.md has no heading {heading}"));
    rest.split_once("\n## ").map_or(rest, |(section, _)| section)
}

#[test]
fn the_configurations_in_the_documents_are_accepted() {
    let examples: Vec<&str> = [REFERENCE, README]
        .iter()
        .flat_map(|document| document.split("```toml\n").skip(1))
        .filter_map(|rest| rest.split_once("```"))
        .map(|(example, _)| example)
        .filter(|example| example.starts_with("version = 1"))
        .collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        assert_eq!(Loaded::parse(example, Path::new("docs")).unwrap().warnings, []);
    }
}
