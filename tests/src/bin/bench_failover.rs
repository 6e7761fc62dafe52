//! How soon a node that is lost is in no answer any more. `cargo xtask bench failover` builds and runs it.

use std::process::ExitCode;

use clap::Parser;
use usher_lab::DnsServer;
use usher_tests::bench::failover::{Plan, measure};

/// How soon a node that is lost is in no DNS answer any more, and what clients notice; exit code 1 when a bound is missed
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench failover")]
struct Arguments {
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// Losses over which times are measured, of every kind in turns; 0 leaves this part out
    #[arg(long, default_value_t = 100)]
    trials: usize,
    /// Losses that clients live through; 0 leaves this part out
    #[arg(long, default_value_t = 10)]
    deaths: usize,
    /// Who answers for the zone: embedded (the nodes), or bind, knot, powerdns as well
    #[arg(long, default_value_t = DnsServer::Bind)]
    dns: DnsServer,
}

fn main() -> ExitCode {
    let Arguments { json, trials, deaths, dns } = Arguments::parse();
    match measure(Plan { dns, trials, deaths }, &mut |line| eprintln!("{line}")) {
        Ok(report) => {
            if json {
                println!("{}", report.json());
            } else {
                println!("{report}");
            }
            if report.missed().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
