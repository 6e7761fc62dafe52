//! What a packet costs in the kernel: `cargo xtask bench dataplane`. Method and results are told in
//! docs/benchmarks.md. [`checks`] and [`failover`] are other benchmarks, of the daemon and of nodes that are lost.

mod bed;
pub mod checks;
pub mod failover;
mod frames;
mod machine;
mod matrix;
mod measure;
mod reference;
mod report;

pub use matrix::{Row, Selection, rows};
pub use measure::{Extent, measure};
pub use report::{Figures, Report};
