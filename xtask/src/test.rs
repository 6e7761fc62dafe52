//! `cargo xtask test`: every test there is.

use std::env;

use anyhow::{Result, bail};

use crate::{build_ebpf, cargo, kernels, report::Report, run, tally::Tally, tidy};

/// Tests that lack a privilege or a tool say so and pass; with this variable they fail.
const NO_SKIP: &str = "USHER_NO_SKIP";

/// Runs all of them; a failed step does not keep the later ones from running, unless they need it.
///
/// # Errors
/// Names the steps that failed.
pub(crate) fn test() -> Result<()> {
    let mut report = Report::default();
    add_to(&mut report);
    report.conclude()
}

/// The steps.
pub(crate) fn add_to(report: &mut Report) {
    report.step("rules of the code", tidy::tidy);
    let built = report.step("build", || {
        build_ebpf::build_ebpf()?;
        cargo::build_tests()?;
        Ok(String::new())
    });
    if !built {
        report.skip("tests", "there is nothing to test");
        return;
    }
    report.step("tests", || {
        let mut command = cargo::cargo(&["test", "--workspace", "--no-fail-fast", "--", "--show-output"]);
        if is_root() || env::var_os(NO_SKIP).is_some() || env::var_os("CI").is_some() {
            command.env(NO_SKIP, "1");
        }
        let mut tally = Tally::default();
        let passed = run::line_by_line(&mut command, |line| {
            if let Some(line) = tally.read(line) {
                println!("{line}");
            }
        })?;
        println!("\n  {tally}");
        match (passed, tally.failed()) {
            (true, []) => Ok(tally.to_string()),
            (_, []) => bail!("`cargo test` failed, though no test of {tally} did: see above"),
            (_, failed) => {
                let failed: Vec<_> = failed.iter().map(|failure| format!("\n    {failure}")).collect();
                bail!("{tally}:{}", failed.concat())
            }
        }
    });
    kernels::add_to(report);
}

fn is_root() -> bool {
    crate::setup::is_root().unwrap_or(false)
}
