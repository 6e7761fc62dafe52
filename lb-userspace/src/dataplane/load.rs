//! Loading the object into the kernel and attaching it to interfaces.

use aya::{
    Ebpf, EbpfLoader,
    programs::{Xdp, XdpMode as AyaMode},
};
use lb_common::{flow, map, nat, program};

use super::DataplaneError;
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
    /// Highest backend number plus one.
    pub backends: u32,
}

impl Sizes {
    /// Tables for a number of flows, with or without NAT, and a number of backends.
    pub fn new(flows: u32, nat: bool, backends: u32) -> Sizes {
        Sizes {
            buckets: flow::buckets_for(flows),
            nat_sets: if nat { nat::sets_for(flows) } else { 1 },
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
    pub(super) sizes: Sizes,
}

impl Dataplane {
    /// Loads the object with tables of these sizes. Nothing is attached yet.
    pub fn load(sizes: Sizes) -> Result<Dataplane, DataplaneError> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(map::FLOWS, sizes.buckets)
            .map_max_entries(map::NAT, sizes.nat_sets)
            .map_max_entries(map::BACKENDS, sizes.backends)
            .map_max_entries(map::COUNTERS, sizes.backends)
            .load(OBJECT)
            .map_err(DataplaneError::Load)?;
        for name in [program::USHER, program::EXPLAIN] {
            xdp(&mut ebpf, name)?.load().map_err(|source| DataplaneError::Program { name, source })?;
        }
        Ok(Dataplane { ebpf, sizes })
    }

    /// Attaches the program to an interface. [`XdpMode::Auto`] tries native mode first.
    pub fn attach(&mut self, interface: &str, mode: XdpMode) -> Result<Attached, DataplaneError> {
        let mode = match mode {
            XdpMode::Native => self.attach_as(interface, AttachedMode::Native),
            XdpMode::Generic => self.attach_as(interface, AttachedMode::Generic),
            XdpMode::Auto => self
                .attach_as(interface, AttachedMode::Native)
                .or_else(|_| self.attach_as(interface, AttachedMode::Generic)),
        }?;
        Ok(Attached { interface: interface.to_owned(), mode })
    }

    fn attach_as(&mut self, interface: &str, mode: AttachedMode) -> Result<AttachedMode, DataplaneError> {
        let aya_mode = match mode {
            AttachedMode::Native => AyaMode::Driver,
            AttachedMode::Generic => AyaMode::Skb,
        };
        xdp(&mut self.ebpf, program::USHER)?.attach(interface, aya_mode).map_err(|source| {
            DataplaneError::Attach { interface: interface.to_owned(), mode: mode.as_str(), source }
        })?;
        Ok(mode)
    }

    /// Instructions that the verifier walked through to accept one of the [`program`]s; 0 where the
    /// kernel does not tell (before 5.16).
    pub fn verified_instructions(&mut self, name: &'static str) -> Result<u32, DataplaneError> {
        let info =
            xdp(&mut self.ebpf, name)?.info().map_err(|source| DataplaneError::Program { name, source })?;
        Ok(info.verified_instruction_count().unwrap_or(0))
    }
}

/// One of the object's XDP programs.
pub(super) fn xdp<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, DataplaneError> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(DataplaneError::Missing { kind: "program", name })
}
