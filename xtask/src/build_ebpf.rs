//! `cargo xtask build-ebpf`: the XDP program's object.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSymbol};

use crate::{places, run, setup, toolchain::Toolchain};

/// Parts of symbol names that only code which can panic has. The verifier refuses such programs with
/// "last insn is not an exit or jmp", which tells nobody what is wrong.
const PANIC_SYMBOLS: &[&str] =
    &["panicking", "rust_begin_unwind", "unwrap_failed", "expect_failed", "slice_index"];

/// The map through which aya-log tells of every packet: no object for use may have it.
const LOGS: &str = "AYA_LOGS";

/// Builds the object with whichever toolchain is there, after installing one if need be.
///
/// # Errors
/// When it does not build, could panic, or logs.
pub(crate) fn build_ebpf() -> Result<PathBuf> {
    let path = build("target/ebpf", "bpf")?;
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let names = symbols(&bytes)?;
    ensure!(
        !names.iter().any(|name| name == LOGS),
        "the XDP program logs packets: it was built with debug-log"
    );
    Ok(path)
}

/// Builds an object that logs every decision, beside the ordinary one.
///
/// # Errors
/// When it does not build, or could panic.
pub(crate) fn build_with_log() -> Result<()> {
    let path = build("target/ebpf-debug-log", "bpf,debug-log")?;
    println!(
        "    for an usher that prints every decision with USHER_LOG=trace:\n    \
         USHER_EBPF_OBJECT={} cargo build --package lb-userspace",
        path.display()
    );
    Ok(())
}

fn build(folder: &str, features: &str) -> Result<PathBuf> {
    let toolchain = match Toolchain::find() {
        Some(toolchain) => toolchain,
        None => {
            setup::install_toolchain()?;
            Toolchain::find().context("no toolchain for BPF, although setup has just installed one")?
        }
    };
    let mut cargo = toolchain.cargo_build();
    cargo.args(["--package", "lb-ebpf", "--bin", "usher-xdp", "--features", features, "--release"]);
    cargo.args(["--target", "bpfel-unknown-none", "--target-dir", folder]);
    run::quietly("build the XDP program", &mut cargo)?;
    let path = places::root().join(folder).join("bpfel-unknown-none/release/usher-xdp");
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let panics = panic_symbols(&bytes).with_context(|| format!("{}", path.display()))?;
    ensure!(
        panics.is_empty(),
        "the XDP program can panic, which the verifier refuses: {}. Look for an index, slice, division \
         or unwrap that the compiler cannot prove, and use a checked form of it",
        panics.join(", ")
    );
    println!(
        "    {} ({} kB)",
        path.strip_prefix(places::root()).unwrap_or(&path).display(),
        bytes.len() / 1000
    );
    Ok(path)
}

/// Names of symbols that betray a reachable panic.
fn panic_symbols(bytes: &[u8]) -> Result<Vec<String>> {
    let mut names = symbols(bytes)?;
    names.retain(|name| PANIC_SYMBOLS.iter().any(|part| name.contains(part)));
    Ok(names)
}

fn symbols(bytes: &[u8]) -> Result<Vec<String>> {
    let object = object::File::parse(bytes).context("not an object file")?;
    Ok(object.symbols().filter_map(|symbol| symbol.name().ok().map(str::to_owned)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_can_panic_is_found_out() {
        // This very test program is one.
        let own = std::env::current_exe().and_then(fs::read).expect("own program");
        assert!(panic_symbols(&own).expect("an object file").iter().any(|name| name.contains("panicking")));
    }
}
