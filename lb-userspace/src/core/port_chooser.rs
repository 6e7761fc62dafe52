//! From which port a peer is probed, and so through which of its backends.

use super::slots::Slots;

/// Ports that are tried for one probe. With two backends of equal weight all lead to the same one once in
/// 10^19 probes.
const TRIES: u16 = 64;

/// Chooses source ports for probes of one pool of a peer.
///
/// The peer sends a probe on to the backend that its flow hash leads to, which is the one that
/// ours leads to. So a port is chosen whose slot belongs to a backend that this node sees up, and
/// each time another backend: one that has just died fails one probe and not `fall` in a row.
#[derive(Debug, Clone)]
pub struct PortChooser {
    first: u16,
    count: u16,
    /// Offset of the next port to try. It runs on, so that a port rests before it is used again.
    next: u16,
    last_backend: u16,
}

impl PortChooser {
    /// Chooses among `count` ports from `first` on, beginning anywhere among them: `start` is a
    /// random number, so that a restarted node does not meet flows of its former self.
    pub fn new(first: u16, count: u16, start: u16) -> PortChooser {
        PortChooser { first, count, next: start.checked_rem(count).unwrap_or(0), last_backend: 0 }
    }

    /// The next probe's source port; `None` when the table is empty.
    ///
    /// `slot_of` is the flow hash of a probe from that port, `table` the pool's Maglev table as this node
    /// has it: it holds backends that are up here, or is empty. Tries 64 ports at most; if they all
    /// lead to the last probe's backend, that one is taken again.
    pub fn choose(&mut self, slot_of: impl Fn(u16) -> u32, table: &Slots) -> Option<u16> {
        let mut same_again = None;
        for tried in 0..self.count.min(TRIES) {
            let offset = ((u32::from(self.next) + u32::from(tried)) % u32::from(self.count)) as u16;
            let backend = table.get(slot_of(self.first + offset) as usize).unwrap_or(0);
            if backend == 0 {
                continue;
            }
            if backend != self.last_backend {
                return Some(self.take(offset, backend));
            }
            same_again.get_or_insert(offset);
        }
        same_again.map(|offset| self.take(offset, self.last_backend))
    }

    fn take(&mut self, offset: u16, backend: u16) -> u16 {
        self.last_backend = backend;
        self.next = if offset + 1 == self.count { 0 } else { offset + 1 };
        self.first + offset
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const TABLE: [u16; 6] = [1, 2, 3, 1, 2, 3];

    fn slot_of(port: u16) -> u32 {
        u32::from(port) % 6
    }

    #[test]
    fn another_backend_and_another_port_each_time() {
        let mut chooser = PortChooser::new(40_000, 100, 77);
        let table = TABLE[..].into();
        let mut last = 0;
        let mut ports = BTreeSet::new();
        for _ in 0..20 {
            let port = chooser.choose(slot_of, &table).unwrap();
            assert!((40_000..40_100).contains(&port));
            assert!(ports.insert(port), "{port} again");
            let backend = TABLE[slot_of(port) as usize];
            assert!(backend != last, "{backend} after {last}");
            last = backend;
        }
    }

    #[test]
    fn the_only_backend_is_taken_again_after_few_tries() {
        let tries = Cell::new(0);
        let slot_of = |port| {
            tries.set(tries.get() + 1);
            slot_of(port)
        };
        let mut chooser = PortChooser::new(32_768, 28_232, 0);
        let ports: BTreeSet<u16> =
            (0..4).filter_map(|_| chooser.choose(slot_of, &vec![2; 6].into())).collect();
        assert_eq!(ports.len(), 4, "each time another port");
        assert_eq!(tries.get(), 1 + 3 * u32::from(TRIES));
    }

    #[test]
    fn no_port_without_a_backend() {
        let mut chooser = PortChooser::new(40_000, 100, 0);
        assert_eq!(chooser.choose(slot_of, &vec![0; 6].into()), None);
        assert_eq!(chooser.choose(slot_of, &Slots::default()), None);
        assert_eq!(PortChooser::new(40_000, 0, 0).choose(slot_of, &TABLE[..].into()), None);
    }

    proptest! {
        #[test]
        fn chosen_ports_are_in_range_and_lead_to_a_backend(
            table in prop::collection::vec(0_u16..6, 1..40),
            first in 1_u16..=u16::MAX,
            count in 0..=TRIES,
            start: u16,
        ) {
            let count = count.min(u16::MAX - first);
            let slot_of = |port: u16| u32::from(port.wrapping_mul(40_503)) % table.len() as u32;
            let leads = |port: u16| table[slot_of(port) as usize] != 0;
            let reachable = (first..first + count).any(leads);
            let mut chooser = PortChooser::new(first, count, start);
            let slots = Slots::from(table.clone());
            for _ in 0..8 {
                match chooser.choose(slot_of, &slots) {
                    Some(port) => {
                        prop_assert!((first..first + count).contains(&port));
                        prop_assert!(leads(port));
                    }
                    None => prop_assert!(!reachable),
                }
            }
        }
    }
}
