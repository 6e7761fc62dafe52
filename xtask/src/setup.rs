//! `cargo xtask setup`: what building and testing need, and this machine lacks.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::{
    kernels, places, run,
    toolchain::{self, Compiler, Toolchain, forget_outer_cargo},
};

/// Programs that lab and tests use, and the Debian packages that hold them.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
    ("unbound", "unbound"),
    ("named", "bind9"),
    // `nsupdate` comes with it.
    ("dig", "bind9-dnsutils"),
    ("faketime", "faketime"),
    ("nft", "nftables"),
    ("knotd", "knot"),
    // It loads where its records are from another package.
    ("pdns_server", "pdns-server pdns-backend-lmdb"),
    ("curl", "curl"),
    ("ping", "iputils-ping"),
    ("wrk", "wrk"),
    ("iperf3", "iperf3"),
    ("tcpdump", "tcpdump"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    // libFuzzer is C++.
    ("c++", "g++"),
];

/// The compiler for BPF, and what bpf-linker is built with.
const COMPILER_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf", "llvm-22-dev"];

/// LLVM 22 as in Debian's rustc-web 1.96.
const LINKER_VERSION: &str = "0.13.0";
const LLVM: &str = "/usr/lib/llvm-22";

/// Installs everything that is missing.
///
/// # Errors
/// With the exact commands for what cannot be installed here, and when an installation fails.
pub(crate) fn setup() -> Result<()> {
    let start = Instant::now();
    let missing = missing_programs();
    let kernels = kernels::missing();
    let toolchain = Toolchain::find();
    if missing.is_empty() && kernels.is_empty() && toolchain.is_some() {
        println!("  nothing is missing ({:.1} s)", start.elapsed().as_secs_f64());
        return Ok(());
    }
    let mut orders = Vec::new();
    install_packages(&missing, &mut orders)?;
    if toolchain.is_none() {
        toolchain_or_orders(&mut orders)?;
    }
    for series in kernels {
        kernels::install(series, &mut orders)?;
    }
    refuse_with(&orders)?;
    println!("  set up in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Installs only what builds the XDP program.
///
/// # Errors
/// As [`setup`].
pub(crate) fn install_toolchain() -> Result<()> {
    let mut orders = Vec::new();
    toolchain_or_orders(&mut orders)?;
    refuse_with(&orders)
}

fn refuse_with(orders: &[String]) -> Result<()> {
    if orders.is_empty() {
        return Ok(());
    }
    bail!(
        "something is missing that cannot be installed from here; please run:\n\n  {}\n",
        orders.join("\n  ")
    )
}

/// Packages of programs that are not found.
fn missing_programs() -> Vec<&'static str> {
    let missing = PROGRAMS.iter().filter(|(program, _)| places::program(program).is_none());
    missing.flat_map(|(_, packages)| packages.split_whitespace()).collect()
}

/// Compiler and linker for BPF; what has to be done by hand is added to `orders`.
fn toolchain_or_orders(orders: &mut Vec<String>) -> Result<()> {
    if toolchain::compiler().is_none() {
        // Without Debian's packages there is rustup's way, which is the user's to choose.
        if on_debian() && has_package(COMPILER_PACKAGES[0])? {
            install_packages(COMPILER_PACKAGES, orders)?;
        } else {
            orders.push("rustup toolchain install nightly --component rust-src".to_owned());
            orders.push("cargo install bpf-linker".to_owned());
            return Ok(());
        }
    }
    match toolchain::compiler() {
        Some(Compiler::Debian) if Toolchain::find().is_none() => install_linker(orders),
        Some(Compiler::Nightly) if Toolchain::find().is_none() => {
            orders.push("cargo install bpf-linker".to_owned());
            Ok(())
        }
        Some(_) => Ok(()),
        // The compiler itself has to be installed by hand first; then the linker is ours to build.
        None => {
            orders.push("cargo xtask setup".to_owned());
            Ok(())
        }
    }
}

fn install_linker(orders: &mut Vec<String>) -> Result<()> {
    if !Path::new(LLVM).join("bin").exists() && !places::program("llvm-config-22").is_some_and(|p| p.exists())
    {
        install_packages(&["llvm-22-dev"], orders)?;
        if !orders.is_empty() {
            return Ok(());
        }
    }
    let mut cargo = Command::new("cargo");
    forget_outer_cargo(&mut cargo);
    cargo.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"]);
    cargo.args(["--no-default-features", "--features", "llvm-22"]);
    // Without the prefix the build script looks for a library called plain `LLVM`.
    cargo.arg("--root").arg(places::tools()).env("LLVM_PREFIX", LLVM).current_dir("/");
    run::quietly("build bpf-linker", &mut cargo)
}

/// Installs Debian packages, or adds the command to `orders`.
fn install_packages(packages: &[&str], orders: &mut Vec<String>) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if !on_debian() {
        orders.push(format!("(your package manager) install {}", packages.join(" ")));
        return Ok(());
    }
    if !is_root()? {
        orders.push(format!("sudo apt-get install --no-install-recommends {}", packages.join(" ")));
        return Ok(());
    }
    update_package_lists()?;
    let _guard = NoServices::new()?;
    let mut install = apt_get();
    install.args(["install", "--yes", "--no-install-recommends"]).args(packages);
    run::quietly(&format!("install {}", packages.join(" ")), &mut install)?;
    keep_services_off(packages);
    Ok(())
}

/// Fetches apt's lists, once per run; without root they are used as they are.
pub(crate) fn update_package_lists() -> Result<()> {
    static DONE: std::sync::Once = std::sync::Once::new();
    let mut result = Ok(());
    if is_root()? {
        DONE.call_once(|| result = run::quietly("update package lists", apt_get().arg("update")));
    }
    result
}

fn has_package(name: &str) -> Result<bool> {
    update_package_lists()?;
    Ok(run::output(Command::new("apt-cache").args(["show", name])).is_ok())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet");
    command
}

pub(crate) fn on_debian() -> bool {
    places::program("apt-get").is_some()
}

pub(crate) fn is_root() -> Result<bool> {
    // The owner of our own process.
    Ok(fs::metadata("/proc/self").context("/proc/self")?.uid() == 0)
}

/// The lab starts web servers and resolvers of its own; installing their packages must start none.
struct NoServices {
    ours: bool,
}

impl NoServices {
    const PATH: &str = "/usr/sbin/policy-rc.d";

    fn new() -> Result<NoServices> {
        let ours = !Path::new(Self::PATH).exists();
        if ours {
            // 101: "action forbidden by policy" (invoke-rc.d).
            fs::write(Self::PATH, "#!/bin/sh\nexit 101\n").context(Self::PATH)?;
            fs::set_permissions(Self::PATH, fs::Permissions::from_mode(0o755)).context(Self::PATH)?;
        }
        Ok(NoServices { ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(Self::PATH);
        }
    }
}

/// Nor must the next boot start them.
fn keep_services_off(packages: &[&str]) {
    if !Path::new("/run/systemd/system").exists() {
        return;
    }
    for (package, service) in [
        ("nginx-light", "nginx"),
        ("unbound", "unbound"),
        ("bind9", "named"),
        ("knot", "knot"),
        ("pdns-server", "pdns"),
    ] {
        if packages.contains(&package) {
            let _ = run::output(Command::new("systemctl").args(["disable", "--now", service]));
        }
    }
}
