//! Which backend a packet's flow goes to.

use lb_common::{
    Address, Backend, Bucket, Entry, Features, FlowHash, Reason, SLOTS, Service, Settings, SourceKey, State,
    flow::{self, IdleLimits, Seen},
};

use crate::{
    Frame, Outcome, affinity,
    flow_table::{self, Found, Place},
    parse::Packet,
    quic,
    tables::Tables,
};

/// What the tables know a packet's flow by.
#[derive(Clone, Copy)]
pub struct Flow<'a> {
    /// Its hash.
    pub hash: FlowHash,
    /// Its tag.
    pub tag: u32,
    /// The clock.
    pub now: u16,
    /// Its idle limits.
    pub limits: IdleLimits,
    /// The settings.
    pub settings: &'a Settings,
    /// The place of its service's address and port.
    pub place: u32,
}

impl<'a> Flow<'a> {
    /// The flow of a packet for `service`, which has this place.
    #[inline(always)]
    pub fn of<T: Tables>(
        packet: &Packet,
        place: u32,
        service: &Service,
        tables: &'a T,
    ) -> Result<Flow<'a>, Reason> {
        let settings = tables.settings().ok_or(Reason::NotReady)?;
        let hash = settings.hash_key.flow(
            &packet.source,
            packet.source_port,
            packet.destination_port,
            packet.protocol,
        );
        let tag = flow::tag(hash.identity, service.number, &packet.destination);
        let limits = flow_table::limits(settings, service);
        Ok(Flow { hash, tag, now: tables.tick(), limits, settings, place })
    }
}

/// A flow's backend, and the entry of the flow table that remembers it.
pub struct Choice<'a> {
    /// The backend's number.
    pub number: u16,
    /// The backend.
    pub backend: &'a Backend,
    /// The flow.
    pub flow: Flow<'a>,
    bucket: &'a Bucket,
    /// Where the flow is, or will be; the entry is the flow's own, or `None` for one yet to be made.
    way: usize,
    entry: Option<Entry>,
    /// The flow is remembered.
    stored: bool,
    /// The backend is down, and the packet is to be refused.
    pub is_lost: bool,
}

/// Whether a packet to or from a backend is to be refused, because the backend is down. (A reset ends the
/// connection itself.)
#[inline(always)]
pub fn is_lost(backend: &Backend, packet: &Packet) -> bool {
    backend.is_lost() && packet.is_mid_stream() && !packet.flags.resets()
}

/// The backend of a packet for `service`: the one that the flow has, as long as it serves, else the one
/// in the flow's Maglev slot. `frame` is the packet's, or `None` for a packet that only asks about its flow: then
/// nothing is counted or remembered for its source. Nothing else is written yet; that is [`Choice::remember`], when the packet is
/// sure to be sent.
#[inline(always)]
pub fn select<'a, T: Tables>(
    frame: Option<&mut Frame>,
    packet: &Packet,
    service: &Service,
    flow: Flow<'a>,
    tables: &'a T,
    outcome: &mut Outcome,
) -> Result<Choice<'a>, Reason> {
    let Flow { hash, tag, now, limits, settings, .. } = flow;
    let bucket = tables.bucket(settings.flow_table.place(hash.place)).ok_or(Reason::NotReady)?;
    // One search for both: whether a connection that is just opened is known, and which place it takes if not.
    let opening = packet.flags.starts();
    let mut place = Place::UNKNOWN;
    let known = if opening {
        flow_table::victim(bucket, tag, now, &flow_table::longest(settings), &mut place);
        let found = place.found();
        if place.is_own() && found.entry.is_live(now, &limits) { found } else { Found::NOTHING }
    } else {
        flow_table::find(bucket, tag, now, &limits).unwrap_or(Found::NOTHING)
    };
    let is_known = known.entry != Entry::EMPTY;

    let features = tables.features();
    // The backend that the packet itself names, if any.
    let opens = frame.is_some();
    let named = match frame {
        Some(frame) if features.has(Features::QUIC) && service.quic_id_length != 0 => {
            quic::owner(frame, packet, service, tables)
        }
        _ => 0,
    };

    let Found { way, entry } = known;
    if is_known
        && let Some(backend) = tables.backend(entry.backend())
        && backend.service == service.number
        && (backend.is_up() || packet.is_mid_stream())
        // Where one connection has ended and the port is used again, another one begins: not with a drained backend.
        && (!opening || backend.accepts() || entry.state() != State::Closing)
        && (named == 0 || named == entry.backend())
    {
        outcome.known = true;
        let number = entry.backend();
        let entry = Some(entry);
        let is_lost = features.has(Features::RESET_LOST) && is_lost(backend, packet);
        let stored = true;
        return Ok(Choice { number, backend, flow, bucket, way, entry, stored, is_lost });
    }
    if packet.flags.is_syn_ack() {
        return Err(Reason::StraySynAck);
    }

    let number =
        if named != 0 { named } else { backend_of_new(packet, opens, service, hash.place, tables, outcome)? };
    let backend = tables.backend(number).ok_or(Reason::NotReady)?;
    if backend.service != service.number {
        return Err(Reason::NotReady);
    }
    // A flow that leaves a dead backend keeps its place; a new one takes the place of another.
    let mut stored = true;
    let way = if is_known {
        way
    } else {
        if opens && features.has(Features::NEW_FLOW_LIMIT) && !T::DRY_RUN {
            stored = tables.stores_new(now, settings.new_per_tick);
        }
        if !opening {
            flow_table::victim(bucket, tag, now, &flow_table::longest(settings), &mut place);
        }
        place.found().way
    };
    let (entry, is_lost) = (None, false);
    Ok(Choice { number, backend, flow, bucket, way, entry, stored, is_lost })
}

/// Whether the client may open another flow. A function of its own in BPF for the stack's sake.
#[inline(never)]
fn may_open<T: Tables>(tables: &T, a: u64, b: u64, service: &Service) -> bool {
    let source = SourceKey::new(service.number, &Address::from_words([a, b]));
    tables.take_token(&source, service.source_rate, service.source_burst)
}

/// The backend for a new flow: the one that the client had, or the one in the flow's Maglev slot. An error
/// when its source has opened too many.
#[inline(always)]
fn backend_of_new<T: Tables>(
    packet: &Packet,
    opens: bool,
    service: &Service,
    place: u32,
    tables: &T,
    outcome: &mut Outcome,
) -> Result<u16, Reason> {
    let features = tables.features();
    let [a, b] = packet.source.words();
    // A packet within a connection opens nothing: its flow was not stored, or came from another node. All of these but
    // resets have an ACK.
    let limited =
        opens && features.has(Features::RATE_LIMIT) && service.source_rate != 0 && !packet.flags.goes_on();
    if limited && !may_open(tables, a, b, service) {
        return Err(Reason::RateLimited);
    }
    let remembers = opens && features.has(Features::AFFINITY) && service.affinity != 0;
    let seat = if remembers { affinity::place(tables, a, b, service) } else { 0 };
    if remembers {
        let backend = affinity::recall(tables, seat, service) as u16;
        if backend != 0 {
            return Ok(backend);
        }
    }
    let place = if features.has(Features::CLIENT_HASH) && service.flags & Service::CLIENT_HASH != 0 {
        affinity::client_hash(tables, a, b)
    } else {
        place
    };
    let slot = flow::scale(place, SLOTS as u32);
    let number = tables.slot(service.number, slot).ok_or(Reason::NotReady)?;
    outcome.slot = slot;
    if number == 0 {
        let drops = service.flags & Service::DROPS != 0;
        return Err(if drops { Reason::NoBackendDropped } else { Reason::NoBackend });
    }
    if remembers {
        affinity::remember(tables, seat, service, number);
    }
    Ok(number)
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
            if !self.stored {
                return;
            }
            let state = if packet.flags.ends() { State::Closing } else { State::New };
            word.store(Entry::new(self.flow.tag, state, self.flow.now, self.number).0);
            return;
        };
        let new = old.seen(self.flow.now, flow_table::seen(packet, proves));
        // A flow writes its line once per tick, not once per packet.
        if new != old {
            word.store(new.0);
        }
    }

    /// Closes the flow's entry.
    #[inline(always)]
    pub fn close<T: Tables>(&self) {
        if let (false, Some(old)) = (T::DRY_RUN, self.entry) {
            self.bucket.0[self.way & 7].store(old.seen(self.flow.now, Seen::Ends).0);
        }
    }

    /// Whether the flow table knew the flow.
    #[inline(always)]
    pub fn is_known(&self) -> bool {
        self.entry.is_some()
    }

    /// Whether the flow's entry was made in an earlier tick.
    #[inline(always)]
    pub fn is_from_earlier_tick(&self) -> bool {
        self.entry.is_some_and(|entry| entry.tick() != self.flow.now)
    }
}
