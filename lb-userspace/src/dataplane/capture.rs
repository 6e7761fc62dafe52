//! Capturing packets: a load of the programs that sends them, and the ring in which they arrive.

use std::os::fd::{AsFd as _, AsRawFd, RawFd};

use aya::maps::{Array, MapData, PerCpuArray, RingBuf};
use lb_common::{
    Features,
    capture::{Filter, RECORD_HEAD, RecordHead},
    map,
};

use super::{Dataplane, DataplaneError, object, tables::Pod};

/// A capture under way: ends when [`Dataplane::set_features`] is called without it.
pub struct Capture {
    ring: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
}

/// One packet, before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured<'a> {
    /// What became of it.
    pub head: RecordHead,
    /// The frame as it came in, as far as it was captured.
    pub before: &'a [u8],
    /// The frame in the end.
    pub after: &'a [u8],
}

impl Dataplane {
    /// Replaces the running programs by such that capture the packets that the filter wants. They look at the
    /// deny list too, whoever did before: it may have to change while they, and their ring, must stay.
    ///
    /// # Errors
    /// As for [`Dataplane::set_features`].
    pub fn start_capture(&mut self, filter: Filter) -> Result<Capture, DataplaneError> {
        let features = self.features | Features::CAPTURE | Features::DENY;
        let mut programs = object::load_again(&self.maps, features)?;
        let error = |name| move |source| DataplaneError::Map { what: "use", map: name, source };
        let (ring, lost, wanted) = (map::CAPTURE_RING, map::CAPTURE_LOST, map::CAPTURE_FILTER);
        let mut filters: Array<MapData, Pod<Filter>> =
            programs.take_map(wanted)?.try_into().map_err(error(wanted))?;
        filters.set(0, Pod(filter), 0).map_err(error(wanted))?;
        let capture = Capture {
            ring: programs.take_map(ring)?.try_into().map_err(error(ring))?,
            lost: programs.take_map(lost)?.try_into().map_err(error(lost))?,
        };
        self.replace(programs, features)?;
        Ok(capture)
    }
}

impl Capture {
    /// Hands over the next packet that has arrived; `None` when there is none.
    pub fn next<T>(&mut self, take: impl FnOnce(Captured) -> T) -> Option<T> {
        let record = self.ring.next()?;
        let (head, bytes) = record.split_first_chunk::<RECORD_HEAD>()?;
        // SAFETY: the struct is `repr(C)`, without padding and valid for any bytes.
        let head: RecordHead = unsafe { head.as_ptr().cast::<RecordHead>().read_unaligned() };
        let (before, after) = bytes.split_at_checked(head.before_bytes as usize)?;
        let after = after.get(..head.after_bytes as usize)?;
        Some(take(Captured { head, before, after }))
    }

    /// Packets that found no room in the ring so far.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn lost(&self) -> Result<u64, DataplaneError> {
        let name = map::CAPTURE_LOST;
        let lost = self.lost.get(&0, 0);
        let lost =
            lost.map_err(|source| DataplaneError::Map { what: "read a counter", map: name, source })?;
        Ok(lost.iter().sum())
    }
}

/// Readable when packets have arrived.
impl AsRawFd for Capture {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_fd().as_raw_fd()
    }
}
