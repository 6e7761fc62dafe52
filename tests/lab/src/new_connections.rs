//! New connections of the client all the time, each for one request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

use crate::{
    connections::Report,
    exchange::{Exchange, Way, plan},
    host::Host,
    lab::Lab,
    namespace::inside,
    topology::client_addresses,
};

/// Threads that open connections.
const WORKERS: usize = 8;

/// New connections all the time, each for one request, until [`NewConnections::finish`].
#[derive(Debug)]
pub struct NewConnections {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Result<Report>>>,
}

impl NewConnections {
    /// Opens about so many per second, from all addresses of the client to all nodes over both families.
    ///
    /// # Errors
    /// When the lab has no such addresses.
    pub fn start(lab: &Lab, per_second: u32) -> Result<NewConnections> {
        let ways = 2 * usize::from(lab.options().nodes) * client_addresses().len();
        let plan: Arc<[_]> = (0..ways).map(|number| plan(lab, number)).collect::<Result<_>>()?;
        let stop = Arc::new(AtomicBool::default());
        let rhythm = Duration::from_secs(WORKERS as u64) / per_second;
        let worker = |index: usize| {
            let (plan, stop) = (plan.clone(), stop.clone());
            thread::spawn(move || inside(Host::Client, || Ok(open_and_close(&plan, rhythm, &stop, index))))
        };
        let workers = (0..WORKERS).map(worker).collect();
        Ok(NewConnections { stop, workers })
    }

    /// Ends them and says how they fared.
    ///
    /// # Errors
    /// When a thread panicked, or could not enter the client's namespace.
    pub fn finish(mut self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let mut report = Report::default();
        for worker in self.workers.drain(..) {
            report.add(worker.join().map_err(|_| anyhow!("a thread of the connections panicked"))??);
        }
        Ok(report)
    }
}

impl Drop for NewConnections {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn open_and_close(plan: &[Way], rhythm: Duration, stop: &AtomicBool, first: usize) -> Report {
    let mut report = Report::default();
    let mut due = Instant::now();
    for number in (first..).step_by(WORKERS) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let began = Instant::now();
        match Exchange::open(number, &plan[number % plan.len()]) {
            Ok(_) => {
                report.answers += 1;
                report.slowest = report.slowest.max(began.elapsed());
            }
            Err(error) => report.broken.push(format!("{error:#}")),
        }
        due += rhythm;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    report
}
