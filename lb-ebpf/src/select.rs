//! Which backend a packet's flow goes to.

use lb_common::{
    Backend, Bucket, Entry, FlowHash, Reason, SLOTS, Service, Settings, State,
    flow::{self, Seen},
};

use crate::{
    Outcome,
    flow_table::{self, Found, Place},
    parse::Packet,
    tables::Tables,
};

/// A flow's backend, and the entry of the flow table that remembers it.
pub struct Choice<'a> {
    /// The backend's number.
    pub number: u16,
    /// The backend.
    pub backend: &'a Backend,
    /// The flow's hash.
    pub hash: FlowHash,
    /// The flow's tag.
    pub tag: u32,
    /// The clock.
    pub now: u16,
    /// The settings.
    pub settings: &'a Settings,
    bucket: &'a Bucket,
    /// Where the flow is, or will be; the entry is the flow's own, or `None` for one yet to be made.
    way: usize,
    entry: Option<Entry>,
}

/// The backend of a packet for `service`: the one that the flow has, as long as it serves, else the one
/// in the flow's Maglev slot. Nothing is written yet; that is [`Choice::remember`], when the packet is
/// sure to be sent.
#[inline(always)]
pub fn select<'a, T: Tables>(
    packet: &Packet,
    service: &Service,
    tables: &'a T,
    outcome: &mut Outcome,
) -> Result<Choice<'a>, Reason> {
    let settings = tables.settings().ok_or(Reason::NotReady)?;
    let hash =
        settings.hash_key.flow(&packet.source, packet.source_port, packet.destination_port, packet.protocol);
    let tag = flow::tag(hash.identity, service.number, &packet.destination);
    let bucket = tables.bucket(flow::scale(hash.place, settings.buckets)).ok_or(Reason::NotReady)?;
    let now = tables.tick();
    let limits = flow_table::limits(settings, packet);
    let known = flow_table::find(bucket, tag, now, &limits);

    if let Some(Found { way, entry }) = known
        && let Some(backend) = tables.backend(entry.backend())
        && backend.service == service.number
        && (backend.is_up() || packet.is_mid_stream())
    {
        outcome.known = true;
        let number = entry.backend();
        return Ok(Choice { number, backend, hash, tag, now, settings, bucket, way, entry: Some(entry) });
    }
    if packet.flags.is_syn_ack() {
        return Err(Reason::StraySynAck);
    }

    let slot = flow::scale(hash.place, SLOTS as u32);
    let number = tables.slot(service.number, slot).ok_or(Reason::NotReady)?;
    outcome.slot = slot;
    if number == 0 {
        return Err(Reason::NoBackend);
    }
    let backend = tables.backend(number).ok_or(Reason::NotReady)?;
    if backend.service != service.number {
        return Err(Reason::NotReady);
    }
    // A flow that leaves a dead backend keeps its place; a new one takes the place of another.
    let way = if let Some(Found { way, .. }) = known {
        way
    } else {
        let mut place = Place::UNKNOWN;
        flow_table::victim(bucket, tag, now, &limits, &mut place);
        place.found.way
    };
    Ok(Choice { number, backend, hash, tag, now, settings, bucket, way, entry: None })
}

impl Choice<'_> {
    /// Writes the flow table's entry. A flow whose entry is new starts unproven, whatever the packet;
    /// `proves` says that this packet, coming after it, shows the flow to be real.
    #[inline(always)]
    pub fn remember<T: Tables>(&self, packet: &Packet, proves: bool) {
        if T::DRY_RUN {
            return;
        }
        let word = &self.bucket.0[self.way & 7];
        let Some(old) = self.entry else {
            let state = if packet.flags.ends() { State::Closing } else { State::New };
            word.store(Entry::new(self.tag, state, self.now, self.number).0);
            return;
        };
        let seen = match flow_table::seen(packet) {
            Seen::Continues if proves => Seen::Proves,
            seen => seen,
        };
        let new = old.seen(self.now, seen);
        // A flow writes its line once per tick, not once per packet.
        if new != old {
            word.store(new.0);
        }
    }

    /// Whether the flow's entry was made in an earlier tick.
    #[inline(always)]
    pub fn is_from_earlier_tick(&self) -> bool {
        self.entry.is_some_and(|entry| entry.tick() != self.now)
    }
}
