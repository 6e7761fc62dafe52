//! `cargo xtask bench`: builds a benchmark and runs it.

use anyhow::Result;
use clap::Subcommand;

use crate::{
    build_ebpf,
    cargo::{build_tests, cargo},
    places, run,
};

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// What a packet costs in the kernel, in ns; `--help` tells its options
    #[command(disable_help_flag = true)]
    Dataplane {
        /// Options of the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Whether usher keeps up with 10,000 checks a second and 1,000 services; `--help` tells its options
    #[command(disable_help_flag = true)]
    Checks {
        /// Options of the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// How soon a node that is lost is in no DNS answer any more, and what clients notice; `--help` tells its options
    #[command(disable_help_flag = true)]
    Failover {
        /// Options of the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// What 20 restarts and crashes, 5 upgrades and refused ones, 50 reloads and a minute without a daemon cost clients, in every
    /// way of forwarding
    Lifecycle,
}

/// Runs a benchmark. Only its figures go to standard output.
///
/// # Errors
/// When it does not build, or fails.
pub(crate) fn bench(verb: &Verb) -> Result<()> {
    match verb {
        Verb::Dataplane { options } => of_release("bench_dataplane", &[], options),
        Verb::Checks { options } => of_release("bench_checks", &USHER, options),
        Verb::Failover { options } => of_release("bench_failover", &LAB, options),
        Verb::Lifecycle => lifecycle(),
    }
}

fn lifecycle() -> Result<()> {
    build_ebpf::build_ebpf()?;
    build_tests()?;
    for check in ["lifecycle::d46_restarts", "lifecycle::d46_time", "reload::d48_reloads"] {
        let words = ["test", "--workspace", "--test", "lab_end_to_end", "--", check, "--nocapture"];
        run::openly(cargo(&words).env("USHER_LIFECYCLE_ALL", "1"))?;
    }
    Ok(())
}

/// What makes cargo build usher, too.
const USHER: [&str; 4] = ["--package", "lb-userspace", "--bin", "usher"];

/// What makes cargo build all that a lab runs.
const LAB: [&str; 8] =
    ["--package", "lb-userspace", "--bin", "usher", "--package", "usher-lab", "--bin", "usher-lab-udp"];

/// Runs a program of the tests, built as usher is for users; `others` is what it needs beside it.
fn of_release(name: &str, others: &[&str], options: &[String]) -> Result<()> {
    build_ebpf::build_ebpf()?;
    let arguments = [&["build", "--release", "--package", "usher-tests", "--bin", name], others].concat();
    run::quietly("build the benchmark", &mut cargo(&arguments))?;
    let program = places::root().join("target/release").join(name);
    run::openly(std::process::Command::new(program).args(options))
}
