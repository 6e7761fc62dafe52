//! What is configured. The program is compiled with everything and loaded with a constant that says what
//! is wanted: the verifier then removes the rest, so that what is not configured costs nothing.

use core::ops::BitOr;

/// A set of features, as the constant [`Features::SYMBOL`] of the object holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Features(pub u64);

impl Features {
    /// Name of the constant in the object.
    pub const SYMBOL: &'static str = "FEATURES";

    /// None.
    pub const NONE: Features = Features(0);
    /// Services forwarded by NAT.
    pub const NAT: Features = Features(1);
    /// Services forwarded by direct server return on the link.
    pub const DSR_L2: Features = Features(1 << 1);
    /// Services forwarded by direct server return over IP-in-IP tunnels.
    pub const DSR_IPIP: Features = Features(1 << 2);
    /// Services forwarded by direct server return over GUE tunnels.
    pub const DSR_GUE: Features = Features(1 << 3);
    /// More than one NAT source address in a family.
    pub const NAT_SOURCES: Features = Features(1 << 4);
    /// Services whose connections are reset when their backend is down.
    pub const RESET_LOST: Features = Features(1 << 5);
    /// Services that choose a backend by the client's address alone.
    pub const CLIENT_HASH: Features = Features(1 << 6);
    /// Services that remember a client's backend.
    pub const AFFINITY: Features = Features(1 << 7);
    /// A limit on new flows per second that are stored.
    pub const NEW_FLOW_LIMIT: Features = Features(1 << 8);
    /// A list of clients that are denied.
    pub const DENY: Features = Features(1 << 9);
    /// Services that limit the new flows of each source.
    pub const RATE_LIMIT: Features = Features(1 << 10);
    /// Services that follow QUIC connection ids.
    pub const QUIC: Features = Features(1 << 11);
    /// Sending packets to the daemon, as they come in and as they leave; switched on while it is wanted. The
    /// last bit, because it is no part of a configuration.
    pub const CAPTURE: Features = Features(1 << 63);

    /// These features but for those.
    #[inline(always)]
    pub const fn without(self, other: Features) -> Features {
        Features(self.0 & !other.0)
    }

    /// Whether all features of `other` are in this set.
    #[inline(always)]
    pub const fn has(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Features {
    type Output = Features;

    fn bitor(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }
}

impl FromIterator<Features> for Features {
    fn from_iter<T: IntoIterator<Item = Features>>(features: T) -> Features {
        features.into_iter().fold(Features::NONE, |all, one| all | one)
    }
}
