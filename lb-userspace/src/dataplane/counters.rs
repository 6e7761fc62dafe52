//! Reading the counters, of which each CPU has its own.

use std::{collections::BTreeMap, io, os::fd::AsFd as _};

use lb_common::{BackendCounters, Reason, map};

use super::{Dataplane, DataplaneError, object::data, sys};
use crate::core::passive::Openings;

/// Elements read by one system call: some 100 kB on a machine of 64 CPUs.
const BATCH: u32 = 256;

impl Dataplane {
    /// Packets of a service by reason, over all CPUs, in the order of [`Reason::ALL`]. Service 0 stands for
    /// packets of none.
    pub fn reasons_of(&self, service: u32) -> Result<Vec<u64>, DataplaneError> {
        let first = service * Reason::COUNT as u32;
        self.read_counters(map::REASONS, first, Reason::COUNT as u32, total)
    }

    /// Packets of a service for one reason, over all CPUs: cheaper than all of them where there are many services.
    pub fn count_of(&self, service: u32, reason: Reason) -> Result<u64, DataplaneError> {
        let index = service * Reason::COUNT as u32 + reason as u32;
        Ok(self.read_counters(map::REASONS, index, 1, total)?.into_iter().sum())
    }

    /// Packets by reason, over all services and CPUs, in the order of [`Reason::ALL`].
    pub fn reasons(&self) -> Result<Vec<u64>, DataplaneError> {
        let mut sums = vec![0; Reason::COUNT];
        for service in 0..self.sizes.services {
            let counted = self.reasons_of(service)?;
            sums.iter_mut().zip(counted).for_each(|(sum, count)| *sum += count);
        }
        Ok(sums)
    }

    /// What was sent to each of these backends, over all CPUs.
    pub fn counters(
        &self,
        numbers: impl IntoIterator<Item = u16>,
    ) -> Result<BTreeMap<u16, BackendCounters>, DataplaneError> {
        self.read_of_backends(map::COUNTERS, numbers, sum)
    }

    /// Flows that have begun at each of these backends, over all CPUs.
    pub fn begun(
        &self,
        numbers: impl IntoIterator<Item = u16>,
    ) -> Result<BTreeMap<u16, u64>, DataplaneError> {
        self.read_of_backends(map::BEGUN, numbers, total)
    }

    /// What was opened to each of these backends and what they answered, over all CPUs.
    pub fn openings(
        &self,
        numbers: impl IntoIterator<Item = u16>,
    ) -> Result<BTreeMap<u16, Openings>, DataplaneError> {
        let sum = |cpus: &[[u64; 2]]| {
            cpus.iter().fold(Openings::default(), |sum, [opened, answered]| Openings {
                opened: sum.opened.wrapping_add(*opened),
                answered: sum.answered.wrapping_add(*answered),
            })
        };
        self.read_of_backends(map::OPENINGS, numbers, sum)
    }

    /// Elements of a per-CPU array, by backend number, each made of what the CPUs have.
    fn read_of_backends<T, R>(
        &self,
        name: &'static str,
        numbers: impl IntoIterator<Item = u16>,
        sum: impl Fn(&[T]) -> R,
    ) -> Result<BTreeMap<u16, R>, DataplaneError>
    where
        T: Counter,
    {
        let mut all = BTreeMap::new();
        for numbers in runs(numbers) {
            let (first, count) = (u32::from(numbers[0]), numbers.len() as u32);
            all.extend(numbers.into_iter().zip(self.read_counters(name, first, count, &sum)?));
        }
        Ok(all)
    }

    /// Elements of a per-CPU array from `first` on, each made of what the CPUs have.
    fn read_counters<T, R>(
        &self,
        name: &'static str,
        first: u32,
        count: u32,
        sum: impl Fn(&[T]) -> R,
    ) -> Result<Vec<R>, DataplaneError>
    where
        T: Counter,
    {
        let error = |source| DataplaneError::System { what: "read counters in", map: name, source };
        let map = data(self.maps.get(name)?).ok_or(DataplaneError::Missing { kind: "map", name })?;
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| error(source))?;
        let mut sums = Vec::with_capacity(count as usize);
        let mut elements = vec![T::default(); (count.min(BATCH)) as usize * cpus];
        for start in (0..count).step_by(BATCH as usize) {
            let some = &mut elements[..(count - start).min(BATCH) as usize * cpus];
            // SAFETY: the map's elements are of this type, for each CPU.
            let read = unsafe { sys::lookup_batch(map.fd().as_fd(), first + start, some, cpus) };
            if read.map_err(error)? * cpus != some.len() {
                return Err(error(io::ErrorKind::UnexpectedEof.into()));
            }
            sums.extend(some.chunks_exact(cpus).map(&sum));
        }
        Ok(sums)
    }
}

/// What a CPU counts: whole words, valid for any bytes.
trait Counter: Copy + Default {}

impl Counter for u64 {}
impl Counter for [u64; 2] {}
impl Counter for BackendCounters {}

fn total(cpus: &[u64]) -> u64 {
    cpus.iter().sum()
}

fn sum(cpus: &[BackendCounters]) -> BackendCounters {
    cpus.iter().fold(BackendCounters::default(), |sum, cpu| BackendCounters {
        packets: sum.packets + cpu.packets,
        bytes: sum.bytes + cpu.bytes,
    })
}

/// The numbers in order, in runs without gaps.
fn runs(numbers: impl IntoIterator<Item = u16>) -> Vec<Vec<u16>> {
    let mut numbers: Vec<u16> = numbers.into_iter().collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.chunk_by(|a, b| a + 1 == *b).map(<[u16]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_runs_without_gaps() {
        assert_eq!(runs([7, 3, 1, 2, 3, 8, 65_535]), [vec![1, 2, 3], vec![7, 8], vec![65_535]]);
        assert!(runs([]).is_empty());
    }
}
