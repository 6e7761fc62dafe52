//! The packet table: what the data path does with which packet, and what runs it.
//!
//! [`table`] is the specification of the XDP program; it reads from top to bottom. Each scenario runs
//! twice: through the library on the host ([`host`]) and through the loaded program in the kernel
//! ([`kernel`]), by the same [`run`]. [`decap`] is the same for the program of backend hosts.

#![allow(clippy::large_enum_variant, reason = "a few hundred scenarios, each made once")]
#![allow(
    clippy::unwrap_used,
    reason = "a test's own packets and tables are well-formed; if not, it shall fail there"
)]

pub mod bench;
pub mod chunks;
pub mod decap;
pub mod fuzz;
pub mod host;
pub mod kernel;
pub mod oracle;
pub mod packet;
pub mod race;
pub mod run;
pub mod scenario;
pub mod table;
pub mod world;
