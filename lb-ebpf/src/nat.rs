//! NAT: towards the backend a flow gets the node's address and a port of its own; the port is the place
//! of its record, so the backend's answer finds it at once. See [`lb_common::nat`].

use lb_common::{
    Address, Entry, Features, Hop, MAX_NAT_SOURCES, NatRecord, NatSet, NatTuple, Reason, Settings, State,
    Word,
    flow::{IdleLimits, Seen, WAYS, rank},
    nat::{self, PORTS_PER_GROUP},
};

use crate::{
    Frame, Outcome,
    flow_table::{self, Found, Place},
    parse::{Packet, TCP, TcpFlags},
    select::{Choice, is_lost},
    tables::Tables,
    tags,
    translate::{Translation, translate},
};

/// The backend number in the word of a record that is being written.
const BEING_WRITTEN: u16 = 0;

/// Half of a set.
const HALF: u32 = WAYS as u32 / 2;

/// Rewrites a client's packet towards its backend; where it goes next.
#[inline(always)]
pub fn forward<T: Tables>(
    frame: &mut Frame,
    packet: &Packet,
    choice: &Choice,
    ingress: u32,
    tables: &T,
) -> Result<Hop, Reason> {
    if choice.settings.nat_sources[packet.family()][0] == Address::NONE {
        return Err(Reason::NoNatSource);
    }
    if packet.hops <= 1 {
        return Err(Reason::HopLimit);
    }
    let seat = seat(packet, choice, tables)?;
    if choice.is_lost {
        give_up::<T>(choice, &seat);
        return Err(Reason::FlowLost);
    }
    keep::<T>(frame, packet, choice, &seat, ingress)?;
    choice.remember::<T>(packet, seat.own && seat.found.entry.state() == State::Proven);

    translate(frame, packet, &translation(packet, choice, &seat, tables.features()))?;
    let hop = choice.backend.hop;
    Ok(if hop.is_known() { hop } else { tables.route(frame, packet.l3()) })
}

/// Translates a backend's answer back; where it goes next. Anything else that comes to the node's NAT
/// address is the host's own.
#[inline(always)]
pub fn reply<T: Tables, const ODD: bool>(
    frame: &mut Frame,
    packet: &Packet,
    ingress: u32,
    tables: &T,
    outcome: &mut Outcome,
) -> Result<Hop, Reason> {
    let Waiting { word, record, entry, service, is_lost, tuple, hop } = waiting(packet, tables)?;
    if !ODD && hop.vlan() != 0 {
        return Err(Reason::Odd);
    }
    (outcome.service, outcome.backend, outcome.known) = (service, entry.backend(), true);
    if packet.hops <= 1 {
        return Err(Reason::HopLimit);
    }
    if is_lost {
        if !T::DRY_RUN {
            touch(word, entry, tables.tick(), Seen::Ends);
        }
        return Err(Reason::FlowLost);
    }
    let to = Translation {
        source: tuple.vip,
        destination: tuple.client,
        source_port: tuple.vip_port,
        destination_port: tuple.client_port,
    };
    if !T::DRY_RUN {
        let now = tables.tick();
        touch(word, entry, now, answer(packet, entry.tick() != now));
        if entry.tick() != now {
            refresh(tables, record, entry.0);
        }
    }
    translate(frame, packet, &to)?;
    if hop.is_known() {
        return Ok(hop);
    }
    Ok(tags::on_link(tables.route(frame, packet.l3()), packet, ingress))
}

/// A flow whose record waits for a backend's answers.
pub struct Waiting<'a> {
    word: &'a Word,
    record: &'a NatRecord,
    entry: Entry,
    /// Number of the service.
    service: u32,
    /// The backend is down, and the packet is to be refused.
    is_lost: bool,
    /// The client's side of it.
    pub tuple: NatTuple,
    /// The way to the client; not known when it is to be found by route.
    pub hop: Hop,
}

/// The flow that a backend's packet answers.
#[inline(always)]
pub fn waiting<'a, T: Tables>(packet: &Packet, tables: &'a T) -> Result<Waiting<'a>, Reason> {
    let settings = tables.settings().ok_or(Reason::NotService)?;
    let offset = packet.destination_port.wrapping_sub(settings.nat_port_first);
    let group = offset / PORTS_PER_GROUP;
    let way = (offset % PORTS_PER_GROUP) as usize;
    if group >= settings.nat_groups {
        return Err(Reason::NotService);
    }
    let source = source_index(packet, settings, tables.features()).ok_or(Reason::NotService)?;
    let group = source * settings.nat_groups + group;
    let endpoint = settings.hash_key.endpoint(&packet.source, packet.source_port, packet.protocol);
    let set = tables.nat_set(nat::set_of(endpoint, group, &settings.nat_table)).ok_or(Reason::NotService)?;
    let (word, record) = (&set.words.0[way & 7], &set.records[way & 7]);
    let entry = Entry(word.load());
    let backend = tables.backend(entry.backend()).ok_or(Reason::NotService)?;
    let tuple = record.tuple();
    let last_hop = record.last_hop();
    // Another CPU may have given the record to another flow while it was read.
    if !Entry(word.load()).is_same_flow(entry) {
        return Err(Reason::NatBusy);
    }
    let is_answer = entry.state() != State::Empty
        && backend.address == packet.source
        && u16::from_be_bytes(backend.port) == packet.source_port
        && tuple.protocol == packet.protocol
        && tuple.group == group
        && tuple.client.is_mapped() != packet.v6();
    if !is_answer {
        return Err(Reason::NotService);
    }
    let hop = if settings.reply_by_route != 0 { Hop::default() } else { last_hop };
    let is_lost = tables.features().has(Features::RESET_LOST) && is_lost(backend, packet);
    Ok(Waiting { word, record, entry, service: backend.service, is_lost, tuple, hop })
}

/// How a flow's packets look between the node and its backend, if they are translated already.
#[inline(always)]
pub fn known<T: Tables>(packet: &Packet, choice: &Choice, tables: &T) -> Result<Translation, Reason> {
    let seat = seat(packet, choice, tables)?;
    if !seat.own {
        return Err(Reason::NotService);
    }
    Ok(translation(packet, choice, &seat, tables.features()))
}

/// How a packet of the client's looks between the node and the backend.
#[inline(always)]
fn translation(packet: &Packet, choice: &Choice, seat: &Seat, features: Features) -> Translation {
    let settings = choice.settings;
    let (source, group) = source_of(seat.group, settings, features);
    Translation {
        source: settings.nat_sources[packet.family()][source & (MAX_NAT_SOURCES - 1)],
        destination: choice.backend.address,
        source_port: settings.nat_port_first + group * PORTS_PER_GROUP + seat.found.way as u16,
        destination_port: u16::from_be_bytes(choice.backend.port),
    }
}

/// The source address that a group of ports belongs to, by its index, and which of the address's groups it is.
#[inline(always)]
fn source_of(group: u16, settings: &Settings, features: Features) -> (usize, u16) {
    if !features.has(Features::NAT_SOURCES) || settings.nat_groups == 0 {
        return (0, group);
    }
    ((group / settings.nat_groups) as usize, group % settings.nat_groups)
}

/// Which of the NAT source addresses the packet was sent to.
#[inline(always)]
fn source_index(packet: &Packet, settings: &Settings, features: Features) -> Option<u16> {
    let sources = &settings.nat_sources[packet.family()];
    if !features.has(Features::NAT_SOURCES) {
        return (packet.destination == sources[0]).then_some(0);
    }
    let index = nat::source_index(sources, &packet.destination);
    (index < MAX_NAT_SOURCES as u32).then_some(index as u16)
}

/// A flow's place among the NAT records.
struct Seat<'a> {
    set: &'a NatSet,
    group: u16,
    found: Found,
    /// The record is the flow's already.
    own: bool,
}

/// The flow's record, or the one that it will take: a free one in either of its two groups, else one
/// of a flow that has ended or was never answered. A proven flow never loses its record.
#[inline(always)]
fn seat<'a, T: Tables>(packet: &Packet, choice: &Choice, tables: &'a T) -> Result<Seat<'a>, Reason> {
    let settings = choice.settings;
    let limits = choice.limits;
    let backend = choice.backend;
    let port = u16::from_be_bytes(backend.port);
    let endpoint = settings.hash_key.endpoint(&backend.address, port, packet.protocol);
    let [first, second] = nat::groups(choice.hash, settings.nat_groups_of_all[packet.family()]);

    let set = tables.nat_set(nat::set_of(endpoint, first, &settings.nat_table)).ok_or(Reason::NatFull)?;
    if let Some(found) = own(set, choice, &tuple(packet, first), &limits)? {
        return Ok(Seat { set, group: first, found, own: true });
    }
    let other = tables.nat_set(nat::set_of(endpoint, second, &settings.nat_table)).ok_or(Reason::NatFull)?;
    if let Some(found) = own(other, choice, &tuple(packet, second), &limits)? {
        return Ok(Seat { set: other, group: second, found, own: true });
    }

    // Not `&mut seat.found`: a seat whose address is taken is in memory, and with it the byte that tells
    // the error from the seat, which the verifier of 6.1 does not follow there.
    let longest = flow_table::longest(settings);
    let mut place = Place::UNKNOWN;
    flow_table::victim(&set.words, choice.tag, choice.now, &longest, &mut place);
    // Most flows are found in their first group then, at one cache line.
    if place.rank == rank::FREE && place.free >= HALF {
        return Ok(Seat { set, group: first, found: place.found, own: false });
    }
    let mut other_place = Place::UNKNOWN;
    flow_table::victim(&other.words, choice.tag, choice.now, &longest, &mut other_place);
    // What is proven gives way to nothing; but if all are, some may be none any more.
    if place.rank == rank::PROVEN && other_place.rank == rank::PROVEN {
        tables.find_idle(&set.words, choice.now, &mut place);
        tables.find_idle(&other.words, choice.now, &mut other_place);
    }
    if other_place.is_better(&place) {
        taken(
            other_place.rank,
            Seat { set: other, group: second, found: other_place.found, own: false },
            choice,
        )
    } else {
        taken(place.rank, Seat { set, group: first, found: place.found, own: false }, choice)
    }
}

/// The seat, if whoever has it can be asked to leave.
#[inline(always)]
fn taken<'a>(rank: u32, seat: Seat<'a>, choice: &Choice) -> Result<Seat<'a>, Reason> {
    // Another CPU has just taken it for this very flow. (A record that the flow has left behind, when its
    // backend was given another number, is a good seat.)
    let taker = seat.found.entry.backend();
    if rank >= rank::OWN && (taker == BEING_WRITTEN || taker == choice.number) {
        return Err(Reason::NatBusy);
    }
    if rank == rank::PROVEN { Err(Reason::NatFull) } else { Ok(seat) }
}

/// The flow's own record in a set. A record that is just being written for the same tag is most likely
/// this flow's, on another CPU: better lose one packet than give one flow two ports.
#[inline(always)]
fn own(
    set: &NatSet,
    choice: &Choice,
    tuple: &NatTuple,
    limits: &IdleLimits,
) -> Result<Option<Found>, Reason> {
    let Some(found) = flow_table::find(&set.words, choice.tag, choice.now, limits) else {
        return Ok(None);
    };
    if found.entry.backend() == BEING_WRITTEN {
        return Err(Reason::NatBusy);
    }
    let own = found.entry.backend() == choice.number && set.records[found.way & 7].belongs_to(tuple);
    Ok(own.then_some(found))
}

/// Refreshes the flow's record, or takes the seat for it.
#[inline(always)]
fn keep<T: Tables>(
    frame: &mut Frame,
    packet: &Packet,
    choice: &Choice,
    seat: &Seat,
    ingress: u32,
) -> Result<(), Reason> {
    if T::DRY_RUN {
        return Ok(());
    }
    let came_from = last_hop(frame, packet, ingress)?;
    let way = seat.found.way & 7;
    let (word, record) = (&seat.set.words.0[way], &seat.set.records[way]);
    if seat.own {
        let entry = seat.found.entry;
        record.set_last_hop(&came_from);
        touch(word, entry, choice.now, flow_table::seen(packet));
        return Ok(());
    }
    claim(word, seat.found.entry, choice)?;
    record.set_tuple(&tuple(packet, seat.group));
    record.set_last_hop(&came_from);
    let state = if packet.flags.ends() { State::Closing } else { State::New };
    word.store(Entry::new(choice.tag, state, choice.now, choice.number).0);
    Ok(())
}

/// Closes the entry and, if it has one, the record of a flow whose backend is lost.
#[inline(always)]
fn give_up<T: Tables>(choice: &Choice, seat: &Seat) {
    choice.close::<T>();
    if !T::DRY_RUN && seat.own {
        touch(&seat.set.words.0[seat.found.way & 7], seat.found.entry, choice.now, Seen::Ends);
    }
}

/// Lets a flow's entry in the flow table live on because its backend has answered: a client may be silent
/// for longer than the idle limit, and the answers flow on. Once per tick.
///
/// A function of its own in BPF, because it is rare and the stack is short.
#[inline(never)]
fn refresh<T: Tables>(tables: &T, record: &NatRecord, word: u64) {
    let Some(settings) = tables.settings() else { return };
    let (flow, own) = (record.tuple(), Entry(word));
    let hash = settings.hash_key.flow(&flow.client, flow.client_port, flow.vip_port, flow.protocol);
    let Some(bucket) = tables.bucket(settings.flow_table.place(hash.place)) else { return };
    flow_table::touch(bucket, own, tables.tick());
}

/// Takes a record to write it: its word says so until the record is complete.
#[inline(always)]
fn claim(word: &Word, old: Entry, choice: &Choice) -> Result<(), Reason> {
    // Proven, so that no other CPU takes it for a victim.
    let being_written = Entry::new(choice.tag, State::Proven, choice.now, BEING_WRITTEN);
    if word.compare_exchange(old.0, being_written.0) { Ok(()) } else { Err(Reason::NatBusy) }
}

/// Where a reply to this frame goes: back to where it came from.
#[inline(always)]
fn last_hop(frame: &mut Frame, packet: &Packet, ingress: u32) -> Result<Hop, Reason> {
    Ok(Hop::from_frame(ingress, *frame.mac_addresses()?).reversed().in_vlan(packet.vlan))
}

/// Notes a packet in a record's word, once per tick or when the state changes. If another CPU was
/// faster, its note is as good.
#[inline(always)]
fn touch(word: &Word, old: Entry, now: u16, seen: Seen) {
    let new = old.seen(now, seen);
    if new != old {
        word.compare_exchange(old.0, new.0);
    }
}

/// What a backend's answer says of the flow. A SYN|ACK proves nothing: it answers a forged SYN too. Nor does an
/// ACK without data in the tick of the flow's last packet: it may challenge a forged SYN on a port that another
/// connection had before (RFC 5961 section 4).
#[inline(always)]
fn answer(packet: &Packet, later_tick: bool) -> Seen {
    match flow_table::seen(packet) {
        Seen::Ends => Seen::Ends,
        _ if packet.protocol != TCP || packet.flags.has(TcpFlags::PSH) => Seen::Proves,
        _ if later_tick && !packet.flags.is_syn_ack() => Seen::Proves,
        _ => Seen::Continues,
    }
}

#[inline(always)]
fn tuple(packet: &Packet, group: u16) -> NatTuple {
    NatTuple {
        client: packet.source,
        vip: packet.destination,
        client_port: packet.source_port,
        vip_port: packet.destination_port,
        protocol: packet.protocol,
        group,
    }
}
