//! `exec`: a command ends with exit code 0.

use std::{
    io::{self, ErrorKind},
    process::{ExitStatus, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
};

use super::{Endpoints, Finding, Limit, io_detail};
use crate::core::check::Code;

/// Bytes of output of which the first line is shown; the rest is read and forgotten.
const MAX_OUTPUT: u64 = 4 * 1024;

/// Characters of that line that are shown.
const SHOWN: usize = 200;

/// Runs the command, which finds the backend's address and port in its environment, and the
/// address that the check should leave from if there is one. When the time is over it is killed,
/// with all that it has started.
pub(super) async fn check(
    endpoints: &Endpoints<'_>,
    command: &[String],
    limit: Limit,
) -> Result<Finding, Finding> {
    let mut child = start(endpoints, command).map_err(|error| cannot(command, &error))?;
    let group = Group(child.id());
    let output =
        limit.or(Code::ProcTout, output_of(&mut child)).await?.map_err(|error| cannot(command, &error))?;
    drop(group);
    judge(&output)
}

fn start(endpoints: &Endpoints<'_>, command: &[String]) -> io::Result<Child> {
    let [program, arguments @ ..] = command else { return Err(ErrorKind::InvalidInput.into()) };
    let mut command = Command::new(program);
    match endpoints.source {
        Some(source) => command.env("USHER_SOURCE", source.to_string()),
        None => command.env_remove("USHER_SOURCE"),
    };
    command
        .args(arguments)
        .env("USHER_ADDRESS", endpoints.target.ip().to_string())
        .env("USHER_PORT", endpoints.target.port().to_string())
        // The service manager hears from the daemon alone.
        .env_remove("NOTIFY_SOCKET")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Its exit status, and the beginnings of what it writes.
async fn output_of(child: &mut Child) -> io::Result<Output> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr, status) = tokio::join!(beginning(stdout), beginning(stderr), child.wait());
    Ok(Output { status: status?, stdout: stdout?, stderr: stderr? })
}

/// Reads to the end, so that the writer is never held up.
async fn beginning(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        (&mut stream).take(MAX_OUTPUT).read_to_end(&mut bytes).await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    }
    Ok(bytes)
}

/// A command's processes; killed when dropped, those that it has left behind too.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0.and_then(|id| i32::try_from(id).ok()) {
            // None are left, usually.
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        }
    }
}

fn judge(output: &Output) -> Result<Finding, Finding> {
    // What went wrong is on stderr, if anything is.
    let said = [&output.stderr, &output.stdout].into_iter().find_map(|bytes| first_line(bytes));
    if output.status.success() {
        let said = first_line(&output.stdout).or(said).unwrap_or_default();
        return Ok(Finding::new(Code::ProcOk, said));
    }
    let ended = described(output.status);
    Err(Finding::new(Code::ProcErr, said.map_or(ended.clone(), |said| format!("{ended}: {said}"))))
}

fn described(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit code {code}"),
        // `signal: 9 (SIGKILL)`
        None => status.to_string(),
    }
}

/// The first line that is not empty, fit to be shown: no control character may reach a log or a terminal.
fn first_line(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    let shown = line.chars().take(SHOWN);
    Some(shown.map(|one| if one.is_control() { char::REPLACEMENT_CHARACTER } else { one }).collect())
}

/// It says something of this host only.
fn cannot(command: &[String], error: &io::Error) -> Finding {
    let program = command.first().map(String::as_str).unwrap_or_default();
    Finding::new(Code::Sockerr, format!("cannot run {program}: {}", io_detail(error)))
}
