//! What a packet costs in the kernel. `cargo xtask bench dataplane` builds and runs it.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use usher_tests::bench::{Extent, Selection, measure, rows};

/// What a packet costs in the kernel, in ns: BPF_PROG_TEST_RUN, without the cost of making the packet
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench dataplane")]
struct Arguments {
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// How often each row is run
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Only this case, such as known-10k; may be repeated
    #[arg(long)]
    case: Vec<String>,
    /// Only this way to forward, such as dsr-l2; may be repeated
    #[arg(long)]
    forward: Vec<String>,
    /// Only v4 or v6
    #[arg(long)]
    family: Vec<String>,
    /// Only tcp or udp
    #[arg(long)]
    proto: Vec<String>,
    /// Short runs and few of them: to see that it works
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    match bench(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: Arguments) -> Result<()> {
    let Arguments { forward, case, family, proto: protocol, .. } = arguments;
    let rows = rows(&Selection { forward, case, family, protocol });
    let rounds = usize::from(arguments.runs);
    let extent = if arguments.quick {
        Extent { rounds: rounds.min(3), shorter: 10 }
    } else {
        Extent { rounds, shorter: 1 }
    };
    let Some(report) = measure(&rows, extent)? else { return Ok(()) };
    if arguments.json {
        println!("{}", report.json());
    } else {
        println!("{report}");
    }
    Ok(())
}
