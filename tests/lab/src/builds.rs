//! Other builds of usher, for upgrades.

use std::{
    env, fs,
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    binaries::{USHER, find},
    host::Host,
    lab::Lab,
};

/// Other ushers: one with programs of other instructions and the same meaning, and one with a program that no kernel takes.
/// Removed when dropped.
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
        rewrite_programs(&builds.good, change_instruction)?;
        rewrite_programs(&builds.bad, break_instruction)?;
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

const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];

/// An instruction that no kernel knows takes the place of each `exit`.
fn break_instruction(instruction: &mut [u8]) {
    if *instruction == EXIT {
        instruction[0] = 0xff;
    }
}

/// `rX = N` of a small N, in 64 bits, becomes the same in 32: the upper half is zero in either case.
fn change_instruction(instruction: &mut [u8]) {
    const MOVE_64: u8 = 0xb7;
    const MOVE_32: u8 = 0xb4;
    if instruction[0] == MOVE_64 && instruction[5..] == [0; 3] {
        instruction[0] = MOVE_32;
    }
}

/// Rewrites the instructions of every BPF object in a binary.
fn rewrite_programs(binary: &Path, rewrite: fn(&mut [u8])) -> Result<()> {
    /// `EM_BPF`, at byte 18 of an ELF file.
    const MACHINE: [u8; 2] = 247_u16.to_le_bytes();
    let mut bytes = fs::read(binary)?;
    let is_bpf =
        |at: &usize| bytes[*at..].starts_with(b"\x7fELF\x02\x01\x01") && bytes[*at + 18..*at + 20] == MACHINE;
    let objects: Vec<usize> = (0..bytes.len() - 64).filter(is_bpf).collect();
    ensure!(!objects.is_empty(), "{} holds no BPF object", binary.display());
    for at in objects {
        for section in code(&bytes[at..])? {
            bytes[at..][section].chunks_exact_mut(8).for_each(rewrite);
        }
    }
    Ok(fs::write(binary, bytes)?)
}

/// Where an ELF file has instructions (`SHF_EXECINSTR`).
fn code(elf: &[u8]) -> Result<Vec<Range<usize>>> {
    const EXECUTABLE: u64 = 4;
    let eight = |at: usize| Ok::<_, anyhow::Error>(u64::from_le_bytes(elf[at..at + 8].try_into()?));
    let two = |at: usize| Ok::<_, anyhow::Error>(u16::from_le_bytes(elf[at..at + 2].try_into()?));
    // `e_shoff`, `e_shentsize`, `e_shnum`.
    let (first, size, count) = (eight(40)? as usize, usize::from(two(58)?), usize::from(two(60)?));
    let mut sections = Vec::new();
    for header in (0..count).map(|index| first + index * size) {
        // `sh_flags`, `sh_offset`, `sh_size`.
        if eight(header + 8)? & EXECUTABLE != 0 {
            let start = eight(header + 24)? as usize;
            sections.push(start..start + eight(header + 32)? as usize);
        }
    }
    Ok(sections)
}
