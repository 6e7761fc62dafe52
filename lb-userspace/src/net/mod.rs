//! What the daemon knows of the host's network, asked over rtnetlink.
//!
//! - [`facts`]: interfaces, addresses, port ranges, source addresses: read once, for checking a configuration.
//! - [`watch`]: the next hop of every backend, kept true while routes, links and neighbours change.
//! - [`vips`]: a backend host's VIPs on `lo`, and its default routes.
//! - [`source`]: the addresses from which it talks to others, at the moment.
//! - [`sysctl`]: kernel settings under `/proc/sys`.
//!
//! A netlink socket belongs to the network namespace of the thread that opens it; everything here opens its
//! own sockets and needs a tokio runtime.

pub mod facts;
mod link;
mod netlink;
mod next_hop;
pub mod source;
pub mod sysctl;
pub mod vips;
pub mod watch;

pub use link::Link;
pub use netlink::NetError;
pub use next_hop::{NextHop, Unresolved};
