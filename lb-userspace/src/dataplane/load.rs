//! Loading the object into the kernel and attaching it to interfaces.

use std::{error::Error, io};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, ProgramArray},
    programs::{ProgramError, ProgramInfo, Xdp, XdpMode as AyaMode, xdp::XdpLinkId},
};
use lb_common::{Features, Reason, constants, flow, map, nat, program, service::place_bits};

use super::{
    DataplaneError, clock,
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
            services: services + 1,
            service_bits: place_bits(keys),
            backends: backends + 1,
        }
    }
}

/// An interface that has the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Its name.
    pub interface: String,
    /// How the program runs there.
    pub mode: AttachedMode,
    /// Where [`XdpMode::Auto`] fell back to generic mode: the interface that forced it, and why. Otherwise
    /// empty.
    pub why_not_native: String,
}

/// How the program runs on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachedMode {
    /// In the driver.
    Native,
    /// In the kernel's generic path.
    Generic,
}

impl AttachedMode {
    /// The word in status and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            AttachedMode::Native => "native",
            AttachedMode::Generic => "generic",
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
            .override_global(Features::SYMBOL, &features.0, true)
            .override_global(constants::SERVICE_BITS, &sizes.service_bits, true)
            .override_global(constants::JIFFY, &clock::jiffy(), true)
            .map_max_entries(map::SERVICES, places_for(sizes.service_bits))
            .map_max_entries(map::REASONS, sizes.services * Reason::COUNT as u32)
            .map_max_entries(map::FLOWS, sizes.buckets)
            .map_max_entries(map::NAT, sizes.nat_sets)
            .map_max_entries(map::FRAGMENTS, sizes.fragments)
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
        let (mode, why_not_native) = match mode {
            XdpMode::Native => (self.attach_all(interfaces, AttachedMode::Native)?, String::new()),
            XdpMode::Generic => (self.attach_all(interfaces, AttachedMode::Generic)?, String::new()),
            XdpMode::Auto => match self.attach_all(interfaces, AttachedMode::Native) {
                Ok(mode) => (mode, String::new()),
                Err(DataplaneError::Attach { interface, source, .. }) => {
                    let why = format!("no native XDP on {interface}: {}", innermost(&source));
                    (self.attach_all(interfaces, AttachedMode::Generic)?, why)
                }
                Err(error) => return Err(error),
            },
        };
        let attached = |interface: &String| Attached {
            interface: interface.clone(),
            mode,
            why_not_native: why_not_native.clone(),
        };
        Ok(interfaces.iter().map(attached).collect())
    }

    /// On an error the program is on none of them.
    fn attach_all(
        &mut self,
        interfaces: &[String],
        mode: AttachedMode,
    ) -> Result<AttachedMode, DataplaneError> {
        let mut links = Vec::new();
        for interface in interfaces {
            match self.attach_as(interface, mode) {
                Ok(link) => links.push(link),
                Err(error) => {
                    let program = xdp(&mut self.ebpf, program::USHER)?;
                    for link in links {
                        program
                            .detach(link)
                            .map_err(|source| DataplaneError::Program { name: program::USHER, source })?;
                    }
                    return Err(error);
                }
            }
        }
        Ok(mode)
    }

    fn attach_as(&mut self, interface: &str, mode: AttachedMode) -> Result<XdpLinkId, DataplaneError> {
        let aya_mode = match mode {
            AttachedMode::Native => AyaMode::Driver,
            AttachedMode::Generic => AyaMode::Skb,
        };
        xdp(&mut self.ebpf, program::USHER)?.attach(interface, aya_mode).map_err(|source| {
            let interface = interface.to_owned();
            match is_occupied(&source) {
                true => DataplaneError::Occupied { interface },
                false => DataplaneError::Attach { interface, mode: mode.as_str(), source },
            }
        })
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

/// Whether the interface has an XDP program already: EBUSY, or EEXIST from drivers that tell modes apart.
fn is_occupied(error: &ProgramError) -> bool {
    let error = innermost(error).downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    matches!(error, Some(libc::EBUSY | libc::EEXIST))
}

/// The cause of all causes.
fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause
}
