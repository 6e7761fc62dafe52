//! Many long-lived connections of the client that exchange numbered requests all the time.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use nix::errno::Errno;

use crate::{
    host::Host,
    lab::Lab,
    namespace::{connect_from, inside},
    topology::{Family, client_addresses},
    wait::until,
};

/// Threads that drive the connections.
const WORKERS: usize = 8;

/// Every connection makes a request about this often; what is tested shall have the processors.
const RHYTHM: Duration = Duration::from_millis(500);

/// How long an answer may take. Long enough for some lost packets in a row to be sent again.
const PATIENCE: Duration = Duration::from_secs(20);

/// The web service's port.
const WEB: u16 = 80;

/// A connection, as client and nodes see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The client's address and port.
    pub from: SocketAddr,
    /// The VIP and the service's port.
    pub to: SocketAddr,
    /// The node that has this VIP.
    pub node: u8,
    /// The backend that gave the first answer.
    pub backend: String,
}

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
}

/// Open connections, in use by threads of their own until [`Connections::finish`].
#[derive(Debug)]
pub struct Connections {
    connections: Vec<Connection>,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<Report>>,
}

#[derive(Debug, Default)]
struct Shared {
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
        let (connections, refused) = Connections::open_until_refused(lab, count)?;
        refused.map_or(Ok(connections), Err)
    }

    /// The same, but ends at the first connection that is refused by a reset, and gives that error too.
    ///
    /// # Errors
    /// When one is not refused and yet cannot be opened, or is not answered.
    pub fn open_until_refused(lab: &Lab, most: usize) -> Result<(Connections, Option<Error>)> {
        let plan = (0..most).map(|number| plan(lab, number)).collect::<Result<Vec<_>>>()?;
        let (streams, refused) = inside(Host::Client, || {
            let mut streams = Vec::new();
            for (number, way) in plan.iter().enumerate() {
                match Stream::open(number, way) {
                    Ok(stream) => streams.push(stream),
                    Err(error) if error.downcast_ref() == Some(&Errno::ECONNREFUSED) => {
                        return Ok((streams, Some(error)));
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok((streams, None))
        })?;
        Ok((Connections::start(streams), refused))
    }

    fn start(mut streams: Vec<Stream>) -> Connections {
        let connections = streams.iter().map(|stream| stream.connection.clone()).collect();
        let shared = Arc::new(Shared::default());
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
            let part = worker.join().map_err(|_| anyhow!("a thread of the connections panicked"))?;
            report.answers += part.answers;
            report.slowest = report.slowest.max(part.slowest);
            report.broken.extend(part.broken);
        }
        Ok(report)
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// From where to where connection `number` goes.
fn plan(lab: &Lab, number: usize) -> Result<(SocketAddr, SocketAddr, u8)> {
    let family = Family::ALL[number % 2];
    let nodes = usize::from(lab.options().nodes);
    let node = 1 + u8::try_from(number / 2 % nodes).context("node")?;
    let sources = client_addresses();
    let from = sources[number / 2 / nodes % sources.len()].of(family);
    let to = lab.address(Host::Node(node))?.of(family);
    Ok((SocketAddr::new(from, 0), SocketAddr::new(to, WEB), node))
}

fn work(mut streams: Vec<Stream>, shared: &Shared, index: usize) -> Report {
    let mut report = Report::default();
    while !shared.stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        if shared.silent.load(Ordering::Relaxed) {
            thread::sleep(RHYTHM);
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
        thread::sleep(RHYTHM.saturating_sub(began.elapsed()));
    }
    report
}

/// A connection and how far it got.
struct Stream {
    connection: Connection,
    number: usize,
    requests: u64,
    reader: BufReader<TcpStream>,
}

impl Stream {
    fn open(number: usize, &(from, to, node): &(SocketAddr, SocketAddr, u8)) -> Result<Stream> {
        let stream = connect_from(from, to, PATIENCE)?;
        let from = stream.local_addr().context("own address")?;
        let connection = Connection { from, to, node, backend: String::new() };
        let mut stream = Stream { connection, number, requests: 0, reader: BufReader::new(stream) };
        let first = stream.ask().and_then(|()| stream.answer());
        let (backend, _) = first.map_err(|error| anyhow!("{}", stream.tell(&error)))?;
        stream.connection.backend = backend;
        Ok(stream)
    }

    fn path(&self) -> String {
        format!("/numbered/{}/{}", self.number, self.requests)
    }

    fn ask(&mut self) -> Result<()> {
        self.requests += 1;
        let request = format!("GET {} HTTP/1.1\r\nHost: lab\r\n\r\n", self.path());
        self.reader.get_mut().write_all(request.as_bytes()).context("request")
    }

    fn expect_answer(&mut self) -> Result<()> {
        let (backend, path) = self.answer()?;
        let first = &self.connection.backend;
        ensure!(backend == *first, "{backend} answered, and {first} before");
        ensure!(path == self.path(), "asked for {}, got {path}", self.path());
        Ok(())
    }

    /// The backend that answered, and what it was asked for.
    fn answer(&mut self) -> Result<(String, String)> {
        let status = self.line()?;
        ensure!(status.starts_with("HTTP/1.1 200"), "answer {status:?}");
        let mut length = None;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse::<usize>().ok();
            }
        }
        let mut body = vec![0; length.context("no content-length")?];
        self.reader.read_exact(&mut body).context("body")?;
        let body = String::from_utf8_lossy(&body);
        let (backend, path) = body.trim_end().split_once(' ').with_context(|| format!("body {body:?}"))?;
        Ok((backend.to_owned(), path.to_owned()))
    }

    /// The next line of the head.
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let length = self.reader.read_line(&mut line).context("no answer")?;
        ensure!(length > 0, "the connection was closed");
        Ok(line.trim_end().to_owned())
    }

    fn tell(&self, error: &anyhow::Error) -> String {
        let Connection { from, to, backend, .. } = &self.connection;
        format!("{from} -> {to} ({backend}), request {}: {error:#}", self.requests)
    }
}
