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

/// The data path, the programs that measure it, and what runs on backend hosts.
pub(crate) const OBJECTS: &[&str] = &["usher-xdp", "usher-bench", "usher-backend"];

/// Builds the objects with whichever toolchain is there, after installing one if need be.
///
/// # Errors
/// When one does not build, or could panic.
pub(crate) fn build_ebpf() -> Result<()> {
    let toolchain = match Toolchain::find() {
        Some(toolchain) => toolchain,
        None => {
            setup::install_toolchain()?;
            Toolchain::find().context("no toolchain for BPF, although setup has just installed one")?
        }
    };
    let mut cargo = toolchain.cargo_build();
    cargo.args(["--package", "lb-ebpf", "--features", "bpf", "--release"]);
    cargo.args(OBJECTS.iter().flat_map(|name| ["--bin", name]));
    cargo.args(["--target", "bpfel-unknown-none", "--target-dir", "target/ebpf"]);
    run::quietly("build the XDP programs", &mut cargo)?;
    OBJECTS.iter().try_for_each(|name| inspect(&object(name)))
}

/// Where the object with this name is built.
pub(crate) fn object(name: &str) -> PathBuf {
    places::root().join("target/ebpf/bpfel-unknown-none/release").join(name)
}

/// Refuses an object that could panic.
fn inspect(path: &Path) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let panics = panic_symbols(&bytes).with_context(|| format!("{}", path.display()))?;
    let shown = path.strip_prefix(places::root()).unwrap_or(path).display();
    ensure!(
        panics.is_empty(),
        "{shown} can panic, which the verifier refuses: {}. Look for an index, slice, division or unwrap \
         that the compiler cannot prove, and use a checked form of it",
        panics.join(", ")
    );
    eprintln!("    {shown} ({} kB)", bytes.len() / 1000);
    Ok(())
}

/// Names of symbols that betray a reachable panic.
fn panic_symbols(bytes: &[u8]) -> Result<Vec<String>> {
    let object = object::File::parse(bytes).context("not an object file")?;
    let names = object.symbols().filter_map(|symbol| symbol.name().ok().map(str::to_owned));
    Ok(names.filter(|name| PANIC_SYMBOLS.iter().any(|part| name.contains(part))).collect())
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
