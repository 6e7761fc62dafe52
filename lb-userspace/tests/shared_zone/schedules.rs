//! Whatever happens, in any order: nodes crash, return, are cut off, and send late what they decided early.

use std::{collections::BTreeSet, time::Instant};

use lb_userspace::core::{
    records::{Change, Update},
    shared::{Gone, InMemory, Planned, Situation},
};
use proptest::prelude::*;

use crate::cluster::{
    LONGEST_HOLD_DOWN, NODES, Node, Primary, address, cluster, ips, published, seconds, seen_by, situation,
    wish,
};

#[derive(Debug, Clone)]
pub enum Event {
    /// A node reads and writes all it wants.
    Act(usize),
    /// It reads, and decides.
    Plan(usize),
    /// Its decision reaches the primary only now.
    Send(usize),
    Crash(usize),
    Return(usize),
    /// It is cut off from the others, not from the primary.
    Partition(usize),
    Heal,
    /// It has no backends, or has them again.
    Backends(usize, bool),
    /// The primary refuses something from now on.
    Refuse(Refused),
    Pass(u64),
}

#[derive(Debug, Clone, Copy)]
pub enum Refused {
    Nothing,
    Additions,
    Removals,
    All,
}

impl Refused {
    fn is_refused(self, update: &Update) -> bool {
        let mut changes = update.changes.iter();
        match self {
            Refused::Nothing => false,
            Refused::Additions => changes.any(|change| matches!(change, Change::AddAddress { .. })),
            Refused::Removals => changes.any(|change| matches!(change, Change::RemoveAddress { .. })),
            Refused::All => true,
        }
    }
}

pub fn events() -> impl Strategy<Value = Vec<Event>> {
    let node = 0..NODES.len();
    let event = prop_oneof![
        4 => node.clone().prop_map(Event::Act),
        2 => node.clone().prop_map(Event::Plan),
        2 => node.clone().prop_map(Event::Send),
        1 => node.clone().prop_map(Event::Crash),
        1 => node.clone().prop_map(Event::Return),
        1 => node.clone().prop_map(Event::Partition),
        1 => Just(Event::Heal),
        1 => (node, any::<bool>()).prop_map(|(node, has)| Event::Backends(node, has)),
        1 => prop_oneof![
            2 => Just(Refused::Nothing),
            1 => Just(Refused::Additions),
            1 => Just(Refused::Removals),
            1 => Just(Refused::All),
        ]
        .prop_map(Event::Refuse),
        3 => (1_u64..90).prop_map(Event::Pass),
    ];
    prop::collection::vec(event, 1..80)
}

/// Three nodes and a primary.
pub struct World<P> {
    pub primary: P,
    nodes: [Node; 3],
    plans: [Option<Planned>; 3],
    alive: [bool; 3],
    serves: [bool; 3],
    cut_off: Option<usize>,
    refused: Refused,
    boots: u64,
    now: Instant,
}

impl<P: Primary> World<P> {
    pub fn new(mut primary: P) -> World<P> {
        let now = Instant::now();
        let nodes = cluster(&mut primary, now);
        let plans = [None, None, None];
        let (alive, serves) = ([true; 3], [true; 3]);
        let refused = Refused::Nothing;
        World { primary, nodes, plans, alive, serves, cut_off: None, refused, boots: 10, now }
    }

    fn sees(&self, one: usize, other: usize) -> bool {
        one == other || self.alive[other] && self.cut_off != Some(one) && self.cut_off != Some(other)
    }

    /// What a node wants, if it sees what is.
    fn situation(&self, node: usize) -> Situation {
        let seen = (0..3).filter(|&other| self.sees(node, other));
        let serving: BTreeSet<usize> = seen.clone().filter(|&other| self.serves[other]).collect();
        let mut wish = wish(node);
        wish.serving = serving.iter().map(|&other| address(other)).collect();
        // Nobody serves: all are named.
        if !self.serves[node] && !serving.is_empty() {
            wish.wanted.clear();
        }
        for dead in (0..3).filter(|&other| !self.sees(node, other)) {
            let agreeing = seen.clone().filter(|&voter| !self.sees(voter, dead)).count();
            wish.gone.insert(address(dead), Gone { agreeing, why: "silent", can_act: false });
        }
        for peer in seen.clone().filter(|&other| other != node && !self.serves[other]) {
            // Itself, and all who hear it.
            let agreeing = seen.clone().filter(|&voter| self.sees(voter, peer)).count();
            wish.gone.insert(address(peer), Gone { agreeing, why: "declines", can_act: true });
        }
        let seers = (0..3).filter(|&other| self.alive[other] && self.sees(other, node)).count();
        let seen_by = seen_by(&wish, seers);
        Situation { seen_by, ..situation(wish) }
    }

    pub fn take(&mut self, event: &Event) {
        match *event {
            Event::Pass(time) => self.now += seconds(time),
            Event::Heal => self.cut_off = None,
            Event::Partition(node) => self.cut_off = Some(node),
            Event::Backends(node, has) => self.serves[node] = has,
            Event::Refuse(refused) => self.refused = refused,
            Event::Crash(node) => {
                self.alive[node] = false;
                self.plans[node] = None;
            }
            Event::Return(node) if !self.alive[node] => {
                self.alive[node] = true;
                self.boots += 1;
                self.nodes[node] = Node::new(node, self.boots);
            }
            Event::Act(node) if self.alive[node] => {
                let situation = self.situation(node);
                let refused = self.refused;
                let refuses = |update: &Update| refused.is_refused(update);
                self.nodes[node].act_unless(&mut self.primary, &situation, self.now, refuses);
                self.plans[node] = None;
            }
            Event::Plan(node) if self.alive[node] => {
                let situation = self.situation(node);
                self.nodes[node].read(&mut self.primary, self.now);
                self.plans[node] = self.nodes[node].zone.decide(&situation, self.now, &mut Vec::new());
            }
            Event::Send(node) => {
                let plan = self.plans[node].take();
                if let Some(plan) = plan.as_ref().filter(|plan| self.refused.is_refused(&plan.update)) {
                    self.nodes[node].zone.refused(plan, "REFUSED", self.now);
                } else if let Some(plan) = plan {
                    let outcome = self.primary.update(&plan.update);
                    self.nodes[node].zone.note(&plan, outcome, self.now);
                }
            }
            Event::Return(_) | Event::Act(_) | Event::Plan(_) => {}
        }
    }
}

impl<P: Primary> World<P> {
    /// All nodes leave for good.
    pub fn leave(&mut self) {
        for node in 0..NODES.len() {
            let gone = Situation { names: Default::default(), ..self.situation(node) };
            self.nodes[node].act(&mut self.primary, &gone, self.now);
        }
    }
}

/// Takes the events, and then makes all well again.
pub fn run<P: Primary>(mut world: World<P>, events: &[Event]) -> World<P> {
    for event in events {
        world.take(event);
        assert!(!published(&mut world.primary).is_empty(), "empty after {event:?}");
    }
    world.take(&Event::Heal);
    world.take(&Event::Refuse(Refused::Nothing));
    for node in 0..3 {
        world.take(&Event::Return(node));
        world.take(&Event::Backends(node, true));
    }
    for _ in 0..3 {
        for node in 0..3 {
            world.take(&Event::Act(node));
        }
        world.take(&Event::Pass(LONGEST_HOLD_DOWN.as_secs()));
    }
    assert_eq!(published(&mut world.primary), ips(&[0, 1, 2]));
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order, the name is never empty; and when all is well again, all nodes are there.
    #[test]
    fn the_name_is_never_empty_and_all_come_back(events in events()) {
        run(World::new(InMemory::default()), &events);
    }
}
