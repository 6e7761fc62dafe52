//! Loading the object into the kernel.

use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramInfo, Xdp},
};
use lb_common::{flow, map, nat, program};

use super::{Attached, DataplaneError, attach::attach, flows::SharedTables};
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

/// The loaded program with its maps. Dropping it detaches and unloads everything.
pub struct Dataplane {
    pub(super) ebpf: Ebpf,
    pub(super) shared: SharedTables,
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
        let shared = SharedTables::new(&ebpf, sizes)?;
        Ok(Dataplane { ebpf, shared })
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

/// One of the object's XDP programs.
pub(super) fn xdp<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, DataplaneError> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(DataplaneError::Missing { kind: "program", name })
}
