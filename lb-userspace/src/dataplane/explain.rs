//! Asking the loaded program what it would do with a flow, without any effect.

use std::net::SocketAddr;

use lb_common::Trace;

use super::{Dataplane, DataplaneError};
use crate::config::Protocol;

/// A flow's first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// The client.
    pub from: SocketAddr,
    /// The service.
    pub to: SocketAddr,
    /// TCP (the packet is a SYN) or UDP.
    pub protocol: Protocol,
}

impl Dataplane {
    /// Runs the explain program on the flow's first packet.
    pub fn explain(&mut self, query: &Query) -> Result<Trace, DataplaneError> {
        self.explain_frame(&first_packet(query)?)
    }
}

const ETHERNET: usize = 14;
const HOPS: u8 = 64;
const SYN: u8 = 0x02;

/// A frame that holds a SYN or an empty datagram. MAC addresses and checksums are zero: the program
/// does not look at them.
fn first_packet(query: &Query) -> Result<Vec<u8>, DataplaneError> {
    let (l4_length, number) = match query.protocol {
        Protocol::Tcp => (20_u16, 6),
        Protocol::Udp => (8, 17),
    };
    let mut frame = vec![0; ETHERNET];
    match (query.from, query.to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            frame[12..].copy_from_slice(&[0x08, 0x00]);
            frame.extend([0x45, 0]);
            frame.extend((20 + l4_length).to_be_bytes());
            frame.extend([0, 0, 0, 0, HOPS, number, 0, 0]);
            frame.extend(from.ip().octets());
            frame.extend(to.ip().octets());
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            frame[12..].copy_from_slice(&[0x86, 0xdd]);
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(l4_length.to_be_bytes());
            frame.extend([number, HOPS]);
            frame.extend(from.ip().octets());
            frame.extend(to.ip().octets());
        }
        (from, to) => return Err(DataplaneError::MixedFamilies { from: from.ip(), to: to.ip() }),
    }
    frame.extend(query.from.port().to_be_bytes());
    frame.extend(query.to.port().to_be_bytes());
    match query.protocol {
        Protocol::Tcp => frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, SYN, 0, 0, 0, 0, 0, 0]),
        Protocol::Udp => frame.extend([0, 8, 0, 0]),
    }
    Ok(frame)
}
