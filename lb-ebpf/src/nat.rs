//! NAT: towards the backend a flow gets the node's address and a port of its own; the port is the place
//! of its record, so the backend's answer finds it at once. See [`lb_common::nat`].

use lb_common::{
    Address, Backend, Entry, Features, Hop, MAX_NAT_SOURCES, NatSet, NatTuple, Reason, SLOTS, Service,
    ServiceKey, Settings, State, Word,
    flow::{self, Seen},
    nat::{self, PORTS_PER_GROUP},
};

use crate::{
    Frame, Outcome,
    flow_table::{self, Found, Place},
    mtu::fits,
    parse::{Packet, TCP, TcpFlags},
    select::{Choice, Flow, is_lost},
    tables::Tables,
    tags,
    translate::{Translation, translate},
};

/// The backend number in the word of a record that is being written.
const BEING_WRITTEN: u16 = 0;

/// Rewrites a client's packet towards its backend; where it goes next.
#[inline(always)]
pub fn forward<T: Tables, const ODD: bool>(
    frame: &mut Frame,
    packet: &Packet,
    choice: &Choice,
    ingress: u32,
    tables: &T,
    outcome: &mut Outcome,
) -> Result<Hop, Reason> {
    if choice.flow.settings.nat_sources[packet.family()][0] == Address::NONE {
        return Err(Reason::NoNatSource);
    }
    if packet.hops <= 1 {
        return Err(Reason::HopLimit);
    }
    if is_long(packet, &choice.backend.hop, choice.backend.mtu, ingress) {
        fits(packet, choice.backend.mtu, 0, outcome)?;
    }
    let seat = seat::<T, ODD>(packet, choice, tables)?;
    if choice.is_lost {
        give_up::<T>(choice, &seat);
        return Err(Reason::FlowLost);
    }
    keep::<T>(frame, packet, choice, &seat, ingress)?;
    choice.remember::<T>(packet, seat.own && seat.found.entry.state() == State::Proven);
    let to = translation(packet, choice.backend, &choice.flow, &seat, tables);
    let hop = send(frame, packet, &to, choice.backend, tables)?;
    if !T::DRY_RUN && !seat.own && packet.flags.starts() && !packet.flags.ends() {
        tables.count_opened(choice.number);
    }
    Ok(hop)
}

/// Whether the packet is longer than `mtu` and would leave by another interface than it came in: the kernel drops what is too
/// long to be redirected, and tells nobody. What leaves where it came in has shown that it fits.
#[inline(always)]
fn is_long(packet: &Packet, hop: &Hop, mtu: u16, ingress: u32) -> bool {
    packet.length > mtu && hop.is_known() && hop.interface() != ingress
}

#[inline(always)]
fn send<T: Tables>(
    frame: &mut Frame,
    packet: &Packet,
    to: &Translation,
    backend: &Backend,
    tables: &T,
) -> Result<Hop, Reason> {
    translate(frame, packet, to)?;
    let hop = backend.hop;
    Ok(if hop.is_known() { hop } else { tables.route(frame, packet.l3()) })
}

/// A flow that needs no look at the flow table.
pub struct Known<'a> {
    number: u16,
    backend: &'a Backend,
    seat: Seat<'a>,
}

/// The record of a flow that goes to the backend in its Maglev slot, if the flow table has confirmed it in this tick:
/// then the record's tick is the clock's (see [`reply`]). Most packets of most flows: they save a cache line that is
/// seldom in the cache.
#[inline(always)]
pub fn known_at_once<'a, T: Tables>(
    packet: &Packet,
    service: &Service,
    flow: &Flow<'a>,
    tables: &'a T,
) -> Option<Known<'a>> {
    if service.quic_id_length != 0 || service.flags & Service::CLIENT_HASH != 0 {
        return None;
    }
    let slot = flow::scale(flow.hash.place, SLOTS as u32);
    let number = tables.slot(service.number, slot)?;
    let backend = tables.backend(number)?;
    if backend.service != service.number || !backend.is_up() {
        return None;
    }
    let settings = flow.settings;
    let groups = settings.nat_groups_of_all[packet.family()];
    if groups == 0 {
        return None;
    }
    let endpoint = endpoint(backend, packet, settings);
    let [first, second] = nat::groups(flow.hash, groups);
    let set = tables.nat_set(nat::set_of(endpoint, first, &settings.nat_table))?;
    fetch(&set.words.0[0]);
    fetch(set.record(flow_table::preferred_way(flow.tag)).line());
    if packet.flags.starts() || packet.flags.ends() {
        if let Some(other) = tables.nat_set(nat::set_of(endpoint, second, &settings.nat_table)) {
            fetch(&other.words.0[0]);
        }
        return None;
    }
    let confirmed = |found: Found| found.entry.state() == State::Proven && found.entry.tick() == flow.now;
    let find = |set: &NatSet| flow_table::find(&set.words, flow.tag, flow.now, &flow.limits);
    if let Ok(Some(found)) = own(set, find(set), number, &tuple(packet, flow, first)) {
        let seat = Seat { set, group: first, found, own: true };
        return confirmed(found).then_some(Known { number, backend, seat });
    }
    let set = tables.nat_set(nat::set_of(endpoint, second, &settings.nat_table))?;
    let found = own(set, find(set), number, &tuple(packet, flow, second)).ok()??;
    let seat = Seat { set, group: second, found, own: true };
    confirmed(found).then_some(Known { number, backend, seat })
}

/// Rewrites a packet of such a flow; where it goes next.
#[inline(always)]
pub fn forward_known<T: Tables>(
    frame: &mut Frame,
    packet: &Packet,
    known: &Known,
    flow: &Flow,
    ingress: u32,
    tables: &T,
    outcome: &mut Outcome,
) -> Result<Hop, Reason> {
    let Known { number, backend, seat } = known;
    (outcome.backend, outcome.known) = (*number, true);
    if packet.hops <= 1 {
        return Err(Reason::HopLimit);
    }
    if is_long(packet, &backend.hop, backend.mtu, ingress) {
        fits(packet, backend.mtu, 0, outcome)?;
    }
    send(frame, packet, &translation(packet, backend, flow, seat, tables), backend, tables)
}

/// Lets the CPU fetch a cache line while it does something else.
#[inline(always)]
fn fetch(word: &Word) {
    #[cfg(target_arch = "bpf")]
    {
        // SAFETY: reads a word and forgets it.
        unsafe { core::arch::asm!("{word} = *(u64 *)({line} + 0)", line = in(reg) word, word = out(reg) _) };
    }
    #[cfg(not(target_arch = "bpf"))]
    let _ = word;
}

/// Translates a backend's answer back; where it goes next. Anything else that comes to the node's NAT
/// address is the host's own.
///
/// It leaves the record's tick behind the clock as long as the flow table does not know the flow with this backend as
/// proven: so the client's next packet goes by way of the flow table.
#[inline(always)]
pub fn reply<T: Tables, const ODD: bool>(
    frame: &mut Frame,
    packet: &Packet,
    ingress: u32,
    tables: &T,
    outcome: &mut Outcome,
) -> Result<Hop, Reason> {
    let Waiting { word, entry, service, is_lost, tuple, vip, hop } = waiting(packet, tables)?;
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
    if !T::DRY_RUN {
        let now = tables.tick();
        let seen = answer(packet, has_lasted(packet, entry, now));
        let confirmed = entry.tick() == now || {
            let settings = tables.settings().ok_or(Reason::NotReady)?;
            let hash = settings.hash_key.flow(&tuple.client, tuple.client_port, vip.port(), packet.protocol);
            refresh(tables, hash.place, entry.0)
        };
        let confirmed =
            (entry.state() == State::Proven || unproven(packet, entry, seen, tables)) && confirmed;
        let tick = match confirmed {
            _ if begins(packet, entry) && seen != Seen::Proves => entry.tick(),
            true => now,
            false => now.wrapping_sub(1),
        };
        touch(word, entry, tick, seen);
    }
    // Last, when hardly anything is kept on the stack that the call would add to.
    if is_long(packet, &hop, tables.settings().ok_or(Reason::NotReady)?.reply_mtu, ingress) {
        fits(packet, tables.mtu(hop.interface()), 0, outcome)?;
    }
    let to = Translation {
        source: vip.address,
        destination: tuple.client,
        source_port: vip.port(),
        destination_port: tuple.client_port,
    };
    translate(frame, packet, &to)?;
    if hop.is_known() {
        return Ok(hop);
    }
    Ok(tags::on_link(tables.route(frame, packet.l3()), packet, ingress))
}

/// Counts the answer to a flow that is not proven, and says whether it stays so.
#[inline(always)]
fn unproven<T: Tables>(packet: &Packet, entry: Entry, seen: Seen, tables: &T) -> bool {
    if entry.state() == State::New && packet.protocol == TCP {
        tables.count_answered(entry.backend());
    }
    seen != Seen::Proves
}

/// A flow whose record waits for a backend's answers.
pub struct Waiting<'a> {
    word: &'a Word,
    entry: Entry,
    /// Number of the service.
    service: u32,
    /// The backend is down, and the packet is to be refused.
    is_lost: bool,
    /// The client's side of it.
    pub tuple: NatTuple,
    /// The service's side.
    pub vip: ServiceKey,
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
    let (word, record) = (&set.words.0[way & 7], set.record(way));
    let entry = Entry(word.load());
    let backend = tables.backend(entry.backend()).ok_or(Reason::NotService)?;
    let tuple = record.tuple();
    let last_hop = record.last_hop();
    // Another CPU may have given the record to another flow while it was read.
    if !Entry(word.load()).is_same_flow(entry) {
        return Err(Reason::NatBusy);
    }
    let vip = tables.service_key(tuple.service).ok_or(Reason::NotService)?;
    let is_answer = entry.state() != State::Empty
        && backend.address == packet.source
        && u16::from_be_bytes(backend.port) == packet.source_port
        && vip.protocol() == packet.protocol
        && tuple.group == group
        && tuple.client.is_mapped() != packet.v6();
    if !is_answer {
        return Err(Reason::NotService);
    }
    let hop = if settings.reply_by_route != 0 { Hop::default() } else { last_hop };
    let is_lost = tables.features().has(Features::RESET_LOST) && is_lost(backend, packet);
    Ok(Waiting { word, entry, service: backend.service, is_lost, tuple, vip, hop })
}

/// How a flow's packets look between the node and its backend, if they are translated already.
#[inline(always)]
pub fn known<T: Tables>(packet: &Packet, choice: &Choice, tables: &T) -> Result<Translation, Reason> {
    let seat = seat::<T, true>(packet, choice, tables)?;
    if !seat.own {
        return Err(Reason::NotService);
    }
    Ok(translation(packet, choice.backend, &choice.flow, &seat, tables))
}

/// How a packet of the client's looks between the node and the backend.
#[inline(always)]
fn translation<T: Tables>(
    packet: &Packet,
    backend: &Backend,
    flow: &Flow,
    seat: &Seat,
    tables: &T,
) -> Translation {
    let settings = flow.settings;
    let (source, group) = source_of(seat.group, settings, tables.features());
    Translation {
        source: settings.nat_sources[packet.family()][source & (MAX_NAT_SOURCES - 1)],
        destination: backend.address,
        source_port: settings.nat_port_first + group * PORTS_PER_GROUP + seat.found.way as u16,
        destination_port: u16::from_be_bytes(backend.port),
    }
}

/// The hash of the backend's address and port.
#[inline(always)]
fn endpoint(backend: &Backend, packet: &Packet, settings: &Settings) -> u32 {
    settings.hash_key.endpoint(&backend.address, u16::from_be_bytes(backend.port), packet.protocol)
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
fn seat<'a, T: Tables, const ODD: bool>(
    packet: &Packet,
    choice: &Choice,
    tables: &'a T,
) -> Result<Seat<'a>, Reason> {
    let (flow, settings) = (&choice.flow, choice.flow.settings);
    let endpoint = endpoint(choice.backend, packet, settings);
    let [first, second] = nat::groups(flow.hash, settings.nat_groups_of_all[packet.family()]);

    let set = tables.nat_set(nat::set_of(endpoint, first, &settings.nat_table)).ok_or(Reason::NatFull)?;
    let longest = flow_table::longest(settings);
    let other = tables.nat_set(nat::set_of(endpoint, second, &settings.nat_table)).ok_or(Reason::NatFull)?;
    // Not `&mut seat.found`: a seat whose address is taken is in memory, and with it the byte that tells
    // the error from the seat, which the verifier of 6.1 does not follow there.
    let (mut place, mut other_place) = (Place::UNKNOWN, Place::UNKNOWN);
    // Then it has a record, most likely, and needs no place. (Where speed is nothing, less for the verifier to follow.)
    let is_known = !ODD && choice.is_known();
    if !is_known {
        flow_table::victim(&set.words, flow.tag, flow.now, &longest, &mut place);
        flow_table::victim(&other.words, flow.tag, flow.now, &longest, &mut other_place);
    }
    if is_known || place.is_own() || other_place.is_own() {
        let search = |set: &NatSet| flow_table::search(&set.words, flow.tag, flow.now, &flow.limits);
        if let Some(found) = own(set, search(set), choice.number, &tuple(packet, flow, first))? {
            return Ok(Seat { set, group: first, found, own: true });
        }
        if let Some(found) = own(other, search(other), choice.number, &tuple(packet, flow, second))? {
            return Ok(Seat { set: other, group: second, found, own: true });
        }
    }
    if is_known {
        flow_table::victim(&set.words, flow.tag, flow.now, &longest, &mut place);
        flow_table::victim(&other.words, flow.tag, flow.now, &longest, &mut other_place);
    }
    // What is proven gives way to nothing; but if all are, some may be none any more.
    if place.is_proven() && other_place.is_proven() {
        tables.find_idle(&set.words, flow.now, &mut place);
        tables.find_idle(&other.words, flow.now, &mut other_place);
    }
    let (place, set, group) = match other_place.is_better(&place) {
        true => (other_place, other, second),
        false => (place, set, first),
    };
    if place.is_proven() {
        return Err(Reason::NatFull);
    }
    // Another CPU has just taken it for this very flow. (A record that the flow has left behind is a good seat: when its
    // backend or its service's address was removed and came back, or when the flow was idle for longer than its service
    // allows, though not than others do.)
    let found = place.found();
    let taker = found.entry.backend();
    let is_this = || {
        taker == choice.number
            && found.entry.is_live(flow.now, &flow.limits)
            && set.record(found.way).belongs_to(&tuple(packet, flow, group))
    };
    if place.is_own() && (taker == BEING_WRITTEN || is_this()) {
        return Err(Reason::NatBusy);
    }
    Ok(Seat { set, group, found, own: false })
}

/// The flow's own record in a set. A record that is just being written for the same tag is most likely
/// this flow's, on another CPU: better lose one packet than give one flow two ports.
#[inline(always)]
fn own(set: &NatSet, found: Option<Found>, backend: u16, tuple: &NatTuple) -> Result<Option<Found>, Reason> {
    let Some(found) = found else { return Ok(None) };
    if found.entry.backend() == BEING_WRITTEN {
        return Err(Reason::NatBusy);
    }
    let own = found.entry.backend() == backend && set.record(found.way).belongs_to(tuple);
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
    let (word, record) = (&seat.set.words.0[way], seat.set.record(way));
    if seat.own {
        let entry = seat.found.entry;
        record.set_last_hop(&came_from);
        // A FIN ends one direction, and the backend may go on for long. Its own FIN follows.
        let seen = match flow_table::seen(packet, false) {
            Seen::Ends if !packet.flags.resets() => Seen::Continues,
            seen => seen,
        };
        touch(word, entry, alive(packet, entry, choice.flow.now), seen);
        return Ok(());
    }
    claim(word, seat.found.entry, choice)?;
    record.set(&tuple(packet, &choice.flow, seat.group), &came_from);
    let state = if packet.flags.ends() { State::Closing } else { State::New };
    word.store(Entry::new(choice.flow.tag, state, choice.flow.now, choice.number).0);
    Ok(())
}

/// Closes the entry and, if it has one, the record of a flow whose backend is lost.
#[inline(always)]
fn give_up<T: Tables>(choice: &Choice, seat: &Seat) {
    choice.close::<T>();
    if !T::DRY_RUN && seat.own {
        touch(&seat.set.words.0[seat.found.way & 7], seat.found.entry, choice.flow.now, Seen::Ends);
    }
}

/// Lets a flow's entry in the flow table live on because its backend has answered: a client may be silent
/// for longer than the idle limit, and the answers flow on. Once per tick. Whether the entry is there, and proven.
///
/// A function of its own in BPF, because it is rare and the stack is short.
#[inline(never)]
fn refresh<T: Tables>(tables: &T, hash: u32, word: u64) -> bool {
    let Some(settings) = tables.settings() else { return false };
    let Some(bucket) = tables.bucket(settings.flow_table.place(hash)) else { return false };
    flow_table::touch(bucket, Entry(word), tables.tick())
}

/// Takes a record to write it: its word says so until the record is complete.
#[inline(always)]
fn claim(word: &Word, old: Entry, choice: &Choice) -> Result<(), Reason> {
    // Proven, so that no other CPU takes it for a victim.
    let being_written = Entry::new(choice.flow.tag, State::Proven, choice.flow.now, BEING_WRITTEN);
    if word.compare_exchange(old.0, being_written.0) { Ok(()) } else { Err(Reason::NatBusy) }
}

/// Where a reply to this frame goes: back to where it came from.
#[inline(always)]
fn last_hop(frame: &mut Frame, packet: &Packet, ingress: u32) -> Result<Hop, Reason> {
    Ok(Hop::from_frame(ingress, *frame.mac_addresses()?).reversed().in_vlan(packet.vlan))
}

/// Notes a packet in a record's word, once per tick or when the state changes. If another CPU was
/// faster, its note is as good, unless this is the end, which comes but once.
#[inline(always)]
fn touch(word: &Word, old: Entry, now: u16, seen: Seen) {
    let new = old.seen(now, seen);
    if new == old || word.compare_exchange(old.0, new.0) || seen != Seen::Ends {
        return;
    }
    let current = Entry(word.load());
    if current.is_same_flow(old) {
        word.compare_exchange(current.0, current.seen(now, seen).0);
    }
}

/// Ticks after which an answer to a datagram proves its flow: most flows of datagrams are one question, answered at once and
/// over, though perhaps in the tick after, and a forged one is answered too.
const LASTING: u16 = 2;

/// The tick that a packet of the flow leaves in its record. A flow of datagrams that is not proven grows no younger than
/// [`LASTING`] allows, or no answer would ever prove it.
#[inline(always)]
fn alive(packet: &Packet, record: Entry, now: u16) -> u16 {
    if !begins(packet, record) {
        now
    } else if record.age(now) > LASTING {
        now.wrapping_sub(LASTING)
    } else {
        record.tick()
    }
}

/// Whether the record is that of a flow of datagrams that is not proven.
#[inline(always)]
fn begins(packet: &Packet, record: Entry) -> bool {
    packet.protocol != TCP && record.state() == State::New
}

/// Whether an answer without data comes late enough to prove the flow.
#[inline(always)]
fn has_lasted(packet: &Packet, record: Entry, now: u16) -> bool {
    if packet.protocol == TCP { record.tick() != now } else { record.age(now) > LASTING }
}

/// What a backend's answer says of the flow. A SYN|ACK proves nothing: it answers a forged SYN too. Nor does an
/// ACK without data in the tick of the flow's last packet: it may challenge a forged SYN on a port that another
/// connection had before (RFC 5961 section 4). For datagrams see [`LASTING`].
#[inline(always)]
fn answer(packet: &Packet, has_lasted: bool) -> Seen {
    if packet.flags.ends() {
        Seen::Ends
    } else if packet.flags.has(TcpFlags::PSH) || has_lasted && !packet.flags.is_syn_ack() {
        Seen::Proves
    } else {
        Seen::Continues
    }
}

#[inline(always)]
fn tuple(packet: &Packet, flow: &Flow, group: u16) -> NatTuple {
    NatTuple { client: packet.source, client_port: packet.source_port, group, service: flow.place }
}
