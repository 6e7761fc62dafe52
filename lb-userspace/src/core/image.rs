//! The desired content of the maps, and the way from one content to another.

use std::{collections::BTreeMap, sync::Arc};

use lb_common::{Backend, Service, ServiceKey, Settings};

/// All that the maps should hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Image {
    /// The settings; `None` only before the first image was applied.
    pub settings: Option<Box<Settings>>,
    /// Services by address, port and protocol.
    pub services: BTreeMap<ServiceKey, Service>,
    /// Maglev tables by service number.
    pub tables: BTreeMap<u32, Arc<[u16]>>,
    /// Backends by number.
    pub backends: BTreeMap<u16, Backend>,
}

/// One change of one map element.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Writes the settings.
    SetSettings(Box<Settings>),
    /// Writes a backend.
    SetBackend(u16, Backend),
    /// Swaps in a Maglev table.
    SetTable(u32, Arc<[u16]>),
    /// Writes a service.
    SetService(ServiceKey, Service),
    /// Removes a service.
    RemoveService(ServiceKey),
    /// Empties a Maglev table.
    RemoveTable(u32),
    /// Frees a backend's number.
    RemoveBackend(u16),
}

/// The operations that turn maps which hold `applied` into maps which hold `desired`.
///
/// Their order keeps every packet safe in between: what a thing refers to is there before it and
/// leaves after it (backend before table before service; service before table before backend).
pub fn diff(applied: &Image, desired: &Image) -> Vec<Operation> {
    let mut operations = Vec::new();
    if let Some(settings) = &desired.settings
        && applied.settings.as_ref() != Some(settings)
    {
        operations.push(Operation::SetSettings(settings.clone()));
    }
    operations.extend(set(&applied.backends, &desired.backends, Operation::SetBackend));
    operations.extend(set(&applied.tables, &desired.tables, Operation::SetTable));
    operations.extend(set(&applied.services, &desired.services, Operation::SetService));
    operations.extend(gone(&applied.services, &desired.services).map(Operation::RemoveService));
    operations.extend(gone(&applied.tables, &desired.tables).map(Operation::RemoveTable));
    operations.extend(gone(&applied.backends, &desired.backends).map(Operation::RemoveBackend));
    operations
}

/// Carries an operation out on an image, as the data plane does on the maps.
pub fn apply(image: &mut Image, operation: &Operation) {
    match operation {
        Operation::SetSettings(settings) => image.settings = Some(settings.clone()),
        Operation::SetBackend(number, backend) => drop(image.backends.insert(*number, *backend)),
        Operation::SetTable(number, slots) => drop(image.tables.insert(*number, slots.clone())),
        Operation::SetService(key, service) => drop(image.services.insert(*key, *service)),
        Operation::RemoveService(key) => drop(image.services.remove(key)),
        Operation::RemoveTable(number) => drop(image.tables.remove(number)),
        Operation::RemoveBackend(number) => drop(image.backends.remove(number)),
    }
}

fn set<'a, K: Ord + Copy, V: PartialEq + Clone>(
    applied: &'a BTreeMap<K, V>,
    desired: &'a BTreeMap<K, V>,
    operation: fn(K, V) -> Operation,
) -> impl Iterator<Item = Operation> + 'a {
    desired
        .iter()
        .filter(|(key, value)| applied.get(key) != Some(value))
        .map(move |(key, value)| operation(*key, value.clone()))
}

fn gone<'a, K: Ord + Copy, V>(
    applied: &'a BTreeMap<K, V>,
    desired: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = K> + 'a {
    applied.keys().filter(|key| !desired.contains_key(key)).copied()
}
