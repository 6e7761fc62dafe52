//! The workspace's own cargo, for everything but the BPF object.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{places, run};

/// `cargo` in the workspace's folder.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(places::root()).args(arguments);
    command
}

/// Builds `usher` and the lab's helpers beside the running program.
pub(crate) fn build_programs() -> Result<()> {
    run::quietly(
        "build usher",
        &mut cargo(&["build", "--package", "lb-userspace", "--package", "usher-lab", "--bins"]),
    )
}

/// Builds only the lab's helpers.
pub(crate) fn build_helpers() -> Result<()> {
    run::quietly("build the lab's helpers", &mut cargo(&["build", "--package", "usher-lab", "--bins"]))
}

/// Builds all tests, and with them the programs that they run: beside the running program, like
/// [`build_programs`], which would build half of the dependencies once more, with other features.
pub(crate) fn build_tests() -> Result<()> {
    run::quietly("build usher and the tests", &mut cargo(&["test", "--workspace", "--no-run"]))
}

/// Builds one test without running it.
///
/// # Errors
/// When it does not compile, or there is no such test.
pub(crate) fn build_test(name: &str) -> Result<PathBuf> {
    // The workspace and not the test's package: for that alone, dependencies have other features and
    // would be built once more.
    let arguments = ["test", "--workspace", "--test", name, "--no-run"];
    run::quietly(&format!("build the test {name}"), &mut cargo(&arguments))?;
    // Again, with nothing left to build, to be told the path.
    let messages = run::output(cargo(&arguments).arg("--message-format=json"))?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let path = messages.into_iter().find_map(|message| {
        let named = message.pointer("/target/name")?.as_str()? == name;
        let path = message.get("executable")?.as_str()?;
        named.then(|| PathBuf::from(path))
    });
    path.with_context(|| format!("cargo built no test called `{name}`"))
}
