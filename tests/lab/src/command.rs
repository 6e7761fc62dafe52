//! Running commands, and saying what went wrong with them.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::host::Host;

/// What a finished command left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained.
    pub stderr: String,
}

/// `command`, to be run on `host`. The paths that `ip netns exec` needs are the caller's.
pub(crate) fn on(host: Host, command: &[&str]) -> Command {
    let mut ip = Command::new("ip");
    ip.args(["netns", "exec", &host.namespace()]).args(command);
    ip
}

/// Runs to the end, whatever the exit code.
///
/// # Errors
/// When the command cannot be started.
pub(crate) fn finish(command: &mut Command) -> Result<Output> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run `{}`", text(command)))?;
    Ok(Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs to the end and gives what was printed; `place` is the host, or "here".
///
/// # Errors
/// Names command, place, exit code and complaint when the exit code is not 0.
pub(crate) fn check(command: &mut Command, place: &str) -> Result<String> {
    let output = finish(command)?;
    if output.code == Some(0) {
        return Ok(output.stdout);
    }
    bail!("`{}` on {place}: {}", text(command), failure(output.code, &output.stderr))
}

/// Runs `ip -batch` with `lines`, in `host`'s namespace or outside of all.
///
/// # Errors
/// Names the line that failed.
pub(crate) fn ip_batch(host: Option<Host>, lines: &[String]) -> Result<()> {
    let mut ip = Command::new("ip");
    if let Some(host) = host {
        ip.args(["-netns", &host.namespace()]);
    }
    let mut child = ip
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `ip`; `cargo xtask setup` installs it")?;
    let mut stdin = child.stdin.take().context("ip has no standard input")?;
    // A batch that ends early closes the pipe: its own complaint says more than "broken pipe".
    let _ = stdin.write_all((lines.join("\n") + "\n").as_bytes());
    drop(stdin);
    let output = child.wait_with_output().context("ip -batch")?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = failed_line(&stderr).and_then(|number| lines.get(number - 1)).map_or("", String::as_str);
    let place = host.map_or_else(|| "here".to_owned(), |host| host.to_string());
    bail!("`ip {line}` on {place}: {}", failure(output.status.code(), &stderr))
}

/// The number in "Command failed -:7".
fn failed_line(stderr: &str) -> Option<usize> {
    stderr.lines().find_map(|line| line.strip_prefix("Command failed -:"))?.trim().parse().ok()
}

/// "exit code 2: what it complained".
pub(crate) fn failure(code: Option<i32>, stderr: &str) -> String {
    let code = code.map_or_else(|| "ended by a signal".to_owned(), |code| format!("exit code {code}"));
    format!("{code}: {}", stderr.trim())
}

/// The command as one would type it.
pub(crate) fn text(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_tells_command_place_code_and_complaint() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo sorry >&2; exit 7"]);
        let error = check(&mut command, "node1").expect_err("exit code 7").to_string();
        assert_eq!(error, "`sh -c echo sorry >&2; exit 7` on node1: exit code 7: sorry");
    }

    #[test]
    fn batch_names_the_line() {
        let stderr = "RTNETLINK answers: File exists\nCommand failed -:12\n";
        assert_eq!(failed_line(stderr), Some(12));
        assert_eq!(failed_line("nothing"), None);
    }
}
