//! Puts the BPF object into `OUT_DIR`, from where the binary embeds it
//! (`include_bytes_aligned!(concat!(env!("OUT_DIR"), "/usher-xdp"))`).

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

/// Where `cargo xtask build-ebpf` leaves it, from the workspace's root.
const OBJECT: &str = "target/ebpf/bpfel-unknown-none/release/usher-xdp";
/// Names another object instead.
const OVERRIDE: &str = "USHER_EBPF_OBJECT";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    let object = match env::var_os(OVERRIDE) {
        Some(path) => PathBuf::from(path),
        None => Path::new(&env::var("CARGO_MANIFEST_DIR")?).with_file_name(OBJECT),
    };
    println!("cargo::rerun-if-changed={}", object.display());
    let embedded = Path::new(&env::var("OUT_DIR")?).join("usher-xdp");
    match fs::read(&object) {
        Ok(bytes) => fs::write(embedded, bytes)?,
        Err(error) => {
            // `cargo::error` fails the build with this text instead of a panic's.
            println!("cargo::error=cannot read the BPF object {}: {error}", object.display());
            println!("cargo::error=run: cargo xtask build-ebpf");
        }
    }
    Ok(())
}
