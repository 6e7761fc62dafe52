//! Many long-lived connections of the client that exchange numbered requests all the time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Error, Result, anyhow, bail, ensure};
use nix::errno::Errno;

use crate::{
    exchange::{Connection, Exchange, PATIENCE, plan},
    host::Host,
    lab::Lab,
    namespace::inside,
    wait::until,
};

/// Threads that drive the connections.
const WORKERS: usize = 8;

/// Every connection makes a request about this often, unless said otherwise; what is tested shall have the processors.
const RHYTHM: Duration = Duration::from_millis(500);

/// What became of all connections.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Right answers: whole, to the request that was made, from the backend that gave the first.
    pub answers: u64,
    /// The longest that an answer took.
    pub slowest: Duration,
    /// Connections that ended, fell silent or gave a wrong answer, and how.
    pub broken: Vec<String>,
}

impl Report {
    pub(crate) fn add(&mut self, other: Report) {
        self.answers += other.answers;
        self.slowest = self.slowest.max(other.slowest);
        self.broken.extend(other.broken);
    }

    /// Whether every connection did what it should, `rounds` times at least after its first request.
    ///
    /// # Errors
    /// Tells how many broke, and how the first did.
    pub fn expect_whole(&self, connections: usize, rounds: u64) -> Result<()> {
        if let [first, ..] = self.broken.as_slice() {
            bail!("{} of {connections} connections broke, one so: {first}", self.broken.len());
        }
        let least = connections as u64 * rounds;
        ensure!(self.answers >= least, "only {} answers on {connections} connections", self.answers);
        Ok(())
    }

    /// Whether no more broke than those whose backend was taken away.
    ///
    /// # Errors
    /// Tells how all broke.
    pub fn expect_broken_at_most(&self, its_own: usize) -> Result<()> {
        let broken = &self.broken;
        ensure!(broken.len() <= its_own, "{} broke, {its_own} were its: {broken:?}", broken.len());
        Ok(())
    }
}

/// Open connections, in use by threads of their own until [`Connections::finish`].
#[derive(Debug)]
pub struct Connections {
    connections: Vec<Connection>,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<Report>>,
}

#[derive(Debug)]
struct Shared {
    rhythm: Duration,
    stop: AtomicBool,
    /// Ask nothing for now.
    silent: AtomicBool,
    /// Rounds that each worker has made.
    rounds: [AtomicU64; WORKERS],
}

impl Connections {
    /// Opens `count` connections to the web service, from all addresses of the client to all nodes over
    /// both families, and makes the first request on each.
    ///
    /// # Errors
    /// When one cannot be opened or is not answered.
    pub fn open(lab: &Lab, count: usize) -> Result<Connections> {
        Connections::open_in_rhythm(lab, count, RHYTHM)
    }

    /// The same, with a request about as often as `rhythm` says.
    ///
    /// # Errors
    /// As for [`Connections::open`].
    pub fn open_in_rhythm(lab: &Lab, count: usize, rhythm: Duration) -> Result<Connections> {
        let (streams, refused) = open(lab, count)?;
        refused.map_or_else(|| Ok(Connections::start(streams, rhythm)), Err)
    }

    /// The same, but ends at the first connection that is refused by a reset, and gives that error too.
    ///
    /// # Errors
    /// When one is not refused and yet cannot be opened, or is not answered.
    pub fn open_until_refused(lab: &Lab, most: usize) -> Result<(Connections, Option<Error>)> {
        let (streams, refused) = open(lab, most)?;
        Ok((Connections::start(streams, RHYTHM), refused))
    }

    fn start(mut streams: Vec<Exchange>, rhythm: Duration) -> Connections {
        let connections = streams.iter().map(|stream| stream.connection.clone()).collect();
        let shared = Arc::new(Shared {
            rhythm,
            stop: AtomicBool::default(),
            silent: AtomicBool::default(),
            rounds: Default::default(),
        });
        let worker = |index: usize| {
            let mine = streams.split_off(streams.len() * (WORKERS - 1 - index) / (WORKERS - index));
            let shared = Arc::clone(&shared);
            thread::spawn(move || work(mine, &shared, index))
        };
        let workers = (0..WORKERS).map(worker).collect();
        Connections { connections, shared, workers }
    }

    /// All of them, also those that broke since.
    pub fn all(&self) -> &[Connection] {
        &self.connections
    }

    /// Lets them all fall silent, or speak again. Requests that are under way are finished.
    pub fn silence(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::Relaxed);
    }

    /// Waits until every connection has made `count` more requests and got its answers, or broke.
    ///
    /// # Errors
    /// When it takes longer than answers may.
    pub fn wait_rounds(&self, count: u64) -> Result<()> {
        let made = |round: &AtomicU64| round.load(Ordering::Relaxed);
        // The round that is under way began before.
        let wanted: Vec<_> = self.shared.rounds.iter().map(|round| made(round) + count + 1).collect();
        until("every connection made its requests", PATIENCE * 2, || {
            let late =
                self.shared.rounds.iter().zip(&wanted).filter(|(round, wanted)| made(round) < **wanted);
            match late.count() {
                0 => Ok(()),
                late => bail!("{late} of {WORKERS} threads have not"),
            }
        })
    }

    /// Ends them and says how they fared.
    ///
    /// # Errors
    /// When a thread panicked.
    pub fn finish(mut self) -> Result<Report> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut report = Report::default();
        for worker in self.workers.drain(..) {
            report.add(worker.join().map_err(|_| anyhow!("a thread of the connections panicked"))?);
        }
        Ok(report)
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Opens connections until one is refused by a reset.
fn open(lab: &Lab, most: usize) -> Result<(Vec<Exchange>, Option<Error>)> {
    let plan = (0..most).map(|number| plan(lab, number)).collect::<Result<Vec<_>>>()?;
    inside(Host::Client, || {
        let mut streams = Vec::new();
        for (number, way) in plan.iter().enumerate() {
            match Exchange::open(number, way) {
                Ok(stream) => streams.push(stream),
                Err(error) if error.downcast_ref() == Some(&Errno::ECONNREFUSED) => {
                    return Ok((streams, Some(error)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok((streams, None))
    })
}

fn work(mut streams: Vec<Exchange>, shared: &Shared, index: usize) -> Report {
    let mut report = Report::default();
    while !shared.stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        if shared.silent.load(Ordering::Relaxed) {
            thread::sleep(shared.rhythm);
            continue;
        }
        // All ask, then all listen: as many requests are under way as there are connections.
        let asked: Vec<_> = streams.drain(..).map(|mut stream| (stream.ask(), stream)).collect();
        for (asked, mut stream) in asked {
            match asked.and_then(|()| stream.expect_answer()) {
                Ok(()) => {
                    report.answers += 1;
                    report.slowest = report.slowest.max(began.elapsed());
                    streams.push(stream);
                }
                Err(error) => report.broken.push(stream.tell(&error)),
            }
        }
        shared.rounds[index].fetch_add(1, Ordering::Relaxed);
        thread::sleep(shared.rhythm.saturating_sub(began.elapsed()));
    }
    report
}
