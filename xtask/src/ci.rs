//! `cargo xtask ci`: what must hold before a change is merged.

use anyhow::Result;

use crate::{build_ebpf, cargo::cargo, places, report::Report, run, setup, test};

/// Everything, on a machine that may have nothing; skipped tests count as failed.
///
/// # Errors
/// Names the steps that failed.
pub(crate) fn ci() -> Result<()> {
    let mut report = Report::default();
    report.step("format", || {
        run::openly(&mut cargo(&["fmt", "--all", "--check"]))?;
        Ok(String::new())
    });
    let ready = report.step("set up", || setup::setup().map(|()| String::new()))
        && report.step("the XDP program", || build_ebpf::build_ebpf().map(|()| String::new()));
    if !ready {
        report.skip("the rest", "the machine is not ready");
        return report.conclude();
    }
    report.step("clippy", || {
        let arguments = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
        run::openly(&mut cargo(&arguments))?;
        Ok(String::new())
    });
    if places::program("cargo-deny").is_some() {
        report.step("licences and sources of dependencies", || {
            run::openly(&mut cargo(&["deny", "check", "licenses", "bans", "sources"]))?;
            Ok(String::new())
        });
    } else {
        report.skip("licences and sources of dependencies", "cargo-deny is not installed");
    }
    test::add_to(&mut report);
    report.conclude()
}
