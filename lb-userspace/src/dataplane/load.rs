//! Loading the object into the kernel.

use std::sync::Arc;

use aya::programs::xdp::XdpLinkId;
use lb_common::{Features, Shape, flow, map, nat, service::place_bits};

use super::{
    DataplaneError, Left, Pins, clock,
    flows::{SharedTables, mapped},
    left,
    object::{self, Maps, Programs},
    services::{ServiceTable, places_for},
};

/// How large the tables are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// The flow table, in buckets.
    pub flow_table: Shape,
    /// The NAT records, in sets; one chunk when no service uses NAT.
    pub nat_table: Shape,
    /// First fragments that are remembered.
    pub fragments: u32,
    /// Buckets of the table of clients' backends; 1 when no service has affinity.
    pub affinity_buckets: u32,
    /// Sources whose new flows are counted.
    pub sources: u32,
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
            flow_table: flow::shape_for(flows),
            nat_table: if nat { nat::shape_for(flows) } else { nat::NONE },
            fragments,
            affinity_buckets: 1,
            sources: 1,
            services: services + 1,
            service_bits: place_bits(keys),
            backends: backends + 1,
        }
    }
}

/// The loaded programs with their maps. Dropping it detaches and unloads everything that is not pinned.
pub struct Dataplane {
    pub(super) maps: Maps,
    pub(super) programs: Programs,
    /// The attached program's links, one for each interface.
    pub(super) links: Vec<XdpLinkId>,
    pub(super) features: Features,
    pub(super) shared: Arc<SharedTables>,
    pub(super) services: Arc<ServiceTable>,
    /// Where maps and links are pinned; `None`: they are not.
    pub(super) pins: Option<Pins>,
    /// It has been told what to do, now or by an earlier daemon: else nothing of it is left when it is dropped.
    pub(super) in_use: bool,
    pub(super) sizes: Sizes,
}

impl Dataplane {
    /// Loads the object with tables of these sizes and these features. Nothing is attached yet.
    pub fn load(sizes: Sizes, features: Features) -> Result<Dataplane, DataplaneError> {
        Dataplane::load_with_clock(sizes, features, clock::jiffy(), left::Maps::new())
    }

    /// The same, pinned so that it outlives this process. What an earlier one has left goes on being used: its tables keep
    /// their sizes, its flows are known. The running programs are replaced by [`Dataplane::take_over`].
    ///
    /// # Errors
    /// When the kernel refuses; whatever runs goes on as it was.
    pub fn load_pinned(
        pins: Pins,
        left: Option<Left>,
        sizes: Sizes,
        features: Features,
    ) -> Result<Dataplane, DataplaneError> {
        let in_use = left.is_some();
        let (sizes, maps) = match left {
            Some(left) => left.fit(sizes)?,
            None => (sizes, left::Maps::new()),
        };
        let mut dataplane = Dataplane::load_with_clock(sizes, features, clock::jiffy(), maps)?;
        dataplane.in_use = in_use;
        let program = dataplane.program_id()?;
        let pins = dataplane.pins.insert(pins).clone();
        let kept: Vec<_> = left::kept().collect();
        for (name, pin) in &kept {
            pins.set_map(pin, dataplane.maps.get(name)?)?;
        }
        pins.keep_maps(&kept.into_iter().map(|(_, pin)| pin).collect::<Vec<_>>())?;
        pins.add_programs(program, dataplane.programs.next())?;
        Ok(dataplane)
    }

    /// The same with the clock stopped, for tests that must not depend on how fast they run.
    pub fn load_with_clock_stopped(sizes: Sizes, features: Features) -> Result<Dataplane, DataplaneError> {
        Dataplane::load_with_clock(sizes, features, 0, left::Maps::new())
    }

    fn load_with_clock(
        sizes: Sizes,
        features: Features,
        jiffy: u64,
        left: left::Maps,
    ) -> Result<Dataplane, DataplaneError> {
        let (programs, maps) = object::load(sizes, features, jiffy, left)?;
        // SAFETY: the object declares the map as a mmapable array of this type, and it was made with so many.
        let places = unsafe { mapped(&maps, map::SERVICES, places_for(sizes.service_bits)) }?;
        let services = Arc::new(ServiceTable::new(places, sizes.service_bits));
        let shared = Arc::new(SharedTables::new(&programs, &maps, sizes, services.clone())?);
        Ok(Dataplane {
            maps,
            programs,
            links: Vec::new(),
            features,
            shared,
            services,
            pins: None,
            in_use: false,
            sizes,
        })
    }

    /// How large the tables are.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Instructions that the verifier walked through to accept one of the [`program`]s; 0 where the
    /// kernel does not tell (before 5.16).
    pub fn verified_instructions(&self, name: &'static str) -> Result<u32, DataplaneError> {
        Ok(self.programs.info(name)?.verified_instruction_count().unwrap_or(0))
    }

    /// The id under which the kernel knows the program that is attached.
    pub fn program_id(&self) -> Result<u32, DataplaneError> {
        self.programs.id()
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        if self.in_use {
            // A start that failed before it took anything over.
            if self.links.is_empty() {
                self.forget_own_programs();
            }
            return;
        }
        // A start that failed, and found nothing.
        if let Err(error) = self.unpin() {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "what was pinned stays; `usher detach` removes it");
        }
    }
}
