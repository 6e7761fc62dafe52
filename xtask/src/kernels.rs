//! The XDP program in other kernels: Debian's cloud kernels, booted under qemu without KVM.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::{build_ebpf, cargo, places, report::Report, run, setup};

/// Kernel series that usher must work on besides the machine's own: the oldest supported, and the
/// long-term one after it.
const SERIES: &[&str] = &["6.1", "6.12"];

/// The test of `usher-tests` that runs in them.
const TEST: &str = "kernel_table";

/// Boot, tests and power-off together; they take a few seconds.
const DEADLINE: Duration = Duration::from_secs(300);

/// What init prints around the test's output.
const EXIT_MARKER: &str = "usher-kernel-test exit code:";

/// Lines of the test that are worth showing: instruction counts.
const SHOWN: &str = "insns:";

/// `cargo xtask test --kernels`.
pub(crate) fn test() -> Result<()> {
    let mut report = Report::default();
    if report.step("the XDP program", || build_ebpf::build_ebpf().map(|()| String::new())) {
        add_to(&mut report);
    }
    report.conclude()
}

/// One step per kernel.
pub(crate) fn add_to(report: &mut Report) {
    let mut initramfs = None;
    let packed = report.step("pack the packet table for other kernels", || {
        for series in missing() {
            let mut orders = Vec::new();
            install(series, &mut orders)?;
            ensure!(orders.is_empty(), "kernel {series} is missing; please run: {}", orders.join("; "));
        }
        let archive = pack(&cargo::build_test(TEST)?)?;
        let size = fs::metadata(&archive).map(|metadata| metadata.len() / 1_000_000).unwrap_or(0);
        initramfs = Some(archive);
        Ok(format!("{size} MB"))
    });
    if let (true, Some(initramfs)) = (packed, initramfs) {
        for series in SERIES {
            report.step(&format!("packet table on Linux {series}"), || boot(series, &initramfs));
        }
    }
}

/// The series of which no kernel is there.
pub(crate) fn missing() -> Vec<&'static str> {
    SERIES.iter().copied().filter(|series| installed(series).is_none()).collect()
}

/// The kernel of a series: its version and image.
fn installed(series: &str) -> Option<(String, PathBuf)> {
    let versions = fs::read_dir(places::kernels()).ok()?.flatten();
    let mut versions: Vec<String> =
        versions.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    versions.retain(|version| of_series(version, series));
    versions.sort_by_key(|version| version_key(version));
    let version = versions.pop()?;
    let image = places::kernels().join(&version).join("vmlinuz");
    image.is_file().then_some((version, image))
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
        orders.push(format!("(put a kernel image with BTF at {}/vmlinuz)", folder.display()));
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

/// Downloads one kernel package and keeps its image.
fn download(package: &str) -> Result<()> {
    let version = package.trim_start_matches("linux-image-");
    let scratch = places::kernels().join(format!(".{version}"));
    fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let result = fetch_image(package, version, &scratch);
    let _ = fs::remove_dir_all(&scratch);
    result
}

fn fetch_image(package: &str, version: &str, scratch: &Path) -> Result<()> {
    let mut download = Command::new("apt-get");
    download.args(["download", package]).current_dir(scratch);
    run::quietly(&format!("download {package}"), &mut download)?;
    let mut files = fs::read_dir(scratch).context("downloaded package")?.flatten().map(|entry| entry.path());
    let package =
        files.find(|path| path.extension().is_some_and(|it| it == "deb")).context("no package came")?;
    run::output(Command::new("dpkg").arg("-x").arg(package).arg(scratch))?;
    let folder = places::kernels().join(version);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::rename(scratch.join(format!("boot/vmlinuz-{version}")), folder.join("vmlinuz"))
        .context("kernel image")
}

/// Packs the test, the libraries it needs, busybox and an init into an initramfs.
fn pack(test: &Path) -> Result<PathBuf> {
    let folder = places::root().join("target/xtask/initramfs");
    let _ = fs::remove_dir_all(&folder);
    for name in ["bin", "dev", "proc", "sys", "tmp"] {
        fs::create_dir_all(folder.join(name)).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let busybox = places::program("busybox").context("busybox is missing: `cargo xtask setup`")?;
    for (program, name) in [(test, "bin/test"), (&busybox, "bin/busybox")] {
        fs::copy(program, folder.join(name)).with_context(|| format!("cannot copy {}", program.display()))?;
        for library in libraries(program) {
            let target = folder.join(library.strip_prefix("/").unwrap_or(&library));
            fs::create_dir_all(target.parent().context("library path")?).context("library folder")?;
            fs::copy(&library, &target).with_context(|| format!("cannot copy {}", library.display()))?;
        }
    }
    // Symbols are most of it, and the emulated machine has to unpack them.
    let _ = run::output(Command::new("strip").arg(folder.join("bin/test")));
    let init = folder.join("init");
    fs::write(&init, init_script()).context("init")?;
    run::output(Command::new("chmod").arg("755").arg(&init))?;
    let archive = folder.with_extension("cpio");
    let script = format!("find . | cpio --quiet -o -H newc >'{}'", archive.display());
    run::output(Command::new("sh").args(["-ec", &script]).current_dir(&folder))?;
    Ok(archive)
}

/// Shared libraries and the loader, as ldd finds them; none for a static program.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let text = run::output(Command::new("ldd").arg(program)).unwrap_or_default();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    paths.filter(|path| path.is_file()).collect()
}

fn init_script() -> String {
    format!(
        r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin USHER_NO_SKIP=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmp /tmp
ip link set lo up
/bin/test --test-threads=1 --nocapture
echo "{EXIT_MARKER} $?"
poweroff -f
"#
    )
}

/// Runs the test in one kernel; the figure is the kernel's version and how long it took.
fn boot(series: &str, initramfs: &Path) -> Result<String> {
    let (version, image) = installed(series).context("kernel is missing: `cargo xtask setup`")?;
    let log = places::logs().join(format!("kernel-{series}.log"));
    let start = Instant::now();
    let mut machine = Machine::start(&image, initramfs)?;
    let lines = machine.read_all(&log)?;
    // libtest prints "test NAME ... " before a test's first line.
    for shown in lines.iter().filter_map(|line| line.find(SHOWN).map(|start| &line[start..])) {
        println!("  {shown}");
    }
    judge(&lines)
        .map_err(|why| anyhow!("{version}: {why}; console: {}\n{}", log.display(), ending(&lines)))?;
    Ok(format!("{version}, {:.1} s", start.elapsed().as_secs_f64()))
}

/// Whether the console shows that the test ran, passed, and ended with exit code 0.
fn judge(lines: &[String]) -> Result<()> {
    let code = lines.iter().find_map(|line| line.trim().strip_prefix(EXIT_MARKER));
    let code = code.context("the machine ended before the test did")?;
    ensure!(code.trim() == "0", "the test's exit code is{code}");
    ensure!(lines.iter().any(|line| line.contains("test result: ok.")), "the test printed no result");
    let none = lines.iter().any(|line| line.contains("test result: ok. 0 passed"));
    ensure!(!none, "no test was run");
    Ok(())
}

fn ending(lines: &[String]) -> String {
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// An emulated machine; ends with the value.
struct Machine {
    qemu: Child,
    console: Receiver<String>,
}

impl Machine {
    fn start(image: &Path, initramfs: &Path) -> Result<Machine> {
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-m", "2G", "-smp", "2", "-display", "none", "-no-reboot"])
            .args(["-nodefaults", "-serial", "stdio", "-append", "console=ttyS0 panic=-1 quiet"])
            .arg("-kernel")
            .arg(image)
            .arg("-initrd")
            .arg(initramfs)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("cannot run qemu-system-x86_64: `cargo xtask setup` installs it")?;
        let output = qemu.stdout.take().context("qemu has no output")?;
        let (sender, console) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let _ = sender.send(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
        });
        Ok(Machine { qemu, console })
    }

    /// The console's lines until the machine is off; kept in `log` too.
    fn read_all(&mut self, log: &Path) -> Result<Vec<String>> {
        use std::io::Write;
        let mut file = File::create(log).with_context(|| format!("log {}", log.display()))?;
        let end = Instant::now() + DEADLINE;
        let mut lines = Vec::new();
        loop {
            match self.console.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    writeln!(file, "{line}").context("log")?;
                    lines.push(line);
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(lines),
                Err(RecvTimeoutError::Timeout) => {
                    let (seconds, ending) = (DEADLINE.as_secs(), ending(&lines));
                    bail!("not done after {seconds} s; console: {}\n{ending}", log.display());
                }
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn versions_sort_by_number_and_series_do_not_mix() {
        let mut versions = ["6.12.100+deb12-cloud-amd64", "6.12.9-cloud-amd64", "6.1.0-9-cloud-amd64"];
        versions.sort_by_key(|version| version_key(version));
        assert_eq!(versions[2], "6.12.100+deb12-cloud-amd64");
        assert!(of_series("6.1.0-56-cloud-amd64", "6.1"));
        assert!(!of_series("6.12.100+deb12-cloud-amd64", "6.1"));
    }

    #[test]
    fn only_a_test_that_ran_and_passed_is_good() {
        let good = "boot\ntest result: ok. 3 passed; 0 failed\nusher-kernel-test exit code: 0\n";
        assert!(judge(&lines(good)).is_ok());
        assert!(judge(&lines(&good.replace("code: 0", "code: 101"))).is_err());
        assert!(judge(&lines(&good.replace("3 passed", "0 passed"))).is_err());
        assert!(judge(&lines("Kernel panic - not syncing")).is_err());
        assert!(judge(&lines("usher-kernel-test exit code: 0")).is_err());
    }
}
