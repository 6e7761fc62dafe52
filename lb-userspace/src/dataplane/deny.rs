//! Writing the deny list.

use std::os::fd::AsFd as _;

use aya::maps::{Map, lpm_trie::Key};
use lb_common::map;

use super::{Dataplane, DataplaneError, sys};
use crate::core::deny::{Change, Prefix};

/// Prefixes written by one system call: 1.5 MB of keys and values.
const BATCH: usize = 65_536;

impl Dataplane {
    /// Carries changes of the deny list out, in their order, by few system calls. Packets see each prefix
    /// before or after its change. Doing it again does no harm.
    ///
    /// # Errors
    /// When the kernel refuses a change; those before it are done.
    pub fn deny(&mut self, changes: &[Change]) -> Result<(), DataplaneError> {
        let name = map::DENY;
        let Map::LpmTrie(list) = self.maps.get(name)? else {
            return Err(DataplaneError::Missing { kind: "map", name });
        };
        let list = list.fd().as_fd();
        let runs = changes.chunk_by(|one, next| one.denied.is_some() == next.denied.is_some());
        for some in runs.flat_map(|run| run.chunks(BATCH)) {
            let keys: Vec<_> = some.iter().map(|change| key(&change.prefix)).collect();
            let values: Vec<_> = some.iter().filter_map(|change| change.denied.map(u32::from)).collect();
            // SAFETY: the object declares the map with these types of keys and values.
            let result = unsafe {
                match values.is_empty() {
                    true => sys::delete_batch(list, &keys),
                    false => sys::update_batch(list, &keys, &values),
                }
            };
            result.map_err(|source| DataplaneError::System {
                what: "change prefixes of",
                map: name,
                source,
            })?;
        }
        Ok(())
    }
}

fn key(prefix: &Prefix) -> Key<[u8; 16]> {
    Key::new(u32::from(prefix.length()), prefix.octets())
}
