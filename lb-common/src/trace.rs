//! What the explain program leaves behind: how it would treat the packet it was given.

/// The decision about one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Trace {
    /// Number of the service; 0 when the packet belongs to none.
    pub service: u32,
    /// Maglev slot of the flow; [`Trace::NO_SLOT`] when none was looked at.
    pub slot: u32,
    /// Interface on which it would leave; 0 when it would not.
    pub interface: u32,
    /// Number of the backend; 0 when there is none.
    pub backend: u16,
    /// 1 when the flow table knew the flow.
    pub known: u8,
    /// A [`Reason`](crate::Reason) as its number.
    pub reason: u8,
}

const _: () = assert!(size_of::<Trace>() == 16);

impl Trace {
    /// No slot was looked at.
    pub const NO_SLOT: u32 = u32::MAX;
}
