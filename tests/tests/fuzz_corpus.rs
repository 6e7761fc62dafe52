//! What fuzzing has found and begins with, without a fuzzer: every input that is kept in `fuzz/corpus`, and the
//! scenario table as it is now.

#![allow(clippy::unwrap_used)] // Clippy takes helper functions here for ordinary code.

use std::{collections::BTreeMap, fs, panic::catch_unwind, path::Path};

use lb_common::Reason;
use usher_tests::fuzz::{self, seeds};

/// The kept inputs of a target, by file name.
fn corpus(target: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files = files.map(|entry| entry.unwrap().path());
    files.map(|path| (path.display().to_string(), fs::read(&path).unwrap())).collect()
}

/// Runs every input; names those that fail.
fn run(inputs: &BTreeMap<String, Vec<u8>>, mut target: impl FnMut(&[u8])) {
    let mut failed = Vec::new();
    for (name, input) in inputs {
        if catch_unwind(std::panic::AssertUnwindSafe(|| target(input))).is_err() {
            failed.push(name.as_str());
        }
    }
    assert!(failed.is_empty(), "{} of {} inputs fail:\n{}", failed.len(), inputs.len(), failed.join("\n"));
}

#[test]
fn kept_and_new_inputs_of_packet_hold_and_reach_most_of_the_data_path() {
    let mut counts = [0; Reason::COUNT];
    for inputs in [corpus("packet"), seeds::packet()] {
        assert!(inputs.len() > 10, "only {} inputs", inputs.len());
        run(&inputs, |data| fuzz::packet(data).into_iter().for_each(|reason| counts[reason as usize] += 1));
    }
    // A record is busy only while another CPU writes it, and inputs run on one.
    let wanted = Reason::ALL.iter().filter(|reason| **reason != Reason::NatBusy);
    let missed: Vec<_> = wanted.filter(|reason| counts[**reason as usize] == 0).collect();
    println!("reasons that no input ends with: {missed:?}");
    for reason in [Reason::Nat, Reason::NatReply, Reason::DsrL2, Reason::NotService, Reason::Malformed] {
        assert!(!missed.contains(&&reason), "no input ends with {reason:?}");
    }
    assert!(missed.len() <= Reason::COUNT / 3, "no input ends with {missed:?}");
}

#[test]
fn kept_and_new_inputs_of_parse_hold() {
    for inputs in [corpus("parse"), seeds::parse()] {
        assert!(inputs.len() > 10, "only {} inputs", inputs.len());
        run(&inputs, fuzz::parse);
    }
}
