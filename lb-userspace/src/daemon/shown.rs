//! What DNS shows of this node and its peers, and what it is about to show.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Instant};

use tracing::{info, warn};

use super::state::State;
use crate::{
    config::Service,
    core::{
        ids::PoolId,
        plan,
        policy::Member,
        publish::{self, PeerStates, SelfState},
    },
    unix_time::unix_seconds,
};

/// Whether what is or what is about to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    /// If more checks find what the latest found, and what is about to end has ended.
    Soon,
}

impl State {
    /// Decides anew what each name shows, and tells everybody who is to know.
    pub(super) fn reconcile_dns(&mut self) {
        let own = self.own_states(When::Now);
        let peers: PeerStates = self.peers.iter().map(|(id, state, _)| (id.clone(), state)).collect();
        let publication = publish::publication(&self.config, &own, &peers);
        self.expected = self.own_states(When::Soon);
        let expected_peers: PeerStates =
            self.peers.expected().map(|(id, state)| (id.clone(), state)).collect();
        // Ordinarily nothing else is expected.
        let publication = match (&self.expected, &expected_peers) == (&own, &peers) {
            true => publication,
            false => {
                let expected = publish::publication(&self.config, &self.expected, &expected_peers);
                publication.expecting(&expected)
            }
        };
        for transition in self.publication.transitions(&publication) {
            match transition.change {
                publish::Change::PolicyBegan(_) => warn!("DNS: {transition}"),
                _ => info!("DNS: {transition}"),
            }
        }
        self.publication = publication;
        self.note_shown();
        if let (Some(dns), Some(zone)) = (&self.config.dns, &self.zone) {
            let next = zone.borrow().successor(&self.config, dns, &self.publication, serial_time());
            if let Some(next) = next {
                zone.send_replace(Arc::new(next));
            }
        }
        self.tell_peers();
        self.tell_publishers();
    }

    fn note_shown(&mut self) {
        let now = Instant::now();
        let entries = self.publication.names.iter().flat_map(|(name, view)| {
            view.addresses.iter().map(move |entry| ((name.clone(), entry.address), entry.published))
        });
        let since = |at: &(Arc<str>, IpAddr), published: bool| match self.shown.get(at) {
            Some((before, since)) if *before == published => *since,
            _ => now,
        };
        self.shown =
            entries.map(|(at, published)| (at.clone(), (published, since(&at, published)))).collect();
    }

    fn own_states(&self, when: When) -> BTreeMap<PoolId, SelfState> {
        plan::pools(&self.config)
            .map(|(service, pool)| (pool.clone(), self.own_state(service, pool, when)))
            .collect()
    }

    fn own_state(&self, service: &Service, pool: PoolId, when: When) -> SelfState {
        if self.stopping {
            return SelfState::Stopping;
        }
        if let Some(left) = self.administration.drained() {
            // The last answers before its end are the ones that outlive it.
            let ttl = self.config.dns.as_ref().map_or(0, |dns| dns.ttl.as_secs());
            if when == When::Now || left.is_none_or(|left| left > ttl) {
                return SelfState::Drained;
            }
        }
        if self.interfaces.iter().any(|interface| !interface.present) {
            return SelfState::NotAttached;
        }
        let members = plan::backends(service, pool).map(|(backend, id, _)| {
            let checked = self.backends.get(&id);
            let found = checked.and_then(|checked| match when {
                When::Now => checked.health(),
                When::Soon => checked.expected(),
            });
            let standing = self.administration.counts(&id, checked).standing(backend.weight, found);
            Member { is_backup: backend.backup, standing }
        });
        SelfState::of_members(&members.collect::<Vec<_>>(), service.withdraw_below)
    }

    /// Whether what this node seems to come to for a pool is not what DNS was decided for.
    pub(super) fn seems_to_change(&self, pool: &PoolId) -> bool {
        let found = plan::pools(&self.config).find(|(_, have)| have == pool);
        found.is_some_and(|(service, pool)| {
            let before = self.expected.get(&pool).copied();
            before != Some(self.own_state(service, pool, When::Soon))
        })
    }
}

/// The time as the zone's serials have it: they wrap, so may the clock (RFC 1982).
pub(super) fn serial_time() -> u32 {
    unix_seconds() as u32
}
