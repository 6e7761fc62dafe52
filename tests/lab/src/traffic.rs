//! Requests as users make them: curl, by name, a new connection each.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::IpAddr,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::topology::Family;

/// What curl adds after the body; `=` marks the end of a request.
const REPORT: &str = r"= %{time_total} %{remote_ip} %{http_code} %{exitcode} %{errormsg}\n";

/// How long connecting and the whole request may take, in seconds. curl gives a silent first address
/// half of the former before it tries the next, up to a second late (seen with 7.88: at 2 s the next
/// address never got its turn, at 4 s it took over after 2.0 to 3.0 s).
const LIMITS: &str = "--connect-timeout 4 --max-time 6";

/// How long to wait for the end of any request, longer than one may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How much later than it did a request may seem to have begun: the end is when we read of it.
const SLACK: Duration = Duration::from_millis(50);

/// One request's end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// When it began.
    pub began: Instant,
    /// How long it took, name resolution included.
    pub took: Duration,
    /// The address that was connected to; `None` when none was.
    pub address: Option<IpAddr>,
    /// The body's first line: a backend's name. The reason when it failed.
    pub result: Result<String, String>,
}

/// Requests counted by outcome.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// All of them.
    pub total: usize,
    /// Those answered, by the backend's name.
    pub backends: BTreeMap<String, usize>,
    /// Those answered, by the address that was connected to.
    pub addresses: BTreeMap<IpAddr, usize>,
    /// The longest that one took.
    pub slowest: Duration,
    /// Why the others failed.
    pub failures: Vec<String>,
}

impl Tally {
    /// Whether every request was answered.
    ///
    /// # Errors
    /// Tells how many were not, and why the first was not.
    pub fn expect_no_failure(&self) -> Result<()> {
        if let Some(first) = self.failures.first() {
            bail!("{} of {} failed, the first with {first}", self.failures.len(), self.total);
        }
        Ok(())
    }

    /// Counts answers.
    pub fn of<'a>(answers: impl IntoIterator<Item = &'a Answer>) -> Tally {
        let mut tally = Tally::default();
        for answer in answers {
            tally.total += 1;
            tally.slowest = tally.slowest.max(answer.took);
            match &answer.result {
                Ok(backend) => {
                    *tally.backends.entry(backend.clone()).or_default() += 1;
                    if let Some(address) = answer.address {
                        *tally.addresses.entry(address).or_default() += 1;
                    }
                }
                Err(why) => tally.failures.push(why.clone()),
            }
        }
        tally
    }

    /// The largest relative distance of a backend's count from an even share among `backends`;
    /// 0.2 means that one got 20 % more or fewer than its share.
    pub fn imbalance(&self, backends: usize) -> f64 {
        let answered: usize = self.backends.values().sum();
        let share = answered as f64 / backends as f64;
        let distance = |count: usize| (count as f64 - share).abs() / share;
        let missing = if self.backends.len() < backends { 1.0 } else { 0.0 };
        self.backends.values().map(|&count| distance(count)).fold(missing, f64::max)
    }
}

/// Requests in the background, several loops at a time, until dropped.
#[derive(Debug)]
pub struct Stream {
    loops: Vec<Child>,
    answers: Receiver<Answer>,
    seen: Vec<Answer>,
}

impl Stream {
    /// Runs `commands`, which print what [`script`] prints.
    pub(crate) fn start(commands: Vec<Command>) -> Result<Stream> {
        let (sender, answers) = channel();
        let mut stream = Stream { loops: Vec::new(), answers, seen: Vec::new() };
        for mut command in commands {
            let mut child = command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .context("cannot start requests")?;
            let output = child.stdout.take().context("requests have no output")?;
            stream.loops.push(child);
            let sender = sender.clone();
            thread::spawn(move || read(BufReader::new(output), &sender));
        }
        Ok(stream)
    }

    /// The answers so far, in the order in which they came.
    pub fn answers(&mut self) -> &[Answer] {
        self.seen.extend(self.answers.try_iter());
        &self.seen
    }

    /// Waits for `count` answers to requests that began at `moment` or later, and gives them.
    ///
    /// # Errors
    /// When requests stop coming.
    pub fn since(&mut self, moment: Instant, count: usize) -> Result<Vec<Answer>> {
        let later = |answer: &&Answer| answer.began >= moment + SLACK;
        while self.answers().iter().filter(later).count() < count {
            let answer = self.answers.recv_timeout(PATIENCE).context("no request ends any more")?;
            self.seen.push(answer);
        }
        Ok(self.seen.iter().filter(later).take(count).cloned().collect())
    }

    /// Waits until the loops have ended on their own, and gives all answers.
    pub(crate) fn finish(mut self) -> Vec<Answer> {
        self.seen.extend(self.answers.iter());
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        for child in &mut self.loops {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sends on what one loop prints, until it ends or nobody listens.
fn read(output: impl BufRead, answers: &Sender<Answer>) {
    let mut body = None;
    for line in output.lines().map_while(Result::ok) {
        if let Some(answer) = read_line(line, &mut body)
            && answers.send(answer).is_err()
        {
            break;
        }
    }
}

/// A shell loop that fetches `url` again and again, `count` times or forever, `pause` seconds apart.
pub(crate) fn script(url: &str, family: Family, count: Option<usize>, pause: &str) -> String {
    let flag = family.flag();
    let fetch = format!("curl -sS {flag} {LIMITS} -w '{REPORT}' {url} 2>/dev/null");
    let condition = count.map_or_else(|| "true".to_owned(), |count| format!("[ $i -lt {count} ]"));
    let pause = if pause == "0" { String::new() } else { format!("sleep {pause}; ") };
    // Without a reader there is no use in going on.
    format!("i=0; while {condition}; do {fetch}; echo || exit; i=$((i+1)); {pause}done")
}

/// Reads a line of what curl printed; a request is over with the line that starts with `=`.
fn read_line(line: String, body: &mut Option<String>) -> Option<Answer> {
    let Some(report) = line.strip_prefix("= ") else {
        if !line.is_empty() && body.is_none() {
            *body = Some(line);
        }
        return None;
    };
    Some(read_report(report, body.take()))
}

/// `0.012 192.0.2.11 200 0 ` or `2.001  000 28 Connection timed out`: the address may be missing.
fn read_report(report: &str, body: Option<String>) -> Answer {
    let mut words = report.splitn(5, ' ');
    let mut word = || words.next().unwrap_or_default();
    let (seconds, address, status, code, message) = (word(), word(), word(), word(), word());
    let result = match (status, code) {
        ("200", "0") => Ok(body.unwrap_or_default()),
        (_, "0") => Err(format!("HTTP status {status} from {address}")),
        _ => Err(format!("curl exit code {code}: {message}")),
    };
    let took = seconds.parse().ok().and_then(|it| Duration::try_from_secs_f64(it).ok()).unwrap_or_default();
    let now = Instant::now();
    Answer { began: now.checked_sub(took).unwrap_or(now), took, address: address.parse().ok(), result }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Vec<Answer> {
        let mut body = None;
        lines.iter().filter_map(|line| read_line((*line).to_owned(), &mut body)).collect()
    }

    #[test]
    fn reads_what_curl_prints() {
        let answers = read(&[
            "backend2",
            "= 0.25 192.0.2.11 200 0 ",
            "",
            "= 2.001  000 28 Connection timed out after 2000 ms",
            "",
            "<html>",
            "more",
            "= 0.1 2001:db8:1::12 502 0 ",
        ]);
        let tally = Tally::of(&answers);
        assert_eq!(tally.total, 3);
        assert_eq!(tally.slowest, Duration::from_millis(2001));
        assert_eq!(tally.backends, BTreeMap::from([("backend2".to_owned(), 1)]));
        assert_eq!(tally.addresses.len(), 1);
        assert_eq!(
            tally.failures,
            ["curl exit code 28: Connection timed out after 2000 ms", "HTTP status 502 from 2001:db8:1::12"]
        );
    }

    #[test]
    fn imbalance_is_the_worst_distance_from_an_even_share() {
        let tally = |counts: &[usize]| Tally {
            backends: counts.iter().enumerate().map(|(i, &count)| (i.to_string(), count)).collect(),
            ..Tally::default()
        };
        assert!((tally(&[80, 100, 120]).imbalance(3) - 0.2).abs() < 1e-9);
        assert!((tally(&[100, 100]).imbalance(3) - 1.0).abs() < 1e-9, "a backend without answers counts");
    }
}
