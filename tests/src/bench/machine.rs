//! What figures depend on.

use std::{fs, thread};

use anyhow::{Context as _, Result};

/// Kernel, CPU, and how many of them.
pub(super) fn machine() -> Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's release")?;
    let cpus = thread::available_parallelism().context("how many CPUs there are")?;
    Ok(format!("Linux {}, {}, {cpus} CPUs", kernel.trim(), cpu_model()?))
}

fn cpu_model() -> Result<String> {
    let text = fs::read_to_string("/proc/cpuinfo").context("the CPU's model")?;
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Ok(model.map_or("unknown", |(_, model)| model).to_owned())
}
