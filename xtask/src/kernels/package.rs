//! Kernels to test on, taken from Debian's packages: image and modules.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::SERIES;
use crate::{places, run, setup};

/// What the lab and usher need and these kernels have as modules, each after those that it needs: bridges,
/// veth pairs, and filters on an interface (which TCX does without, since Linux 6.6).
pub(super) const MODULES: &[&str] = &["llc", "stp", "bridge", "veth", "sch_ingress", "cls_bpf"];

/// A kernel that is there.
pub(super) struct Kernel {
    /// As `uname -r` has it.
    pub(super) version: String,
    pub(super) image: PathBuf,
    /// Holds [`MODULES`], as `NAME.ko`.
    pub(super) modules: PathBuf,
}

/// The series of which no kernel is there.
pub(crate) fn missing() -> Vec<&'static str> {
    SERIES.iter().copied().filter(|series| installed(series).is_none()).collect()
}

/// The kernel of a series.
pub(super) fn installed(series: &str) -> Option<Kernel> {
    let versions = fs::read_dir(places::kernels()).ok()?.flatten();
    let versions = versions.filter_map(|entry| entry.file_name().into_string().ok());
    let kernels = versions.filter(|version| of_series(version, series)).map(|version| {
        let folder = places::kernels().join(&version);
        Kernel { version, image: folder.join("vmlinuz"), modules: folder.join("modules") }
    });
    kernels.filter(Kernel::is_whole).max_by_key(|kernel| version_key(&kernel.version))
}

impl Kernel {
    fn is_whole(&self) -> bool {
        self.image.is_file() && MODULES.iter().all(|name| self.module(name).is_file())
    }

    fn module(&self, name: &str) -> PathBuf {
        self.modules.join(format!("{name}.ko"))
    }
}

/// Whether `6.1.0-56-cloud-amd64` belongs to `6.1`.
fn of_series(version: &str, series: &str) -> bool {
    version.strip_prefix(series).is_some_and(|rest| rest.starts_with('.'))
}

/// The numbers of a version, for comparing.
fn version_key(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// Fetches the newest kernel of a series that apt offers; needs no root.
pub(crate) fn install(series: &str, orders: &mut Vec<String>) -> Result<()> {
    if !setup::on_debian() {
        let folder = places::kernels().join(format!("{series}.x"));
        let (folder, modules) = (folder.display(), MODULES.join(", "));
        orders.push(format!(
            "(put a kernel image with BTF at {folder}/vmlinuz, and its modules {modules} at {folder}/modules/NAME.ko)"
        ));
        return Ok(());
    }
    setup::update_package_lists()?;
    let pattern = format!(r"^linux-image-{}\..*-cloud-amd64$", series.replace('.', r"\."));
    let found = run::output(Command::new("apt-cache").args(["search", "--names-only", &pattern]))?;
    let mut packages: Vec<_> = found.lines().filter_map(|line| line.split_whitespace().next()).collect();
    packages.sort_by_key(|package| version_key(package));
    // A mirror may have dropped what its list still names: older ones will do.
    for package in packages.iter().rev().take(3) {
        match download(package) {
            Ok(()) => return Ok(()),
            Err(error) => println!("    {error:#}"),
        }
    }
    orders.push(format!(
        "(no Linux {series} among apt's sources: add bookworm-backports or the like, then) cargo xtask setup"
    ));
    Ok(())
}

/// Downloads one kernel package and keeps its image and modules.
fn download(package: &str) -> Result<()> {
    let version = package.trim_start_matches("linux-image-");
    let scratch = places::kernels().join(format!(".{version}"));
    fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let result = unpack(package, &scratch).and_then(|()| keep(version, &scratch));
    let _ = fs::remove_dir_all(&scratch);
    result
}

fn unpack(package: &str, scratch: &Path) -> Result<()> {
    let mut download = Command::new("apt-get");
    download.args(["download", package]).current_dir(scratch);
    run::quietly(&format!("download {package}"), &mut download)?;
    let mut files = fs::read_dir(scratch).context("downloaded package")?.flatten().map(|entry| entry.path());
    let package =
        files.find(|path| path.extension().is_some_and(|it| it == "deb")).context("no package came")?;
    run::output(Command::new("dpkg").arg("-x").arg(package).arg(scratch)).map(drop)
}

/// The image last: without it there is no kernel, whatever else was left by an interruption.
fn keep(version: &str, scratch: &Path) -> Result<()> {
    let folder = places::kernels().join(version);
    let modules = folder.join("modules");
    fs::create_dir_all(&modules).with_context(|| format!("cannot make {}", modules.display()))?;
    let tree = scratch.join("lib/modules").join(version).join("kernel");
    for name in MODULES {
        let found = find(&tree, name).with_context(|| format!("{version} has no module {name}"))?;
        // Loading a compressed one is left to modprobe(8), which small systems lack.
        if found.extension().is_some_and(|it| it == "xz") {
            run::output(Command::new("busybox").arg("unxz").arg(&found))?;
        }
        let plain = found.with_file_name(format!("{name}.ko"));
        ensure!(plain.is_file(), "{} is compressed in a way that is not known here", found.display());
        fs::rename(plain, modules.join(format!("{name}.ko"))).with_context(|| format!("module {name}"))?;
    }
    fs::rename(scratch.join(format!("boot/vmlinuz-{version}")), folder.join("vmlinuz"))
        .context("kernel image")
}

/// The module's file in a tree: `NAME.ko`, or compressed, `NAME.ko.xz`.
fn find(tree: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(tree).ok()?.flatten().map(|entry| entry.path());
    entries.into_iter().find_map(|path| {
        if path.is_dir() {
            return find(&path, name);
        }
        let is_it = path.file_name()?.to_str()?.strip_prefix(name)?.starts_with(".ko");
        is_it.then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_by_number_and_series_do_not_mix() {
        let mut versions = ["6.12.100+deb12-cloud-amd64", "6.12.9-cloud-amd64", "6.1.0-9-cloud-amd64"];
        versions.sort_by_key(|version| version_key(version));
        assert_eq!(versions[2], "6.12.100+deb12-cloud-amd64");
        assert!(of_series("6.1.0-56-cloud-amd64", "6.1"));
        assert!(!of_series("6.12.100+deb12-cloud-amd64", "6.1"));
    }
}
