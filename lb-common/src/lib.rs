//! What both sides of the kernel boundary agree on: map keys and values, limits, reasons, the flow hash.
//!
//! Everything here is `repr(C)` with asserted sizes, because the XDP program and the daemon are built
//! by different compilers for different targets and meet in the same memory.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod address;
pub mod backend;
pub mod bench;
pub mod budget;
pub mod capture;
pub mod check_path;
pub mod chunk;
pub mod constants;
pub mod decap;
pub mod defence;
pub mod features;
pub mod flow;
pub mod fragment;
pub mod handoff;
pub mod hash;
pub mod hop;
pub mod mask;
pub mod nat;
pub mod quic;
pub mod reason;
pub mod service;
pub mod settings;
pub mod trace;
pub mod word;

pub use address::Address;
pub use backend::{Backend, BackendCounters, Openings};
pub use budget::Budget;
pub use chunk::Shape;
pub use decap::{DecapSettings, Verdict};
pub use defence::{NewFlows, SourceKey, Tokens};
pub use features::Features;
pub use flow::{Bucket, Entry, State};
pub use fragment::{FragmentKey, FragmentPath};
pub use handoff::Handoff;
pub use hash::{FlowHash, HashKey};
pub use hop::{Hop, Mac};
pub use nat::{NatRecord, NatSet, NatTuple};
pub use quic::QuicKey;
pub use reason::{Fate, Reason};
pub use service::{Forward, Service, ServiceKey};
pub use settings::{MAX_NAT_SOURCES, Settings};
pub use trace::Trace;
pub use word::Word;

/// Slots of a Maglev table: a prime, large enough that 1,000 backends share within 1 %.
pub const SLOTS: usize = 65_537;

/// Length of the one element of a service's inner map: [`SLOTS`] rounded up to a multiple of 8 bytes.
pub const SLOTS_PADDED: usize = 65_540;

/// A whole Maglev table as the inner map holds it: backend numbers, 0 where there is none.
pub type SlotTable = [u16; SLOTS_PADDED];

/// Most services (a service counts once per address family); number 0 is never used.
pub const MAX_SERVICES: usize = 4_096;

/// Most addresses + ports + protocols that lead to a service.
pub const MAX_SERVICE_KEYS: usize = 65_536;

/// Most backends; number 0 is never used, so that an empty slot is 0.
pub const MAX_BACKENDS: usize = 65_536;

/// Version of what the maps hold that outlive the daemon. To be raised with every change of these that the old or the new
/// program would misread.
pub const LAYOUT: u32 = 2;

/// Names of the maps in the object. The kernel keeps 15 characters.
pub mod map {
    /// One [`Settings`](crate::Settings).
    pub const SETTINGS: &str = "SETTINGS";
    /// The table of services: [`ServicePlace`](crate::service::ServicePlace)s.
    pub const SERVICES: &str = "SERVICES";
    /// Service number to an inner array whose one element is a [`SlotTable`](crate::SlotTable).
    pub const SLOT_TABLES: &str = "SLOT_TABLES";
    /// Backend number to [`Backend`](crate::Backend).
    pub const BACKENDS: &str = "BACKENDS";
    /// The flow table: chunk number to an inner array whose one element is a [`FlowChunk`](crate::chunk::FlowChunk).
    pub const FLOWS: &str = "FLOWS";
    /// The NAT records: the same with [`NatChunk`](crate::chunk::NatChunk)s.
    pub const NAT: &str = "NAT";
    /// One [`Reading`](crate::chunk::Reading).
    pub const READING: &str = "READING";
    /// [`FragmentKey`](crate::FragmentKey) to [`FragmentPath`](crate::FragmentPath); the least recently used give way.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// Clients' backends: [`Bucket`](crate::Bucket)s.
    pub const AFFINITY: &str = "AFFINITY";
    /// Clients that are denied: a prefix to 1, or to 0 where a longer prefix is allowed after all.
    pub const DENY: &str = "DENY";
    /// [`SourceKey`](crate::SourceKey) to [`Tokens`](crate::Tokens).
    pub const SOURCES: &str = "SOURCES";
    /// One [`NewFlows`](crate::NewFlows) per CPU.
    pub const NEW_FLOWS: &str = "NEW_FLOWS";
    /// [`QuicKey`](crate::QuicKey) to backend number.
    pub const QUIC_IDS: &str = "QUIC_IDS";
    /// Packets per CPU, by service and [`Reason`](crate::Reason): see [`Reason::counter`](crate::Reason::counter).
    pub const REASONS: &str = "REASONS";
    /// Backend number to [`BackendCounters`](crate::BackendCounters), per CPU.
    pub const COUNTERS: &str = "COUNTERS";
    /// Backend number to flows that have begun: packets that were sent to it and whose flow the flow table did not know.
    /// Per CPU. Apart from COUNTERS, so that packets of known flows do not touch it.
    pub const BEGUN: &str = "BEGUN";
    /// Backend number to [`Openings`](crate::Openings), per CPU.
    pub const OPENINGS: &str = "OPENINGS";
    /// The programs that go on where another leaves off, by their place in [`program::NEXT`](crate::program::NEXT).
    pub const PROGRAMS: &str = "PROGRAMS";
    /// One [`Handoff`](crate::Handoff) per CPU, for the program for answers.
    pub const HANDOFF: &str = "HANDOFF";
    /// What each [`Budget`](crate::Budget) has left, per CPU.
    pub const BUDGETS: &str = "BUDGETS";
    /// One [`Trace`](crate::Trace), written by the explain program only.
    pub const TRACE: &str = "TRACE";
    /// One [`Filter`](crate::capture::Filter).
    pub const CAPTURE_FILTER: &str = "CAPTURE_FILTER";
    /// One [`Record`](crate::capture::Record) per CPU, under construction.
    pub const CAPTURE_RECORD: &str = "CAPTURE_RECORD";
    /// Captured packets on their way to the daemon: a ring of [`RecordHead`](crate::capture::RecordHead)s
    /// and bytes.
    pub const CAPTURE_RING: &str = "CAPTURE_RING";
    /// Packets that found no room in the ring, per CPU.
    pub const CAPTURE_LOST: &str = "CAPTURE_LOST";
}

/// Names of the programs in the object.
pub mod program {
    /// The data path: attached to interfaces. Treats plain packets and hands the others on.
    pub const USHER: &str = "usher";
    /// The data path without side effects; leaves a [`Trace`](crate::Trace).
    pub const EXPLAIN: &str = "usher_explain";
    /// Treats packets whose headers are not the usual ones.
    pub const ODD: &str = "usher_odd";
    /// The same without side effects.
    pub const EXPLAIN_ODD: &str = "usher_explain_odd";

    /// Treats ICMP.
    pub const ICMP: &str = "usher_icmp";
    /// The same without side effects.
    pub const EXPLAIN_ICMP: &str = "usher_explain_icmp";
    /// Answers packets itself: resets and ICMP errors.
    pub const ANSWER: &str = "usher_answer";
    /// Tells the clock.
    pub const CLOCK: &str = "usher_clock";
    /// Reads a chunk of a table for the daemon.
    pub const READ: &str = "usher_read";

    /// Every program.
    pub const ALL: [&str; 9] = [USHER, EXPLAIN, ODD, EXPLAIN_ODD, ICMP, EXPLAIN_ICMP, ANSWER, CLOCK, READ];

    /// Programs that another one hands packets to by a tail call, in the order of the map
    /// [`PROGRAMS`](super::map::PROGRAMS): see [`next`].
    pub const NEXT: [&str; 5] = [ODD, EXPLAIN_ODD, ICMP, EXPLAIN_ICMP, ANSWER];

    /// Places in [`NEXT`].
    pub mod next {
        /// [`ODD`](super::ODD).
        pub const ODD: u32 = 0;
        /// [`EXPLAIN_ODD`](super::EXPLAIN_ODD).
        pub const EXPLAIN_ODD: u32 = 1;
        /// [`ICMP`](super::ICMP).
        pub const ICMP: u32 = 2;
        /// [`EXPLAIN_ICMP`](super::EXPLAIN_ICMP).
        pub const EXPLAIN_ICMP: u32 = 3;
        /// [`ANSWER`](super::ANSWER).
        pub const ANSWER: u32 = 4;
    }
}
