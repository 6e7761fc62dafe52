//! What holds for any packet, any flow and any key.

#![allow(
    clippy::unwrap_used,
    reason = "a test's own packets and tables are well-formed; if not, it shall fail there"
)]

mod capacity;
mod hash;
mod packets;
mod parser;
mod selection;
mod tunnels;
