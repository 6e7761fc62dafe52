//! Every row of the list of acceptance scenarios has a test that names its number: scenarios of the packet table
//! begin with it (`A14 two tags …`), so do the names of other tests (`b20_equal_weights_…`).

#![allow(clippy::unwrap_used)] // Clippy takes helper functions here for ordinary code.

use std::{
    collections::BTreeSet,
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use usher_tests::table::scenarios;

/// Rows about packets: the table shows them, on the host and in the kernel.
const IN_TABLE: &[(char, RangeInclusive<u32>)] =
    &[('A', 1..=18), ('B', 23..=24), ('B', 26..=26), ('C', 27..=40), ('E', 53..=56), ('F', 62..=62)];

/// Rows that other tests show.
const ELSEWHERE: &[(char, RangeInclusive<u32>)] = &[('B', 19..=22), ('B', 25..=25), ('F', 63..=64)];

fn rows(lists: &[(char, RangeInclusive<u32>)]) -> impl Iterator<Item = String> {
    lists
        .iter()
        .flat_map(|(section, numbers)| numbers.clone().map(move |number| format!("{section}{number}")))
}

/// The numbers with which a name begins.
fn numbers<'a>(words: impl Iterator<Item = &'a str>) -> impl Iterator<Item = String> {
    let is_number = |word: &str| {
        let digits = word.strip_prefix(|first: char| first.is_ascii_alphabetic());
        digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    words.take_while(move |word| is_number(word)).map(str::to_uppercase)
}

#[test]
fn every_packet_row_is_in_the_table() {
    let table: Vec<_> = scenarios().into_iter().map(|scenario| scenario.id).collect();
    let named: BTreeSet<_> = table.iter().flat_map(|id| numbers(id.split(' '))).collect();
    let missing: Vec<_> = rows(IN_TABLE).filter(|row| !named.contains(row)).collect();
    assert!(missing.is_empty(), "no scenario of the packet table names {missing:?}");
}

#[test]
fn every_other_row_has_a_test() {
    let mut named = BTreeSet::new();
    for file in sources() {
        let text = fs::read_to_string(&file).unwrap();
        let functions = text.lines().filter_map(|line| line.trim_start().strip_prefix("fn "));
        named.extend(functions.flat_map(|name| numbers(name.split(['_', '(']))));
    }
    let missing: Vec<_> = rows(ELSEWHERE).filter(|row| !named.contains(row)).collect();
    assert!(missing.is_empty(), "no test names {missing:?}");
}

#[test]
fn numbers_are_found_at_the_beginning_only() {
    let found = |name: &'static str| numbers(name.split(['_', '('])).collect::<Vec<_>>();
    assert_eq!(found("c31_c32_cpus_race(path)"), ["C31", "C32"]);
    assert!(found("the_b20_rule()").is_empty());
    assert!(found("a_flow()").is_empty());
}

/// Every source file of the workspace.
fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut folders: Vec<_> =
        ["lb-common", "lb-ebpf", "lb-userspace", "tests"].map(|it| root.join(it)).into();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 100, "{} files of Rust", files.len());
    files
}
