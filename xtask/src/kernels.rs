//! usher in other kernels: Debian's cloud kernels, booted under qemu without KVM.

mod initramfs;
mod machine;
mod package;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::{build_ebpf, cargo, places, report::Report};
use machine::Machine;
pub(crate) use package::{install, missing};

/// Kernel series that usher must work on besides the machine's own: the oldest supported, and the
/// long-term one after it.
const SERIES: &[&str] = &["6.1", "6.12"];

/// The tests of `usher-tests` that run in them, in this order: loading every program, every packet,
/// attaching, and the basics in a small lab.
const TESTS: &[&str] = &["objects", "kernel_table", "attach", "lab_basics"];

/// What init prints after each test: `TEST exit code: 0`.
const EXIT_CODE: &str = " exit code: ";

/// Lines of the tests that are worth showing: instruction counts.
const SHOWN: &str = "insns:";

/// `cargo xtask test --kernels`.
pub(crate) fn test() -> Result<()> {
    let mut report = Report::default();
    let built = report.step("the XDP programs", || build_ebpf::build_ebpf().map(|()| String::new()))
        && report.step("build", || cargo::build_tests().map(|()| String::new()));
    if built {
        add_to(&mut report);
    }
    report.conclude()
}

/// One step per kernel. Programs and tests must be built.
pub(crate) fn add_to(report: &mut Report) {
    let mut archive = None;
    let packed = report.step("pack tests and lab for other kernels", || {
        let packed = pack()?;
        let size = fs::metadata(&packed).map(|metadata| metadata.len() / 1_000_000).unwrap_or(0);
        archive = Some(packed);
        Ok(format!("{size} MB"))
    });
    if let (true, Some(archive)) = (packed, archive) {
        for series in SERIES {
            report.step(&format!("packet table and small lab on Linux {series}"), || boot(series, &archive));
        }
    }
}

fn pack() -> Result<PathBuf> {
    for series in missing() {
        let mut orders = Vec::new();
        install(series, &mut orders)?;
        ensure!(orders.is_empty(), "kernel {series} is missing; please run: {}", orders.join("; "));
    }
    let kernels: Vec<_> = SERIES.iter().filter_map(|series| package::installed(series)).collect();
    let tests = TESTS.iter().map(|test| Ok((*test, cargo::build_test(test)?))).collect::<Result<Vec<_>>>()?;
    initramfs::pack(&tests, &kernels)
}

/// Runs the tests in one kernel; the figure is the kernel's version and how long it took.
fn boot(series: &str, archive: &Path) -> Result<String> {
    let kernel = package::installed(series).context("kernel is missing: `cargo xtask setup`")?;
    let log = places::logs().join(format!("kernel-{series}.log"));
    let start = Instant::now();
    let mut machine = Machine::start(&kernel.image, archive)?;
    let lines = machine.read_all(&log)?;
    // libtest prints "test NAME ... " before a test's first line.
    for shown in lines.iter().filter_map(|line| line.find(SHOWN).map(|start| &line[start..])) {
        println!("  {shown}");
    }
    let version = &kernel.version;
    let passed = judge(&lines).map_err(|why| {
        anyhow!("{version}: {why}; console: {}\n{}", log.display(), machine::ending(&lines))
    })?;
    Ok(format!("{version}: {passed} tests, {:.1} s", start.elapsed().as_secs_f64()))
}

/// How many tests passed, if the console shows that every program ran, passed some, and ended with exit
/// code 0.
fn judge(lines: &[String]) -> Result<usize> {
    let mut passed = 0;
    let mut rest = lines;
    for test in TESTS {
        let end = rest.iter().position(|line| line.trim().starts_with(&format!("{test}{EXIT_CODE}")));
        let end = end.with_context(|| format!("the machine ended before {test} did"))?;
        let (own, after) = rest.split_at(end);
        let code = own_code(&after[0]);
        ensure!(code == "0", "{test}: the exit code is {code}");
        match own.iter().find_map(|line| line.split_once("test result: ok. ")?.1.split_once(" passed")) {
            Some(("0", _)) => bail!("{test}: no test was run"),
            Some((count, _)) => passed += count.parse::<usize>().context("count of tests")?,
            None => bail!("{test} printed no result"),
        }
        rest = &after[1..];
    }
    Ok(passed)
}

fn own_code(line: &str) -> &str {
    line.split_once(EXIT_CODE).map_or("", |(_, code)| code.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
boot
test result: ok. 1 passed; 0 failed
objects exit code: 0
test result: ok. 3 passed; 0 failed
kernel_table exit code: 0
test result: ok. 4 passed; 0 failed
attach exit code: 0
test result: ok. 8 passed; 0 failed
lab_basics exit code: 0
";

    fn judged(text: &str) -> Result<usize> {
        judge(&text.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn only_tests_that_all_ran_and_passed_are_good() {
        assert_eq!(judged(GOOD).expect("good"), 16);
        let refused = |text: String| judged(&text).expect_err(&text).to_string();
        assert_eq!(
            refused(GOOD.replace("attach exit code: 0", "attach exit code: 101")),
            "attach: the exit code is 101"
        );
        assert_eq!(refused(GOOD.replace("8 passed", "0 passed")), "lab_basics: no test was run");
        assert_eq!(refused(GOOD.replace("lab_basics exit", "")), "the machine ended before lab_basics did");
        assert_eq!(refused("Kernel panic - not syncing".to_owned()), "the machine ended before objects did");
        let silent = TESTS.iter().map(|test| format!("{test}{EXIT_CODE}0\n")).collect();
        assert_eq!(refused(silent), "objects printed no result");
    }
}
