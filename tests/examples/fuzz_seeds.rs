//! Writes the inputs that fuzzing begins with: `cargo run -p usher-tests --example fuzz_seeds -- FOLDER`, as
//! `cargo xtask fuzz --seeds` does.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result};
use usher_tests::fuzz::seeds;

fn main() -> Result<()> {
    let folder = PathBuf::from(env::args_os().nth(1).context("which folder?")?);
    for (target, seeds) in [("packet", seeds::packet()), ("parse", seeds::parse())] {
        let folder = folder.join(target);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for (name, bytes) in seeds {
            fs::write(folder.join(&name), bytes).with_context(|| format!("cannot write {name}"))?;
        }
    }
    Ok(())
}
