//! The backend that a QUIC packet names: the server id in its destination connection id, in the plaintext
//! encoding of draft-ietf-quic-load-balancers-21 (sections 3 and 5.2): three bits of config id and five others,
//! the server id, a nonce.
//!
//! Only ids that a server has made are read. Those of Initial and 0-RTT packets may be the client's, who could
//! choose its backend so, past weights and limits; and of long headers of other versions nobody knows.

use lb_common::{QuicKey, Service};

use crate::{
    Frame,
    parse::{Packet, UDP},
    tables::Tables,
};

/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;
/// The part of a packet that is looked at. Every QUIC packet is longer: its protection samples 16 bytes
/// after a packet number of four (RFC 9001 section 5.4.2).
const LOOKED_AT: usize = 20;
/// The first bit: a long header (RFC 9000 section 17.2).
const LONG: u8 = 0x80;
/// In a long header, the type of the packet too.
const LONG_AND_TYPE: u8 = LONG | 0x30;
/// Version 1 in network order, and its Handshake packets (RFC 9000 section 17.2.4).
const VERSION_1: (u32, u8) = (1_u32.to_be(), LONG | 0x20);
/// Version 2 (RFC 9369 section 3.2).
const VERSION_2: (u32, u8) = (0x6b33_43cf_u32.to_be(), LONG | 0x30);

/// The up backend of the service that the packet's connection id names; 0 when it names none.
#[inline(always)]
pub fn owner<T: Tables>(frame: &mut Frame, packet: &Packet, service: &Service, tables: &T) -> u16 {
    let payload = packet.l4() + UDP_HEADER;
    if packet.protocol != UDP || (packet.length as usize) < payload - packet.l3() + LOOKED_AT {
        return 0;
    }
    let Ok(&mut p) = frame.at::<[u8; LOOKED_AT]>(payload) else { return 0 };
    // A long header has version and length before the connection id; a short one does not tell its length.
    let (length, first, id) = if p[0] & LONG != 0 {
        let version = u32::from_ne_bytes([p[1], p[2], p[3], p[4]]);
        if !is_handshake(version, p[0] & LONG_AND_TYPE) {
            return 0;
        }
        (p[5], p[6], [p[7], p[8], p[9], p[10], p[11], p[12], p[13], p[14]])
    } else {
        (u8::MAX, p[1], [p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9]])
    };
    if length <= service.quic_id_length || first >> 5 != service.quic_config {
        return 0;
    }
    backend(tables, u64::from_le_bytes(id), service) as u16
}

/// Whether the packet is a Handshake packet: of all with a long header these alone always bear an id of the
/// server's.
#[inline(always)]
fn is_handshake(version: u32, kind: u8) -> bool {
    (version == VERSION_1.0 && kind == VERSION_1.1) || (version == VERSION_2.0 && kind == VERSION_2.1)
}

/// The up backend whose server id these bytes begin with. A function of its own in BPF for the stack's sake.
#[inline(never)]
fn backend<T: Tables>(tables: &T, id: u64, service: &Service) -> u32 {
    let key = QuicKey::new(service.number, id.to_le_bytes(), service.quic_id_length);
    let Some(number) = tables.quic_backend(&key) else { return 0 };
    match tables.backend(number) {
        Some(backend) if backend.service == service.number && backend.is_up() => number as u32,
        _ => 0,
    }
}
