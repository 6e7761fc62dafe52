//! What a packet costs in the kernel: `cargo xtask bench dataplane`. Method and results are told in
//! docs/benchmarks.md. [`checks`] is another benchmark, of the daemon.

mod bed;
pub mod checks;
mod frames;
mod matrix;
mod measure;
mod reference;
mod report;

pub use matrix::{Row, Selection, rows};
pub use measure::{Extent, measure};
pub use report::{Figures, Report};
