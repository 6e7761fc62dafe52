//! An emulated machine.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Boot, tests and power-off together; they take about a minute.
const DEADLINE: Duration = Duration::from_secs(600);

/// The kernel's command line. Expedited, because without it each swap of a map waits for the next tick of all CPUs, which
/// takes an emulated machine up to a second.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 quiet rcupdate.rcu_expedited=1";

/// An emulated machine; ends with the value.
pub(super) struct Machine {
    qemu: Child,
    console: Receiver<String>,
}

impl Machine {
    /// Boots a kernel into an archive.
    pub(super) fn start(image: &Path, archive: &Path) -> Result<Machine> {
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-m", "2G", "-smp", "2", "-display", "none", "-no-reboot"])
            .args(["-nodefaults", "-serial", "stdio", "-append", COMMAND_LINE])
            .arg("-kernel")
            .arg(image)
            .arg("-initrd")
            .arg(archive)
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
    pub(super) fn read_all(&mut self, log: &Path) -> Result<Vec<String>> {
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

/// The last lines of a console.
pub(super) fn ending(lines: &[String]) -> String {
    lines[lines.len().saturating_sub(60)..].join("\n")
}
