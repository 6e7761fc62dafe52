//! Several nodes that write one zone: the rules by themselves, whatever happens in any order, and the same on a real BIND.

#![expect(clippy::unwrap_used, reason = "the lint spares tests, but not their helpers")]

mod cluster;
#[path = "../name_server/mod.rs"]
mod name_server;
mod real;
mod refusals;
mod rules;
mod schedules;
mod simulated;
