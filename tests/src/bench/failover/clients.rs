//! Clients that open a new connection all the time, to wherever DNS or a list sends them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use lb_userspace::dns::{Way, look_up};
use tokio::{
    net::TcpStream,
    runtime,
    task::JoinSet,
    time::{interval, timeout},
};
use usher_lab::{Host, ZONE, inside};

/// Time between two connections.
const RHYTHM: Duration = Duration::from_millis(20);

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(1);

/// How long a resolver may take, and how often it is asked: as the lab's client has it in its resolv.conf.
const LOOKUP: Duration = Duration::from_secs(2);
const LOOKUPS: usize = 2;

/// The web service's port.
const WEB: u16 = 80;

/// Where a client learns whom to connect to.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// From this resolver, for every connection anew.
    Resolver(IpAddr),
    /// From a list that never changes, one after the other: what round-robin DNS comes to that nobody tends.
    List(Vec<IpAddr>),
}

/// What became of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    /// How long the name took.
    pub(super) lookup: Duration,
    /// Where it led; `None` when there was no answer.
    pub(super) address: Option<IpAddr>,
    /// When the connection was begun.
    pub(super) began: Instant,
    /// How long it took to come about, or to fail.
    pub(super) connect: Duration,
    pub(super) connected: bool,
}

/// A client at work until [`Clients::finish`].
pub(super) struct Clients {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Request>>>,
}

impl Clients {
    pub(super) fn start(source: Source) -> Clients {
        let stop = Arc::new(AtomicBool::default());
        let end = stop.clone();
        let thread = thread::spawn(move || inside(Host::Client, || connect_all(&source, &end)));
        Clients { stop, thread }
    }

    pub(super) fn finish(self) -> Result<Vec<Request>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the client panicked"))?
    }
}

fn connect_all(source: &Source, stop: &AtomicBool) -> Result<Vec<Request>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    Ok(runtime.block_on(async {
        let (mut requests, mut ticks) = (JoinSet::new(), interval(RHYTHM));
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            ticks.tick().await;
            // One that waits for a dead node delays none of the others.
            requests.spawn(request(source.clone(), number));
            number += 1;
        }
        requests.join_all().await
    }))
}

async fn request(source: Source, number: usize) -> Request {
    let asked = Instant::now();
    let address = match source {
        Source::Resolver(resolver) => resolve(resolver).await,
        Source::List(addresses) => addresses.get(number % addresses.len().max(1)).copied(),
    };
    let began = Instant::now();
    let connected = match address {
        Some(address) => {
            let connecting = TcpStream::connect(SocketAddr::new(address, WEB));
            matches!(timeout(CONNECT, connecting).await, Ok(Ok(_)))
        }
        None => false,
    };
    Request { lookup: began - asked, address, began, connect: began.elapsed(), connected }
}

/// The first address under the name: resolvers let them take turns.
async fn resolve(resolver: IpAddr) -> Option<IpAddr> {
    for _ in 0..LOOKUPS {
        let name = format!("www.{ZONE}");
        if let Ok(found) = look_up(SocketAddr::new(resolver, 53), Way::ANY, &name, "A", LOOKUP).await {
            return found.records.first()?.parse().ok();
        }
    }
    None
}
