//! usher: a layer-4 load balancer whose nodes own their place in DNS.
//!
//! The modules, and who may call whom, are described in `ARCHITECTURE.md`. In short: the shells
//! (`cli`, `daemon`, `probe`, `dataplane`, `net`, `dns`, `api`) call the pure [`core`]; nothing in `core`
//! does I/O, reads a clock or knows aya, tokio or the DNS library. [`status`], [`explain`], [`flows`],
//! [`deny`], [`admin`], [`reload`] and [`capture`] are what the control socket says, as data; [`metrics`] is the status for
//! Prometheus. [`backend`] is `usher backend`, for the hosts behind
//! the nodes.

pub mod admin;
pub mod api;
pub mod backend;
pub mod capture;
pub mod cli;
pub mod config;
pub mod core;
pub mod daemon;
pub mod dataplane;
pub mod deny;
pub mod dns;
pub mod explain;
pub mod flows;
pub mod metrics;
pub mod net;
pub mod probe;
pub mod reload;
mod secret;
mod secret_file;
pub mod status;
mod threads;
mod unix_time;
mod unreadable;
mod whole_file;
