//! `cargo xtask build-ebpf`: the objects of the XDP programs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSymbol};

use crate::{places, run, setup, toolchain::Toolchain};

/// Parts of symbol names that only code which can panic has. The verifier refuses such programs with
/// "last insn is not an exit or jmp", which tells nobody what is wrong.
const PANIC_SYMBOLS: &[&str] =
    &["panicking", "rust_begin_unwind", "unwrap_failed", "expect_failed", "slice_index"];

/// The data path, the programs that measure it, what runs on backend hosts, and what takes checks along the data path.
pub(crate) const OBJECTS: &[&str] = &["usher-xdp", "usher-bench", "usher-backend", "usher-check"];

/// The map through which aya-log tells of every packet: no object for use may have it.
const LOGS: &str = "AYA_LOGS";

/// Where objects are built, from the workspace's folder.
const FOLDER: &str = "target/ebpf";

/// Builds the objects with whichever toolchain is there, after installing one if need be.
///
/// # Errors
/// When one does not build, could panic, or logs packets.
pub(crate) fn build_ebpf() -> Result<()> {
    build(OBJECTS, "bpf", FOLDER)?;
    for name in OBJECTS {
        let names = inspect(&object(name))?;
        ensure!(!names.iter().any(|name| name == LOGS), "{name} logs packets: built with debug-log");
    }
    Ok(())
}

/// Builds a data path that logs every decision, beside the ordinary one.
///
/// # Errors
/// When it does not build, or could panic.
pub(crate) fn build_with_log() -> Result<()> {
    const FOLDER: &str = "target/ebpf-debug-log";
    let name = OBJECTS[0];
    build(&[name], "bpf,debug-log", FOLDER)?;
    let path = object_in(FOLDER, name);
    inspect(&path)?;
    println!("    for an usher that prints every decision with USHER_LOG=trace:");
    println!("    USHER_EBPF_OBJECT={} cargo build --package lb-userspace", path.display());
    Ok(())
}

fn build(names: &[&str], features: &str, folder: &str) -> Result<()> {
    let toolchain = match Toolchain::find() {
        Some(toolchain) => toolchain,
        None => {
            setup::install_toolchain()?;
            Toolchain::find().context("no toolchain for BPF, although setup has just installed one")?
        }
    };
    let mut cargo = toolchain.cargo_build();
    cargo.args(["--package", "lb-ebpf", "--features", features, "--release"]);
    cargo.args(names.iter().flat_map(|name| ["--bin", name]));
    cargo.args(["--target", "bpfel-unknown-none", "--target-dir", folder]);
    run::quietly("build the XDP programs", &mut cargo)
}

/// Where the object with this name is built.
pub(crate) fn object(name: &str) -> PathBuf {
    object_in(FOLDER, name)
}

fn object_in(folder: &str, name: &str) -> PathBuf {
    places::root().join(folder).join("bpfel-unknown-none/release").join(name)
}

/// Refuses an object that could panic; gives the names of its symbols.
fn inspect(path: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let names = symbols(&bytes).with_context(|| format!("{}", path.display()))?;
    let panics = panic_symbols(&names);
    let shown = path.strip_prefix(places::root()).unwrap_or(path).display();
    ensure!(
        panics.is_empty(),
        "{shown} can panic, which the verifier refuses: {}. Look for an index, slice, division or unwrap \
         that the compiler cannot prove, and use a checked form of it",
        panics.join(", ")
    );
    eprintln!("    {shown} ({} kB)", bytes.len() / 1000);
    Ok(names)
}

/// Names of symbols that betray a reachable panic.
fn panic_symbols(names: &[String]) -> Vec<&str> {
    let betrays = |name: &&str| PANIC_SYMBOLS.iter().any(|part| name.contains(part));
    names.iter().map(String::as_str).filter(betrays).collect()
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
        let names = symbols(&own).expect("an object file");
        assert!(panic_symbols(&names).iter().any(|name| name.contains("panicking")));
    }
}
