//! Backends that answer none of those who open connections: looked for once a second.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::Arc,
    time::Instant,
};

use tracing::{info, warn};

use super::state::{State, log};
use crate::{
    config::{Passive, Service},
    core::{
        health::Pace,
        ids::BackendId,
        passive::{Signal, Silence, Watch},
        plan,
    },
    status::{self, millis},
};

/// A backend under NAT as the data path knows it.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    number: u16,
    id: BackendId,
    /// By what name it is checked, if it stands in for another service's: that of its own.
    lent: Option<Box<BackendId>>,
    passive: Passive,
    watch: Watch,
    /// The last window without an answer, and when it was noticed; until there is an answer.
    silent: Option<(Silence, Instant)>,
}

impl Watched {
    /// By what name it is checked.
    fn checked(&self) -> &BackendId {
        self.lent.as_deref().unwrap_or(&self.id)
    }
}

impl State {
    /// Watches the backends that the configuration wants watched.
    pub(super) fn follow_openings(&mut self) {
        let mut before: HashMap<u16, Watched> =
            mem::take(&mut self.watched).into_iter().map(|watched| (watched.number, watched)).collect();
        let numbers = self.planner.numbers();
        let of_service = |service: &Service| (service.name.clone(), service.check.passive);
        let passives: BTreeMap<Arc<str>, Passive> = self.config.services.iter().map(of_service).collect();
        let wanted = plan::pools(&self.config).flat_map(|(service, pool)| {
            plan::members(&self.config, service, pool)
                .map(|member| (numbers.backend(&member.id), member.id, member.lent.map(Box::new)))
        });
        let watched = wanted.filter_map(|(number, id, lent)| {
            let service = &lent.as_deref().unwrap_or(&id).pool.service;
            let passive = *passives.get(service).filter(|passive| **passive != Passive::Off)?;
            let same = before.remove(&number).filter(|watched| watched.id == id);
            let (watch, silent) = same.map_or_else(Default::default, |same| (same.watch, same.silent));
            Some(Watched { number, id, lent, passive, watch, silent })
        });
        self.watched = watched.collect();
        self.watched.shrink_to_fit();
    }

    /// Looks at the counters of new connections. Says how soon backends are to be checked again of which clients had no
    /// answer.
    pub(super) fn look_at_openings(&mut self) -> Vec<(BackendId, Pace)> {
        let now = Instant::now();
        let counted = match self.dataplane.openings(self.watched.iter().map(|watched| watched.number)) {
            Ok(counted) => counted,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(error, "cannot tell whether backends answer clients");
                return Vec::new();
            }
        };
        let (mut suspects, mut changed) = (Vec::new(), false);
        for watched in &mut self.watched {
            let Some(counted) = counted.get(&watched.number) else { continue };
            let Some(signal) = watched.watch.observe(*counted, now) else { continue };
            // Most of them answer, and that is no news.
            if signal == Signal::Answers && watched.silent.is_none() {
                continue;
            }
            let Some(checked) = self.backends.get_mut(watched.checked()).filter(|checked| checked.is_up())
            else {
                watched.watch.forget();
                continue;
            };
            let id = &watched.id;
            match signal {
                Signal::Answers => {
                    watched.silent = None;
                    checked.hear_answers();
                    info!("backend {id}: answers clients again");
                }
                Signal::Silent(silence) => {
                    if watched.silent.replace((silence, now)).is_none() {
                        warn!("backend {id}: {silence}; it is checked at once");
                    }
                    let transition = checked.hear_silence(&silence, watched.passive == Passive::Fail, now);
                    if let Some(transition) = transition {
                        log(transition.to, "backend", id, &transition);
                        changed = true;
                    }
                    suspects.push((watched.checked().clone(), checked.pace()));
                }
            }
        }
        if changed {
            self.reconcile();
        }
        suspects
    }

    /// What is known of backends that were silent, by number.
    pub(super) fn silences(&self, now: Instant) -> impl Iterator<Item = (u16, status::Silence)> {
        self.watched.iter().filter_map(move |watched| {
            let (silence, at) = watched.silent?;
            let held = self.backends.get(watched.checked()).and_then(|checked| checked.held(now));
            let told = status::Silence {
                opened: silence.opened,
                window_ms: silence.window_ms,
                ago_ms: millis(now.duration_since(at)),
                held_ms: held.map(millis),
            };
            Some((watched.number, told))
        })
    }
}
