//! The seam between the data path and its memory: BPF maps in the kernel, ordinary memory in tests.

use lb_common::{
    Address, Backend, Bucket, Budget, Features, FragmentKey, FragmentPath, Hop, NatSet, QuicKey, Service,
    ServiceKey, Settings, SourceKey, Word,
};

use crate::{Frame, flow_table::Place, parse::Packet};

/// What the data path looks up. Every method is one map lookup or one helper call.
pub trait Tables {
    /// Only tell what would happen: no table and no counter is changed.
    const DRY_RUN: bool;

    /// What is configured.
    fn features(&self) -> Features;

    /// The settings.
    fn settings(&self) -> Option<&Settings>;

    /// The service with this address, port and protocol, and its place in the table of services.
    fn service(&self, key: &ServiceKey) -> Option<(u32, &Service)>;

    /// The address, port and protocol that have this place.
    fn service_key(&self, place: u32) -> Option<ServiceKey>;

    /// The backend's number in this slot of a service's Maglev table: 0 when the service has no
    /// backend, `None` when it has no table.
    fn slot(&self, service: u32, slot: u32) -> Option<u16>;

    /// A backend by number.
    fn backend(&self, number: u16) -> Option<&Backend>;

    /// A bucket of the flow table, by its place: see [`chunk::split`](lb_common::chunk::split).
    fn bucket(&self, place: u32) -> Option<&Bucket>;

    /// A set of NAT records, likewise.
    fn nat_set(&self, place: u32) -> Option<&NatSet>;

    /// Puts into `place` an entry of these whose flow was silent for longer than its own service allows, if there is one:
    /// see [`flow_table::find_idle`](crate::flow_table::find_idle).
    fn find_idle(&self, bucket: &Bucket, now: u16, place: &mut Place);

    /// A bucket of clients' backends.
    fn affinity_bucket(&self, index: u32) -> Option<&Bucket>;

    /// Whether the deny list names the client.
    fn is_denied(&self, client: &Address) -> bool;

    /// Counts a new flow against the limit of this CPU in this tick; whether it is to be stored.
    fn stores_new(&self, tick: u16, limit: u32) -> bool;

    /// Takes a token of this source, who gets `rate` per second and holds `burst`; whether there was one.
    /// The dry run leaves it there.
    fn take_token(&self, source: &SourceKey, rate: u32, burst: u32) -> bool;

    /// The backend with this server id.
    fn quic_backend(&self, id: &QuicKey) -> Option<u16>;

    /// The clock, in ticks of 2^[`TICK_SHIFT`](lb_common::flow::TICK_SHIFT) ns; it wraps.
    fn tick(&self) -> u16;

    /// Puts away an odd packet's headers until the packet's end: there is little stack. `None` if there is
    /// nowhere to put them.
    fn keep(&self, packet: Packet) -> Option<&Packet>;

    /// What became of the first fragment of this packet.
    fn fragment(&self, key: &FragmentKey) -> Option<&FragmentPath>;

    /// Remembers what became of the first fragment of this packet.
    fn remember_fragment(&self, key: &FragmentKey, path: &FragmentPath);

    /// The next hop by the kernel's own routes and neighbours for the packet as it now is in the frame, its
    /// IP header at `l3`; [`Hop::default`] when the kernel does not know it either.
    fn route(&self, frame: &mut Frame, l3: usize) -> Hop;

    /// The longest IP packet in bytes that an interface takes; 0 when not known.
    fn mtu(&self, interface: u32) -> u16;

    /// Takes in `bytes` bytes in front of the frame; false when there is no room. They hold anything.
    fn grow(&self, frame: &mut Frame, bytes: usize) -> bool;

    /// Gives up the first `bytes` bytes of the frame; false when they cannot be given up.
    fn shrink(&self, frame: &mut Frame, bytes: usize) -> bool;

    /// Cuts the frame to `length` bytes; whether it was that long. Every header must be read anew after that.
    fn cut(&self, frame: &mut Frame, length: usize) -> bool;

    /// The sum of the `length` bytes of the frame from `from` on, an even place: 32-bit words in memory order, in one's
    /// complement.
    fn sum(&self, frame: &mut Frame, from: u32, length: u32) -> u32;

    /// Counts a connection that is opened to a backend.
    fn count_opened(&self, backend: u16);

    /// Counts a packet of a backend's to a connection that is not proven yet.
    fn count_answered(&self, backend: u16);

    /// What this CPU has sent of a kind.
    fn budget(&self, kind: Budget) -> Option<&Word>;
}
