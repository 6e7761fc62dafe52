//! What DNS servers answer about a node, seen by a client that asks them all the time.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_userspace::dns::{Way, look_up};
use tokio::{runtime, task::JoinSet, time::sleep};
use usher_lab::{Family, Host, Lab, ZONE, inside, until};

/// Every server is asked every question about this often.
const RHYTHM: Duration = Duration::from_millis(20);

/// A server that has not answered by then is asked again.
const PATIENCE: Duration = Duration::from_millis(500);

/// The names of the lab's services.
const LABELS: [&str; 2] = ["www", "echo"];

/// Asks some servers for all that may name one node, until dropped.
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    servers: Vec<Arc<Server>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Watch {
    pub(super) fn start(lab: &Lab, servers: &[Host], node: u8) -> Result<Watch> {
        let servers = servers.iter().map(|&host| Ok(Arc::new(Server::new(lab, host, node)?)));
        let servers = servers.collect::<Result<Vec<_>>>()?;
        let stop = Arc::new(AtomicBool::default());
        let (asked, end) = (servers.clone(), stop.clone());
        let thread = thread::spawn(move || inside(Host::Client, || ask_all(&asked, &end)));
        Ok(Watch { stop, servers, thread: Some(thread) })
    }

    /// Waits until every server names the node in every answer.
    pub(super) fn wait_named(&self, limit: Duration) -> Result<()> {
        until("every server names the node", limit, || {
            for server in &self.servers {
                ensure!(server.all(|seen| matches!(seen, Seen::Named)), "{} does not", server.host);
            }
            Ok(())
        })
    }

    /// Waits until no server names the node in any answer.
    pub(super) fn wait_gone(&self, limit: Duration) -> Result<()> {
        until("no server names the node", limit, || {
            for server in &self.servers {
                ensure!(server.gone().is_some(), "{} does", server.host);
            }
            Ok(())
        })
    }

    /// When the last of those servers that `counts` chooses had ceased to name the node; `None` while one names it.
    pub(super) fn gone(&self, counts: impl Fn(Host) -> bool) -> Option<Instant> {
        let servers = self.servers.iter().filter(|server| counts(server.host));
        servers.map(|server| server.gone()).collect::<Option<Vec<_>>>()?.into_iter().max()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(error)) = self.thread.take().and_then(|thread| thread.join().ok()) {
            eprintln!("DNS servers are not asked: {error:#}");
        }
    }
}

/// A server and the questions to it.
struct Server {
    host: Host,
    address: SocketAddr,
    questions: Vec<Question>,
}

/// A question, and the address that may be in its answer.
struct Question {
    name: String,
    record: &'static str,
    address: String,
    seen: Mutex<Seen>,
}

/// What the newest answer says.
#[derive(Clone, Copy)]
enum Seen {
    /// There was none yet.
    Nothing,
    Named,
    /// And no answer since then has named it.
    Gone(Instant),
}

impl Server {
    fn new(lab: &Lab, host: Host, node: u8) -> Result<Server> {
        let addresses = lab.address(Host::Node(node))?;
        let question = |label: &str, family: Family| Question {
            name: format!("{label}.{ZONE}"),
            record: if family == Family::V4 { "A" } else { "AAAA" },
            address: addresses.of(family).to_string(),
            seen: Mutex::new(Seen::Nothing),
        };
        let questions = LABELS.iter().flat_map(|label| Family::ALL.map(|family| question(label, family)));
        let address = SocketAddr::new(lab.address(host)?.of(Family::V4), 53);
        Ok(Server { host, address, questions: questions.collect() })
    }

    fn all(&self, holds: impl Fn(Seen) -> bool) -> bool {
        self.questions.iter().all(|question| holds(question.seen()))
    }

    fn gone(&self) -> Option<Instant> {
        let gone = |question: &Question| match question.seen() {
            Seen::Gone(since) => Some(since),
            Seen::Nothing | Seen::Named => None,
        };
        self.questions.iter().map(gone).collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    async fn ask(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            for question in &self.questions {
                question.ask(self.address).await;
            }
            sleep(RHYTHM.saturating_sub(began.elapsed())).await;
        }
    }
}

impl Question {
    fn seen(&self) -> Seen {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No answer says nothing of the node.
    async fn ask(&self, server: SocketAddr) {
        let answer = look_up(server, Way::ANY, &self.name, self.record, PATIENCE).await;
        let Some(found) = answer.ok().filter(|found| found.is_noerror) else { return };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = match *seen {
            _ if found.records.contains(&self.address) => Seen::Named,
            Seen::Gone(since) => Seen::Gone(since),
            Seen::Nothing | Seen::Named => Seen::Gone(Instant::now()),
        };
    }
}

/// Each server by a task of its own: one that is slow delays no other.
fn ask_all(servers: &[Arc<Server>], stop: &Arc<AtomicBool>) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for server in servers {
            let (server, stop) = (server.clone(), stop.clone());
            tasks.spawn(async move { server.ask(&stop).await });
        }
        tasks.join_all().await;
    });
    Ok(())
}
