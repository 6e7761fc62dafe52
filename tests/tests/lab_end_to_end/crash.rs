//! A lab whose process was killed: the next one, or `cargo xtask lab down`, removes all of it.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Failed, Trial};
use usher_lab::{Lab, Options, until};

use crate::support::remove_lab;

/// The first argument with which this program raises a lab and waits to be killed.
pub(crate) const VICTIM: &str = "raise-and-wait";

/// These need no lab but make their own.
pub(crate) fn trials() -> Vec<Trial> {
    let trial = |name: &str, body: fn() -> Result<()>| {
        let body = move || {
            remove_lab();
            body().map_err(|error| Failed::from(format!("{error:#}")))
        };
        Trial::test(format!("crash::{name}"), body)
    };
    vec![
        trial("process_killed_while_it_raises_leaves_nothing_after_lab_down", killed_while_raising),
        trial("process_killed_with_its_lab_up_leaves_nothing_after_lab_down", killed_with_lab_up),
    ]
}

/// What the victim does.
pub(crate) fn raise_and_wait() {
    match Lab::up(&Options::default()) {
        Ok(_lab) => {
            println!("up");
            thread::sleep(Duration::from_secs(120));
        }
        Err(error) => println!("{error:#}"),
    }
}

fn killed_while_raising() -> Result<()> {
    let victim = start_victim()?;
    until("the lab is half up", Duration::from_secs(20), || {
        ensure!(Path::new("/run/netns/usher-backend3").exists(), "there is no backend3");
        Ok(())
    })?;
    kill(victim)?;
    Lab::remove_any()?;
    expect_nothing()
}

fn killed_with_lab_up() -> Result<()> {
    let mut victim = start_victim()?;
    let mut line = String::new();
    let output = victim.stdout.take().context("no output")?;
    BufReader::new(output).read_line(&mut line).context("output of the other process")?;
    ensure!(line == "up\n", "the other process said: {line}");
    // While it lives, the lab is its own.
    let refused = Lab::up(&Options::default()).map(drop).map_err(|error| error.to_string());
    let pid = victim.id();
    ensure!(
        refused.as_ref().is_err_and(|text| text.starts_with(&format!("process {pid} "))),
        "a second lab beside that of {pid}: {refused:?}"
    );
    kill(victim)?;
    Lab::remove_any()?;
    expect_nothing()
}

fn start_victim() -> Result<Child> {
    Command::new(env::current_exe().context("own path")?)
        .arg(VICTIM)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run myself")
}

fn kill(mut victim: Child) -> Result<()> {
    victim.kill().context("kill")?;
    victim.wait().context("wait").map(drop)
}

/// No namespace, interface, process or file of a lab is there.
fn expect_nothing() -> Result<()> {
    for path in ["/run/usher-lab", "/var/tmp/usher-lab", "/etc/netns/usher-client"] {
        ensure!(!Path::new(path).exists(), "{path} is left");
    }
    let named = |folder: &str| -> Result<Vec<String>> {
        let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
        Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    };
    let namespaces = named("/run/netns")?;
    ensure!(!namespaces.iter().any(|name| name.starts_with("usher-")), "left: {namespaces:?}");
    let interfaces = named("/sys/class/net")?;
    let of_lab = |name: &String| name.ends_with("-front") || name.ends_with("-back");
    ensure!(!interfaces.iter().any(of_lab), "left: {interfaces:?}");
    for pid in named("/proc")?.iter().filter(|name| name.parse::<u32>().is_ok()) {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        ensure!(!command.contains("/run/usher-lab"), "process {pid} is left: {}", command.replace('\0', " "));
    }
    Ok(())
}
