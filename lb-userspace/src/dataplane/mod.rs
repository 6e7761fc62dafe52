//! The only place that names aya: loads the programs, attaches them, keeps their maps, reads their counters.

mod attach;
mod capture;
mod check_path;
mod chunks;
mod clock;
mod counters;
mod debug_log;
mod decap;
mod deny;
mod explain;
mod flows;
mod kernel;
mod left;
mod links;
mod load;
mod memory;
mod object;
mod pins;
mod replace;
mod services;
mod sys;
mod tables;
mod test_run;
mod wrapper;

use std::{io, net::IpAddr};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

pub use attach::{Attached, AttachedMode};
pub use capture::{Capture, Captured};
pub use check_path::{CheckPath, Ways};
pub use decap::{Decapsulator, Unpack, program_name, verdicts_of};
pub use explain::Query;
pub use flows::{FlowCounts, NatFlow, SharedTables};
pub use kernel::kernel;
pub use left::Left;
pub use load::{Dataplane, Sizes};
pub use memory::{Memory, resident};
pub use pins::{PinError, Pins};
pub use test_run::TestRun;
pub use wrapper::{Run, Wrapper};

/// What can go wrong between the daemon and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The object could not be loaded: its maps could not be made, or it is not ours.
    #[error("the BPF object could not be loaded into the kernel")]
    Load(#[source] EbpfError),
    /// There is not enough memory for the tables.
    #[error(
        "the flow table and the NAT records take {megabytes} MB, and this host has not as much left; \
         lower `max` in [flows]"
    )]
    NoMemory {
        /// What both tables take together.
        megabytes: u64,
    },
    /// The object lacks a program or map.
    #[error("the BPF object has no {kind} named {name}; build both with the same version of usher")]
    Missing {
        /// `map` or `program`.
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// The verifier refused the program.
    #[error("the kernel refused the program {name}")]
    Program {
        /// The program.
        name: &'static str,
        /// The kernel's answer; holds the verifier's log.
        #[source]
        source: ProgramError,
    },
    /// The program could not be attached.
    #[error("cannot attach the XDP program to {interface} ({mode} mode)")]
    Attach {
        /// The interface.
        interface: String,
        /// `native` or `generic`.
        mode: &'static str,
        /// The kernel's answer.
        #[source]
        source: ProgramError,
    },
    /// The programs that take checks along the data path could not be attached.
    #[error("cannot attach the programs for checks to {interface}")]
    AttachCheck {
        /// The interface.
        interface: String,
        /// The kernel's answer.
        #[source]
        source: ProgramError,
    },
    /// There is no such interface.
    #[error("there is no interface {interface}")]
    NoInterface {
        /// Its name.
        interface: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Another XDP program has the interface.
    #[error(
        "{interface} has another XDP program already; `ip link show {interface}` shows it, \
         `ip link set {interface} xdp off` detaches it, unless a running process holds it"
    )]
    Occupied {
        /// The interface.
        interface: String,
    },
    /// A map could not be read or written.
    #[error("cannot {what} in map {map}")]
    Map {
        /// What was tried.
        what: &'static str,
        /// The map.
        map: &'static str,
        /// The kernel's answer.
        #[source]
        source: MapError,
    },
    /// A system call on a map failed.
    #[error("cannot {what} map {map}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The map.
        map: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A map could not be handed from one load to the next.
    #[error("cannot load the BPF object again over the map {map}")]
    NotShared {
        /// The map.
        map: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A map has no room for another element.
    #[error("map {map} has no room for more {what}")]
    Full {
        /// The map.
        map: &'static str,
        /// What it holds.
        what: &'static str,
    },
    /// What an earlier daemon has left cannot be taken over, or nothing can be left to a later one.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// A flow to be explained mixes address families.
    #[error("{from} and {to} are not of the same address family")]
    MixedFamilies {
        /// The client.
        from: IpAddr,
        /// The service.
        to: IpAddr,
    },
}
