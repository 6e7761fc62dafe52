//! Loading the object into the kernel.

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{MapData, ProgramArray},
    programs::{ProgramInfo, Xdp},
};
use lb_common::{Features, Reason, constants, flow, map, nat, program, service::place_bits};

use super::{
    Attached, DataplaneError,
    attach::attach,
    clock,
    flows::{SharedTables, mapped},
    services::{ServiceTable, places_for},
};
use crate::config::XdpMode;

/// The object, aligned as the ELF parser wants it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/usher-xdp"));

/// How large the tables are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Buckets of the flow table.
    pub buckets: u32,
    /// Sets of NAT records; 1 when no service uses NAT.
    pub nat_sets: u32,
    /// First fragments that are remembered.
    pub fragments: u32,
    /// Buckets of the table of clients' backends; 1 when no service has affinity.
    pub affinity_buckets: u32,
    /// Sources whose new flows are counted.
    pub sources: u32,
    /// Prefixes of the deny list.
    pub denied: u32,
    /// Highest service number plus one.
    pub services: u32,
    /// log2 of the first places in the table of services.
    pub service_bits: u32,
    /// Highest backend number plus one.
    pub backends: u32,
}

impl Sizes {
    /// Tables for numbers of flows and fragments, with or without NAT, with `keys` ports of addresses that
    /// lead to services, and these numbers of services and backends.
    pub fn new(flows: u32, fragments: u32, nat: bool, keys: u32, services: u32, backends: u32) -> Sizes {
        Sizes {
            buckets: flow::buckets_for(flows),
            nat_sets: if nat { nat::sets_for(flows) } else { 1 },
            fragments,
            affinity_buckets: 1,
            sources: 1,
            denied: 1,
            services: services + 1,
            service_bits: place_bits(keys),
            backends: backends + 1,
        }
    }
}

/// The loaded program with its maps. Dropping it detaches and unloads everything.
pub struct Dataplane {
    pub(super) ebpf: Ebpf,
    pub(super) shared: SharedTables,
    /// Highest service number plus one.
    pub(super) service_count: u32,
    pub(super) services: ServiceTable,
    /// Which program goes on where another leaves off. The kernel empties it when nobody holds it.
    _next: ProgramArray<MapData>,
}

impl Dataplane {
    /// Loads the object with tables of these sizes and these features. Nothing is attached yet.
    pub fn load(sizes: Sizes, features: Features) -> Result<Dataplane, DataplaneError> {
        let mut ebpf = EbpfLoader::new()
            // Why a program is refused, but not every instruction on the way there: that takes Linux 6.1 minutes.
            .verifier_log_level(VerifierLogLevel::STATS)
            .override_global(Features::SYMBOL, &features.0, true)
            .override_global(constants::SERVICE_BITS, &sizes.service_bits, true)
            .override_global(constants::JIFFY, &clock::jiffy(), true)
            .map_max_entries(map::SERVICES, places_for(sizes.service_bits))
            .map_max_entries(map::REASONS, sizes.services * Reason::COUNT as u32)
            .map_max_entries(map::FLOWS, sizes.buckets)
            .map_max_entries(map::NAT, sizes.nat_sets)
            .map_max_entries(map::FRAGMENTS, sizes.fragments)
            .map_max_entries(map::AFFINITY, sizes.affinity_buckets)
            .map_max_entries(map::SOURCES, sizes.sources)
            .map_max_entries(map::DENY, sizes.denied)
            .map_max_entries(map::BACKENDS, sizes.backends)
            .map_max_entries(map::COUNTERS, sizes.backends)
            .load(OBJECT)
            .map_err(DataplaneError::Load)?;
        for name in program::ALL {
            xdp(&mut ebpf, name)?.load().map_err(|source| DataplaneError::Program { name, source })?;
        }
        let shared = SharedTables::new(&ebpf, sizes)?;
        // SAFETY: the object declares the map as a mmapable array of this type, and it was made with so many.
        let places = unsafe { mapped(&ebpf, map::SERVICES, places_for(sizes.service_bits)) }?;
        let services = ServiceTable::new(places, sizes.service_bits);
        let _next = join(&mut ebpf)?;
        Ok(Dataplane { ebpf, shared, service_count: sizes.services, services, _next })
    }

    /// Attaches the program to all of these interfaces, or to none; an interface that has another program
    /// already is refused in any mode.
    ///
    /// All get the same mode: a native program's redirect to an interface whose driver takes no XDP frames
    /// loses every packet without a word. With [`XdpMode::Auto`] one interface that refuses native mode
    /// makes all of them generic.
    pub fn attach(&mut self, interfaces: &[String], mode: XdpMode) -> Result<Vec<Attached>, DataplaneError> {
        attach(xdp(&mut self.ebpf, program::USHER)?, program::USHER, interfaces, mode)
    }

    /// Instructions that the verifier walked through to accept one of the [`program`]s; 0 where the
    /// kernel does not tell (before 5.16).
    pub fn verified_instructions(&mut self, name: &'static str) -> Result<u32, DataplaneError> {
        Ok(self.info(name)?.verified_instruction_count().unwrap_or(0))
    }

    /// The id under which the kernel knows the program that is attached.
    pub fn program_id(&mut self) -> Result<u32, DataplaneError> {
        Ok(self.info(program::USHER)?.id())
    }

    fn info(&mut self, name: &'static str) -> Result<ProgramInfo, DataplaneError> {
        xdp(&mut self.ebpf, name)?.info().map_err(|source| DataplaneError::Program { name, source })
    }
}

/// Tells the programs which others go on where they leave off.
fn join(ebpf: &mut Ebpf) -> Result<ProgramArray<MapData>, DataplaneError> {
    let name = map::PROGRAMS;
    let error = |source| DataplaneError::Map { what: "set an element", map: name, source };
    let taken = ebpf.take_map(name).ok_or(DataplaneError::Missing { kind: "map", name })?;
    let mut next: ProgramArray<MapData> = taken.try_into().map_err(error)?;
    for (place, name) in (0..).zip(program::NEXT) {
        let fd = xdp(ebpf, name)?.fd().map_err(|source| DataplaneError::Program { name, source })?;
        next.set(place, fd, 0).map_err(error)?;
    }
    Ok(next)
}

/// One of the object's XDP programs.
pub(super) fn xdp<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, DataplaneError> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(DataplaneError::Missing { kind: "program", name })
}
