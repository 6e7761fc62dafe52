//! Every program of every BPF object loads into this kernel, with all features. Needs root.

#![allow(clippy::unwrap_used)] // Clippy takes helper functions here for ordinary code.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use aya::{Ebpf, EbpfLoader, VerifierLogLevel, programs::Program};
use lb_common::Features;
use nix::unistd::geteuid;

/// The verifier gives up after a million instructions; a program must not come near.
const MOST_INSTRUCTIONS: u32 = 900_000;

/// Where the objects are, if not where they are built.
const FOLDER: &str = "USHER_OBJECTS";
const BUILT: &str = "../target/ebpf/bpfel-unknown-none/release";

fn objects() -> Vec<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join(BUILT);
    let folder = env::var_os(FOLDER).map_or(built, PathBuf::from);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    // Cargo leaves lists of dependencies beside them: NAME.d.
    files.retain(|path| path.is_file() && path.extension().is_none() && is_ours(path));
    files.sort();
    files
}

fn is_ours(path: &Path) -> bool {
    path.file_name().unwrap().to_str().unwrap().starts_with("usher-")
}

fn load(path: &Path) -> Ebpf {
    EbpfLoader::new()
        // Why it is refused, without how it came to that: megabytes, for which a large program takes minutes.
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global(Features::SYMBOL, &Features(!0).0, false)
        .load(&fs::read(path).unwrap())
        .unwrap_or_else(|error| panic!("{}: {error:?}", path.display()))
}

/// Loads a program; how many instructions the verifier walked through.
fn verified(program: &mut Program) -> u32 {
    let loaded = match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        other => panic!("how is a program of type {:?} loaded?", other.prog_type()),
    };
    loaded.unwrap_or_else(|error| panic!("{error:?}"));
    let info = match program {
        Program::Xdp(program) => program.info(),
        Program::SchedClassifier(program) => program.info(),
        _ => unreachable!("loaded above"),
    };
    info.unwrap().verified_instruction_count().unwrap_or(0)
}

#[test]
fn g65_every_program_of_every_object_loads() {
    if !geteuid().is_root() {
        assert!(env::var_os("USHER_NO_SKIP").is_none(), "loading a BPF program needs root");
        println!("skipped: loading a BPF program needs root");
        return;
    }
    let objects = objects();
    assert!(objects.iter().any(|path| path.ends_with("usher-xdp")), "only {objects:?}");
    for path in objects {
        let mut object = load(&path);
        for (name, program) in object.programs_mut() {
            let count = verified(program);
            println!("insns: {name} {count}");
            assert!(count < MOST_INSTRUCTIONS, "{name}: the verifier walks {count} instructions");
        }
    }
}
