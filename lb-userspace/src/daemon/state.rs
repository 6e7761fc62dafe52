//! What the loop owns, and how it is kept true to what happens.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use lb_common::{Features, program};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tracing::{debug, error, info, warn};

use super::{
    admin::Administration,
    capture,
    deny::Deny,
    exchange::{self, OwnWord},
    flows::{self, Search},
    hops, links,
    passive::Watched,
    probes::{self, Steering, Tables},
    publisher::Publisher,
    reload::Order,
    shown::serial_time,
    snapshot,
    start::{self, Started},
};
use crate::{
    api::{Refusal, Request},
    capture::CaptureQuery,
    config::{Config, OnStop},
    core::{
        check::CheckResult,
        health::{Checked, Health, Pace, Trouble},
        ids::{BackendId, PoolId},
        image::{self, Image},
        lateness::Lateness,
        nat_ports::NatPorts,
        peers::{Observed, PeerId, PeerState, Peers},
        plan::{self, KnownHop, Planner, Situation},
        policy::Mode,
        publish::{Publication, SelfState},
        slow_start::Start,
        zone::Zone,
    },
    dataplane::{Attached, Dataplane, DataplaneError},
    dns::Counters,
    net::watch::NextHopTable,
    probe::Report,
    reload::ReloadQuery,
};

/// Everything the daemon knows.
pub(super) struct State {
    pub(super) config: Arc<Config>,
    pub(super) path: PathBuf,
    pub(super) started: Instant,
    pub(super) planner: Planner,
    pub(super) dataplane: Dataplane,
    pub(super) interfaces: Vec<Interface>,
    /// No order: there is a lookup for each result of a check.
    pub(super) backends: HashMap<BackendId, Checked>,
    pub(super) peers: Peers,
    /// What this node tells them.
    pub(super) own_word: OwnWord,
    /// Of the configuration.
    pub(super) digest: u32,
    /// How late checks begin.
    pub(super) lateness: Lateness,
    pub(super) next_hops: NextHopTable,
    /// As the plan wants them; those that an earlier daemon knew stand until they are known again.
    hops: BTreeMap<IpAddr, KnownHop>,
    /// The longest IP packet in bytes that all our interfaces take; 0 before they were looked at.
    mtu: u16,
    pub(super) publication: Publication,
    /// What this node seemed to come to when DNS was decided last.
    pub(super) expected: BTreeMap<PoolId, SelfState>,
    /// Since when each address is, or is not, in this node's answers.
    pub(super) shown: BTreeMap<(Arc<str>, IpAddr), (bool, Instant)>,
    /// Of each pool under NAT.
    pub(super) nat_ports: BTreeMap<PoolId, NatPorts>,
    /// Backends that are watched for whether they answer clients.
    pub(super) watched: Vec<Watched>,
    pub(super) dns_counters: Option<Arc<Counters>>,
    /// `None` without DNS.
    pub(super) zone: Option<watch::Sender<Arc<Zone>>>,
    /// One for each zone on another server.
    pub(super) publishers: Vec<Publisher>,
    /// They may begin.
    pub(super) publishes: bool,
    steering: Steering,
    tables: watch::Sender<Arc<Tables>>,
    /// The ids in the kernel of the attached program, first, and of those before it: more than are replaced between two looks.
    programs: [u32; 4],
    /// Hands captured packets on.
    pub(super) capturing: Option<JoinHandle<io::Result<()>>>,
    /// Who is denied.
    pub(super) deny: Deny,
    /// What administrators want of backends.
    pub(super) administration: Administration,
    /// What the maps hold.
    applied: Image,
    /// The maps could not be written when they last should have been.
    behind: bool,
    pub(super) stopping: bool,
}

/// An interface that has, or should have, the program.
pub(super) struct Interface {
    pub(super) attached: Attached,
    /// The program was on it when it was last looked at.
    pub(super) present: bool,
}

impl State {
    pub(super) fn new(started: Started, dns_counters: Option<Arc<Counters>>) -> anyhow::Result<State> {
        let Started {
            config, path, planner, dataplane, applied, attached, deny, administration, secret, ..
        } = started;
        let program = dataplane.program_id()?;
        let now = Instant::now();
        let left_up = |id: &BackendId, address: IpAddr| {
            let left = applied.backends.get(&planner.numbers().backend(id));
            left.filter(|left| left.is_up() && left.address == address.into())
        };
        let backends = plan::pools(&config)
            .flat_map(|(service, pool)| plan::backends(service, pool).map(move |found| (service, found)))
            .map(|(service, (backend, id, address))| {
                let checked = match left_up(&id, address) {
                    Some(left) => {
                        let standing = administration.standing(&id, backend.weight, None);
                        let is_wanted = standing.weight > 0 && !backend.backup;
                        Checked::resumed(left, &service.check, is_wanted, now)
                    }
                    None => Checked::new(&service.check.timing),
                };
                (id, checked)
            })
            .collect();
        let peers = Peers::new(probes::peer_ids(&config), exchange::asked(&config), &config.peer_check, now);
        let digest = config.digest();
        let (tables, steered_by) = watch::channel(Arc::default());
        let publication = Publication::default();
        let zone = config.dns.as_ref().map(|dns| {
            let zone = Zone::new(&config, dns, &publication, serial_time());
            watch::channel(Arc::new(zone)).0
        });
        let mut state = State {
            steering: Steering { hash_key: *planner.hash_key(), tables: steered_by },
            tables,
            config,
            path,
            started: now,
            planner,
            dataplane,
            interfaces: attached.into_iter().map(|attached| Interface { attached, present: true }).collect(),
            backends,
            peers,
            own_word: OwnWord::new(secret.as_ref()),
            digest,
            lateness: Lateness::new(now),
            next_hops: NextHopTable::default(),
            mtu: 0,
            hops: hops::of_image(&applied),
            publication,
            expected: BTreeMap::new(),
            shown: BTreeMap::new(),
            nat_ports: BTreeMap::new(),
            watched: Vec::new(),
            dns_counters,
            zone,
            publishers: Vec::new(),
            publishes: false,
            programs: [program; 4],
            capturing: None,
            deny,
            administration,
            applied,
            behind: false,
            stopping: false,
        };
        state.follow_openings();
        Ok(state)
    }

    /// What steers peer probes.
    pub(super) fn steering(&self) -> &Steering {
        &self.steering
    }

    /// The zone, as it changes; `None` without DNS.
    pub(super) fn zone(&self) -> Option<watch::Receiver<Arc<Zone>>> {
        self.zone.as_ref().map(watch::Sender::subscribe)
    }

    /// Whether every backend and peer has been judged once.
    pub(super) fn is_settled(&self) -> bool {
        self.publication.settled()
    }

    /// Takes the results of backends' checks: what they change together is written once. Says how soon those are to be
    /// checked again for which that may have changed.
    pub(super) fn observe_backends(&mut self, reports: &[Report<BackendId>]) -> Vec<(BackendId, Pace)> {
        let (mut paces, mut wavering, mut is_changed) = (Vec::new(), BTreeSet::new(), false);
        for report in reports {
            match self.observe_backend(report, &mut paces) {
                Effect::None => {}
                Effect::Outlook => drop(wavering.insert(&report.id.pool)),
                Effect::Maps => is_changed = true,
            }
        }
        if is_changed {
            self.reconcile();
        } else if wavering.into_iter().any(|pool| self.seems_to_change(pool)) {
            self.reconcile_dns();
        }
        paces
    }

    /// Takes the result of a backend's check.
    fn observe_backend(&mut self, report: &Report<BackendId>, paces: &mut Vec<(BackendId, Pace)>) -> Effect {
        let now = Instant::now();
        self.lateness.note(report.late, now);
        let Some(checked) = self.backends.get_mut(&report.id) else { return Effect::None };
        let was_in_trouble = checked.trouble().is_some();
        let warned_of = checked.warning().map(str::to_owned);
        let (advised, expected, paced) = (checked.advice(), checked.expected(), checked.pace());
        let transition = checked.observe(&report.result, now);
        // Fast each time: a check that a reload has started anew begins at the usual pace.
        if [paced, checked.pace()].contains(&Pace::Fast) {
            paces.push((report.id.clone(), checked.pace()));
        }
        log_trouble("backend", &report.id, was_in_trouble, checked.trouble());
        if let Some(warning) = checked.warning().filter(|warning| warned_of.as_deref() != Some(*warning)) {
            warn!("backend {}: {warning}", report.id);
        }
        let advice = checked.advice().filter(|_| checked.advice() != advised);
        if let Some(advice) = advice {
            info!("backend {}: its agent says: {advice}", report.id);
        }
        if let Some(transition) = &transition {
            log(transition.to, "backend", &report.id, transition);
        }
        if transition.is_some() || advice.is_some() {
            Effect::Maps
        } else if checked.expected() != expected {
            Effect::Outlook
        } else {
            Effect::None
        }
    }

    /// Takes the results of peers' checks.
    pub(super) fn observe_peers(&mut self, reports: &[Report<PeerId>]) {
        let before = self.outlook(reports);
        let changes = reports.iter().filter(|report| self.observe_peer(report)).count();
        if changes > 0 || self.outlook(reports) != before {
            self.reconcile_dns();
        }
    }

    /// What these peers seem to come to.
    pub(super) fn outlook(&self, reports: &[Report<PeerId>]) -> Vec<PeerState> {
        reports.iter().map(|report| self.peers.outlook(&report.id)).collect()
    }

    /// Takes the result of a peer's check, and says if the peer's health changed.
    pub(super) fn observe_peer(&mut self, report: &Report<PeerId>) -> bool {
        let now = Instant::now();
        self.lateness.note(report.late, now);
        let trouble = |peers: &Peers| peers.checked(&report.id).and_then(Checked::trouble).cloned();
        let was_in_trouble = trouble(&self.peers).is_some();
        let observed = self.peers.observe(&report.id, &report.result, now);
        log_trouble("peer", &report.id, was_in_trouble, trouble(&self.peers).as_ref());
        if let Some(transition) = &observed.pool {
            log(transition.to, "peer", &report.id, transition);
        }
        if let Some(transition) = &observed.data_path {
            let PeerId { peer, address, .. } = &report.id;
            log(transition.to, "peer", &format_args!("{peer}: connections to {address}"), transition);
        }
        observed != Observed::default()
    }

    /// Takes out peers whose daemons have been silent for too long.
    pub(super) fn look_for_silence(&mut self) {
        let silent = self.peers.fall_silent(Instant::now());
        for peer in &silent {
            warn!(
                "peer {peer}: its daemon has not answered for too long, so what its data path does is stale"
            );
        }
        if !silent.is_empty() {
            self.reconcile_dns();
        }
    }

    /// Takes the next hops as they are now.
    pub(super) fn learn_hops(&mut self, table: &NextHopTable) {
        hops::warn_of_unusable(&self.config, &self.next_hops, table);
        let was_known = |address: &IpAddr| self.next_hops.get(address).is_some_and(Option::is_some);
        self.hops.retain(|address, _| !was_known(address));
        self.hops.extend(hops::known(table));
        self.next_hops = table.clone();
        self.reconcile();
    }

    /// Looks whether the program is still on its interfaces.
    pub(super) fn look_at_interfaces(&mut self, links: links::Reading) {
        let links = match links {
            Ok(links) => links,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "cannot look at the interfaces");
                return;
            }
        };
        let link_of =
            |interface: &Interface| links.iter().find(|link| link.name == interface.attached.interface);
        let mtus = self.interfaces.iter().filter_map(link_of).map(|link| link.mtu);
        let mtu = mtus.min().map_or(self.mtu, |mtu| u16::try_from(mtu).unwrap_or(u16::MAX));
        let mut changed = mtu != self.mtu;
        self.mtu = mtu;
        let is_ours = |program: u32| self.programs.contains(&program);
        for interface in &mut self.interfaces {
            let name = &interface.attached.interface;
            let link = link_of(interface);
            let mut present = link.is_some_and(|link| link.xdp_program.is_some_and(is_ours));
            // The kernel takes no link of ours away: the interface is another one.
            if let Some(link) = link
                && link.xdp_program.is_none()
            {
                present =
                    attach_again(&mut self.dataplane, &interface.attached, link.index, interface.present);
            }
            if present != interface.present {
                changed = true;
                interface.present = present;
                match present {
                    true => info!(interface = name, "the XDP program is attached again"),
                    false => warn!(interface = name, "the XDP program is no longer attached"),
                }
            }
        }
        if changed {
            self.reconcile();
        }
    }

    /// Tries again what failed: to write maps, to end a capture. Does what is due.
    pub(super) fn catch_up(&mut self) {
        if let Err(error) = self.deny.tell(&mut self.dataplane) {
            error!(error = &error as &dyn std::error::Error, "cannot write the deny list; trying again soon");
        }
        let was_behind = self.behind;
        if was_behind || self.planner.slow_starts().is_due(Instant::now()) {
            self.reconcile();
        }
        if was_behind {
            self.shed_features();
        }
        self.end_drain();
        let ends = self.administration.drained().flatten().is_some();
        if ends && plan::pools(&self.config).next().is_some_and(|(_, pool)| self.seems_to_change(&pool)) {
            self.reconcile_dns();
        }
        self.end_server_drains();
        self.administration.catch_up();
        if self.capturing.is_none() && self.dataplane.features().has(Features::CAPTURE) {
            self.stop_capture();
        }
    }

    /// Frees what was idle for too long in the data path's tables.
    pub(super) fn sweep(&self) {
        let limits = plan::idle_limits(&self.config);
        let sweep = || self.dataplane.sweep(&limits);
        match tokio::task::block_in_place(sweep) {
            Ok(freed) => debug!(freed, "idle flows swept"),
            Err(error) => warn!(error = &error as &dyn std::error::Error, "cannot sweep idle flows"),
        }
    }

    /// Whether the data path goes on without this process, as the configuration may want it.
    pub(super) fn may_stay(&self) -> bool {
        self.config.node.on_stop == OnStop::Keep && self.dataplane.pins().is_some()
    }

    /// Whether this node has begun to take itself out of DNS for good.
    pub(super) fn is_leaving(&self) -> bool {
        self.stopping
    }

    /// Takes this node's own addresses out of DNS, because it is about to stop.
    pub(super) fn withdraw(&mut self) {
        info!("stopping: this node withdraws its addresses");
        self.stopping = true;
        self.reconcile();
    }

    /// Answers a request on the control socket. An order to reload, which takes more than the state, is given back.
    pub(super) fn answer(&mut self, request: Request) -> Option<Order> {
        // Whoever asked may be gone, which is no error.
        match request {
            Request::Status(reply) => {
                let answer = snapshot::status(self, Instant::now()).map_err(|error| format!("{error:#}"));
                drop(reply.send(answer));
            }
            Request::Explain(query, reply) => {
                let answer = snapshot::explain(self, &query).map_err(|error| format!("{error:#}"));
                drop(reply.send(answer));
            }
            Request::Capture(query, reply) => drop(reply.send(self.start_capture(&query))),
            Request::DenyChange(change, reply) => drop(reply.send(self.change_deny(&change))),
            Request::ServerChange(change, reply) => drop(reply.send(self.change_server(&change))),
            Request::NodeChange(change, reply) => drop(reply.send(self.change_node(change))),
            Request::Reload(query, reply) => return Some(Order { query, edit: None, reply: Some(reply) }),
            Request::Edit(edit, reply) => {
                let query = ReloadQuery::default();
                return Some(Order { query, edit: Some(edit), reply: Some(reply) });
            }
            Request::Denied(query, reply) => drop(reply.send(self.deny.answer(&query))),
            Request::Flows(query, reply) => match Search::new(self, &query) {
                // Beside the loop: a table may be gigabytes.
                Ok(search) => {
                    let answer = move || reply.send(search.run().map_err(flows::failed));
                    drop(tokio::task::spawn_blocking(answer));
                }
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
        }
        None
    }

    /// Replaces the running programs by such that capture packets, and starts to hand these on.
    fn start_capture(&mut self, query: &CaptureQuery) -> Result<mpsc::Receiver<Vec<u8>>, Refusal> {
        if self.capturing.is_some() {
            return Err(Refusal::Taken("another capture is running; only one can".to_owned()));
        }
        let filter = capture::filter(self, query)?;
        let failed = |error: anyhow::Error| Refusal::Failed(format!("{error:#}"));
        let names = capture::Names::new(self, snapshot::interface_names());
        // The verifier takes its time.
        let started = tokio::task::block_in_place(|| self.dataplane.start_capture(filter));
        self.note_program();
        let captured = started.map_err(|error| failed(error.into()))?;
        let (running, stream) =
            capture::Running::new(captured, names, query.count).map_err(|error| failed(error.into()))?;
        info!(instructions = self.instructions(), "capturing packets");
        self.capturing = Some(tokio::spawn(running.run(query.snaplen)));
        Ok(stream)
    }

    /// Replaces the capturing programs by ordinary ones.
    pub(super) fn stop_capture(&mut self) {
        let features = plan::features(&self.config) | self.deny.features();
        match self.load_features(features) {
            Ok(()) => info!(instructions = self.instructions(), "no longer capturing packets"),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                error!(error, "cannot replace the capturing program; trying again soon");
            }
        }
    }

    /// Replaces the running programs by such that can do no more than they must, if they can. Not before the maps are as they should
    /// be: what is still there needs what it needed.
    pub(super) fn shed_features(&mut self) {
        let wanted = plan::features(&self.config) | self.deny.features();
        if self.capturing.is_none()
            && !self.behind
            && self.dataplane.features() != wanted
            && let Err(error) = self.load_features(wanted)
        {
            warn!(error = &error as &dyn std::error::Error, "the program keeps what it no longer needs");
        }
    }

    /// Replaces the running programs by such that can do this.
    pub(super) fn load_features(&mut self, features: Features) -> Result<(), DataplaneError> {
        // The verifier takes its time.
        let loaded = tokio::task::block_in_place(|| self.dataplane.set_features(features));
        self.note_program();
        loaded
    }

    /// The program that is attached may be another one now; looks at the interfaces that are under way may
    /// still find the old one.
    pub(super) fn note_program(&mut self) {
        if let Ok(program) = self.dataplane.program_id()
            && program != self.programs[0]
        {
            self.programs.rotate_right(1);
            self.programs[0] = program;
        }
    }

    fn instructions(&self) -> u32 {
        self.dataplane.verified_instructions(program::USHER).unwrap_or(0)
    }

    /// Makes maps and DNS what they should be now. Maps that cannot be written are tried again by
    /// [`State::catch_up`]: packets flow on with what is there.
    pub(super) fn reconcile(&mut self) {
        let result = self.reconcile_maps();
        if let Err(error) = &result {
            error!(error = error as &dyn std::error::Error, "cannot write the maps; trying again soon");
        }
        self.behind = result.is_err();
        self.reconcile_dns();
    }

    fn reconcile_maps(&mut self) -> Result<(), DataplaneError> {
        let standing =
            |id: &BackendId, configured| self.administration.standing(id, configured, self.backends.get(id));
        let situation =
            Situation { standing: &standing, hops: &self.hops, mtu: self.mtu, now: Instant::now() };
        let modes = self.planner.modes().clone();
        let starts: BTreeMap<_, _> = self.planner.slow_starts().under_way().collect();
        let desired = self.planner.image(&self.config, &situation);
        log_modes(&modes, self.planner.modes());
        log_starts(&starts, &self.planner.slow_starts().under_way().collect());
        let operations = image::diff(&self.applied, &desired);
        if operations.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.dataplane.apply(&operations) {
            image::doubt(&mut self.applied, &operations);
            return Err(error);
        }
        self.applied = desired;
        let table = |pool: PoolId| Some((pool.clone(), self.planner.current_table(&pool)?.clone()));
        let tables: Tables = plan::pools(&self.config).filter_map(|(_, pool)| table(pool)).collect();
        self.tables.send_replace(Arc::new(tables));
        Ok(())
    }
}

/// What the result of a check changes.
enum Effect {
    None,
    /// What more such results would lead to.
    Outlook,
    /// What the maps hold.
    Maps,
}

/// Attaches the program to an interface that was made anew. Whether it did; why not is said only if it was `present` before.
fn attach_again(dataplane: &mut Dataplane, attached: &Attached, index: u32, was_present: bool) -> bool {
    let Attached { interface, mode, .. } = attached;
    let result = start::expect_index(interface, index)
        .and_then(|()| Ok(dataplane.attach(std::slice::from_ref(interface), (*mode).into())?));
    match &result {
        Ok(_) => info!(interface, index, "the XDP program is attached to the new interface"),
        Err(error) if was_present => warn!("{error:#}; trying again"),
        Err(_) => {}
    }
    result.is_ok()
}

pub(super) fn log(to: Health, what: &str, id: &impl std::fmt::Display, transition: &impl std::fmt::Display) {
    match to {
        Health::Up => info!("{what} {id}: {transition}"),
        Health::Down => warn!("{what} {id}: {transition}"),
    }
}

/// Says which pools' flows are decided about otherwise than before.
fn log_modes(before: &BTreeMap<PoolId, Mode>, now: &BTreeMap<PoolId, Mode>) {
    for (pool, mode) in now {
        match mode {
            mode if before.get(pool).unwrap_or(&Mode::Ordinary) == mode => {}
            Mode::Ordinary => info!("service {pool}: {mode} again"),
            Mode::Backups | Mode::Fallback { .. } | Mode::Panic { .. } => warn!("service {pool}: {mode}"),
        }
    }
}

/// Says whose slow starts have begun and ended.
fn log_starts(before: &BTreeMap<BackendId, Start>, now: &BTreeMap<BackendId, Start>) {
    for (backend, start) in now.iter().filter(|(backend, _)| !before.contains_key(backend)) {
        info!("backend {backend}: slow start: {} % of its weight at first", start.share());
    }
    for backend in before.keys().filter(|backend| !now.contains_key(backend)) {
        info!("backend {backend}: its slow start is over");
    }
}

/// Says once that checks cannot be made here, and once that they can again.
fn log_trouble(what: &str, id: &impl std::fmt::Display, was_in_trouble: bool, trouble: Option<&Trouble>) {
    match (was_in_trouble, trouble) {
        (false, Some(Trouble { result, .. })) => {
            let CheckResult { code, detail, .. } = result;
            warn!("{what} {id}: cannot be checked from here, so its state stays: {code} {detail}");
        }
        (true, None) => info!("{what} {id}: can be checked again"),
        (false, None) | (true, Some(_)) => {}
    }
}
