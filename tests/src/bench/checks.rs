//! Whether usher keeps up with many backends: `cargo xtask bench checks`. Method and results are told in
//! docs/benchmarks.md.

use std::{
    fmt::{self, Write as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_common::SLOTS;
use lb_userspace::status::{State, Status};
use serde_json::{Value, json};
use usher_lab::Crowd;

use super::machine::machine;

/// What is configured, and how long is measured.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Services, each checked once a second.
    pub services: u16,
    /// Backends of each.
    pub backends: u16,
    /// Time over which checks are measured.
    pub seconds: u64,
}

/// Until every backend is up.
const START: Duration = Duration::from_secs(90);

/// Reloads of each kind.
const RELOADS: u16 = 5;

impl Size {
    /// Checks in a second.
    fn per_second(self) -> u32 {
        u32::from(self.services) * u32::from(self.backends)
    }

    /// Time between the start, or a reload, and what is measured next.
    fn settle(self) {
        thread::sleep(Duration::from_secs(self.seconds.min(5)));
    }
}

/// One figure, and its bound if it has one.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was measured, with its unit.
    pub what: &'static str,
    /// What it came to.
    pub measured: f64,
    /// What is allowed; `None` for what explains another figure.
    pub bound: Option<f64>,
    /// The bound is the least that is allowed, not the most.
    pub at_least: bool,
}

impl Row {
    fn at_most(what: &'static str, measured: f64, bound: f64) -> Row {
        Row { what, measured, bound: Some(bound), at_least: false }
    }

    /// Whether the bound is kept.
    pub fn holds(&self) -> bool {
        self.bound
            .is_none_or(|bound| if self.at_least { self.measured >= bound } else { self.measured <= bound })
    }
}

/// All figures.
#[derive(Debug, Clone)]
pub struct Report {
    host: String,
    size: Size,
    /// In the order in which they are shown.
    pub rows: Vec<Row>,
}

impl Report {
    /// `{"services", "backends", "seconds", "rows": [{"what", "measured", "bound", "holds"}]}`.
    pub fn json(&self) -> Value {
        let row = |row: &Row| json!({"what": row.what, "measured": row.measured, "bound": row.bound, "holds": row.holds()});
        let Size { services, backends, seconds } = self.size;
        json!({
            "services": services,
            "backends": backends,
            "seconds": seconds,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }

    /// Whether every bound is kept.
    pub fn holds(&self) -> bool {
        self.rows.iter().all(Row::holds)
    }
}

/// The table for readers.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Size { services, backends, seconds } = self.size;
        writeln!(f, "{}", self.host)?;
        writeln!(
            f,
            "{services} services with {backends} backends, each checked once a second, for {seconds} s\n"
        )?;
        writeln!(f, "{:46}{:>10}{:>12}", "", "measured", "bound")?;
        self.rows.iter().try_for_each(|row| {
            let sign = if row.at_least { '≥' } else { '≤' };
            let verdict = if row.holds() { "" } else { "  missed" };
            writeln!(
                f,
                "{:46}{:10.1}{:>12}{verdict}",
                row.what,
                row.measured,
                row.bound.map_or(String::new(), |bound| format!("{sign} {bound}"))
            )
        })
    }
}

/// Raises a node and its backends, measures, and removes them.
///
/// # Errors
/// When something does not come up or does not answer.
pub fn measure(size: Size) -> Result<Report> {
    let crowd = Crowd::up()?;
    crowd.configure(&config(size, |_, _| 1))?;
    crowd.start_usher()?;
    wait_until_up(&crowd, size)?;
    crowd.keep_on_one_cpu(true)?;
    size.settle();
    let mut rows = checks(&crowd, size)?;
    crowd.keep_on_one_cpu(false)?;
    let one = reloads(&crowd, size, |service, backend| (service, backend) == (0, 0))?;
    rows.push(Row::at_most("reload, weight of one backend changed, ms", one, 1_000.0));
    let all = reloads(&crowd, size, |_, backend| backend == 0)?;
    rows.push(Row::at_most("reload, weight changed in every service, ms", all, 1_000.0));
    rows.extend(memory(&status(&crowd)?, size));
    Ok(Report { host: machine()?, size, rows })
}

/// How many checks are made, what they cost and how late they begin.
fn checks(crowd: &Crowd, size: Size) -> Result<Vec<Row>> {
    let before = status(crowd)?.checks;
    let (begin, cpu) = (Instant::now(), crowd.cpu_time()?);
    thread::sleep(Duration::from_secs(size.seconds));
    let (took, cpu_after) = (begin.elapsed(), crowd.cpu_time()?);
    let after = status(crowd)?.checks;
    let made = (after.begun - before.begun) as f64 / begin.elapsed().as_secs_f64();
    let later = |limit: &u32| after.later_than_ms[limit] - before.later_than_ms[limit];
    let latest = after.later_than_ms.keys().find(|limit| later(limit) == 0);
    let share = |time: Duration| 100.0 * time.as_secs_f64() / took.as_secs_f64();
    let (user, system) = (share(cpu_after.user - cpu.user), share(cpu_after.system - cpu.system));
    Ok(vec![
        Row {
            what: "checks a second",
            measured: made,
            // It varies with the jitter of the intervals.
            bound: Some((f64::from(size.per_second()) * 0.98).floor()),
            at_least: true,
        },
        Row::at_most("busy, percent of a core", user + system, 40.0),
        Row { what: "busy in the kernel, percent of a core", measured: system, bound: None, at_least: false },
        Row::at_most(
            "the latest check begins within, ms",
            latest.map_or(f64::INFINITY, |&ms| ms.into()),
            50.0,
        ),
    ])
}

fn memory(status: &Status, size: Size) -> [Row; 2] {
    /// The kernel rounds up.
    const TABLE: f64 = (SLOTS * size_of::<u16>()) as f64 * 1.05;
    let per_service = status.memory.maglev as f64 / f64::from(size.services);
    [
        Row::at_most("the daemon's memory, MiB", status.memory.daemon as f64 / f64::from(1 << 20), 100.0),
        Row::at_most("the kernel's memory for a service, kB", per_service / 1e3, (TABLE / 1e3).round()),
    ]
}

/// One check per second and backend; `weight` is that of a backend of a service.
fn config(size: Size, weight: impl Fn(u16, u16) -> u16) -> String {
    let mut text = Crowd::config_head() + "\n[flows]\nmax = 100000\n";
    for service in 0..size.services {
        // Ports below are the node's own.
        let _ = write!(
            text,
            "\n[[service]]\nname = \"service{service}\"\nprotocol = \"tcp\"\nport = {}\nforward = \"nat\"\n\
             check = {{ kind = \"tcp\", interval = \"1s\" }}\n",
            10_000 + service
        );
        for backend in 0..size.backends {
            let number = u32::from(service) * u32::from(size.backends) + u32::from(backend);
            let _ = write!(
                text,
                "[[service.backend]]\nname = \"backend{backend}\"\naddress = \"{}\"\nport = {}\nweight = {}\n",
                Crowd::backend(number),
                Crowd::PORT,
                weight(service, backend)
            );
        }
    }
    text
}

fn wait_until_up(crowd: &Crowd, size: Size) -> Result<()> {
    let begin = Instant::now();
    loop {
        // Each answer costs the daemon something, too.
        thread::sleep(Duration::from_secs(1));
        let up = status(crowd).map(|status| count_up(&status));
        match up {
            Ok(up) if up == size.per_second() as usize => return Ok(()),
            _ if begin.elapsed() < START => {}
            Ok(up) => {
                bail!("only {up} of {} backends are up after {START:?}{}", size.per_second(), crowd.log())
            }
            Err(error) => {
                return Err(error).with_context(|| format!("no answer after {START:?}{}", crowd.log()));
            }
        }
    }
}

fn count_up(status: &Status) -> usize {
    let backends = status.services.iter().flat_map(|service| &service.backends);
    backends.filter(|backend| backend.health == State::Up).count()
}

fn status(crowd: &Crowd) -> Result<Status> {
    let output = crowd.usher(&["status", "--json"])?;
    ensure!(output.code == Some(0), "`usher status` failed: {}", output.stderr.trim());
    serde_json::from_str(&output.stdout).context("`usher status --json` is not what the benchmark expects")
}

/// Reloads that each change the weights of some backends. What the middle one took, in ms: a machine has other work at times.
fn reloads(crowd: &Crowd, size: Size, changes: impl Fn(u16, u16) -> bool) -> Result<f64> {
    let mut took = Vec::new();
    for round in 0..RELOADS {
        let weight = |service, backend| if changes(service, backend) { 2 + round } else { 1 };
        took.push(reload(crowd, &config(size, weight))?);
        size.settle();
    }
    took.sort_by(f64::total_cmp);
    Ok(took[took.len() / 2])
}

/// Puts another configuration in force. How long it took, in ms.
fn reload(crowd: &Crowd, config: &str) -> Result<f64> {
    crowd.configure(config)?;
    let begin = Instant::now();
    let output = crowd.usher(&["reload"])?;
    let took = begin.elapsed();
    ensure!(output.code == Some(0), "`usher reload` failed: {}{}", output.stderr.trim(), crowd.log());
    Ok(took.as_secs_f64() * 1_000.0)
}
