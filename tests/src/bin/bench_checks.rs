//! Whether usher keeps up with many backends. `cargo xtask bench checks` builds and runs it.

use std::process::ExitCode;

use clap::Parser;
use usher_tests::bench::checks::{Size, measure};

/// What checks, memory and reloads of many backends cost; exit code 1 when a bound is missed
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench checks")]
struct Arguments {
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// Services
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(1..=4_000))]
    services: u16,
    /// Backends of each service, all checked once a second
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    backends: u16,
    /// For how long checks are measured
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

fn main() -> ExitCode {
    let Arguments { json, services, backends, seconds } = Arguments::parse();
    match measure(Size { services, backends, seconds }) {
        Ok(report) => {
            if json {
                println!("{}", report.json());
            } else {
                println!("{report}");
            }
            if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
