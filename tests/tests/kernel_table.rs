//! The packet table through the program in the kernel, by `BPF_PROG_TEST_RUN`. Needs root.

use std::collections::BTreeSet;

use lb_common::{Verdict, decap::Role};
use lb_userspace::dataplane::{Decapsulator, Unpack};
use usher_tests::{
    decap,
    kernel::{self, KernelPath},
    race::{self, Tally},
    run::{DataPath as _, Memory, run},
    table::scenarios,
};

/// One test, because the verifier takes a while: all parts share the loaded program.
#[test]
fn the_program_does_in_the_kernel_what_the_table_says() {
    let Some(mut path) = KernelPath::load().unwrap() else { return };
    let failures: Vec<String> = scenarios()
        .iter()
        .filter_map(|scenario| run(&mut path, scenario).err())
        .map(|error| format!("{error:#}"))
        .collect();
    assert!(failures.is_empty(), "{} scenarios failed:\n{}", failures.len(), failures.join("\n"));

    // C31.
    path.configure(&race::world().image).unwrap();
    path.on_all_cpus();
    let dataplane = path.shared();
    let with_memory = |look: &mut dyn FnMut(&Memory)| path.with_memory(look).unwrap();
    let tally = race::race(4, 500, with_memory, |frame| kernel::run(dataplane, frame).unwrap());
    println!("C31: {tally:?}");
    assert_eq!(Tally { busy: 0, ..tally }, Tally::default());
}

/// The decapsulation program of backend hosts, by its own table.
#[test]
fn the_decapsulation_program_does_in_the_kernel_what_its_table_says() {
    if !kernel::may_load() {
        return;
    }
    let mut program = Decapsulator::load().unwrap();
    program.configure(&decap::unpack()).unwrap();
    let mut expected = vec![0; Verdict::COUNT];
    for row in decap::rows() {
        let ran = program.test_run(&row.frame).unwrap();
        // enum xdp_action, include/uapi/linux/bpf.h: 1 drops, 2 passes.
        assert_eq!(ran.action, if row.expected().is_some() { 2 } else { 1 }, "{}", row.name);
        if let Some(frame) = row.expected() {
            assert_eq!(ran.frame, frame, "{}", row.name);
        }
        expected[row.verdict as usize] += 1;
    }
    assert_eq!(program.verdicts().unwrap(), expected);

    // Told otherwise, it does otherwise: no prefix means any source, and the old addresses are gone.
    let roles = decap::unpack().roles.into_iter().filter(|(_, roles)| *roles == Role::Own as u8);
    program
        .configure(&Unpack { sources: BTreeSet::new(), roles: roles.collect(), ..decap::unpack() })
        .unwrap();
    for row in decap::rows().iter().filter(|row| row.verdict == Verdict::NotAllowed) {
        let before = program.verdicts().unwrap()[Verdict::NotVip as usize];
        program.test_run(&row.frame).unwrap();
        assert_eq!(program.verdicts().unwrap()[Verdict::NotVip as usize], before + 1, "{}", row.name);
    }
}
