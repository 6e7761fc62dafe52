//! Which compiler builds the XDP program.
//!
//! Rust's stable toolchain has no `core` library for BPF. Two ways lead there: Debian's `rustc-web`,
//! whose package `libstd-rust-web-dev-bpf` holds it compiled, or a nightly toolchain that compiles
//! it from source. The linker is `bpf-linker` either way; its LLVM must be the compiler's.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{places, run};

/// The way Debian ships BPF's `core`.
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";

/// A compiler for BPF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// /usr/bin/cargo and /usr/bin/rustc of the packages cargo-web and rustc-web.
    Debian,
    /// A rustup toolchain with the component rust-src.
    Nightly,
}

/// A compiler and a linker that runs.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

/// Debug information becomes BTF, without which maps and line numbers are anonymous. The kernel takes
/// loads from packets at any address on x86-64 (LLVM 22 has the feature); without it the compiler reads
/// addresses byte by byte, which is twice the instructions and more stack than there is.
const RUSTFLAGS: &str = "--cfg=bpf_target_arch=\"x86_64\" -C debuginfo=2 -C link-arg=--btf \
                         -C link-arg=--cpu-features=+allows-misaligned-mem-access";

impl Toolchain {
    /// What this machine has; `None` when a part is missing.
    pub(crate) fn find() -> Option<Toolchain> {
        let compiler = compiler()?;
        Some(Toolchain { compiler, linker: linker(compiler)? })
    }

    /// Cargo of this compiler, set up for BPF; the caller adds what to build.
    pub(crate) fn cargo_build(&self) -> Command {
        let mut command = match self.compiler {
            Compiler::Debian => Command::new("/usr/bin/cargo"),
            Compiler::Nightly => Command::new("rustup"),
        };
        forget_outer_cargo(&mut command);
        match self.compiler {
            Compiler::Debian => {
                // aya-ebpf uses a feature that is not stable.
                command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1").arg("build");
            }
            Compiler::Nightly => {
                command.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]);
            }
        }
        command
            .current_dir(places::root())
            .env("RUSTFLAGS", RUSTFLAGS)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        command
    }
}

/// The compiler that this machine has.
pub(crate) fn compiler() -> Option<Compiler> {
    let debian = ["/usr/bin/cargo", "/usr/bin/rustc", DEBIAN_CORE];
    if debian.iter().all(|path| Path::new(path).exists()) {
        return Some(Compiler::Debian);
    }
    let rustc = ["run", "nightly", "rustc", "--print", "sysroot"];
    let sysroot = run::output(Command::new("rustup").args(rustc)).ok()?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
    core.exists().then_some(Compiler::Nightly)
}

/// A linker that runs and fits the compiler: Debian's needs the one that `setup` built for its LLVM.
fn linker(compiler: Compiler) -> Option<PathBuf> {
    let own = Some(places::tools().join("bin/bpf-linker"));
    let installed = if compiler == Compiler::Nightly { places::program("bpf-linker") } else { None };
    // The file may be there while the LLVM library it needs is not.
    let runs = |path: &PathBuf| run::output(Command::new(path).arg("--version")).is_ok();
    own.into_iter().chain(installed).find(runs)
}

/// Variables that the cargo which started us has set for its own toolchain.
pub(crate) fn forget_outer_cargo(command: &mut Command) {
    let set_by_cargo = |name: &str| {
        name.starts_with("CARGO_")
            && name != "CARGO_HOME"
            && !name.starts_with("CARGO_REGISTR")
            && !name.starts_with("CARGO_NET_")
            && !name.starts_with("CARGO_HTTP_")
            || ["CARGO", "LD_LIBRARY_PATH", "RUSTC", "RUSTC_WRAPPER", "RUSTUP_TOOLCHAIN"].contains(&name)
    };
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(set_by_cargo) {
            command.env_remove(name);
        }
    }
}
