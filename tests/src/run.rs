//! Runs a scenario, on whatever data path.

use anyhow::{Context, Result, bail, ensure};
use lb_common::{
    Address, Bucket, Entry, NatSet, Reason, Settings, State, Trace, Word, flow::IdleLimits, hash::mix,
    nat::PORTS_PER_GROUP,
};
use lb_userspace::core::{
    deny::{Change, DenyList},
    image::Image,
    passive::Openings,
};

use crate::{
    packet::{NatPorts, Packet, Port, Transport},
    scenario::{After, Frame, Out, Scenario, Sent, Step, Verdict},
    world::{FRONT, TCP_IDLE},
};

/// A data path: the library on the host, or the program in the kernel.
pub trait DataPath {
    /// The shortest frame it can be given; shorter ones are left out.
    const SHORTEST_FRAME: usize;

    /// Changes the maps from what they hold to what they shall hold.
    fn configure(&mut self, desired: &Image) -> Result<()>;

    /// Carries out changes of the deny list.
    fn deny(&mut self, changes: &[Change]) -> Result<()>;

    /// Treats a frame that came in on [`FRONT`]. A redirect's interface is not known here.
    fn run(&mut self, frame: &[u8]) -> Result<(Ran, Vec<u8>)>;

    /// Tells what would become of a frame.
    fn explain(&mut self, frame: &[u8]) -> Result<Trace>;

    /// Packets by reason, in the order of [`Reason::ALL`].
    fn reasons(&self) -> Result<Vec<u64>>;

    /// What was sent to a backend.
    fn sent(&self, backend: u16) -> Result<Sent>;

    /// What was opened to a backend, and what it answered.
    fn openings(&self, backend: u16) -> Result<Openings>;

    /// Shows the tables; what is changed in them is kept. No packet comes meanwhile.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn with_memory<R>(&self, look: impl FnOnce(&Memory) -> R) -> Result<R>;

    /// Forgets all first fragments.
    fn clear_fragments(&mut self) -> Result<()>;
    /// Lets every source open flows as if it had not opened any.
    fn forget_sources(&mut self) -> Result<()>;

    /// Lets ticks pass.
    fn later(&mut self, ticks: u16) -> Result<()>;

    /// From now on, frames are treated on this CPU, if there is one.
    fn on_cpu(&mut self, cpu: usize);
}

/// What was done with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ran {
    /// Given to the host's stack.
    Pass,
    /// Dropped.
    Drop,
    /// Sent out where it came in.
    Tx,
    /// Sent out elsewhere.
    Redirect,
}

/// The tables that a data path writes.
pub struct Memory<'a> {
    /// The flow table.
    pub buckets: &'a [Bucket],
    /// The NAT records.
    pub nat_sets: &'a [NatSet],
    /// Clients' backends.
    pub affinity: &'a [Bucket],
    /// The clock.
    pub tick: u16,
}

impl<'a> Memory<'a> {
    /// Empties the tables.
    pub fn clear(&self) {
        self.clear_flows();
        self.clear_nat();
        flow_words(self.affinity).for_each(|word| word.store(0));
    }

    /// Empties the flow table.
    pub fn clear_flows(&self) {
        flow_words(self.buckets).for_each(|word| word.store(0));
    }

    /// Empties the NAT records.
    pub fn clear_nat(&self) {
        nat_words(self.nat_sets).for_each(|word| word.store(0));
    }

    /// Replaces every NAT record's word that is not free.
    pub fn change_nat(&self, change: impl Fn(Entry) -> Entry) {
        change_words(nat_words(self.nat_sets), change);
    }

    /// Makes all entries older.
    pub fn age(&self, ticks: u16) {
        let older = |entry: Entry| {
            Entry::new(entry.tag(), entry.state(), entry.tick().wrapping_sub(ticks), entry.backend())
        };
        change_words(flow_words(self.buckets), older);
        change_words(nat_words(self.nat_sets), older);
        change_words(flow_words(self.affinity), older);
    }

    /// Every word that is not free, of all tables, with its position.
    pub fn snapshot(&self) -> Vec<(usize, u64)> {
        let words = flow_words(self.buckets).chain(nat_words(self.nat_sets)).chain(flow_words(self.affinity));
        let words = words.map(Word::load);
        words.enumerate().filter(|(_, word)| *word != 0).collect()
    }
}

fn flow_words(buckets: &[Bucket]) -> impl Iterator<Item = &Word> {
    buckets.iter().flat_map(|bucket| &bucket.0)
}

fn nat_words(sets: &[NatSet]) -> impl Iterator<Item = &Word> {
    sets.iter().flat_map(|set| &set.words.0)
}

/// Replaces every word that is not free.
pub(crate) fn change_words<'a>(words: impl Iterator<Item = &'a Word>, change: impl Fn(Entry) -> Entry) {
    for word in words {
        let entry = Entry(word.load());
        if entry.state() != State::Empty {
            word.store(change(entry).0);
        }
    }
}

/// Runs a scenario. Its steps are meant to follow one another within a tick, which the kernel's clock may end at any time:
/// then it is run again, if it failed.
///
/// # Errors
/// Says what came out differently, and in which step.
pub fn run(path: &mut impl DataPath, scenario: &Scenario) -> Result<()> {
    const ATTEMPTS: usize = 3;
    let mut result = Ok(());
    for _ in 0..ATTEMPTS {
        let before = tick(path)?;
        let mut run = Run::new(path, scenario)?;
        result = run.steps(scenario);
        // The next scenario denies nobody, whatever became of this one.
        run.deny(&[])?;
        if result.is_ok() || tick(path)? == before {
            break;
        }
    }
    result
}

fn tick(path: &mut impl DataPath) -> Result<u16> {
    path.with_memory(|memory| memory.tick)
}

struct Run<'a, P> {
    path: &'a mut P,
    image: Image,
    denied: DenyList,
    nat_ports: NatPorts,
    sent_before: Vec<(u16, Sent)>,
    openings_before: Vec<(u16, Openings)>,
}

impl<'a, P: DataPath> Run<'a, P> {
    fn new(path: &'a mut P, scenario: &Scenario) -> Result<Run<'a, P>> {
        let image = scenario.world.image.clone();
        path.configure(&image)?;
        path.with_memory(|memory| memory.clear())?;
        path.clear_fragments()?;
        path.forget_sources()?;
        path.on_cpu(0);
        let numbers = scenario.after.sent.iter().map(|(number, _)| *number);
        let sent_before = numbers.map(|number| Ok((number, path.sent(number)?))).collect::<Result<_>>()?;
        let numbers = scenario.after.openings.iter().map(|(number, _)| *number);
        let openings_before =
            numbers.map(|number| Ok((number, path.openings(number)?))).collect::<Result<_>>()?;
        let denied = DenyList::default();
        path.deny(&denied.all())?;
        Ok(Run { path, image, denied, nat_ports: NatPorts::new(), sent_before, openings_before })
    }

    fn steps(&mut self, scenario: &Scenario) -> Result<()> {
        for (number, step) in (1..).zip(&scenario.steps) {
            self.step(step)
                .with_context(|| format!("{}: step {number} of {}", scenario.id, scenario.steps.len()))?;
        }
        self.after(&scenario.after).with_context(|| format!("{}: afterwards", scenario.id))
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Packet { frame, verdict, reason, out } => self.packet(frame, *verdict, *reason, out)?,
            Step::Configure(change) => {
                change(&mut self.image);
                self.path.configure(&self.image)?;
            }
            Step::Deny(rules) => self.deny(rules)?,
            Step::Later(ticks) => self.path.later(*ticks)?,
            Step::Disturb(disturb) => self.path.with_memory(disturb)?,
            Step::OnCpu(cpu) => self.path.on_cpu(*cpu),
        }
        Ok(())
    }

    /// Removes the rules that are there, and adds these.
    fn deny(&mut self, rules: &[&str]) -> Result<()> {
        let there: Vec<_> = self.denied.after(None).flat_map(|(prefix, said)| said.rules(prefix)).collect();
        let there: Vec<_> = there.into_iter().map(|(rule, _)| rule).collect();
        let (gone, _) = self.denied.remove(&there)?;
        let rules = rules.iter().map(|text| text.parse()).collect::<Result<Vec<_>, _>>()?;
        let (added, _) = self.denied.add(&rules)?;
        self.path.deny(&[gone, added].concat())
    }

    fn packet(&mut self, frame: &Frame, verdict: Verdict, reason: Reason, out: &Out) -> Result<()> {
        let bytes = match frame {
            Frame::Packet(packet) => packet.bytes(&self.nat_ports),
            Frame::Bytes(bytes) => bytes.clone(),
            Frame::Made(made) => made.bytes(&self.nat_ports),
        };
        if bytes.len() < P::SHORTEST_FRAME {
            return Ok(());
        }
        self.explained(&bytes, verdict, reason)?;

        let before = self.path.reasons()?;
        let (ran, after) = self.path.run(&bytes)?;
        let counted = counted_once(&before, &self.path.reasons()?)?;
        ensure!(counted == reason, "the reason is {counted:?}, not {reason:?}");
        ensure!(ran == verdict.ran(), "the packet was treated as {ran:?}, not {verdict:?}");

        let expected = match out {
            Out::Untouched => bytes,
            Out::Packet(packet) => {
                self.learn(frame, packet, &after)?;
                packet.bytes(&self.nat_ports)
            }
            Out::Made(made) => made.bytes(&self.nat_ports),
        };
        ensure!(after == expected, "the frame is\n  {}\nnot\n  {}", hex(&after), hex(&expected));
        Ok(())
    }

    /// The dry run says the same beforehand, and changes nothing.
    fn explained(&mut self, bytes: &[u8], verdict: Verdict, reason: Reason) -> Result<()> {
        let (before, counted) = (self.path.with_memory(|memory| memory.snapshot())?, self.path.reasons()?);
        let trace = self.path.explain(bytes)?;
        ensure!(
            self.path.with_memory(|memory| memory.snapshot())? == before,
            "explaining the packet changed the tables"
        );
        ensure!(self.path.reasons()? == counted, "explaining the packet counted it");
        let explained = Reason::from_number(trace.reason);
        // How many were answered before, and whether a packet may be, is not foretold.
        if matches!(reason, Reason::AnswerLimited | Reason::Unanswered) {
            return Ok(());
        }
        ensure!(explained == Some(reason), "explained as {explained:?}, not {reason:?}");
        let interface = match verdict {
            Verdict::Pass | Verdict::Drop | Verdict::Answered => 0,
            Verdict::Tx => FRONT,
            Verdict::Redirect(interface) => interface,
        };
        ensure!(trace.interface == interface, "leaves by interface {}, not {interface}", trace.interface);
        Ok(())
    }

    /// Learns the NAT port that a flow was given: any that the rule allows.
    fn learn(&mut self, frame: &Frame, out: &Packet, after: &[u8]) -> Result<()> {
        let (Port::Nat(flow), Frame::Packet(client)) = (out.from.port, frame) else { return Ok(()) };
        if self.nat_ports.contains_key(&flow) {
            return Ok(());
        }
        let settings = self.image.settings.as_ref().context("no settings")?;
        let at = out.l4();
        let port = after.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
        let allowed = nat_groups(settings, client).map(|group| {
            let first = settings.nat_port_first + group % settings.nat_groups * PORTS_PER_GROUP;
            first..first + PORTS_PER_GROUP
        });
        ensure!(
            allowed.iter().any(|ports| ports.contains(&port)),
            "the NAT port is {port}, outside of the flow's groups {allowed:?}"
        );
        self.nat_ports.insert(flow, port);
        Ok(())
    }

    fn after(&self, after: &After) -> Result<()> {
        let settings = self.image.settings.as_ref().context("no settings")?;
        let limits = IdleLimits::new(after.idle.unwrap_or(TCP_IDLE), settings.closing_idle);
        let (flows, nat) = self.path.with_memory(|memory| {
            let flows = live(flow_words(memory.buckets), memory.tick, &limits);
            (flows, live(nat_words(memory.nat_sets), memory.tick, &limits))
        })?;
        ensure!(flows == sorted(&after.flows), "the flows are {flows:?}, not {:?}", after.flows);
        ensure!(nat == sorted(&after.nat), "the NAT records are {nat:?}, not {:?}", after.nat);
        for ((number, expected), (_, before)) in after.sent.iter().zip(&self.sent_before) {
            let now = self.path.sent(*number)?;
            let sent = Sent {
                packets: now.packets - before.packets,
                bytes: now.bytes - before.bytes,
                begun: now.begun - before.begun,
            };
            ensure!(sent == *expected, "backend {number} was sent {sent:?}, not {expected:?}");
        }
        for ((number, expected), (_, before)) in after.openings.iter().zip(&self.openings_before) {
            let now = self.path.openings(*number)?;
            let counted =
                Openings { opened: now.opened - before.opened, answered: now.answered - before.answered };
            ensure!(counted == *expected, "backend {number}: {counted:?}, not {expected:?}");
        }
        Ok(())
    }
}

impl Verdict {
    fn ran(self) -> Ran {
        match self {
            Verdict::Pass => Ran::Pass,
            Verdict::Drop => Ran::Drop,
            Verdict::Tx | Verdict::Answered => Ran::Tx,
            Verdict::Redirect(_) => Ran::Redirect,
        }
    }
}

/// The two groups of NAT ports of a client's flow, as `lb_common::nat` documents them: the stirred place
/// hash scaled to the number of groups; and, counted on from there, one of the others by the same with its
/// halves swapped.
///
/// # Panics
/// When the packet does not come from a client.
pub fn nat_groups(settings: &Settings, packet: &Packet) -> [u16; 2] {
    let (Port::Number(client), Port::Number(service)) = (packet.from.port, packet.to.port) else {
        panic!("a client's ports are known");
    };
    let protocol = match packet.transport {
        Transport::Tcp { .. } => 6,
        Transport::Udp { .. } => 17,
    };
    let hash = settings.hash_key.flow(&Address::from(packet.from.address), client, service, protocol);
    let scale = |hash: u32, to: u64| (u64::from(hash) * to) >> 32;
    let count = u64::from(settings.nat_groups_of_all[usize::from(packet.from.address.is_ipv6())]);
    let stirred = mix(hash.place);
    let first = scale(stirred, count);
    let second = (first + 1 + scale(stirred.rotate_left(16), count - 1)) % count;
    [first as u16, second as u16]
}

/// The one reason whose counter went up by one.
fn counted_once(before: &[u64], after: &[u64]) -> Result<Reason> {
    let mut changed = Reason::ALL.iter().zip(before.iter().zip(after)).filter(|(_, (b, a))| a != b);
    match (changed.next(), changed.next()) {
        (Some((reason, (before, after))), None) if *after == before + 1 => Ok(*reason),
        (first, second) => bail!("counted: {first:?} and {second:?}"),
    }
}

/// The live entries among words, sorted.
fn live<'a>(words: impl Iterator<Item = &'a Word>, tick: u16, limits: &IdleLimits) -> Vec<(State, u16)> {
    let live = words.map(|word| Entry(word.load())).filter(|entry| entry.is_live(tick, limits));
    sorted(&live.map(|entry| (entry.state(), entry.backend())).collect::<Vec<_>>())
}

fn sorted(entries: &[(State, u16)]) -> Vec<(State, u16)> {
    let mut entries = entries.to_vec();
    entries.sort_unstable();
    entries
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
