//! What the decapsulation program of a backend host and its loader agree on.

/// The program's name in its object, and in the kernel.
pub const PROGRAM: &str = "usher_backend";

/// Names of the maps in the object. The kernel keeps 15 characters.
pub mod map {
    /// One [`DecapSettings`](super::DecapSettings).
    pub const SETTINGS: &str = "DECAP_SETTINGS";
    /// [`Address`](crate::Address) to [`Role`](super::Role) bits.
    pub const ADDRESSES: &str = "ADDRESSES";
    /// Prefixes of outer sources that are listened to.
    pub const SOURCES: &str = "SOURCES";
    /// [`Verdict`](super::Verdict) to packets, per CPU.
    pub const VERDICTS: &str = "VERDICTS";
}

/// Most addresses of the host and VIPs together.
pub const MAX_ADDRESSES: usize = 4_096;

/// Most prefixes of outer sources.
pub const MAX_SOURCES: usize = 4_096;

/// What is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct DecapSettings {
    /// UDP port of GUE; 0 when GUE is not unpacked.
    pub gue_port: u16,
    /// 1 when IP in IP is unpacked.
    pub ipip: u8,
    /// 1 when every outer source is listened to, and not only the listed prefixes.
    pub any_source: u8,
}

const _: () = assert!(size_of::<DecapSettings>() == 4);

/// What an address is to the program; an address may be both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// The host's own: outer packets go there.
    Own = 1,
    /// A VIP: inner packets go there.
    Vip = 2,
}

impl Role {
    /// Whether `roles`, bits of the map's value, has this one.
    #[inline(always)]
    pub fn is_in(self, roles: u8) -> bool {
        roles & self as u8 != 0
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The host's stack gets it as it came.
    Pass,
    /// The host's stack gets the inner packet.
    Unpack,
    /// It ends here.
    Drop,
}

macro_rules! verdicts {
    ($($(#[doc = $doc:literal])+ $variant:ident = $action:ident, $label:literal;)+) => {
        /// Why a packet was unpacked or not: index of its counter, and label in status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Verdict {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Verdict {
            /// Every verdict, in the order of the counters.
            pub const ALL: &'static [Verdict] = &[$(Verdict::$variant,)+];

            /// What becomes of the packet.
            #[inline(always)]
            pub const fn action(self) -> Action {
                match self {
                    $(Verdict::$variant => Action::$action,)+
                }
            }

            /// The name in status.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Verdict::$variant => $label,)+
                }
            }
        }
    };
}

verdicts! {
    /// Unpacked from IP in IP.
    Ipip = Unpack, "ipip";
    /// Unpacked from GUE.
    Gue = Unpack, "gue";
    /// Not from a tunnel: everything else that the host receives.
    NotTunnel = Pass, "not_tunnel";
    /// From a tunnel, but the outer destination is none of the host's addresses.
    NotOwn = Pass, "not_own";
    /// The outer source is not allowed.
    NotAllowed = Pass, "not_allowed";
    /// The inner destination is no VIP.
    NotVip = Pass, "not_vip";
    /// The outer packet is a fragment: the nodes' packets must fit the path's MTU.
    OuterFragment = Pass, "outer_fragment";
    /// To the GUE port, but not GUE version 1 with an IP packet in it.
    NotGue1 = Pass, "not_gue1";
    /// A header is cut short, or a length contradicts another.
    Malformed = Pass, "malformed";
    /// The way met congestion, which a packet that knows no ECN can only be told by its loss (RFC 6040
    /// section 4.2).
    Congestion = Drop, "congestion";
}

impl Verdict {
    /// How many there are.
    pub const COUNT: usize = Verdict::ALL.len();
}
