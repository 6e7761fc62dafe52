//! The decapsulation program of a backend host: loading, attaching, what it unpacks, what it counted.

use std::collections::{BTreeMap, BTreeSet};

use aya::{
    Ebpf,
    maps::{
        Array, HashMap, Map, MapData, MapInfo, PerCpuArray,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{ProgramError, ProgramInfo, loaded_programs},
};
use ipnet::IpNet;
use lb_common::{
    Address, DecapSettings, Verdict,
    decap::{PROGRAM, map},
};

use super::{
    Attached, DataplaneError, TestRun,
    attach::attach,
    object::{xdp, xdp_mut},
    tables::Pod,
    test_run,
};
use crate::config::XdpMode;

/// The object, aligned as the ELF parser wants it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/usher-backend"));

/// Bits of an address as the maps hold it; an IPv4 address is the last 32 of them.
const ADDRESS_BITS: u8 = 128;

/// What the program shall unpack.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unpack {
    /// Which tunnels.
    pub settings: DecapSettings,
    /// [`Role`](lb_common::decap::Role) bits of the host's addresses and of the VIPs.
    pub roles: BTreeMap<Address, u8>,
    /// Outer sources that are listened to; none means all.
    pub sources: BTreeSet<IpNet>,
}

/// The loaded program with its maps. Dropping it detaches and unloads everything.
pub struct Decapsulator {
    ebpf: Ebpf,
    applied: Unpack,
}

impl Decapsulator {
    /// Loads the object. It unpacks nothing yet, and is attached nowhere.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn load() -> Result<Decapsulator, DataplaneError> {
        let mut ebpf = Ebpf::load(OBJECT).map_err(DataplaneError::Load)?;
        xdp_mut(&mut ebpf, PROGRAM)?
            .load()
            .map_err(|source| DataplaneError::Program { name: PROGRAM, source })?;
        Ok(Decapsulator { ebpf, applied: Unpack::default() })
    }

    /// Attaches the program to all of these interfaces, or to none.
    ///
    /// # Errors
    /// An interface has another program, or cannot have one in this mode.
    pub fn attach(&mut self, interfaces: &[String], mode: XdpMode) -> Result<Vec<Attached>, DataplaneError> {
        let (attached, _) = attach(xdp_mut(&mut self.ebpf, PROGRAM)?, PROGRAM, interfaces, mode)?;
        Ok(attached)
    }

    /// Says what to unpack from now on.
    ///
    /// # Errors
    /// When a map refuses: there are too many addresses or prefixes.
    pub fn configure(&mut self, unpack: &Unpack) -> Result<(), DataplaneError> {
        if *unpack != self.applied {
            self.configure_addresses(unpack)?;
            self.configure_sources(unpack)?;
            let name = map::SETTINGS;
            let error = |source| DataplaneError::Map { what: "set an element", map: name, source };
            let mut settings: Array<_, Pod<DecapSettings>> = self.map_mut(name)?.try_into().map_err(error)?;
            settings.set(0, Pod(settings_with(unpack)), 0).map_err(error)?;
            self.applied = unpack.clone();
        }
        Ok(())
    }

    fn configure_addresses(&mut self, unpack: &Unpack) -> Result<(), DataplaneError> {
        let old = std::mem::take(&mut self.applied.roles);
        let name = map::ADDRESSES;
        let error = |source| DataplaneError::Map { what: "set an address", map: name, source };
        let mut addresses: HashMap<_, Pod<Address>, u8> = self.map_mut(name)?.try_into().map_err(error)?;
        for gone in old.keys().filter(|address| !unpack.roles.contains_key(address)) {
            addresses.remove(&Pod(*gone)).map_err(error)?;
        }
        unpack
            .roles
            .iter()
            .try_for_each(|(address, roles)| addresses.insert(Pod(*address), *roles, 0).map_err(error))
    }

    fn configure_sources(&mut self, unpack: &Unpack) -> Result<(), DataplaneError> {
        let old = std::mem::take(&mut self.applied.sources);
        let name = map::SOURCES;
        let error = |source| DataplaneError::Map { what: "set a prefix", map: name, source };
        let mut sources: LpmTrie<_, [u8; 16], u32> = self.map_mut(name)?.try_into().map_err(error)?;
        for gone in old.difference(&unpack.sources) {
            sources.remove(&key(gone)).map_err(error)?;
        }
        unpack.sources.iter().try_for_each(|source| sources.insert(&key(source), 1, 0).map_err(error))
    }

    /// The id under which the kernel knows the program.
    ///
    /// # Errors
    /// When the kernel tells nothing of it.
    pub fn program_id(&self) -> Result<u32, DataplaneError> {
        Ok(self.info()?.id())
    }

    /// Runs the program on a frame as if it came in on lo.
    ///
    /// # Errors
    /// The kernel takes frames from 14 bytes to somewhat less than a page.
    pub fn test_run(&self, frame: &[u8]) -> Result<TestRun, DataplaneError> {
        test_run::run(xdp(&self.ebpf, PROGRAM)?, PROGRAM, frame)
    }

    /// Packets by verdict, over all CPUs, in the order of [`Verdict::ALL`].
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn verdicts(&self) -> Result<Vec<u64>, DataplaneError> {
        let name = map::VERDICTS;
        sum(self.ebpf.map(name).ok_or(DataplaneError::Missing { kind: "map", name })?)
    }

    fn info(&self) -> Result<ProgramInfo, DataplaneError> {
        xdp(&self.ebpf, PROGRAM)?.info().map_err(|source| DataplaneError::Program { name: PROGRAM, source })
    }

    fn map_mut(&mut self, name: &'static str) -> Result<&mut Map, DataplaneError> {
        self.ebpf.map_mut(name).ok_or(DataplaneError::Missing { kind: "map", name })
    }
}

fn settings_with(unpack: &Unpack) -> DecapSettings {
    DecapSettings { any_source: u8::from(unpack.sources.is_empty()), ..unpack.settings }
}

fn key(prefix: &IpNet) -> Key<[u8; 16]> {
    let mapped = match prefix {
        IpNet::V4(_) => ADDRESS_BITS - 32,
        IpNet::V6(_) => 0,
    };
    let bits = mapped + prefix.prefix_len();
    Key::new(bits.into(), Address::from(prefix.network()).octets_v6())
}

/// What the program with this id, another process's, has counted: as [`Decapsulator::verdicts`]. `None` when
/// there is no such program.
///
/// # Errors
/// When its map cannot be read. Needs CAP_SYS_ADMIN.
pub fn verdicts_of(program: u32) -> Result<Option<Vec<u64>>, DataplaneError> {
    let error = |source| DataplaneError::Program { name: PROGRAM, source };
    let Some(info) = find(program).map_err(error)? else { return Ok(None) };
    let read = |source| DataplaneError::Map { what: "find a counter", map: map::VERDICTS, source };
    for id in info.map_ids().map_err(error)?.unwrap_or_default() {
        if MapInfo::from_id(id).map_err(read)?.name_as_str() == Some(map::VERDICTS) {
            let data = MapData::from_id(id).map_err(read)?;
            return sum(&Map::PerCpuArray(data)).map(Some);
        }
    }
    Err(DataplaneError::Missing { kind: "map", name: map::VERDICTS })
}

/// The name of any loaded program; `None` when none has this id, or it has no name.
pub fn program_name(id: u32) -> Option<String> {
    find(id).ok()??.name_as_str().map(str::to_owned)
}

fn find(id: u32) -> Result<Option<ProgramInfo>, ProgramError> {
    loaded_programs().find(|info| info.as_ref().map_or(true, |info| info.id() == id)).transpose()
}

fn sum(counters: &Map) -> Result<Vec<u64>, DataplaneError> {
    let name = map::VERDICTS;
    let error = |source| DataplaneError::Map { what: "read a counter", map: name, source };
    let counters: PerCpuArray<_, u64> = counters.try_into().map_err(error)?;
    (0..Verdict::COUNT as u32).map(|index| Ok(counters.get(&index, 0).map_err(error)?.iter().sum())).collect()
}
