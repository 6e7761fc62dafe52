//! What happens: scenes of a fault or a chore, others within it, and its undoing.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::oracle::{Cause, Excuse};
use crate::{
    binaries,
    builds::OtherBuilds,
    host::Host,
    lab::Lab,
    process::{Signal, named, signal},
    wait::until,
};

/// Everything recovers within this.
const RECOVERY: Duration = Duration::from_secs(20);

/// What is under way when a fault is over: packets, requests, checks.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// Shorter than it takes to see a backend down: `fall` checks, 200 ms apart.
const FLAP: Duration = Duration::from_millis(250);

/// What a scene is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing: only what is within it.
    None,
    KillBackend(u8),
    DrainBackend(u8),
    DrainNode(u8),
    CutNode(u8),
    SilenceNode(u8),
}

/// What may happen at any time, and nobody may notice.
#[derive(Debug, Clone, Copy)]
enum Chore {
    Restart(u8),
    Crash(u8),
    /// Killed again before it has started.
    CrashTwice(u8),
    Upgrade(u8),
    /// To a build whose program the kernel refuses; the old one is started again.
    RefusedUpgrade(u8),
    Reload(u8),
    Flap(u8),
}

/// The lab, and what has happened so far.
pub(super) struct Stage<'a> {
    lab: &'a Lab,
    random: StdRng,
    say: &'a mut dyn FnMut(&str),
    /// The nodes' configurations, as the lab has made them.
    ordinary: Vec<String>,
    builds: OtherBuilds,
    excuses: Vec<Excuse>,
    events: usize,
}

impl<'a> Stage<'a> {
    pub(super) fn new(lab: &'a Lab, random: StdRng, say: &'a mut dyn FnMut(&str)) -> Result<Stage<'a>> {
        let nodes = 1..=lab.options().nodes;
        let ordinary = nodes.map(|node| fs::read_to_string(lab.node_config(node)).context("usher.toml"));
        let ordinary = ordinary.collect::<Result<_>>()?;
        let builds = OtherBuilds::make()?;
        Ok(Stage { lab, random, say, ordinary, builds, excuses: Vec::new(), events: 0 })
    }

    /// A fault, up to three chores within it, and its undoing.
    pub(super) fn scene(&mut self) -> Result<()> {
        let fault = self.any_fault();
        let begun = Instant::now();
        self.begin(fault)?;
        for _ in 0..self.random.random_range(0..=3) {
            self.pause(300);
            let chore = self.any_chore(fault);
            self.tell(&format!("{chore:?}"));
            self.perform(chore)?;
        }
        self.pause(1_000);
        self.undo(fault)?;
        self.lab.wait_all_well(RECOVERY)?;
        if let Fault::CutNode(node) | Fault::SilenceNode(node) = fault {
            self.excuse(Cause::Node(node), begun);
        }
        self.pause(500);
        Ok(())
    }

    /// Everything as it was; how many events there were, and what they excuse.
    pub(super) fn end(self) -> Result<(usize, Vec<Excuse>)> {
        for (node, ordinary) in (1..).zip(&self.ordinary) {
            fs::write(self.lab.node_config(node), ordinary).context("usher.toml")?;
            self.lab.run(Host::Node(node), &["usher", "reload"])?;
        }
        self.lab.wait_all_well(RECOVERY)?;
        Ok((self.events, self.excuses))
    }

    fn any_fault(&mut self) -> Fault {
        let (node, backend) = (self.any_node(), self.any_backend());
        let faults = [
            Fault::None,
            Fault::KillBackend(backend),
            Fault::DrainBackend(backend),
            Fault::DrainNode(node),
            Fault::CutNode(node),
            Fault::SilenceNode(node),
        ];
        *faults.choose(&mut self.random).unwrap_or(&Fault::None)
    }

    /// On another node than one that is cut off, and another backend than one that is dead.
    fn any_chore(&mut self, fault: Fault) -> Chore {
        loop {
            let (node, backend) = (self.any_node(), self.any_backend());
            let chores = [
                Chore::Restart(node),
                Chore::Crash(node),
                Chore::CrashTwice(node),
                Chore::Upgrade(node),
                Chore::RefusedUpgrade(node),
                Chore::Reload(node),
                Chore::Flap(backend),
            ];
            let chore = *chores.choose(&mut self.random).unwrap_or(&Chore::Restart(node));
            let clashes = match (fault, chore) {
                (Fault::CutNode(cut) | Fault::SilenceNode(cut), Chore::Flap(_)) => cut > 0,
                (Fault::CutNode(cut) | Fault::SilenceNode(cut), _) => cut == node,
                (Fault::KillBackend(dead), Chore::Flap(flapping)) => dead == flapping,
                _ => false,
            };
            if !clashes {
                return chore;
            }
        }
    }

    fn begin(&mut self, fault: Fault) -> Result<()> {
        self.tell(&format!("{fault:?}"));
        let begun = Instant::now();
        match fault {
            Fault::None => Ok(()),
            Fault::KillBackend(backend) => {
                self.lab.kill_backend(backend)?;
                let name = Host::Backend(backend).to_string();
                until(&format!("every node sees {name} down"), RECOVERY, || {
                    (1..=self.lab.options().nodes)
                        .try_for_each(|node| self.lab.status(node)?.expect_health(&name, "down"))
                })?;
                self.excuse(Cause::Backend(name), begun);
                Ok(())
            }
            Fault::DrainBackend(backend) => self.set_backend(backend, "drain"),
            Fault::DrainNode(node) => self.lab.run(Host::Node(node), &["usher", "node", "drain"]).map(drop),
            Fault::CutNode(node) => self.lab.fault(Host::Node(node), crate::Fault::LinkDown),
            Fault::SilenceNode(node) => self.lab.fault(Host::Node(node), crate::Fault::Drop),
        }
    }

    fn undo(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::None => return Ok(()),
            Fault::KillBackend(backend) => self.lab.start_backend(backend)?,
            Fault::DrainBackend(backend) => self.set_backend(backend, "ready")?,
            Fault::DrainNode(node) => {
                self.lab.run(Host::Node(node), &["usher", "node", "ready"])?;
            }
            Fault::CutNode(node) | Fault::SilenceNode(node) => {
                self.lab.fault(Host::Node(node), crate::Fault::Heal)?;
                // Checks that are under way may still be the last of a row that fails.
                thread::sleep(AFTERWARDS);
            }
        }
        (self.say)(&format!("{fault:?} is undone"));
        Ok(())
    }

    fn perform(&mut self, chore: Chore) -> Result<()> {
        match chore {
            Chore::Restart(node) => {
                self.lab.stop_usher(node)?;
                self.start(node)
            }
            Chore::Upgrade(node) => {
                self.builds.upgrade(self.lab, node)?;
                self.wait_answer(node)
            }
            Chore::RefusedUpgrade(node) => {
                self.builds.refused_upgrade(self.lab, node)?;
                self.start(node)
            }
            Chore::Crash(node) => {
                self.lab.kill_usher(node)?;
                self.pause(1_000);
                self.start(node)
            }
            Chore::CrashTwice(node) => {
                self.lab.kill_usher(node)?;
                self.lab.start_usher(node)?;
                until("usher is a process", RECOVERY, || {
                    let found = named(Host::Node(node), binaries::USHER);
                    found.first().map(drop).context("it is not there")
                })?;
                self.pause(600);
                self.lab.kill_usher(node)?;
                self.start(node)
            }
            Chore::Reload(node) => {
                let weight = self.random.random_range(1..=9);
                let ordinary = &self.ordinary[usize::from(node) - 1];
                let backend = "name = \"backend1\"\n";
                let text = ordinary.replace(backend, &format!("{backend}weight = {weight}\n"));
                fs::write(self.lab.node_config(node), text).context("usher.toml")?;
                self.lab.run(Host::Node(node), &["usher", "reload"]).map(drop)
            }
            Chore::Flap(backend) => {
                let nginx = named(Host::Backend(backend), "nginx");
                signal(Signal::Stop, &nginx)?;
                thread::sleep(FLAP);
                signal(Signal::Continue, &nginx)
            }
        }
    }

    /// Starts a node's usher, and waits until it answers.
    fn start(&mut self, node: u8) -> Result<()> {
        self.lab.start_usher(node)?;
        self.wait_answer(node)
    }

    fn wait_answer(&self, node: u8) -> Result<()> {
        until("usher answers", RECOVERY, || self.lab.status(node).map(drop))
    }

    /// On every node.
    fn set_backend(&mut self, backend: u8, state: &str) -> Result<()> {
        let name = format!("web/{}", Host::Backend(backend));
        (1..=self.lab.options().nodes).try_for_each(|node| {
            let set = ["usher", "server", "set", &name, "state", state];
            self.lab.run(Host::Node(node), &set).map(drop)
        })
    }

    fn excuse(&mut self, cause: Cause, from: Instant) {
        self.excuses.push(Excuse { cause, from, until: Instant::now() + AFTERWARDS });
    }

    fn tell(&mut self, what: &str) {
        self.events += 1;
        (self.say)(what);
    }

    fn pause(&mut self, most_milliseconds: u64) {
        thread::sleep(Duration::from_millis(self.random.random_range(0..=most_milliseconds)));
    }

    fn any_node(&mut self) -> u8 {
        self.random.random_range(1..=self.lab.options().nodes)
    }

    fn any_backend(&mut self) -> u8 {
        self.random.random_range(1..=self.lab.options().backends)
    }
}
