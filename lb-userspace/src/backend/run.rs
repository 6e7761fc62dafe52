//! `usher backend run`: sets the host up, holds the program, looks after both, and undoes it all.

use std::{collections::BTreeMap, io, time::Duration};

use anyhow::{Context as _, bail};
use lb_common::{Address, DecapSettings, decap::Role};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use super::{
    Finding, Forward, Host, Record, Settings, Store, Weight,
    check::judge,
    record::{Program, Turn},
    setup,
};
use crate::dataplane::{Decapsulator, Unpack};

/// How often the host is looked at: what is no longer right is logged, and outer addresses that came or went
/// are told to the program.
const LOOK: Duration = Duration::from_secs(5);

/// Sets up, runs until SIGTERM or SIGINT, undoes.
///
/// # Errors
/// What kept it from starting (then everything is as before), and what could not be undone.
pub async fn run(settings: Settings, store: &Store) -> anyhow::Result<()> {
    let Some(turn) = store.take()? else { bail!("{}", taken(store)) };
    let host = Host::read(&settings).await.context("cannot read the host's network")?;
    refuse_obstacles(&settings, &host)?;
    let mut stop = Stop::new().context("cannot wait for signals")?;
    let mut record = adopt(settings, store)?;
    let result = match start(&mut record, store, &host).await {
        Ok(program) => {
            serve(&record, program, &mut stop).await;
            Ok(())
        }
        Err(error) => Err(error),
    };
    let undone = undo(store, &mut record).await;
    drop(turn);
    result.and(undone)
}

/// Undoes what a run has left that is not there any more.
///
/// # Errors
/// What could not be undone.
pub async fn clean(store: &Store, _turn: &Turn) -> anyhow::Result<bool> {
    let Some(mut record) = store.load()? else { return Ok(false) };
    undo(store, &mut record).await?;
    Ok(true)
}

async fn undo(store: &Store, record: &mut Record) -> anyhow::Result<()> {
    let host = Host::read(&record.settings).await.context("cannot read the host's network")?;
    setup::undo(store, record, &host).await.context("not everything could be undone")?;
    info!("the host is as it was");
    Ok(())
}

fn taken(store: &Store) -> String {
    match store.load() {
        Ok(Some(record)) => format!(
            "another `usher backend run` runs already (process {}); `usher backend stop` stops it",
            record.pid
        ),
        _ => "another `usher backend` is at work; try again".to_owned(),
    }
}

fn refuse_obstacles(settings: &Settings, host: &Host) -> anyhow::Result<()> {
    let obstacles = judge(settings, host, None);
    match obstacles.iter().find(|finding| finding.prevents_start()) {
        Some(obstacle) => bail!("{obstacle}"),
        None => Ok(()),
    }
}

/// The record of an earlier run that ended without undoing, with the new settings; else an empty one.
fn adopt(settings: Settings, store: &Store) -> anyhow::Result<Record> {
    let mut record = Record::new(settings);
    if let Some(earlier) = store.load()? {
        info!(pid = earlier.pid, "an earlier run has ended without undoing its changes; they are taken over");
        (record.vips, record.sysctls) = (earlier.vips, earlier.sysctls);
    }
    Ok(record)
}

/// The program before the VIPs: a packet for a VIP shall never find it missing.
async fn start(record: &mut Record, store: &Store, host: &Host) -> anyhow::Result<Option<Decapsulator>> {
    let program = match record.settings.has_tunnel() {
        true => Some(attach(record, host)?),
        false => None,
    };
    setup::apply(store, record, host).await?;
    record.ready = true;
    store.save(record)?;
    let forward: Vec<&str> = record.settings.forward.iter().map(|forward| forward.as_str()).collect();
    info!(forward = forward.join(", "), vips = ?record.settings.vips, "this host is a backend");
    Ok(program)
}

fn attach(record: &mut Record, host: &Host) -> anyhow::Result<Decapsulator> {
    let settings = &record.settings;
    let mut program = Decapsulator::load()?;
    program.configure(&unpack(settings, host))?;
    let attached = program.attach(&settings.interfaces, settings.xdp_mode)?;
    let first = attached.first().context("no interface")?;
    for one in &attached {
        info!(interface = one.interface, mode = one.mode.as_str(), "decapsulation attached");
    }
    if !first.why_not_native.is_empty() {
        warn!(why = first.why_not_native, "all interfaces run in generic mode, which is slower");
    }
    record.program = Some(Program {
        id: program.program_id()?,
        mode: first.mode.as_str().to_owned(),
        why_not_native: first.why_not_native.clone(),
    });
    Ok(program)
}

fn unpack(settings: &Settings, host: &Host) -> Unpack {
    let own = match settings.addresses.is_empty() {
        true => host.own_addresses(&settings.vips),
        false => settings.addresses.clone(),
    };
    let mut roles = BTreeMap::<Address, u8>::new();
    for address in own {
        *roles.entry(address.into()).or_default() |= Role::Own as u8;
    }
    for vip in &settings.vips {
        *roles.entry((*vip).into()).or_default() |= Role::Vip as u8;
    }
    let uses = |forward| settings.forward.contains(&forward);
    Unpack {
        settings: DecapSettings {
            gue_port: if uses(Forward::DsrGue) { settings.gue_port } else { 0 },
            ipip: u8::from(uses(Forward::DsrIpip)),
            any_source: 0,
        },
        roles,
        sources: settings.allow.clone(),
    }
}

/// Looks after the host until it is time to stop.
async fn serve(record: &Record, mut program: Option<Decapsulator>, stop: &mut Stop) {
    let mut known = Vec::new();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.asked() => return info!("asked to stop"),
            _ = look.tick() => {}
        }
        match Host::read(&record.settings).await {
            Ok(host) => {
                known = tell(&known, judge(&record.settings, &host, record.program.as_ref()));
                if let Some(program) = &mut program
                    && let Err(error) = program.configure(&unpack(&record.settings, &host))
                {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "the program is not told of new addresses"
                    );
                }
            }
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "the host's network cannot be read");
            }
        }
    }
}

/// Logs what came and what went.
fn tell(known: &[Finding], found: Vec<Finding>) -> Vec<Finding> {
    for finding in found.iter().filter(|finding| !known.contains(finding)) {
        match finding.weight {
            Weight::Wrong => warn!(mend = finding.mend, "{}", finding.what),
            Weight::Note => info!(mend = finding.mend, "{}", finding.what),
        }
    }
    for finding in known.iter().filter(|finding| !found.contains(finding)) {
        info!("no longer so: {}", finding.what);
    }
    found
}

/// SIGTERM and SIGINT.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> io::Result<Stop> {
        Ok(Stop { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
