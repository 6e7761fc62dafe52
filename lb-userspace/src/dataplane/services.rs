//! The table of services, in memory that the program shares.

use lb_common::{
    Address, Service, ServiceKey, map,
    service::{PROBES, ServicePlace},
};

use super::{
    DataplaneError,
    sys::{self, Mapped},
};

/// The table, as this process sees it.
pub(super) struct ServiceTable {
    places: Mapped<ServicePlace>,
    bits: u32,
}

impl ServiceTable {
    /// A table of [`places_for`] as many bits.
    pub(super) fn new(places: Mapped<ServicePlace>, bits: u32) -> ServiceTable {
        ServiceTable { places, bits }
    }

    /// Adds a service, or replaces it.
    pub(super) fn set(&self, key: &ServiceKey, service: &Service) -> Result<(), DataplaneError> {
        let places = self.places_of(key);
        let own = places.iter().find(|place| place.has(key));
        let place = match own.or_else(|| places.iter().find(|place| place.is_unused())) {
            Some(place) => place,
            None => {
                let place = places.iter().find(|place| place.is_removed()).ok_or(DataplaneError::Full {
                    map: map::SERVICES,
                    what: "addresses and ports of services",
                })?;
                // One that found the removed service may still read it.
                sys::wait_for_packets();
                place
            }
        };
        place.set(key, service);
        Ok(())
    }

    /// Removes a service, if it is there.
    pub(super) fn remove(&self, key: &ServiceKey) {
        if let Some(place) = self.places_of(key).iter().find(|place| place.has(key)) {
            place.remove();
        }
    }

    /// The key at a place; nobody's where none is.
    pub(super) fn key(&self, place: u32) -> ServiceKey {
        let nobody = ServiceKey::any(Address::NONE);
        self.places.as_slice().get(place as usize).map_or(nobody, ServicePlace::key)
    }

    fn places_of(&self, key: &ServiceKey) -> &[ServicePlace] {
        let first = key.place(self.bits) as usize;
        &self.places.as_slice()[first..first + PROBES]
    }
}

/// How many places a table of so many bits has.
pub(super) fn places_for(bits: u32) -> u32 {
    (1 << bits) + PROBES as u32 - 1
}
