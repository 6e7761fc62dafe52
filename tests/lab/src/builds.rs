//! Other builds of usher, for upgrades.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    binaries::{USHER, find},
    host::Host,
    lab::Lab,
};

/// Copies of usher: a good one, and one with a program that no kernel takes. Removed when dropped.
#[derive(Debug)]
pub struct OtherBuilds {
    folder: PathBuf,
    good: PathBuf,
    bad: PathBuf,
}

impl OtherBuilds {
    /// Makes them.
    ///
    /// # Errors
    /// When usher is not built, or there is no room.
    pub fn make() -> Result<OtherBuilds> {
        let usher = find(USHER)?;
        let folder = env::temp_dir().join(format!("usher-builds-{}", std::process::id()));
        // The processes must have usher's name.
        let [good, bad] = ["good", "bad"].map(|name| folder.join(name).join(USHER));
        let builds = OtherBuilds { folder, good, bad };
        for path in [&builds.good, &builds.bad] {
            fs::create_dir_all(path.parent().context("a folder")?)?;
            fs::copy(&usher, path).with_context(|| format!("cannot copy {}", usher.display()))?;
        }
        break_programs(&builds.bad)?;
        Ok(builds)
    }

    /// Upgrades a node.
    ///
    /// # Errors
    /// When no usher runs there.
    pub fn upgrade(&self, lab: &Lab, node: u8) -> Result<()> {
        lab.stop_usher(node)?;
        lab.start_usher_from(node, &self.good)
    }

    /// Upgrades a node to the build that the kernel refuses, which must say so and end. No daemon runs there afterwards.
    ///
    /// # Errors
    /// When it ends otherwise.
    pub fn refused_upgrade(&self, lab: &Lab, node: u8) -> Result<()> {
        lab.stop_usher(node)?;
        let output = lab.output(Host::Node(node), &[&self.bad.to_string_lossy(), "run"])?;
        let refused = output.code == Some(1) && output.stderr.contains("the kernel refused the program");
        ensure!(refused, "{output:?}");
        Ok(())
    }
}

impl Drop for OtherBuilds {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Gives every BPF object in a binary an instruction that does not exist, in the place of each `exit`.
fn break_programs(binary: &Path) -> Result<()> {
    /// `EM_BPF`, at byte 18 of an ELF file.
    const MACHINE: [u8; 2] = 247_u16.to_le_bytes();
    const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];
    let mut bytes = fs::read(binary)?;
    let is_bpf =
        |at: &usize| bytes[*at..].starts_with(b"\x7fELF\x02\x01\x01") && bytes[*at + 18..*at + 20] == MACHINE;
    let objects: Vec<usize> = (0..bytes.len() - 64).filter(is_bpf).collect();
    ensure!(!objects.is_empty(), "{} holds no BPF object", binary.display());
    for at in objects {
        // `e_shoff`: the sections' headers come last.
        let length = u64::from_le_bytes(bytes[at + 40..at + 48].try_into()?) as usize;
        let object = &mut bytes[at..at + length];
        object
            .chunks_exact_mut(8)
            .filter(|instruction| **instruction == EXIT)
            .for_each(|exit| exit[0] = 0xff);
    }
    Ok(fs::write(binary, bytes)?)
}
