//! Writing the desired image into the maps.

use std::{io, os::fd::AsFd as _};

use aya::maps::{Array, HashMap, MapData, MapError};
use lb_common::{
    Address, Backend, DecapSettings, FragmentKey, FragmentPath, QuicKey, SLOTS_PADDED, Settings, Trace,
    bench::Plan,
    capture::Filter,
    check_path::{Refusal, Way},
    map,
};

use super::{Dataplane, DataplaneError, chunks, object::data, sys};
use crate::core::{image::Operation, slots::Slots};

/// A map value of ours, which aya may copy byte by byte.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(super) struct Pod<T>(pub(super) T);

macro_rules! pod {
    ($($type:ty),+) => {
        // SAFETY: `repr(C)` without padding, valid for any bytes.
        $(unsafe impl aya::Pod for Pod<$type> {})+
    };
}
pod!(
    Settings,
    QuicKey,
    Backend,
    FragmentKey,
    FragmentPath,
    Trace,
    Filter,
    Plan,
    Address,
    DecapSettings,
    Way,
    Refusal
);

impl Dataplane {
    /// Carries out the operations in their order. Runs of Maglev tables are swapped by few system calls.
    pub fn apply(&mut self, operations: &[Operation]) -> Result<(), DataplaneError> {
        let mut rest = operations;
        while let Some(first) = rest.first() {
            let tables: Vec<_> = rest.iter().map_while(as_table).collect();
            if tables.is_empty() {
                self.apply_one(first)?;
                rest = &rest[1..];
            } else {
                self.set_tables(&tables)?;
                rest = &rest[tables.len()..];
            }
        }
        Ok(())
    }

    fn apply_one(&mut self, operation: &Operation) -> Result<(), DataplaneError> {
        match operation {
            Operation::SetSettings(settings) => {
                self.set_element(map::SETTINGS, 0, **settings)?;
                self.in_use = true;
                Ok(())
            }
            Operation::SetBackend(number, backend) => {
                self.set_element(map::BACKENDS, u32::from(*number), *backend)
            }
            Operation::RemoveBackend(number) => {
                self.set_element(map::BACKENDS, u32::from(*number), Backend::default())
            }
            Operation::SetTable(number, slots) => self.set_tables(&[(*number, slots)]),
            Operation::SetService(key, service) => self.services.set(key, service),
            Operation::RemoveService(key) => {
                self.services.remove(key);
                Ok(())
            }
            Operation::SetQuicId(id, number) => {
                let (id, number) = (Pod(*id), u32::from(*number));
                self.quic_ids(|ids| ids.insert(id, number, 0))
            }
            Operation::RemoveQuicId(id) => {
                let id = Pod(*id);
                self.quic_ids(|ids| unless_gone(ids.remove(&id)))
            }
            Operation::RemoveTable(number) => self.remove_table(*number),
        }
    }

    fn set_element<T>(&mut self, name: &'static str, index: u32, value: T) -> Result<(), DataplaneError>
    where
        Pod<T>: aya::Pod,
    {
        let error = |source| DataplaneError::Map { what: "set an element", map: name, source };
        let mut array: Array<_, Pod<T>> = self.maps.get_mut(name)?.try_into().map_err(error)?;
        array.set(index, Pod(value), 0).map_err(error)
    }

    fn quic_ids(
        &mut self,
        change: impl FnOnce(&mut HashMap<&mut MapData, Pod<QuicKey>, u32>) -> Result<(), MapError>,
    ) -> Result<(), DataplaneError> {
        let error = |source| DataplaneError::Map { what: "change an id", map: map::QUIC_IDS, source };
        let mut ids = self.maps.get_mut(map::QUIC_IDS)?.try_into().map_err(error)?;
        change(&mut ids).map_err(error)
    }

    /// Fills new inner maps and swaps them in.
    fn set_tables(&mut self, tables: &[(u32, &Slots)]) -> Result<(), DataplaneError> {
        let name = map::SLOT_TABLES;
        let outer = data(self.maps.get(name)?).ok_or(DataplaneError::Missing { kind: "map", name })?;
        let maker = || {
            let mut value = Vec::new();
            move |slots: &&Slots| {
                pad(slots, &mut value);
                sys::array_of_one(&value)
            }
        };
        chunks::put(outer.fd().as_fd(), tables, maker).map_err(|source| DataplaneError::System {
            what: "swap tables in",
            map: name,
            source,
        })
    }

    /// An array of maps keeps its elements: the removed service's table becomes an empty one.
    fn remove_table(&mut self, number: u32) -> Result<(), DataplaneError> {
        self.set_tables(&[(number, &Slots::default())])
    }
}

/// Gone already: a run of operations that failed half-way is tried again whole.
fn unless_gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn as_table(operation: &Operation) -> Option<(u32, &Slots)> {
    match operation {
        Operation::SetTable(number, slots) => Some((*number, slots)),
        _ => None,
    }
}

/// Makes the slots the map's value: rounded up with zeros.
fn pad(slots: &Slots, value: &mut Vec<u16>) {
    value.clear();
    slots.append_to(value);
    value.resize(SLOTS_PADDED, 0);
}
