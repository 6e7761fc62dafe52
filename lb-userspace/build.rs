//! Puts the BPF objects into `OUT_DIR`, from where the binary embeds them
//! (`include_bytes_aligned!(concat!(env!("OUT_DIR"), "/usher-xdp"))`).

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

/// Where `cargo xtask build-ebpf` leaves them, from the workspace's root.
const FOLDER: &str = "target/ebpf/bpfel-unknown-none/release";
/// Each object, and the variable that names another file instead.
const OBJECTS: &[(&str, &str)] = &[
    ("usher-xdp", "USHER_EBPF_OBJECT"),
    ("usher-backend", "USHER_BACKEND_EBPF_OBJECT"),
    ("usher-check", "USHER_CHECK_EBPF_OBJECT"),
];

fn main() -> Result<(), Box<dyn Error>> {
    for (name, variable) in OBJECTS {
        println!("cargo::rerun-if-env-changed={variable}");
        let object = match env::var_os(variable) {
            Some(path) => PathBuf::from(path),
            None => Path::new(&env::var("CARGO_MANIFEST_DIR")?).with_file_name(FOLDER).join(name),
        };
        println!("cargo::rerun-if-changed={}", object.display());
        let embedded = Path::new(&env::var("OUT_DIR")?).join(name);
        match fs::read(&object) {
            Ok(bytes) => fs::write(embedded, bytes)?,
            Err(error) => {
                // `cargo::error` fails the build with this text instead of a panic's.
                println!("cargo::error=cannot read the BPF object {}: {error}", object.display());
                println!("cargo::error=run: cargo xtask build-ebpf");
            }
        }
    }
    Ok(())
}
