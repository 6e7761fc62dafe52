//! `cargo xtask fuzz`: arbitrary bytes against the data path.
//!
//! The stable toolchain does it: `RUSTC_BOOTSTRAP=1` lets it take the flags that a fuzzer's instrumentation
//! needs, and it brings the address sanitizer along.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{cargo::cargo, places, report::Report, run, toolchain::forget_outer_cargo};

/// Every target in `fuzz/fuzz_targets`, and its part of the time: what reaches more code needs more.
const TARGETS: &[(&str, u32)] = &[("packet", 3), ("parse", 1)];

/// What builds with every Rust that usher builds with.
const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// Longest input in bytes: a few dozen operations.
const LONGEST_INPUT: u32 = 4_096;

/// Seconds after which one input counts as a hang; it takes less than a millisecond.
const HANG: u32 = 10;

/// Seconds over all targets, where nobody asks for more.
pub(crate) const SECONDS: u32 = 60;

/// Fuzzes one target, or all, for this many seconds in total.
///
/// # Errors
/// When an input fails, with how to run it again.
pub(crate) fn fuzz(target: Option<&str>, seconds: u32) -> Result<()> {
    let mut report = Report::default();
    add_to(&mut report, target, seconds)?;
    report.conclude()
}

/// One step per target.
///
/// # Errors
/// When there is no target of that name.
pub(crate) fn add_to(report: &mut Report, target: Option<&str>, seconds: u32) -> Result<()> {
    let chosen: Vec<_> = TARGETS.iter().filter(|(name, _)| target.is_none_or(|it| it == *name)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
        bail!("no target `{}`: {}", target.unwrap_or_default(), names.join(", "));
    }
    if !report.step("build the fuzz targets", || install().and_then(|()| build()).map(|()| String::new())) {
        return Ok(());
    }
    let parts: u32 = chosen.iter().map(|(_, part)| part).sum();
    for (name, part) in chosen {
        let seconds = (seconds * part / parts).max(1);
        report.step(&format!("fuzz {name} for {seconds} s"), || run_target(name, seconds));
    }
    Ok(())
}

/// Adds to the kept inputs what the scenario table has by now and they do not reach.
///
/// # Errors
/// When an input fails.
pub(crate) fn add_seeds() -> Result<()> {
    install()?;
    build()?;
    let seeds = target_folder().join("seeds");
    let mut command = cargo(&["run", "--quiet", "--package", "usher-tests", "--example", "fuzz_seeds", "--"]);
    run::quietly("write the scenario table as inputs", command.arg(&seeds))?;
    for (name, _) in TARGETS {
        let mut command = cargo_fuzz("run");
        command.arg(name).arg(corpus().join(name)).arg(seeds.join(name)).args(["--", "-merge=1"]);
        run::quietly(&format!("keep what is new to {name}"), &mut command)?;
    }
    Ok(())
}

fn corpus() -> PathBuf {
    places::root().join("fuzz/corpus")
}

/// `cargo fuzz` among our own tools.
fn program() -> PathBuf {
    places::tools().join("bin/cargo-fuzz")
}

fn install() -> Result<()> {
    if program().is_file() {
        return Ok(());
    }
    let mut cargo = Command::new("cargo");
    forget_outer_cargo(&mut cargo);
    cargo.args(["install", "cargo-fuzz", "--version", CARGO_FUZZ_VERSION, "--locked", "--root"]);
    cargo.arg(places::tools()).current_dir("/");
    run::quietly("build cargo-fuzz", &mut cargo)
}

/// `cargo fuzz VERB`, set up for the stable toolchain.
fn cargo_fuzz(verb: &str) -> Command {
    let mut command = Command::new(program());
    forget_outer_cargo(&mut command);
    command.env("RUSTC_BOOTSTRAP", "1").current_dir(places::root()).args(["fuzz", verb]);
    command.args(["--fuzz-dir", "fuzz", "--sanitizer", "address", "--target-dir"]).arg(target_folder());
    command
}

fn target_folder() -> PathBuf {
    places::root().join("target/fuzz")
}

fn build() -> Result<()> {
    run::quietly("build the fuzz targets", &mut cargo_fuzz("build"))
}

/// Fuzzes from the kept inputs on; what is found lies in `target/fuzz`, and only what fails is to be kept.
fn run_target(name: &str, seconds: u32) -> Result<String> {
    let found = target_folder().join("corpus").join(name);
    fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
    let mut command = cargo_fuzz("run");
    command.arg(name).arg(&found).arg(corpus().join(name)).arg("--");
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={LONGEST_INPUT}"));
    command.arg(format!("-timeout={HANG}")).arg("-print_final_stats=1");
    let what = format!("fuzz {name}");
    run::quietly(&what, &mut command).with_context(|| how_to_repeat(name))?;
    let log = fs::read_to_string(run::log(&what)).unwrap_or_default();
    let count = log.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    Ok(format!("{} inputs", count.map_or("?", str::trim)))
}

/// Where the input lies, and what to do with it.
fn how_to_repeat(name: &str) -> String {
    let artifacts = places::root().join("fuzz/artifacts").join(name);
    let newest = newest_file(&artifacts).unwrap_or(artifacts);
    let newest = newest.strip_prefix(places::root()).unwrap_or(&newest).display().to_string();
    format!(
        "an input fails: run it again by `RUSTC_BOOTSTRAP=1 {} fuzz run --fuzz-dir fuzz --target-dir target/fuzz {name} {newest}`, \
         and when it is mended keep it: `cp {newest} fuzz/corpus/{name}/`",
        program().display()
    )
}

fn newest_file(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    entries.max_by_key(|entry| entry.metadata().and_then(|it| it.modified()).ok()).map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_run_and_has_inputs_to_begin_with() {
        let targets = fs::read_dir(places::root().join("fuzz/fuzz_targets")).expect("targets").flatten();
        let mut files: Vec<_> = targets.map(|entry| entry.path().with_extension("")).collect();
        files.sort();
        let names: Vec<_> = files.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(names, TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        for name in names {
            assert!(newest_file(&corpus().join(name)).is_some(), "no input for {name}");
        }
    }
}
