//! The numbers under which the data path knows pools and backends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use lb_common::{Address, MAX_BACKENDS, MAX_SERVICES, ServiceKey};
use thiserror::Error;

use super::{
    ids::{BackendId, Family, PoolId},
    image::Image,
    plan::{self, Member},
};
use crate::config::Config;

/// For how much the data path's tables have room. They are made at the start, so there is some for later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Pools: services by family.
    pub pools: u32,
    /// Backends of all pools.
    pub backends: u32,
    /// Ports of addresses that lead to services.
    pub keys: u32,
}

impl Room {
    /// Twice what a configuration needs and some more, as far as there are numbers.
    pub fn for_config(config: &Config) -> Room {
        let Room { pools, backends, keys } = Room::taken_by(config);
        Room {
            pools: (pools * 2 + 64).min(MAX_SERVICES as u32 - 1),
            backends: (backends * 2 + 256).min(MAX_BACKENDS as u32 - 1),
            keys: keys * 2 + 64,
        }
    }

    /// What a configuration needs.
    pub fn taken_by(config: &Config) -> Room {
        let backends: usize =
            plan::pools(config).map(|(service, pool)| plan::members(config, service, pool).count()).sum();
        Room {
            pools: plan::pools(config).count() as u32,
            backends: backends as u32,
            keys: plan::service_keys(config),
        }
    }
}

/// Why a configuration has no numbers.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{wanted} {what} are more than the {room} that the tables were made for")]
pub struct Full {
    what: &'static str,
    wanted: u32,
    room: u32,
}

/// Numbers of pools and backends. They start at 1: a 0 in a map means "nothing".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers {
    room: Room,
    pools: Given<PoolId>,
    /// A backend with another address or port is another one: flows must not move to it.
    backends: Given<(BackendId, SocketAddr)>,
}

impl Numbers {
    /// Numbers pools and backends in the configuration's order, with room for more.
    ///
    /// # Errors
    /// When there are too many.
    pub fn new(config: &Config) -> Result<Numbers, Full> {
        let room = Room::for_config(config);
        Numbers { room, pools: Given::default(), backends: Given::default() }.successor(config)
    }

    /// The numbers that the maps have already: a pool is known again by an address, port and protocol, a backend by its
    /// pool, address and port. What is new gets others than any that are in use.
    ///
    /// # Errors
    /// When there is no room.
    pub fn of_image(config: &Config, room: Room, image: &Image) -> Result<Numbers, Full> {
        let mut pools = Given::default();
        let mut backends = Given::default();
        let known: BTreeMap<(u32, Address, [u8; 2]), u16> = image
            .backends
            .iter()
            .map(|(&number, backend)| ((backend.service, backend.address, backend.port), number))
            .collect();
        for (service, pool) in plan::pools(config) {
            let protocol = plan::protocol_number(service.protocol);
            let of_family = service.addresses.iter().filter(|&&address| Family::of(address) == pool.family);
            let numbers = of_family.filter_map(|&address| {
                let key = ServiceKey::new(address.into(), service.port, protocol);
                image.services.get(&key).map(|service| service.number)
            });
            let Some(number) = numbers.into_iter().find(|number| *number != 0 && !pools.has(*number)) else {
                continue;
            };
            for Member { backend, id, address, .. } in plan::members(config, service, pool.clone()) {
                if let Some(&known) = known.get(&(number, address.into(), backend.port.to_be_bytes())) {
                    backends.numbers.insert((id, SocketAddr::new(address, backend.port)), known.into());
                }
            }
            pools.numbers.insert(pool, number);
        }
        pools.last = image.tables.keys().copied().max().unwrap_or(0);
        backends.last = image.backends.keys().copied().max().unwrap_or(0).into();
        Numbers { room, pools, backends }.successor(config)
    }

    /// The numbers for another configuration. What stays keeps its number, and a number that is no longer used is given
    /// to nobody else as long as there are others: entries of old flows still name it.
    ///
    /// # Errors
    /// When there is no room.
    pub fn successor(&self, config: &Config) -> Result<Numbers, Full> {
        let wanted = Room::taken_by(config);
        let fits = |what, wanted, room| {
            if wanted <= room { Ok(()) } else { Err(Full { what, wanted, room }) }
        };
        fits("services (by family)", wanted.pools, self.room.pools)?;
        fits("backends (by service and family)", wanted.backends, self.room.backends)?;
        fits("ports of addresses", wanted.keys, self.room.keys)?;
        let pools = plan::pools(config).map(|(_, pool)| pool);
        let backends = plan::pools(config)
            .flat_map(|(service, pool)| plan::members(config, service, pool))
            .map(|member| (member.id, SocketAddr::new(member.address, member.backend.port)));
        Ok(Numbers {
            room: self.room,
            pools: self.pools.successor(pools, self.room.pools),
            backends: self.backends.successor(backends, self.room.backends),
        })
    }

    /// For how much there is room.
    pub fn room(&self) -> Room {
        self.room
    }

    /// A pool's number; 0 when there is no such pool.
    pub fn pool(&self, pool: &PoolId) -> u32 {
        self.pools.numbers.get(pool).copied().unwrap_or(0)
    }

    /// A backend's number; 0 when there is no such backend.
    pub fn backend(&self, backend: &BackendId) -> u16 {
        // The least address of all.
        let first = (backend.clone(), SocketAddr::from(([0, 0, 0, 0], 0)));
        let found = self.backends.numbers.range(first..).next();
        found.filter(|((found, _), _)| found == backend).map_or(0, |(_, &number)| number as u16)
    }

    /// The pool with a number.
    pub fn pool_of(&self, number: u32) -> Option<&PoolId> {
        self.pools.numbers.iter().find(|&(_, &have)| have == number).map(|(pool, _)| pool)
    }

    /// The backend with a number.
    pub fn backend_of(&self, number: u16) -> Option<&BackendId> {
        let found = self.backends.numbers.iter().find(|&(_, &have)| have == u32::from(number));
        found.map(|((backend, _), _)| backend)
    }

    /// Every pool's number.
    pub fn pools(&self) -> impl Iterator<Item = u32> {
        self.pools.numbers.values().copied()
    }

    /// Every backend's number.
    pub fn backends(&self) -> impl Iterator<Item = u16> {
        self.backends.numbers.values().map(|&number| number as u16)
    }
}

/// Who has which number.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Given<T> {
    numbers: BTreeMap<T, u32>,
    /// The last one that was given to somebody.
    last: u32,
}

impl<T> Default for Given<T> {
    fn default() -> Given<T> {
        Given { numbers: BTreeMap::new(), last: 0 }
    }
}

impl<T: Ord + Clone> Given<T> {
    fn has(&self, number: u32) -> bool {
        self.numbers.values().any(|&have| have == number)
    }

    /// What stays keeps its number; the others get the next free ones, in a circle of `room` that they fit in.
    fn successor(&self, wanted: impl Iterator<Item = T>, room: u32) -> Given<T> {
        let wanted: Vec<T> = wanted.collect();
        let kept = wanted.iter().filter_map(|one| Some((one.clone(), *self.numbers.get(one)?)));
        let mut numbers: BTreeMap<T, u32> = kept.collect();
        let taken: BTreeSet<u32> = numbers.values().copied().collect();
        let mut last = self.last;
        let mut free =
            (0..room).map(|step| (self.last + step) % room + 1).filter(|number| !taken.contains(number));
        for one in wanted {
            if numbers.contains_key(&one) {
                continue;
            }
            let Some(number) = free.next() else { break };
            last = number;
            numbers.insert(one, number);
        }
        Given { numbers, last }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lb_common::{Backend, Forward, Service};

    use super::*;
    use crate::core::slots::Slots;

    fn config(backends: &[(&str, &str)]) -> Config {
        let head = r#"
version = 1
[node]
name = "node1"
interfaces = ["front"]
addresses = ["192.0.2.11"]
[[service]]
name = "web"
protocol = "tcp"
port = 80
forward = "dsr-l2"
backend = [BACKENDS]
"#;
        let backends: Vec<String> = backends
            .iter()
            .map(|(name, address)| format!("{{ name = \"{name}\", address = \"{address}\" }}"))
            .collect();
        Config::parse(&head.replace("BACKENDS", &backends.join(", ")), Path::new("usher.toml")).unwrap()
    }

    fn named(numbers: &Numbers) -> Vec<(String, u16)> {
        let of = |number| Some((numbers.backend_of(number)?.backend.to_string(), number));
        numbers.backends().filter_map(of).collect()
    }

    #[test]
    fn what_stays_keeps_its_number_and_nobody_gets_one_that_was_used() {
        let [a, b, c] = [("a", "203.0.113.1"), ("b", "203.0.113.2"), ("c", "203.0.113.3")];
        let first = Numbers::new(&config(&[a, b])).unwrap();
        assert_eq!(named(&first), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        let second = first.successor(&config(&[c, b])).unwrap();
        assert_eq!(named(&second), [("b".to_owned(), 2), ("c".to_owned(), 3)]);
        let third = second.successor(&config(&[a, b, c])).unwrap();
        assert_eq!(named(&third), [("a".to_owned(), 4), ("b".to_owned(), 2), ("c".to_owned(), 3)]);
        assert_eq!(third.pools().collect::<Vec<_>>(), [1]);
    }

    /// The image of maps in which the pool `web` has the number 7 and these backends theirs.
    fn image(backends: &[(u16, &str)]) -> Image {
        let mut image = Image::default();
        let vip = "192.0.2.11".parse::<std::net::IpAddr>().unwrap();
        image.services.insert(ServiceKey::new(vip.into(), 80, 6), Service::new(7, Forward::DsrL2, 1));
        image.tables.insert(7, Slots::default());
        for &(number, address) in backends {
            let address = address.parse::<std::net::IpAddr>().unwrap().into();
            let port = 80_u16.to_be_bytes();
            image.backends.insert(number, Backend { service: 7, address, port, ..Backend::default() });
        }
        image
    }

    #[test]
    fn after_a_restart_what_the_maps_know_keeps_its_number_under_any_name() {
        let image = image(&[(3, "203.0.113.1"), (9, "203.0.113.2")]);
        let room = Room { pools: 66, backends: 258, keys: 66 };
        let config = config(&[("new", "203.0.113.3"), ("renamed", "203.0.113.1")]);
        let numbers = Numbers::of_image(&config, room, &image).unwrap();
        assert_eq!(named(&numbers), [("new".to_owned(), 10), ("renamed".to_owned(), 3)], "9 was used");
        assert_eq!(numbers.pools().collect::<Vec<_>>(), [7]);
        let empty = Numbers::of_image(&config, room, &Image::default()).unwrap();
        assert_eq!(named(&empty), [("new".to_owned(), 1), ("renamed".to_owned(), 2)]);
        let none = Room { backends: 1, ..room };
        assert!(Numbers::of_image(&config, none, &image).is_err());
    }

    #[test]
    fn lent_backends_have_numbers_of_their_own_and_keep_them() {
        let text = r#"
version = 1
[node]
name = "node1"
interfaces = ["front"]
addresses = ["192.0.2.11"]
[nat]
source = ["203.0.113.11"]
[[service]]
name = "web"
protocol = "tcp"
port = 80
all_down = { service = "sorry" }
backend = [{ name = "b1", address = "203.0.113.21" }]
[[service]]
name = "sorry"
protocol = "tcp"
port = 81
backend = [{ name = "s1", address = "203.0.113.22" }]
"#;
        let config = Config::parse(text, Path::new("usher.toml")).unwrap();
        let numbers = Numbers::new(&config).unwrap();
        assert_eq!(
            named(&numbers),
            [("s1".to_owned(), 3), ("b1".to_owned(), 1), ("sorry/s1".to_owned(), 2)],
            "flows of web with sorry's backend are not flows of sorry"
        );
        let mut image = image(&[(4, "203.0.113.21"), (9, "203.0.113.22")]);
        image.backends.get_mut(&9).unwrap().port = 81_u16.to_be_bytes();
        let known = Numbers::of_image(&config, numbers.room(), &image).unwrap();
        assert_eq!(named(&known)[1..], [("b1".to_owned(), 4), ("sorry/s1".to_owned(), 9)]);
    }

    #[test]
    fn a_backend_that_moves_is_another_one() {
        let first = Numbers::new(&config(&[("a", "203.0.113.1"), ("b", "203.0.113.2")])).unwrap();
        let moved = first.successor(&config(&[("a", "203.0.113.9"), ("b", "203.0.113.2")])).unwrap();
        assert_eq!(named(&moved), [("a".to_owned(), 3), ("b".to_owned(), 2)]);
        let id = moved.backend_of(3).unwrap();
        assert_eq!(moved.backend(id), 3);
    }

    #[test]
    fn numbers_go_round_when_they_run_out() {
        let given = |have: &Given<char>, wanted: &str| have.successor(wanted.chars(), 3);
        let first = given(&Given::default(), "ab");
        let second = given(&first, "bc");
        assert_eq!(second.numbers, BTreeMap::from([('b', 2), ('c', 3)]));
        let third = given(&second, "bcd");
        assert_eq!(third.numbers, BTreeMap::from([('b', 2), ('c', 3), ('d', 1)]));
        let fourth = given(&third, "cdef");
        assert_eq!(fourth.numbers.len(), 3, "the caller has seen to it that they fit");
    }

    #[test]
    fn more_than_there_is_room_for_is_refused() {
        let few = Numbers::new(&config(&[("a", "203.0.113.1")])).unwrap();
        assert_eq!(few.room(), Room { pools: 66, backends: 258, keys: 66 });
        let many: Vec<(String, String)> = (0..259)
            .map(|number| (format!("b{number}"), format!("203.0.{}.{}", number / 250, number % 250 + 1)))
            .collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, address)| (&**name, &**address)).collect();
        few.successor(&config(&many[..258])).unwrap();
        let error = few.successor(&config(&many)).unwrap_err().to_string();
        assert_eq!(
            error,
            "259 backends (by service and family) are more than the 258 that the tables were made for"
        );
    }
}
