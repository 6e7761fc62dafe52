//! The question "which packets come and go?"; the answer is a stream of [`pcapng`] blocks.

pub mod pcapng;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Names of the interfaces in a capture's file, by their numbers: a packet is in it as it came in, and as it
/// was in the end.
pub const INTERFACES: [&str; 2] = ["before", "after"];

/// Which packets are captured, and how much of each. What is not said does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureQuery {
    /// Of this service.
    pub service: Option<String>,
    /// Of flows to the backends of this name.
    pub backend: Option<String>,
    /// Of this network of clients: from there, or in the end to there.
    pub client: Option<IpNet>,
    /// That end with this reason: one of the words in `packets` of the status.
    pub reason: Option<String>,
    /// Ends by itself after this many packets.
    pub count: Option<u64>,
    /// Bytes of each packet.
    pub snaplen: u32,
}
