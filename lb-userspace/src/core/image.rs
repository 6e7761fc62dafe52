//! The desired content of the maps, and the way from one content to another.

use std::collections::BTreeMap;

use lb_common::{Address, Backend, Features, Forward, QuicKey, Service, ServiceKey, Settings};

use super::slots::Slots;

/// All that the maps should hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Image {
    /// The settings; `None` only before the first image was applied.
    pub settings: Option<Box<Settings>>,
    /// Services by address, port and protocol.
    pub services: BTreeMap<ServiceKey, Service>,
    /// Maglev tables by service number.
    pub tables: BTreeMap<u32, Slots>,
    /// Backends by number.
    pub backends: BTreeMap<u16, Backend>,
    /// Backend numbers by QUIC server id.
    pub quic_ids: BTreeMap<QuicKey, u16>,
}

impl Image {
    /// What a program must have been loaded with to serve it, but for the deny list, which is no part of it.
    pub fn features(&self) -> Features {
        let of_service = |service: &Service| {
            let forward = match service.forward {
                forward if forward == Forward::Nat as u8 => Features::NAT,
                forward if forward == Forward::DsrL2 as u8 => Features::DSR_L2,
                forward if forward == Forward::DsrIpip as u8 => Features::DSR_IPIP,
                forward if forward == Forward::DsrGue as u8 => Features::DSR_GUE,
                _ => Features::NONE,
            };
            let options = [
                (service.flags & Service::CLIENT_HASH != 0, Features::CLIENT_HASH),
                (service.affinity > 0, Features::AFFINITY),
                (service.source_rate > 0, Features::RATE_LIMIT),
                (service.quic_id_length > 0, Features::QUIC),
            ];
            forward | chosen(options)
        };
        let several = |settings: &Settings| settings.nat_sources.iter().any(|all| all[1] != Address::NONE);
        let settings = self.settings.as_deref();
        let others = [
            (settings.is_some_and(several), Features::NAT_SOURCES),
            (settings.is_some_and(|settings| settings.new_per_tick > 0), Features::NEW_FLOW_LIMIT),
            (self.backends.values().any(Backend::is_lost), Features::RESET_LOST),
        ];
        self.services.values().map(of_service).chain([chosen(others)]).collect()
    }
}

fn chosen<const N: usize>(features: [(bool, Features); N]) -> Features {
    features.into_iter().filter(|(wanted, _)| *wanted).map(|(_, feature)| feature).collect()
}

/// One change of one map element.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Writes the settings.
    SetSettings(Box<Settings>),
    /// Writes a backend.
    SetBackend(u16, Backend),
    /// Swaps in a Maglev table.
    SetTable(u32, Slots),
    /// Writes a service.
    SetService(ServiceKey, Service),
    /// Gives a QUIC server id to a backend.
    SetQuicId(QuicKey, u16),
    /// Removes a service.
    RemoveService(ServiceKey),
    /// Takes a QUIC server id away.
    RemoveQuicId(QuicKey),
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
    operations.extend(set(&applied.quic_ids, &desired.quic_ids, Operation::SetQuicId));
    operations.extend(set(&applied.services, &desired.services, Operation::SetService));
    operations.extend(gone(&applied.services, &desired.services).map(Operation::RemoveService));
    operations.extend(gone(&applied.quic_ids, &desired.quic_ids).map(Operation::RemoveQuicId));
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
        Operation::SetQuicId(id, number) => drop(image.quic_ids.insert(*id, *number)),
        Operation::RemoveQuicId(id) => drop(image.quic_ids.remove(id)),
        Operation::RemoveService(key) => drop(image.services.remove(key)),
        Operation::RemoveTable(number) => drop(image.tables.remove(number)),
        Operation::RemoveBackend(number) => drop(image.backends.remove(number)),
    }
}

/// Notes that nobody knows which of these operations were carried out, since one of them failed: whatever is desired next, the
/// difference to it writes or removes all that they are about.
pub fn doubt(image: &mut Image, operations: &[Operation]) {
    // None of these values is ever desired.
    let unknown = Service { number: u32::MAX, ..Service::MARK };
    for operation in operations {
        match operation {
            Operation::SetSettings(_) => image.settings = None,
            Operation::SetBackend(number, _) | Operation::RemoveBackend(number) => {
                image.backends.insert(*number, Backend::default());
            }
            Operation::SetTable(number, _) | Operation::RemoveTable(number) => {
                image.tables.insert(*number, Slots::default());
            }
            Operation::SetService(key, _) | Operation::RemoveService(key) => {
                image.services.insert(*key, unknown);
            }
            Operation::SetQuicId(id, _) | Operation::RemoveQuicId(id) => {
                image.quic_ids.insert(*id, 0);
            }
        }
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

#[cfg(test)]
mod tests {
    use lb_common::{Forward, HashKey, Shape};
    use proptest::{collection::btree_map, option, prelude::*};

    use super::*;

    fn settings() -> impl Strategy<Value = Option<Box<Settings>>> {
        option::of((0_u64..3).prop_map(|seed| {
            Box::new(Settings {
                hash_key: HashKey { first: [seed; 7], second: [seed; 7] },
                nat_sources: Default::default(),
                tunnel_source: Default::default(),
                tunnel_hosts: Default::default(),
                longest_idle: 1,
                flow_table: Shape::small(1),
                nat_table: Shape::small(1),
                nat_port_first: 1024,
                nat_groups: 1,
                nat_groups_of_all: [1; 2],
                new_per_tick: 0,
                affinity_buckets: 1,
                closing_idle: 1,
                icmp_limit: 1,
                gue_port: 1,
                reply_by_route: 0,
                reply_mtu: 0,
                zero: 0,
                zeros: [0; 2],
            })
        }))
    }

    fn image() -> impl Strategy<Value = Image> {
        let key = (0_u8..4, 80_u16..83)
            .prop_map(|(host, port)| ServiceKey::new(lb_common::Address::v4([192, 0, 2, host]), port, 6));
        let service = (1_u32..4, any::<bool>()).prop_map(|(number, nat)| {
            Service::new(number, if nat { Forward::Nat } else { Forward::DsrL2 }, 1)
        });
        let quic_id = (0_u8..4).prop_map(|id| QuicKey::new(1, [id; 8], 4));
        let table = (0_u16..3).prop_map(|backend| Slots::from(vec![backend; 4]));
        let backend =
            (1_u32..4, 0_u8..2).prop_map(|(service, flags)| Backend { service, flags, ..Backend::default() });
        (
            settings(),
            btree_map(key, service, 0..6),
            btree_map(1_u32..4, table, 0..4),
            btree_map(1_u16..6, backend, 0..6),
            btree_map(quic_id, 1_u16..6, 0..4),
        )
            .prop_map(|(settings, services, tables, backends, quic_ids)| Image {
                settings,
                services,
                tables,
                backends,
                quic_ids,
            })
    }

    proptest! {
        #[test]
        fn the_difference_leads_from_any_image_to_any_other(from in image(), to in image()) {
            let mut image = from.clone();
            for operation in diff(&from, &to) {
                apply(&mut image, &operation);
            }
            // Settings are never taken away: a program without them balances nothing.
            let settings = to.settings.clone().or(from.settings);
            prop_assert_eq!(image, Image { settings, ..to });
        }

        #[test]
        fn what_was_carried_out_in_part_is_made_good(from in image(), to in image(), next in image(), done in 0_usize..30) {
            let operations = diff(&from, &to);
            let mut maps = from.clone();
            operations.iter().take(done).for_each(|operation| apply(&mut maps, operation));
            let mut known = from;
            doubt(&mut known, &operations);
            for operation in diff(&known, &next) {
                apply(&mut maps, &operation);
            }
            let settings = next.settings.clone().or(maps.settings.clone());
            prop_assert_eq!(maps, Image { settings, ..next });
        }

        #[test]
        fn nothing_is_written_when_nothing_changed(image in image()) {
            prop_assert_eq!(diff(&image, &image), []);
        }

        #[test]
        fn what_a_thing_refers_to_is_there_before_it_and_leaves_after_it(from in image(), to in image()) {
            let rank = |operation: &Operation| match operation {
                Operation::SetSettings(_) => 0,
                Operation::SetBackend(..) => 1,
                Operation::SetTable(..) => 2,
                Operation::SetQuicId(..) => 3,
                Operation::SetService(..) => 4,
                Operation::RemoveService(_) => 5,
                Operation::RemoveQuicId(_) => 6,
                Operation::RemoveTable(_) => 7,
                Operation::RemoveBackend(_) => 8,
            };
            prop_assert!(diff(&from, &to).is_sorted_by_key(rank));
        }
    }
}
