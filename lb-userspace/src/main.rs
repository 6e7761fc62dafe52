//! The `usher` command: sets up logging and the runtime, and turns results into exit codes.

use std::{env, io, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use lb_userspace::cli::{Cli, colour_wanted};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// The loop, DNS, probes and the API wait far more than they work.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            // `#` prints the chain of causes in one line.
            eprintln!("usher: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .on_thread_start(cli.on_thread_start())
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(cli.run())
}

/// Logs go to stderr, so that stdout holds results only.
fn start_logging() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var("USHER_LOG")
        .from_env_lossy();
    let log = tracing_subscriber::fmt()
        .compact()
        .with_writer(io::stderr)
        .with_ansi(colour_wanted(&io::stderr()))
        .with_env_filter(filter);
    // systemd sets it when stderr is the journal, which stamps each line itself.
    if env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init();
    } else {
        log.init();
    }
}
