//! What usher decides, as pure functions and state machines: no I/O, no clock, no aya, no tokio.

pub mod admin;
pub mod check;
pub mod check_path;
pub mod deny;
pub mod exchange;
pub mod health;
pub mod ids;
pub mod image;
pub mod lateness;
pub mod lease;
pub mod maglev;
pub mod nat_ports;
pub mod numbers;
pub mod passive;
pub mod peers;
pub mod plan;
pub mod policy;
pub mod publish;
pub mod records;
pub mod reload;
pub mod rotation;
pub mod shared;
pub mod simulate;
pub mod slots;
pub mod slow_start;
pub mod zone;
