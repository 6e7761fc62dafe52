//! The figures as a table and as JSON.

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};
use usher_lab::DnsServer;

use super::{clients::Request, loss::Loss};

/// What is allowed of 99 in 100 deaths, until peers name the node no more.
const PEERS: Duration = Duration::from_secs(3);

/// The same, until the primary has it no more.
const PRIMARY: Duration = Duration::from_secs(4);

/// What is allowed of 99 in 100 drains.
const DRAIN: Duration = Duration::from_secs(1);

/// What is allowed beyond withdrawal and TTL, until the last connection to a dead node is begun.
const GRACE: Duration = Duration::from_secs(1);

/// How long it took once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) loss: Loss,
    /// Until no living node named the lost one.
    pub(super) peers: Duration,
    /// Until the primary did not, if there is one.
    pub(super) primary: Option<Duration>,
    /// The same of a secondary.
    pub(super) secondary: Option<Duration>,
}

/// How long something took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Distribution {
    trials: usize,
    p50: Duration,
    p99: Duration,
    worst: Duration,
}

impl Distribution {
    /// `None` of nothing.
    fn of(times: impl Iterator<Item = Duration>) -> Option<Distribution> {
        let mut times: Vec<_> = times.collect();
        times.sort_unstable();
        let trials = times.len();
        // The least of them that so many percent do not exceed.
        let percentile =
            |percent: usize| times.get((trials * percent).div_ceil(100).saturating_sub(1)).copied();
        Some(Distribution { trials, p50: percentile(50)?, p99: percentile(99)?, worst: *times.last()? })
    }

    fn json(self) -> Value {
        let seconds = |time: Duration| rounded(time.as_secs_f64(), 4);
        json!({
            "trials": self.trials,
            "p50_s": seconds(self.p50),
            "p99_s": seconds(self.p99),
            "worst_s": seconds(self.worst),
        })
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, worst] = [self.p50, self.p99, self.worst].map(|time| time.as_secs_f64());
        write!(f, "{:8}{p50:8.3}{p99:8.3}{worst:8.3}", self.trials)
    }
}

/// A figure that is bounded, or one that only shows where such a one comes from.
struct Row {
    what: String,
    /// In JSON.
    key: String,
    figure: Distribution,
    bound: Option<Duration>,
}

impl Row {
    fn holds(&self) -> bool {
        self.bound.is_none_or(|bound| self.figure.p99 <= bound)
    }
}

/// A node's death and return under the clients.
#[derive(Debug, Clone, Copy)]
pub(super) struct Death {
    pub(super) address: IpAddr,
    /// When whoever answers the resolver had ceased to name the node.
    pub(super) withdrawn: Instant,
    /// When it was given back.
    pub(super) end: Instant,
}

/// How clients fared over some deaths.
#[derive(Debug, Clone)]
pub(super) struct Experience {
    pub(super) deaths: Vec<Death>,
    /// Of the client that asks the resolver.
    pub(super) resolved: Vec<Request>,
    /// Of the client with the list.
    pub(super) listed: Vec<Request>,
    /// How long resolvers may keep an answer.
    pub(super) ttl: Duration,
}

impl Experience {
    /// From the withdrawal of a node to each connection to it that was begun later, before it came back.
    fn after_withdrawal(&self) -> impl Iterator<Item = Duration> {
        self.deaths.iter().flat_map(|death| {
            let to_it = self.resolved.iter().filter(|request| request.address == Some(death.address));
            to_it
                .filter(|request| request.began < death.end)
                .filter_map(|request| request.began.checked_duration_since(death.withdrawn))
        })
    }

    /// How many of them are too late.
    fn late(&self) -> usize {
        self.after_withdrawal().filter(|&after| after > self.ttl + GRACE).count()
    }

    fn json(&self) -> Value {
        let share = |requests: &[Request]| json!({"requests": requests.len(), "failed": failed(requests), "failed_percent": rounded(failed_percent(requests), 2)});
        json!({
            "deaths": self.deaths.len(),
            "late": self.late(),
            "latest_after_withdrawal_s": self.after_withdrawal().max().map(|time| rounded(time.as_secs_f64(), 4)),
            "allowed_s": (self.ttl + GRACE).as_secs_f64(),
            "usher": share(&self.resolved),
            "round_robin": share(&self.listed),
            "lookup": lookups(&self.resolved).map(Distribution::json),
            "connect": connects(&self.resolved).map(Distribution::json),
        })
    }
}

/// With so many decimals: more of them say nothing.
fn rounded(figure: f64, decimals: i32) -> f64 {
    let unit = 10_f64.powi(decimals);
    (figure * unit).round() / unit
}

fn failed(requests: &[Request]) -> usize {
    requests.iter().filter(|request| !request.connected).count()
}

fn failed_percent(requests: &[Request]) -> f64 {
    100.0 * failed(requests) as f64 / requests.len().max(1) as f64
}

fn lookups(requests: &[Request]) -> Option<Distribution> {
    Distribution::of(requests.iter().map(|request| request.lookup))
}

/// Of those that came about.
fn connects(requests: &[Request]) -> Option<Distribution> {
    Distribution::of(requests.iter().filter(|request| request.connected).map(|request| request.connect))
}

impl fmt::Display for Experience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nA new connection every 20 ms, over {} deaths and returns:\n", self.deaths.len())?;
        for (what, requests) in
            [("usher, through a resolver", &self.resolved), ("round robin of all nodes", &self.listed)]
        {
            let (share, failed) = (failed_percent(requests), failed(requests));
            writeln!(f, "{what:34}{share:6.2} % failed ({failed} of {})", requests.len())?;
        }
        for (what, figure) in [("lookup", lookups(&self.resolved)), ("connect", connects(&self.resolved))] {
            let Some(Distribution { p50, p99, worst, .. }) = figure else { continue };
            let [p50, p99, worst] = [p50, p99, worst].map(|time| time.as_secs_f64() * 1_000.0);
            writeln!(f, "{what:34}p50 {p50:.1} ms, p99 {p99:.1} ms, worst {worst:.1} ms")?;
        }
        let latest = self.after_withdrawal().max().unwrap_or_default().as_secs_f64();
        let allowed = (self.ttl + GRACE).as_secs_f64();
        writeln!(
            f,
            "the last connection to a dead node began {latest:.2} s after its withdrawal (≤ {allowed:.1})"
        )
    }
}

/// All figures.
#[derive(Debug, Clone)]
pub struct Report {
    pub(super) machine: String,
    pub(super) dns: DnsServer,
    pub(super) samples: Vec<Sample>,
    pub(super) experience: Option<Experience>,
}

impl Report {
    /// `{"crash": {"trials", "p50_s", "p99_s", "worst_s"}, "drain", "crash_primary", "crash_secondary_lag", "drain_primary",
    /// …, "link-down", …, "clients"}`, and `missed`: what `missed` gives.
    pub fn json(&self) -> Value {
        let mut all = Map::new();
        all.insert("dns".to_owned(), self.dns.to_string().into());
        all.extend(self.rows().into_iter().map(|row| (row.key, row.figure.json())));
        all.extend(self.experience.iter().map(|experience| ("clients".to_owned(), experience.json())));
        all.insert("missed".to_owned(), self.missed().into());
        all.into()
    }

    /// The bounds that are not kept.
    pub fn missed(&self) -> Vec<String> {
        let rows = self.rows();
        let missed = rows.iter().filter(|row| !row.holds()).map(|row| {
            let bound = row.bound.unwrap_or_default().as_secs_f64();
            format!("{}: p99 {:.3} s, allowed {bound:.1} s", row.what, row.figure.p99.as_secs_f64())
        });
        let late = self.experience.as_ref().map_or(0, Experience::late);
        let late = (late > 0).then(|| format!("{late} connections to dead nodes were begun too late"));
        missed.chain(late).collect()
    }

    /// First those with a bound.
    fn rows(&self) -> Vec<Row> {
        let sums = [
            ("crash", "any death", PEERS, PRIMARY, Loss::is_death as fn(Loss) -> bool),
            ("drain", "drain", DRAIN, DRAIN, |loss| !loss.is_death()),
        ];
        let mut rows = Vec::new();
        for (key, what, peers, primary, counts) in sums {
            rows.extend(self.row(key, what, Some([peers, primary]), counts));
        }
        for loss in Loss::DEATHS {
            let name = loss.to_string();
            rows.extend(self.row(&name, &name, None, |other| other == loss));
        }
        rows
    }

    /// Peers' answers, the primary, and how much later the secondary follows.
    fn row(
        &self,
        key: &str,
        what: &str,
        bounds: Option<[Duration; 2]>,
        counts: impl Fn(Loss) -> bool,
    ) -> impl Iterator<Item = Row> {
        let samples: Vec<_> = self.samples.iter().filter(|sample| counts(sample.loss)).collect();
        let peers = Distribution::of(samples.iter().map(|sample| sample.peers));
        let primary = Distribution::of(samples.iter().filter_map(|sample| sample.primary));
        // Between the servers, not usher's: it has no bound.
        let lag = |sample: &&Sample| Some(sample.secondary?.saturating_sub(sample.primary?));
        let lag = Distribution::of(samples.iter().filter_map(lag));
        let peers = peers.map(|figure| Row {
            what: format!("{what}: nodes' answers"),
            key: key.to_owned(),
            figure,
            bound: bounds.map(|[peers, _]| peers),
        });
        let primary = primary.map(|figure| Row {
            what: format!("{what}: primary"),
            key: format!("{key}_primary"),
            figure,
            bound: bounds.map(|[_, primary]| primary),
        });
        let lag = lag.map(|figure| Row {
            what: format!("{what}: secondary later by"),
            key: format!("{key}_secondary_lag"),
            figure,
            bound: None,
        });
        peers.into_iter().chain(primary).chain(lag)
    }
}

/// The table for readers.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}; 3 nodes, zone by {}", self.machine, self.dns)?;
        if !self.samples.is_empty() {
            writeln!(f, "Seconds until a node that is lost is in no answer any more:\n")?;
            writeln!(f, "{:34}{:>8}{:>8}{:>8}{:>8}{:>8}", "", "trials", "p50", "p99", "worst", "p99 ≤")?;
        }
        for row in self.rows() {
            write!(f, "{:34}{}", row.what, row.figure)?;
            match row.bound {
                Some(bound) if row.holds() => writeln!(f, "{:8.1}", bound.as_secs_f64())?,
                Some(bound) => writeln!(f, "{:8.1}  missed", bound.as_secs_f64())?,
                None => writeln!(f)?,
            }
        }
        self.experience.iter().try_for_each(|experience| experience.fmt(f))?;
        self.missed().iter().try_for_each(|missed| writeln!(f, "missed: {missed}"))
    }
}

#[cfg(test)]
mod tests {
    use usher_lab::Fault;

    use super::*;

    fn report(times: &[(Loss, u64)]) -> Report {
        let sample =
            |&(loss, ms)| Sample { loss, peers: Duration::from_millis(ms), primary: None, secondary: None };
        let samples = times.iter().map(sample).collect();
        Report { machine: String::new(), dns: DnsServer::Embedded, samples, experience: None }
    }

    #[test]
    fn the_worst_of_few_is_the_99th_percentile() {
        let times = (1..=100).rev().map(Duration::from_secs);
        let all = Distribution::of(times.clone()).expect("some");
        assert_eq!([all.p50, all.p99, all.worst], [50, 99, 100].map(Duration::from_secs));
        let few = Distribution::of(times.take(3)).expect("some");
        assert_eq!([few.p50, few.p99, few.worst], [99, 100, 100].map(Duration::from_secs));
        assert_eq!(Distribution::of([].into_iter()), None);
    }

    #[test]
    fn deaths_and_drains_have_bounds_of_their_own() {
        let (death, drain) = (Loss::Fault(Fault::Drop), Loss::Drain);
        assert_eq!(report(&[(death, 2_900), (drain, 900)]).missed(), Vec::<String>::new());
        let missed = report(&[(death, 3_100), (Loss::Kill, 100), (drain, 1_100)]).missed();
        assert_eq!(
            missed,
            [
                "any death: nodes' answers: p99 3.100 s, allowed 3.0 s",
                "drain: nodes' answers: p99 1.100 s, allowed 1.0 s"
            ]
        );
        let json = report(&[(death, 2_900)]).json();
        assert_eq!(json["crash"]["p99_s"], 2.9);
        assert_eq!(json["drop"]["trials"], 1);
        assert!(json["drain"].is_null());
    }

    #[test]
    fn connections_to_a_dead_node_are_late_only_between_withdrawal_and_return() {
        let address: IpAddr = "192.0.2.12".parse().expect("address");
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let death = Death { address, withdrawn: start + second, end: start + 9 * second };
        let request = |at: u32, address| Request {
            lookup: second,
            address,
            began: start + at * second,
            connect: second,
            connected: false,
        };
        let late =
            |resolved| Experience { deaths: vec![death], resolved, listed: Vec::new(), ttl: second }.late();
        assert_eq!(
            late(vec![request(0, Some(address)), request(3, Some(address)), request(9, Some(address))]),
            0
        );
        assert_eq!(late(vec![request(4, Some(address)), request(5, None)]), 1);
    }
}
