//! The object: its programs, loaded once or again, and the maps that all loads share.

use std::{collections::BTreeMap, io, os::fd::AsFd as _};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, ProgramArray},
    programs::{ProgramInfo, Xdp},
};
use lb_common::{Features, Reason, capture, constants, defence::MAX_DENIED, map, program};
use tokio_util::task::AbortOnDropHandle;

use super::{
    DataplaneError, Sizes, chunks, debug_log, left,
    memory::{expect_memory, no_memory},
    pins::PinError,
    services::places_for,
    sys,
};

/// The object, aligned as the ELF parser wants it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/usher-xdp"));

/// Maps that every load has for itself, like its constants. [`map::PROGRAMS`] among them: so a packet meets
/// the programs of one load only, whatever is replaced meanwhile.
const OWN: &[&str] = &[
    map::PROGRAMS,
    map::CAPTURE_FILTER,
    map::CAPTURE_RECORD,
    map::CAPTURE_RING,
    map::CAPTURE_LOST,
    debug_log::LOGS,
];

/// Places of the deny list: they take memory only when they are used. One more for what is said of all IPv4
/// clients when no rule does, and one that stays free, since before Linux 6.13 a full list refuses even to replace
/// an element.
const DENY_PLACES: u32 = MAX_DENIED as u32 + 2;

/// Elements of a map that is replaced as soon as the loader has made it: it makes one for each name.
const REPLACED: u32 = 1;

/// The maps that all loads share, by name.
pub(super) struct Maps {
    by_name: BTreeMap<String, Map>,
    /// What the programs have to know of the table of services.
    service_bits: u32,
    /// And of the clock: see [`constants::JIFFY`].
    jiffy: u64,
}

impl Maps {
    pub(super) fn get(&self, name: &'static str) -> Result<&Map, DataplaneError> {
        self.by_name.get(name).ok_or(DataplaneError::Missing { kind: "map", name })
    }

    pub(super) fn get_mut(&mut self, name: &'static str) -> Result<&mut Map, DataplaneError> {
        self.by_name.get_mut(name).ok_or(DataplaneError::Missing { kind: "map", name })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Map)> {
        self.by_name.iter().map(|(name, map)| (name.as_str(), map))
    }
}

/// The programs of one load, and the maps that are theirs alone.
pub(super) struct Programs {
    ebpf: Ebpf,
    /// Which program goes on where another leaves off. The kernel empties it when nobody holds it, neither a process nor
    /// a pin.
    next: Map,
    _log: Option<AbortOnDropHandle<()>>,
}

impl Programs {
    /// Hands the programs to the kernel, and tells them which others go on where they leave off.
    fn new(mut ebpf: Ebpf) -> Result<Programs, DataplaneError> {
        for name in program::ALL {
            xdp_mut(&mut ebpf, name)?.load().map_err(|source| DataplaneError::Program { name, source })?;
        }
        let name = map::PROGRAMS;
        let error = |source| DataplaneError::Map { what: "set an element", map: name, source };
        let mut taken = ebpf.take_map(name).ok_or(DataplaneError::Missing { kind: "map", name })?;
        let mut next: ProgramArray<&mut MapData> = (&mut taken).try_into().map_err(error)?;
        for (place, name) in (0..).zip(program::NEXT) {
            let program = xdp_mut(&mut ebpf, name)?;
            let fd = program.fd().map_err(|source| DataplaneError::Program { name, source })?;
            next.set(place, fd, 0).map_err(error)?;
        }
        let log = debug_log::follow(&mut ebpf);
        Ok(Programs { ebpf, next: taken, _log: log })
    }

    /// The map of those that go on where another leaves off.
    pub(super) fn next(&self) -> &Map {
        &self.next
    }

    /// One of the programs.
    pub(super) fn get(&self, name: &'static str) -> Result<&Xdp, DataplaneError> {
        xdp(&self.ebpf, name)
    }

    /// The id under which the kernel knows the one that is attached.
    pub(super) fn id(&self) -> Result<u32, DataplaneError> {
        Ok(self.info(program::USHER)?.id())
    }

    /// What the kernel knows of one.
    pub(super) fn info(&self, name: &'static str) -> Result<ProgramInfo, DataplaneError> {
        self.get(name)?.info().map_err(|source| DataplaneError::Program { name, source })
    }

    /// One of the programs, to be attached or detached.
    pub(super) fn get_mut(&mut self, name: &'static str) -> Result<&mut Xdp, DataplaneError> {
        xdp_mut(&mut self.ebpf, name)
    }

    /// One of the maps that are theirs alone.
    pub(super) fn take_map(&mut self, name: &'static str) -> Result<Map, DataplaneError> {
        self.ebpf.take_map(name).ok_or(DataplaneError::Missing { kind: "map", name })
    }
}

/// One of an object's XDP programs.
pub(super) fn xdp<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a Xdp, DataplaneError> {
    let program = ebpf.program(name).and_then(|program| program.try_into().ok());
    program.ok_or(DataplaneError::Missing { kind: "program", name })
}

/// One of an object's XDP programs, to be loaded, attached or detached.
pub(super) fn xdp_mut<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, DataplaneError> {
    let program = ebpf.program_mut(name).and_then(|program| program.try_into().ok());
    program.ok_or(DataplaneError::Missing { kind: "program", name })
}

/// Loads the object over the maps that an earlier daemon has left, and makes those that it has not.
///
/// # Errors
/// When the kernel refuses, or a map that was left is of another kind.
pub(super) fn load(
    sizes: Sizes,
    features: Features,
    jiffy: u64,
    mut left: left::Maps,
) -> Result<(Programs, Maps), DataplaneError> {
    if left.is_empty() {
        expect_memory(sizes)?;
    }
    let constants = Constants { features, service_bits: sizes.service_bits, jiffy };
    let mut loader = EbpfLoader::new();
    for (name, entries) in [
        (map::SERVICES, places_for(sizes.service_bits)),
        (map::REASONS, sizes.services * Reason::COUNT as u32),
        (map::FLOWS, sizes.flow_table.chunks),
        (map::NAT, sizes.nat_table.chunks),
        (map::FRAGMENTS, sizes.fragments),
        (map::AFFINITY, sizes.affinity_buckets),
        (map::SOURCES, sizes.sources),
        (map::DENY, DENY_PLACES),
        (map::BACKENDS, sizes.backends),
        (map::COUNTERS, sizes.backends),
        (map::BEGUN, sizes.backends),
        (map::OPENINGS, sizes.backends),
    ] {
        loader.map_max_entries(name, if left.contains_key(name) { REPLACED } else { entries });
    }
    let mut ebpf = parse(&mut loader, &constants).map_err(DataplaneError::Load)?;
    for (name, map) in &left {
        expect_same_kind(&ebpf, name, map)?;
        share(&ebpf, name, map)?;
    }
    let new_tables = [(map::FLOWS, sizes.flow_table), (map::NAT, sizes.nat_table)]
        .into_iter()
        .filter(|(name, _)| !left.contains_key(name))
        .collect::<Vec<_>>();
    let shared: Vec<String> =
        ebpf.maps().map(|(name, _)| name).filter(is_shared).map(str::to_owned).collect();
    let maps = shared.into_iter().filter_map(|name| {
        let map = left.remove(name.as_str()).or_else(|| ebpf.take_map(&name))?;
        Some((name, map))
    });
    let maps = Maps { by_name: maps.collect(), service_bits: sizes.service_bits, jiffy };
    for (name, table) in new_tables {
        let outer = data(maps.get(name)?).ok_or(DataplaneError::Missing { kind: "map", name })?;
        chunks::fill(outer.fd().as_fd(), table.chunks).map_err(|source| no_memory(name, source, sizes))?;
    }
    Ok((Programs::new(ebpf)?, maps))
}

/// Loads the object again, over the same maps.
pub(super) fn load_again(maps: &Maps, features: Features) -> Result<Programs, DataplaneError> {
    let constants = Constants { features, service_bits: maps.service_bits, jiffy: maps.jiffy };
    let mut loader = EbpfLoader::new();
    for (name, _) in maps.iter() {
        loader.map_max_entries(name, REPLACED);
    }
    let ebpf = parse(&mut loader, &constants).map_err(DataplaneError::Load)?;
    for (name, map) in maps.iter() {
        share(&ebpf, name, map)?;
    }
    Programs::new(ebpf)
}

/// The constants of a load.
struct Constants {
    features: Features,
    service_bits: u32,
    jiffy: u64,
}

fn parse<'a>(loader: &mut EbpfLoader<'a>, constants: &'a Constants) -> Result<Ebpf, aya::EbpfError> {
    let ring = if constants.features.has(Features::CAPTURE) { capture::RING_BYTES } else { 1 };
    loader
        .override_global(Features::SYMBOL, &constants.features.0, true)
        .override_global(constants::SERVICE_BITS, &constants.service_bits, true)
        .override_global(constants::JIFFY, &constants.jiffy, true)
        .map_max_entries(map::CAPTURE_RING, ring)
        .load(OBJECT)
}

fn is_shared(name: &&str) -> bool {
    // Sections of constants begin with a dot.
    !name.starts_with('.') && !OWN.contains(name)
}

/// A map that was left is taken over only if the object would make such a one: the kernel does not mind.
fn expect_same_kind(ebpf: &Ebpf, name: &'static str, left: &Map) -> Result<(), DataplaneError> {
    let kind = |map: &MapData| {
        let info = map.info()?;
        Ok((info.map_type()?, info.key_size(), info.value_size(), info.map_flags()))
    };
    let (Some(made), Some(left)) = (ebpf.map(name).and_then(data), data(left)) else {
        return Err(DataplaneError::Missing { kind: "map", name });
    };
    let error = |source| DataplaneError::Map { what: "ask for the kind of", map: name, source };
    let (made, left) = (kind(made).map_err(error)?, kind(left).map_err(error)?);
    if made == left { Ok(()) } else { Err(PinError::OtherKind { map: name }.into()) }
}

/// Lets the programs of a load, which the kernel has not seen yet, name another map than the one that was
/// made for them. Their instructions hold the number of its descriptor; so that number becomes the other
/// map's. (A pin would need a mounted bpffs, and a capability to mount it.)
fn share(ebpf: &Ebpf, name: &str, map: &Map) -> Result<(), DataplaneError> {
    let error = |source| DataplaneError::NotShared { map: name.to_owned(), source };
    let (Some(made), Some(map)) = (ebpf.map(name).and_then(data), data(map)) else {
        return Err(error(io::ErrorKind::Unsupported.into()));
    };
    // SAFETY: nobody else uses the descriptor of a map that was just made; it stays open with `ebpf`.
    unsafe { sys::replace_descriptor(made.fd().as_fd(), map.fd().as_fd()) }.map_err(error)
}

/// The map behind any of the kinds of map that the object has.
pub(super) fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::ArrayOfMaps(data)
        | Map::DevMap(data)
        | Map::HashMap(data)
        | Map::HashOfMaps(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::PerCpuLruHashMap(data) => Some(data),
        _ => None,
    }
}
