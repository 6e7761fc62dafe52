//! What the program needs to know beyond services and backends.

use crate::{Address, HashKey, Shape};

/// Most source addresses of NAT in one family. The groups of eight ports of all of them are numbered in 16
/// bits.
pub const MAX_NAT_SOURCES: usize = 8;

/// The one element of the settings map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Settings {
    /// Keys of the flow hash.
    pub hash_key: HashKey,
    /// Source addresses of NAT, IPv4 then IPv6; [`Address::NONE`] after the last of each.
    pub nat_sources: [[Address; MAX_NAT_SOURCES]; 2],
    /// First address of the network from which tunnelled packets come, IPv4 then IPv6; [`Address::NONE`] where
    /// there is none.
    pub tunnel_source: [Address; 2],
    /// Which of that address's last 32 bits, in network order, are free for the flow's hash.
    pub tunnel_hosts: [[u8; 4]; 2],
    /// The flow table, in buckets.
    pub flow_table: Shape,
    /// The NAT records, in sets.
    pub nat_table: Shape,
    /// Answers of each [`Budget`](crate::Budget) that a CPU may send in a tick.
    pub icmp_limit: u32,
    /// First NAT port, a multiple of 8.
    pub nat_port_first: u16,
    /// Groups of 8 NAT ports of each source address; 0 when there is no NAT.
    pub nat_groups: u16,
    /// Groups of all source addresses, IPv4 then IPv6.
    pub nat_groups_of_all: [u16; 2],
    /// New flows that each CPU stores in the flow table per tick; 0: no limit.
    pub new_per_tick: u32,
    /// Buckets of the table of clients' backends.
    pub affinity_buckets: u32,
    /// The longest of all idle limits of open flows, in ticks: an entry does not tell whose it is.
    pub longest_idle: u16,
    /// Idle ticks after which a closing flow is forgotten.
    pub closing_idle: u16,
    /// UDP port of GUE tunnels.
    pub gue_port: u16,
    /// 1: replies under NAT go by the kernel's routes instead of back to the MAC they came from.
    pub reply_by_route: u8,
    /// Zero.
    pub zero: u8,
    /// The longest IP packet in bytes that every interface takes by which a reply under NAT may leave; 0 when not known.
    /// Of a longer one the kernel is asked.
    pub reply_mtu: u16,
    /// Zero.
    pub zeros: [u8; 2],
}

const _: () = assert!(size_of::<Settings>() == 456);
