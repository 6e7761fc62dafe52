//! The packet table through the program in the kernel, by `BPF_PROG_TEST_RUN`. Needs root.

use usher_tests::{
    kernel::{self, KernelPath},
    race::{self, Tally},
    run::{DataPath as _, run},
    table::scenarios,
};

/// One test, because the verifier takes a while: all parts share the loaded program.
#[test]
fn the_program_does_in_the_kernel_what_the_table_says() {
    let Some(mut path) = KernelPath::load().unwrap() else { return };
    let failures: Vec<String> = scenarios()
        .iter()
        .filter_map(|scenario| {
            loop {
                let tick = path.shared().tick().unwrap();
                let result = run(&mut path, scenario);
                // The clock cannot be stopped: a scenario over which a tick passed is run again.
                if path.shared().tick().unwrap() == tick {
                    break result.err();
                }
            }
        })
        .map(|error| format!("{error:#}"))
        .collect();
    assert!(failures.is_empty(), "{} scenarios failed:\n{}", failures.len(), failures.join("\n"));

    // C31.
    path.configure(&race::world().image).unwrap();
    path.on_all_cpus();
    let dataplane = path.shared();
    let tally = race::race(4, 500, &path.memory(), |frame| kernel::run(dataplane, frame).unwrap());
    println!("C31: {tally:?}");
    assert_eq!(Tally { busy: 0, ..tally }, Tally::default());
}
