//! The lab: a small real network in one machine, for demonstrations and end-to-end tests.
//!
//! ```text
//!  client ── router ──┬── front ──┬── resolver (unbound)
//!                     │           ├── node1 … (usher)
//!                     │           │     │
//!                     └── back ───┴─────┴── backend1 … (nginx, UDP echo)
//! ```
//!
//! With [`Options::dns`] the zone is on a host `dns` in `front` (BIND, Knot, PowerDNS), on which nodes publish themselves; `dns2` is its secondary.
//!
//! With [`Options::public`] the router translates a public address of each node, one to one; the nodes' own ones are out of
//! the client's reach.
//!
//! With a tunnel (`dsr-ipip`, `dsr-gue`) the nodes are not in `back`: backends are behind the router. Backends
//! that answer clients themselves are set up by `usher backend`.
//!
//! Every host is a network namespace `usher-HOST`; the bridges `front` and `back` stand in
//! `usher-switch`. Addresses are the documentation ones, both families everywhere. What runs there
//! is what runs on real hosts: unbound, nginx and the built `usher`, found by [`binaries`]; and where
//! [`Options::quic`] asks for it, a QUIC echo.
//!
//! Needs root, and `ip`, `ethtool`, `nginx`, `unbound`, `curl` and `dig`, for a host `dns` its server, for public addresses `nft`: `cargo xtask setup`.
//! One lab per machine; a [`Lab`] keeps other threads of the process waiting, and refuses while
//! another process uses it.

pub mod binaries;
mod builds;
mod chaos;
mod command;
mod configs;
mod connections;
mod crowd;
mod exchange;
mod fault;
mod flood;
mod host;
mod lab;
mod namespace;
mod network;
mod new_connections;
mod owner;
mod primary;
mod process;
mod quic;
mod raise;
mod secondary;
mod skip;
mod status;
mod topology;
mod traffic;
mod transfer;
mod translation;
mod wait;
mod xdp;

pub use builds::OtherBuilds;
pub use chaos::{Summary, chaos};
pub use command::Output;
pub use configs::TTL;
pub use connections::{Connections, Report};
pub use crowd::{CpuTime, Crowd};
pub use exchange::Connection;
pub use fault::Fault;
pub use flood::Flood;
pub use host::Host;
pub use lab::Lab;
pub use namespace::inside;
pub use new_connections::NewConnections;
pub use quic::{Journey, QUIC_PORT, Stop};
pub use skip::can_raise;
pub use status::{Backend, Dns, DnsAddress, DnsName, Interface, LastCheck, Service, Status};
pub use topology::{DnsServer, Family, Forward, MAX_BACKENDS, MAX_NODES, Options, Pair, XdpMode, ZONE};
pub use traffic::{Answer, Stream, Tally};
pub use transfer::STALL;
pub use wait::until;
