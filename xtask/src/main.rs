//! usher's chores: `cargo xtask VERB`.

mod bench;
mod build_ebpf;
mod cargo;
mod chaos;
mod ci;
mod demo;
mod fuzz;
mod kernels;
mod lab;
mod places;
mod report;
mod run;
mod setup;
mod tally;
mod test;
mod tidy;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// usher's chores.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what building and testing need, and is missing
    Setup,
    /// Build the XDP program's object
    BuildEbpf {
        /// Another one that logs every decision, for developers; the ordinary one stays
        #[arg(long)]
        debug_log: bool,
    },
    /// Raise, use and remove the lab: clients, nodes and servers in network namespaces
    #[command(subcommand)]
    Lab(lab::Verb),
    /// Watch usher at work: set up, build, raise the lab, break things, mend them
    Demo,
    /// Let random faults and chores happen in the lab, under traffic that never ceases, and judge every loss
    Chaos(chaos::Chaos),
    /// Run every test: rules, units, end to end, other kernels
    Test {
        /// Only the program in other kernels, under qemu
        #[arg(long)]
        kernels: bool,
    },
    /// Run the data path on arbitrary packets: all targets, or one
    Fuzz {
        /// packet, parse
        target: Option<String>,
        /// How long, over all targets
        #[arg(long, default_value_t = fuzz::SECONDS)]
        seconds: u32,
        /// Instead, add to the inputs in fuzz/corpus what the scenario table has and they do not reach
        #[arg(long, conflicts_with_all = ["target", "seconds"])]
        seeds: bool,
    },
    /// Measure
    #[command(subcommand)]
    Bench(bench::Verb),
    /// Check what must hold before a change is merged; `.ci/run` calls it
    Ci {
        /// How long to fuzz, in seconds
        #[arg(long, default_value_t = fuzz::SECONDS)]
        fuzz_seconds: u32,
    },
    /// Remove the lab that process PID raised as soon as standard input ends
    #[command(hide = true)]
    Guard {
        /// Whose lab
        pid: u32,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Setup => setup::setup(),
        Verb::BuildEbpf { debug_log: false } => build_ebpf::build_ebpf(),
        Verb::BuildEbpf { debug_log: true } => build_ebpf::build_with_log(),
        Verb::Lab(verb) => lab::lab(&verb),
        Verb::Demo => demo::demo(),
        Verb::Chaos(options) => chaos::run(&options),
        Verb::Test { kernels: false } => test::test(),
        Verb::Test { kernels: true } => kernels::test(),
        Verb::Fuzz { seeds: true, .. } => fuzz::add_seeds(),
        Verb::Fuzz { target, seconds, .. } => fuzz::fuzz(target.as_deref(), seconds),
        Verb::Ci { fuzz_seconds } => ci::ci(fuzz_seconds),
        Verb::Bench(verb) => bench::bench(&verb),
        Verb::Guard { pid } => demo::guard(pid),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `{:#}`: the causes on one line; a backtrace would help nobody here.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
