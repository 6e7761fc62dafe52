//! The data path's clock.

use lb_common::program;

use super::{Dataplane, DataplaneError};

impl Dataplane {
    /// The tick that the program would note now.
    pub fn tick(&self) -> Result<u16, DataplaneError> {
        // BPF_PROG_TEST_RUN takes no frame without an Ethernet header.
        Ok(self.run(program::CLOCK, &[0; 14])?.action as u16)
    }
}

/// Length of the kernel's timer tick in nanoseconds, which is the resolution of its coarse clocks.
pub(super) fn jiffy() -> u64 {
    let mut length = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the struct that it is given; the clock exists on every Linux.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut length) };
    length.tv_nsec as u64
}
