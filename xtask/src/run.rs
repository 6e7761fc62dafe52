//! Long commands: quiet while they work, telling when they fail.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::places;

/// How often a sign of life is printed.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// How often a command is looked at: often enough that short ones stay short.
const RHYTHM: Duration = Duration::from_millis(10);

/// Runs `command`, with its output in a log; says on standard error what is done, every few seconds how
/// far it is, and how long it took.
///
/// # Errors
/// When the command fails: names its log and shows the last lines.
pub(crate) fn quietly(what: &str, command: &mut Command) -> Result<()> {
    let log = open_log(what)?;
    let file = File::create(&log).with_context(|| format!("log {}", log.display()))?;
    let errors = file.try_clone().context("log")?;
    eprintln!("  {what} …");
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("cannot run `{}`", text(command)))?;
    let mut next_sign = SIGN_OF_LIFE;
    let status = loop {
        if let Some(status) = child.try_wait().context("wait")? {
            break status;
        }
        if start.elapsed() >= next_sign {
            eprintln!("    {:3} s  {}", start.elapsed().as_secs(), last_lines(&log, 1));
            next_sign += SIGN_OF_LIFE;
        }
        thread::sleep(RHYTHM);
    };
    let seconds = start.elapsed().as_secs_f64();
    if !status.success() {
        let (lines, log) = (last_lines(&log, 20), log.display());
        bail!("{what} failed after {seconds:.1} s ({status}); `{}`; log: {log}\n{lines}", text(command));
    }
    eprintln!("    done in {seconds:.1} s");
    Ok(())
}

/// Runs `command` with its output on our terminal.
///
/// # Errors
/// When the command fails.
pub(crate) fn openly(command: &mut Command) -> Result<()> {
    let status =
        command.stdin(Stdio::null()).status().with_context(|| format!("cannot run `{}`", text(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", text(command));
    }
    Ok(())
}

/// Runs `command`, with what it prints going to `read` line by line and its complaints to our terminal.
/// Whether it succeeded.
///
/// # Errors
/// When the command cannot be run.
pub(crate) fn line_by_line(command: &mut Command, mut read: impl FnMut(&str)) -> Result<bool> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{}`", text(command)))?;
    let output = child.stdout.take().context("output")?;
    for line in BufReader::new(output).split(b'\n') {
        read(String::from_utf8_lossy(&line.context("output")?).trim_end());
    }
    Ok(child.wait().context("wait")?.success())
}

/// Runs `command` and gives what it printed.
///
/// # Errors
/// When the command fails: shows what it complained.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run `{}`", text(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", text(command), output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one would type it.
pub(crate) fn text(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn open_log(what: &str) -> Result<std::path::PathBuf> {
    let folder = places::logs();
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let name: String = what.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Ok(folder.join(name.to_lowercase() + ".log"))
}

/// The last lines that say something.
fn last_lines(log: &Path, count: usize) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
