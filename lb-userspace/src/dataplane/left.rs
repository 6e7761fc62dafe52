//! What an earlier daemon has left: the maps that go on forwarding, and what is in them.

use std::{collections::BTreeMap, os::fd::AsFd as _};

use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::{
    Backend, MAX_SERVICES, QuicKey, Reason, Settings, map, nat,
    service::{PROBES, ServicePlace},
};

use super::{
    DataplaneError, PinError, Pins, Sizes,
    object::data,
    sys::{self, Mapped},
    tables::Pod,
};
use crate::core::{image::Image, numbers::Room};

/// Maps without which the others are worth nothing.
const NEEDED: [&str; 8] = [
    map::SETTINGS,
    map::SERVICES,
    map::SLOT_TABLES,
    map::BACKENDS,
    map::COUNTERS,
    map::FLOWS,
    map::NAT,
    map::QUIC_IDS,
];

/// Maps that may be made anew, if another version of usher has left them otherwise: by name, with what tells the versions
/// apart.
const FORGETTABLE: [(&str, usize); 6] = [
    (map::FRAGMENTS, size_of::<lb_common::FragmentPath>()),
    (map::AFFINITY, size_of::<lb_common::Bucket>()),
    (map::SOURCES, size_of::<lb_common::Tokens>()),
    (map::REASONS, Reason::COUNT),
    (map::BEGUN, size_of::<u64>()),
    (map::OPENINGS, size_of::<lb_common::Openings>()),
];

/// Names of the maps that are kept, and of their pins.
pub(super) fn kept() -> impl Iterator<Item = (&'static str, String)> {
    let needed = NEEDED.into_iter().map(|name| (name, name.to_owned()));
    needed.chain(FORGETTABLE.into_iter().map(|(name, version)| (name, format!("{name}-{version}"))))
}

/// Maps by name.
pub(super) type Maps = BTreeMap<&'static str, Map>;

/// The maps of an earlier daemon.
pub struct Left {
    maps: Maps,
    settings: Box<Settings>,
    image: Image,
    room: Room,
}

impl Left {
    /// What is pinned; `None` when there is nothing, or nothing that serves.
    ///
    /// # Errors
    /// When a part is missing while the others serve, or cannot be read.
    pub fn find(pins: &Pins) -> Result<Option<Left>, DataplaneError> {
        let mut maps = Maps::new();
        for (name, pin) in kept() {
            if let Some(map) = pins.map(&pin)? {
                maps.insert(name, map);
            }
        }
        if let Some(missing) = NEEDED.iter().find(|name| !maps.contains_key(**name)) {
            // Whoever was killed while it pinned its maps has attached nothing yet.
            return match pins.has_links()? {
                true => Err(PinError::Damaged(pins.map_path(missing)).into()),
                false => Ok(None),
            };
        }
        let settings = settings(found(&maps, map::SETTINGS)?)?;
        if !is_in_use(&settings) {
            return Ok(None);
        }
        let image = image(&maps, &settings)?;
        let entries = |name| maps.get(name).map(entries).transpose();
        let pools = entries(map::REASONS)?.map_or(MAX_SERVICES as u32, |all| all / Reason::COUNT as u32);
        let room = Room {
            pools: pools.saturating_sub(1),
            backends: entries(map::BACKENDS)?.unwrap_or_default().saturating_sub(1),
            // A quarter of the places is for keys: see `place_bits`.
            keys: places(&maps)? / 4,
        };
        Ok(Some(Left { maps, settings: Box::new(settings), image, room }))
    }

    /// What the maps hold. Tables are named but not read: each is empty here.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// What the program has been told.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// For how much there is room.
    pub fn room(&self) -> Room {
        self.room
    }

    /// The sizes that the maps will have when all that is there and large enough stays, and which these are.
    pub(super) fn fit(mut self, wanted: Sizes) -> Result<(Sizes, Maps), DataplaneError> {
        let mut sizes = wanted;
        sizes.flow_table = self.settings.flow_table;
        // Tables of one element are there because nothing needed them.
        if self.settings.nat_table == nat::NONE && wanted.nat_table != nat::NONE {
            self.maps.remove(map::NAT);
        } else {
            sizes.nat_table = self.settings.nat_table;
        }
        for (name, size) in [
            (map::FRAGMENTS, &mut sizes.fragments),
            (map::AFFINITY, &mut sizes.affinity_buckets),
            (map::SOURCES, &mut sizes.sources),
        ] {
            let Some(have) = self.maps.get(name).map(entries).transpose()? else { continue };
            if have == 1 && *size > 1 {
                self.maps.remove(name);
            } else {
                *size = have;
            }
        }
        Ok((sizes, self.maps))
    }
}

/// Whoever was killed before it wrote the settings has served nobody.
fn is_in_use(settings: &Settings) -> bool {
    settings.flow_table.chunks > 0
}

fn settings(map: &Map) -> Result<Settings, DataplaneError> {
    let name = map::SETTINGS;
    let error = |source| DataplaneError::Map { what: "read the element", map: name, source };
    let array: Array<&MapData, Pod<Settings>> = map.try_into().map_err(error)?;
    Ok(array.get(&0, 0).map_err(error)?.0)
}

fn image(maps: &Maps, settings: &Settings) -> Result<Image, DataplaneError> {
    let mut image = Image { settings: Some(Box::new(*settings)), ..Image::default() };
    let services = data_of(maps, map::SERVICES)?;
    let length = (places(maps)? as usize) + PROBES - 1;
    let error = |source| DataplaneError::System { what: "map into memory", map: map::SERVICES, source };
    // SAFETY: the object declares the map as a mmapable array of this type; it has so many elements.
    let services: Mapped<ServicePlace> =
        unsafe { Mapped::new(services.fd().as_fd(), length) }.map_err(error)?;
    for place in services.as_slice().iter().filter(|place| !place.is_unused() && !place.is_removed()) {
        let service = *place.service();
        image.services.insert(place.key(), service);
        if service.number != 0 {
            image.tables.entry(service.number).or_default();
        }
    }
    image.backends = backends(data_of(maps, map::BACKENDS)?)?;
    let name = map::QUIC_IDS;
    let error = |source| DataplaneError::Map { what: "read", map: name, source };
    let ids: HashMap<&MapData, Pod<QuicKey>, u32> = found(maps, name)?.try_into().map_err(error)?;
    for id in ids.iter() {
        let (Pod(key), number) = id.map_err(error)?;
        image.quic_ids.insert(key, number as u16);
    }
    Ok(image)
}

fn backends(map: &MapData) -> Result<BTreeMap<u16, Backend>, DataplaneError> {
    let name = map::BACKENDS;
    let count = map.info().map_err(|source| DataplaneError::Map { what: "measure", map: name, source })?;
    let mut all = vec![Backend::default(); count.max_entries() as usize];
    // SAFETY: the object declares the map as an array of this type, whose size is a multiple of 8; one value for each
    // element, as on a machine of one CPU.
    let read = unsafe { sys::lookup_batch(map.fd().as_fd(), 0, &mut all, 1) }
        .map_err(|source| DataplaneError::System { what: "read", map: name, source })?;
    let used = all.into_iter().take(read).enumerate().filter(|(_, backend)| backend.service != 0);
    Ok(used.map(|(number, backend)| (number as u16, backend)).collect())
}

/// First places of the table of services.
fn places(maps: &Maps) -> Result<u32, DataplaneError> {
    Ok(entries(found(maps, map::SERVICES)?)? + 1 - PROBES as u32)
}

fn found<'a>(maps: &'a Maps, name: &'static str) -> Result<&'a Map, DataplaneError> {
    maps.get(name).ok_or(DataplaneError::Missing { kind: "map", name })
}

fn data_of<'a>(maps: &'a Maps, name: &'static str) -> Result<&'a MapData, DataplaneError> {
    data(found(maps, name)?).ok_or(DataplaneError::Missing { kind: "map", name })
}

fn entries(map: &Map) -> Result<u32, DataplaneError> {
    let name = "that was left";
    let data = data(map).ok_or(DataplaneError::Missing { kind: "map", name })?;
    let info = data.info().map_err(|source| DataplaneError::Map { what: "measure", map: name, source })?;
    Ok(info.max_entries())
}
