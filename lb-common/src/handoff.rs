//! What one program tells the next, which goes on with the same packet on the same CPU.

use crate::Trace;

/// The outcome so far of a packet that is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Handoff {
    /// The decision.
    pub trace: Trace,
    /// Length of the IP packet in bytes.
    pub length: u16,
    /// The longest IP packet that could have been sent; 0 unless it is [`Reason::TooBig`](crate::Reason::TooBig).
    pub mtu: u16,
}

const _: () = assert!(size_of::<Handoff>() == 20);
