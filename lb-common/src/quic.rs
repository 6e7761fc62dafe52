//! Server ids in QUIC connection ids: which backend a connection belongs to, whatever its client's address.

/// Longest server id in bytes.
pub const MAX_SERVER_ID: usize = 8;

/// A backend's server id in a service: the key of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct QuicKey {
    /// The server id, its first byte lowest, and zeros above.
    id: u64,
    /// Number of the service. Eight bytes, so that no byte of the key is left unset.
    service: u64,
}

const _: () = assert!(size_of::<QuicKey>() == 16);

impl QuicKey {
    /// The key of the server id that the first `length` of these bytes are; `length` is 1 to 8.
    #[inline(always)]
    pub fn new(service: u32, bytes: [u8; MAX_SERVER_ID], length: u8) -> QuicKey {
        let unused = (64 - 8 * length as u32) & 63;
        QuicKey { id: u64::from_le_bytes(bytes) & (u64::MAX >> unused), service: service as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_after_the_id_do_not_count() {
        assert_eq!(
            QuicKey::new(1, [1, 2, 3, 4, 5, 6, 7, 8], 3),
            QuicKey::new(1, [1, 2, 3, 0, 0, 0, 0, 0], 3)
        );
        assert_ne!(QuicKey::new(1, [1; 8], 8), QuicKey::new(1, [1; 8], 7));
        assert_ne!(QuicKey::new(1, [1; 8], 8), QuicKey::new(2, [1; 8], 8));
    }
}
