//! The embedded DNS server, and questions to other servers.
//!
//! It decides nothing: it serves the zone that [`crate::core::zone`] describes. The wire format is the
//! `domain` crate's, named nowhere else.
//!
//! - [`bind`] opens the sockets, [`Sockets::serve`] answers on them: a daemon can fail early and still
//!   answer nothing before its first checks have finished.
//! - [`answer`] is the whole protocol as a function from message to message, without sockets.
//! - [`ask_peer`] asks a peer what it says of itself; [`Exchange`] is the other side.
//! - [`look_up`] asks any other DNS server: a backend, the primary of a zone.
//! - [`update`] reads and changes records of a zone that another server holds.

mod answer;
mod ask;
mod counters;
mod exchange;
mod look_up;
mod request;
mod server;
mod tcp;
mod tsig;
pub mod update;

pub use answer::{Reply, Rotation, Transport, answer};
pub use ask::{AskError, Way};
pub use counters::{CounterValues, Counters};
pub use exchange::{Exchange, PeerKeys, ask_peer};
pub use look_up::{Found, look_up, look_up_over_tcp};
pub use server::{BindError, Protocol, Sockets, bind};

/// Largest UDP message we send, and announce to receive: fits any IPv6 path unfragmented (1280 octets less headers).
const MAX_UDP: u16 = 1232;

/// What every client takes over UDP (RFC 1035 section 2.3.4).
const MIN_UDP: u16 = 512;
