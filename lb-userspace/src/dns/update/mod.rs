//! Records of a zone that others hold, read and changed on its primary (RFC 2136), signed (TSIG, RFC 8945).
//!
//! - [`Keys`] is the file that the signatures' keys come from.
//! - [`Primary`] reads a zone's records, and changes them under prerequisites; [`Primaries`] is the same one by all its
//!   addresses.
//!
//! All of it goes over TCP: a message may hold the records of all names of a zone, nobody can answer in the primary's
//! place without being on the way, and these messages are too rare for a connection's cost to count.
//!
//! NOERROR is no proof that a change was made: an address beside an alias (CNAME) is dropped without a word
//! (RFC 2136 section 3.4.2.2). Whoever updates reads back.

mod client;
mod error;
mod keys;
mod message;
mod primaries;
mod signed;

pub use client::Primary;
pub use error::{Doing, UpdateError};
pub use keys::{Keys, KeysError};
pub use primaries::Primaries;
