//! Checks by commands: real scripts, good and bad ones.

#![expect(clippy::unwrap_used, reason = "the lint spares tests, but not their helpers")]

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use lb_userspace::{
    config::CheckKind,
    core::check::{CheckResult, Code},
    probe::{Probe, Source},
};

/// For commands that are meant to end by themselves.
const LONG: Duration = Duration::from_secs(20);
/// For commands that are meant to be killed.
const SHORT: Duration = Duration::from_millis(300);

fn probe(command: &[&str], timeout: Duration) -> Probe {
    let command = command.iter().map(|&word| word.to_owned()).collect();
    Probe::new(CheckKind::Exec { command }, SocketAddr::from(([203, 0, 113, 21], 5432)), timeout)
}

async fn run(script: &str, timeout: Duration) -> CheckResult {
    probe(&["/bin/sh", "-c", script], timeout).run_once().await
}

#[track_caller]
fn expect(result: &CheckResult, code: Code, detail: &str) {
    assert_eq!((result.code, result.detail.as_str()), (code, detail));
}

#[tokio::test]
async fn the_exit_code_decides_and_the_first_line_is_shown() {
    expect(&run("", LONG).await, Code::ProcOk, "");
    expect(&run("echo; echo ' 3 replicas '; echo more", LONG).await, Code::ProcOk, "3 replicas");
    expect(&run("echo fine; echo beware >&2", LONG).await, Code::ProcOk, "fine");
    expect(&run("exit 3", LONG).await, Code::ProcErr, "exit code 3");
    expect(
        &run("echo asked; echo no replica >&2; exit 1", LONG).await,
        Code::ProcErr,
        "exit code 1: no replica",
    );
    expect(&run("echo asked; exit 1", LONG).await, Code::ProcErr, "exit code 1: asked");
    expect(&run("kill -9 $$", LONG).await, Code::ProcErr, "signal: 9 (SIGKILL)");
    // More than a pipe holds, and no text.
    let zeros = run("head -c 1000000 /dev/zero; exit 1", LONG).await;
    expect(&zeros, Code::ProcErr, &format!("exit code 1: {}", "\u{fffd}".repeat(200)));
    expect(&run("printf '\\033[31mred'", LONG).await, Code::ProcOk, "\u{fffd}[31mred");
}

#[tokio::test]
async fn the_command_knows_the_backend() {
    let result =
        run("echo \"$USHER_ADDRESS port $USHER_PORT in $(pwd)\"; read line && exit 1; exit 0", LONG).await;
    expect(&result, Code::ProcOk, "203.0.113.21 port 5432 in /");
    let script = ["/bin/sh", "-c", "echo ${USHER_SOURCE-any}"];
    expect(&probe(&script, LONG).run_once().await, Code::ProcOk, "any");
    let source = Source::address("203.0.113.11".parse().unwrap());
    let result = Probe { source: Some(source), ..probe(&script, LONG) }.run_once().await;
    expect(&result, Code::ProcOk, "203.0.113.11");
    let result = probe(&["/bin/sh", "-c", "echo $1 $#", "name", "a b", "c"], LONG).run_once().await;
    expect(&result, Code::ProcOk, "a b 2");
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed_with_all_that_it_started() {
    let directory = tempfile::tempdir().unwrap();
    let pids = directory.path().join("pids");
    for (script, processes) in [
        ("sleep 600 & echo $! > PIDS; echo $$ >> PIDS; wait", 2),
        // What it leaves behind holds its output open, and is no part of it.
        ("sleep 600 & echo $! > PIDS; echo left one behind", 1),
    ] {
        let script = script.replace("PIDS", &pids.display().to_string());
        let begin = Instant::now();
        // A busy machine may take longer to start a shell.
        for timeout in [SHORT, SHORT * 8, LONG] {
            let _ = fs::remove_file(&pids);
            expect(&run(&script, timeout).await, Code::ProcTout, &format!("timeout after {timeout:?}"));
            if fs::read_to_string(&pids).is_ok_and(|pids| pids.lines().count() == processes) {
                break;
            }
        }
        assert!(begin.elapsed() < LONG * 2, "it was waited for");
        expect_gone(&pids);
    }
}

/// Waits until no process of a file runs any more.
fn expect_gone(pids: &Path) {
    let begin = Instant::now();
    for pid in fs::read_to_string(pids).unwrap().lines() {
        let runs =
            || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        while runs() {
            assert!(begin.elapsed() < LONG, "process {pid} still runs");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[tokio::test]
async fn what_cannot_be_run_is_this_hosts_trouble() {
    let result = probe(&["/nonexistent/check"], LONG).run_once().await;
    expect(&result, Code::Sockerr, "cannot run /nonexistent/check: No such file or directory");
    let result = probe(&["/etc/passwd"], LONG).run_once().await;
    expect(&result, Code::Sockerr, "cannot run /etc/passwd: Permission denied");
}
