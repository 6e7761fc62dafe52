//! The client's traffic: connections that are kept, new ones, datagrams; all of it all the time.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};

use super::oracle::{Kind, Loss};
use crate::{
    exchange::{Exchange, Way, plan},
    host::Host,
    lab::Lab,
    namespace::inside,
};

/// Threads for each kind of traffic. Many: one that waits for a lost packet's second copy leaves its other connections alone.
const WORKERS: usize = 12;

/// Connections that each thread keeps, and how often each of them asks something.
const KEPT: usize = 5;
const RHYTHM: Duration = Duration::from_millis(200);

/// From one new connection of a thread to the next: 100 in a second, all together. And from one datagram to the next.
const NEW: Duration = Duration::from_millis(120);
const DATAGRAM: Duration = Duration::from_millis(120);

/// How long the answer to a datagram may take: nobody sends it again.
const DATAGRAM_PATIENCE: Duration = Duration::from_secs(2);

/// The UDP echo's port.
const ECHO: u16 = 7;

/// What was answered, by kind.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    pub(crate) kept: AtomicU64,
    pub(crate) new: AtomicU64,
    pub(crate) datagrams: AtomicU64,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    losses: Mutex<Vec<Loss>>,
    answered: Answered,
}

impl Shared {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn lost(&self, kind: Kind, (node, backend): (u8, &str), since: Instant, error: &anyhow::Error) {
        let (backend, why) = (backend.to_owned(), format!("{error:#}"));
        let loss = Loss { kind, node, backend, since, seen: Instant::now(), why };
        self.losses.lock().unwrap_or_else(PoisonError::into_inner).push(loss);
    }
}

/// What a thread does, the number of which is the last argument.
type Body = fn(&[Way], &Shared, usize) -> Result<()>;

/// Traffic that flows until [`Traffic::finish`].
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<Result<()>>>,
}

impl Traffic {
    /// Lets it begin.
    pub(crate) fn start(lab: &Lab) -> Result<Traffic> {
        let ways = (0..WORKERS * KEPT).map(|number| plan(lab, number)).collect::<Result<Vec<_>>>()?;
        let shared = Arc::new(Shared::default());
        let kinds: [Body; 3] = [keep, open_and_close, ask];
        let workers = kinds.into_iter().flat_map(|body| (0..WORKERS).map(move |index| (body, index)));
        let ways: Arc<[Way]> = ways.into();
        let start = |(body, index): (Body, usize)| {
            let (ways, shared) = (ways.clone(), shared.clone());
            thread::spawn(move || inside(Host::Client, || body(&ways, &shared, index)))
        };
        Ok(Traffic { workers: workers.map(start).collect(), shared })
    }

    /// Ends it; what was lost, and what was answered.
    pub(crate) fn finish(mut self) -> Result<(Vec<Loss>, Answered)> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            worker.join().map_err(|_| anyhow!("a thread of the traffic panicked"))??;
        }
        let shared = std::mem::take(&mut self.shared);
        let shared = Arc::into_inner(shared).context("a thread of the traffic still runs")?;
        Ok((shared.losses.into_inner().unwrap_or_else(PoisonError::into_inner), shared.answered))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Keeps connections, and opens another one for each that breaks.
fn keep(ways: &[Way], shared: &Shared, index: usize) -> Result<()> {
    // Each with when it was last seen well.
    let mut kept: Vec<Option<(Exchange, Instant)>> = (0..KEPT).map(|_| None).collect();
    while shared.goes_on() {
        let began = Instant::now();
        let mut asked = Vec::new();
        for (place, number) in kept.iter_mut().zip(index * KEPT..) {
            match place.take() {
                Some((mut exchange, well)) => asked.push((place, exchange.ask(), exchange, well)),
                None => {
                    *place = opened(number, &ways[number], shared).map(|exchange| (exchange, Instant::now()));
                }
            }
        }
        for (place, result, mut exchange, well) in asked {
            match result.and_then(|()| exchange.expect_answer()) {
                Ok(()) => {
                    shared.answered.kept.fetch_add(1, Ordering::Relaxed);
                    // Its answer may have waited for that of another connection of this thread, and so may its end.
                    *place = Some((exchange, began));
                }
                Err(error) => {
                    let connection = &exchange.connection;
                    let error = anyhow!("{}", exchange.tell(&error));
                    shared.lost(Kind::Kept, (connection.node, &connection.backend), well, &error);
                }
            }
        }
        thread::sleep(RHYTHM.saturating_sub(began.elapsed()));
    }
    Ok(())
}

/// A connection that has just been opened; a loss when it could not be.
fn opened(number: usize, way: &Way, shared: &Shared) -> Option<Exchange> {
    let sent = Instant::now();
    match Exchange::open(number, way) {
        Ok(exchange) => {
            shared.answered.new.fetch_add(1, Ordering::Relaxed);
            Some(exchange)
        }
        Err(error) => {
            shared.lost(Kind::New, (way.2, ""), sent, &error);
            None
        }
    }
}

fn open_and_close(ways: &[Way], shared: &Shared, index: usize) -> Result<()> {
    for number in (index..).step_by(WORKERS) {
        if !shared.goes_on() {
            break;
        }
        let began = Instant::now();
        drop(opened(number, &ways[number % ways.len()], shared));
        thread::sleep(NEW.saturating_sub(began.elapsed()));
    }
    Ok(())
}

/// Asks the UDP echo, always from the same ports.
fn ask(ways: &[Way], shared: &Shared, index: usize) -> Result<()> {
    let mine = ways.iter().skip(index).step_by(WORKERS).take(KEPT);
    let sockets = mine.map(|&(from, to, node)| {
        let to = SocketAddr::new(to.ip(), ECHO);
        let socket = UdpSocket::bind(from).with_context(|| format!("cannot send from {from}"))?;
        socket.connect(to).with_context(|| format!("cannot send to {to}"))?;
        socket.set_read_timeout(Some(DATAGRAM_PATIENCE)).context("timeout")?;
        Ok((socket, node))
    });
    let sockets = sockets.collect::<Result<Vec<_>>>()?;
    for (number, (socket, node)) in (0_u64..).zip(sockets.iter().cycle()) {
        if !shared.goes_on() {
            break;
        }
        let sent = Instant::now();
        match echo(socket, number) {
            Ok(()) => drop(shared.answered.datagrams.fetch_add(1, Ordering::Relaxed)),
            Err(error) => shared.lost(Kind::Datagram, (*node, ""), sent, &error),
        }
        thread::sleep(DATAGRAM.saturating_sub(sent.elapsed()));
    }
    Ok(())
}

/// Answers to earlier questions, which were given up, may come first.
fn echo(socket: &UdpSocket, number: u64) -> Result<()> {
    socket.send(number.to_string().as_bytes()).context("send")?;
    let mut buffer = [0; 100];
    loop {
        let length = socket.recv(&mut buffer).with_context(|| {
            let (from, to) = (socket.local_addr(), socket.peer_addr());
            format!("{from:?} -> {to:?}: no answer to {number}")
        })?;
        let answer = String::from_utf8_lossy(&buffer[..length]);
        let (backend, echoed) = answer.split_once(' ').with_context(|| format!("answer {answer:?}"))?;
        let echoed: u64 = echoed.parse().with_context(|| format!("answer {answer:?}"))?;
        ensure!(echoed <= number, "{backend} answered {echoed}, and {number} was asked");
        if echoed == number {
            return Ok(());
        }
    }
}
