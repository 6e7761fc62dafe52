//! Which backend a client was sent to last: looked at when a flow is new, in a table like the flow table.

use lb_common::{
    Address, Entry, Service, State,
    flow::{self, IdleLimits, Seen},
};

use crate::{
    flow_table::{self, Found},
    tables::Tables,
};

/// The hash that places a client, whatever its ports and the service. Functions of their own in BPF, like all
/// here: new flows only need them, and only 512 bytes of stack are there for all that is inlined. They are given the
/// address in words, so that it need not be in memory.
#[inline(never)]
pub fn client_hash<T: Tables>(tables: &T, a: u64, b: u64) -> u32 {
    let Some(settings) = tables.settings() else { return 0 };
    settings.hash_key.flow(&Address::from_words([a, b]), 0, 0, 0).place
}

/// A client's bucket (bits 32 to 63) and tag in the table.
#[inline(never)]
pub fn place<T: Tables>(tables: &T, a: u64, b: u64, service: &Service) -> u64 {
    let Some(settings) = tables.settings() else { return 0 };
    let hash = settings.hash_key.flow(&Address::from_words([a, b]), 0, 0, 0);
    let tag = flow::tag(hash.identity, service.number, &Address::NONE);
    ((flow::scale(hash.place, settings.affinity_buckets) as u64) << 32) | tag as u64
}

/// The backend that the client's last new flow went to, if it takes more; else 0. The client's time begins
/// anew.
#[inline(never)]
pub fn recall<T: Tables>(tables: &T, place: u64, service: &Service) -> u32 {
    let Some(bucket) = tables.affinity_bucket((place >> 32) as u32) else { return 0 };
    let (tag, now, limits) =
        (place as u32, tables.tick(), IdleLimits::new(service.affinity, service.affinity));
    let Some(Found { way, entry }) = flow_table::find(bucket, tag, now, &limits) else { return 0 };
    let Some(backend) = tables.backend(entry.backend()) else { return 0 };
    if backend.service != service.number || !backend.accepts() {
        return 0;
    }
    if !T::DRY_RUN {
        // Clients that come again give way last.
        let seen = if entry.tick() != now { Seen::Proves } else { Seen::Continues };
        bucket.0[way & 7].store(entry.seen(now, seen).0);
    }
    entry.backend() as u32
}

/// Remembers the client's backend.
#[inline(never)]
pub fn remember<T: Tables>(tables: &T, place: u64, service: &Service, backend: u16) {
    if T::DRY_RUN {
        return;
    }
    let Some(bucket) = tables.affinity_bucket((place >> 32) as u32) else { return };
    let (tag, now, limits) =
        (place as u32, tables.tick(), IdleLimits::new(service.affinity, service.affinity));
    let way = if let Some(Found { way, .. }) = flow_table::find(bucket, tag, now, &limits) {
        way
    } else {
        flow_table::victim_inlined(bucket, tag, now, &limits).found().way
    };
    bucket.0[way & 7].store(Entry::new(tag, State::New, now, backend).0);
}
