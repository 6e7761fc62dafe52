//! The whole system that other kernels boot into, as an archive in memory: the tests, what the lab runs,
//! their shared libraries, busybox, modules, and an init.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{
    EXIT_CODE,
    package::{Kernel, MODULES},
};
use crate::{build_ebpf, places, run};

/// Programs of the lab that busybox does not replace.
const PROGRAMS: &[&str] = &["ip", "ethtool", "nginx", "unbound", "dig", "curl"];

/// Where the tests are, and beside them what they run: the lab looks there.
const TESTS: &str = "tests";

/// Where the BPF objects are; the test `objects` is told so.
const OBJECTS: &str = "objects";

/// Files of /etc: the accounts that nginx looks for, and those that namespaces replace by their own, which
/// must exist for that.
const ETC: &[(&str, &str)] = &[
    ("passwd", "root:x:0:0:root:/:/bin/sh\n"),
    ("group", "root:x:0:\n"),
    ("hosts", ""),
    ("nsswitch.conf", ""),
    ("resolv.conf", ""),
];

/// Packs built tests, by name, and the modules of these kernels.
pub(super) fn pack(tests: &[(&str, PathBuf)], kernels: &[Kernel]) -> Result<PathBuf> {
    let root = Root::new(places::root().join("target/xtask/initramfs"))?;
    let busybox = places::program("busybox").context("busybox is missing: `cargo xtask setup`")?;
    root.add_program(&busybox, "bin/busybox")?;
    for name in PROGRAMS {
        let program =
            places::program(name).with_context(|| format!("{name} is missing: `cargo xtask setup`"))?;
        root.add_program(&program, &format!("usr/bin/{name}"))?;
    }
    let built = [usher_lab::binaries::USHER, usher_lab::binaries::UDP];
    let built = built.map(|name| Ok((name, usher_lab::binaries::find(name)?)));
    for (name, path) in built.into_iter().collect::<Result<Vec<_>>>()?.iter().chain(tests) {
        let target = format!("{TESTS}/{name}");
        root.add_program(path, &target)?;
        // Symbols are most of it, and the emulated machine has to unpack them.
        let _ = run::output(Command::new("strip").arg(root.path(&target)));
    }
    for name in build_ebpf::OBJECTS {
        root.copy(&build_ebpf::object(name), &format!("{OBJECTS}/{name}"))?;
    }
    for kernel in kernels {
        for module in MODULES {
            let name = format!("{module}.ko");
            root.copy(&kernel.modules.join(&name), &format!("modules/{}/{name}", kernel.version))?;
        }
    }
    for (name, text) in ETC {
        root.write(&format!("etc/{name}"), text)?;
    }
    let names: Vec<_> = tests.iter().map(|(name, _)| *name).collect();
    root.write("init", &init_script(&names))?;
    run::output(Command::new("chmod").arg("755").arg(root.path("init")))?;
    root.archive()
}

/// The folder that becomes the archive.
struct Root(PathBuf);

impl Root {
    /// Empty, but for the folders that init and the lab expect.
    fn new(folder: PathBuf) -> Result<Root> {
        let _ = fs::remove_dir_all(&folder);
        for name in ["dev", "proc", "sys", "run", "tmp", "var/tmp"] {
            let made = folder.join(name);
            fs::create_dir_all(&made).with_context(|| format!("cannot make {}", made.display()))?;
        }
        Ok(Root(folder))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A path in the folder whose own folder is there.
    fn place(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(path)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.place(name)?, text).with_context(|| format!("cannot write {name}"))
    }

    fn copy(&self, from: &Path, name: &str) -> Result<()> {
        fs::copy(from, self.place(name)?).with_context(|| format!("cannot copy {}", from.display())).map(drop)
    }

    /// Adds a program and its libraries.
    fn add_program(&self, program: &Path, name: &str) -> Result<()> {
        self.copy(program, name)?;
        for library in libraries(program) {
            let name = library.to_string_lossy();
            self.copy(&library, name.trim_start_matches('/'))?;
        }
        Ok(())
    }

    fn archive(&self) -> Result<PathBuf> {
        let archive = self.0.with_extension("cpio");
        let script = format!("find . | cpio --quiet -o -H newc >'{}'", archive.display());
        run::output(Command::new("sh").args(["-ec", &script]).current_dir(&self.0))?;
        Ok(archive)
    }
}

/// Shared libraries and the loader, as ldd finds them; none for a static program.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let text = run::output(Command::new("ldd").arg(program)).unwrap_or_default();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    paths.filter(|path| path.is_file()).collect()
}

/// Runs every test and says how each ended.
fn init_script(tests: &[&str]) -> String {
    let (modules, tests) = (MODULES.join(" "), tests.join(" "));
    format!(
        r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin USHER_NO_SKIP=1 USHER_OBJECTS=/{OBJECTS}
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
ip link set lo up
for module in {modules}; do insmod /modules/$(uname -r)/$module.ko; done
for test in {tests}; do
    /{TESTS}/$test --test-threads=1 --nocapture --color=never
    echo "$test{EXIT_CODE}$?"
done
poweroff -f
"#
    )
}
