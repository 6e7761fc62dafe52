//! Constants of the object beside [`Features`](crate::Features), set before it is loaded.

/// log2 of the first places in the table of services; a `u32`.
pub const SERVICE_BITS: &str = "SERVICE_BITS";

/// Length of the kernel's timer tick in nanoseconds; a `u64`.
pub const JIFFY: &str = "JIFFY";
