//! `usher backend`: makes a host a backend that answers clients itself (direct server return), and undoes it.
//!
//! - [`settings`]: what the host shall be, from arguments or a file.
//! - [`host`]: what it is now.
//! - [`check`]: the difference, as findings for an operator. Pure.
//! - [`wanted`]: the kernel settings that have to change. Pure.
//! - [`record`]: what was changed, on disk, so that a stop undoes it even after a crash.
//! - [`setup`]: changes and undoes.
//! - [`run`]: the process that holds the program; [`report`]: what `status` says.

pub mod check;
pub mod host;
pub mod record;
pub mod report;
pub mod run;
pub mod settings;
pub mod setup;
pub mod wanted;

pub use check::{Finding, Weight};
pub use host::Host;
pub use record::{Record, Store};
pub use settings::{Forward, Listen, Settings};
