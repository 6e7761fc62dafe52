//! Why a packet was treated as it was. Every packet ends with exactly one reason, and every reason is
//! counted.

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The host's own stack gets it.
    Pass,
    /// It is sent on.
    Forward,
    /// It ends here.
    Drop,
    /// The program for odd packets goes on with it. Where that program is missing, the host's own stack
    /// gets the packet.
    Odd,
    /// The program for ICMP goes on with it. Where that program is missing, the host's own stack gets the packet.
    Icmp,
    /// The program for answers refuses it: by a TCP reset, or by "port unreachable". Where that program is
    /// missing, the host's own stack gets the packet.
    Refuse,
    /// The program for answers tells the client how long packets may be.
    TooBig,
    /// The program for answers tells the client that the packet had no hops left.
    Expired,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $fate:ident, $label:literal;)+) => {
        /// Why a packet was treated as it was: index of its counter, and label in metrics.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)+];

            /// What becomes of the packet.
            #[inline(always)]
            pub const fn fate(self) -> Fate {
                match self {
                    $(Reason::$variant => Fate::$fate,)+
                }
            }

            /// The name in status and metrics.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Reason::$variant => $label,)+
                }
            }
        }
    };
}

reasons! {
    /// Not IPv4 nor IPv6: ARP, frames with more than two VLAN tags, …
    NotIp = Pass, "not_ip";
    /// Its headers are not the usual ones: VLAN tags, IPv4 options, fragments, IPv6 extension headers; or it is
    /// to leave with a VLAN tag. Another program treats it, so this is counted only
    /// when that one could not be called.
    Odd = Odd, "odd";
    /// ICMP. Another program treats it, so this is counted only when that one could not be called.
    Icmp = Icmp, "icmp";
    /// Neither TCP nor UDP, nor ICMP about a flow or to a VIP: neighbour discovery, …; or too many IPv6 extension headers to tell.
    NotTcpUdp = Pass, "not_tcp_udp";
    /// A later fragment of a packet that is none of a service: only the first one has ports.
    Fragment = Pass, "fragment";
    /// A header is cut short, or a length contradicts another; the host's stack judges it.
    Malformed = Pass, "malformed";
    /// No service has this address, port and protocol, and no NAT record waits for it.
    NotService = Pass, "not_service";
    /// A SYN|ACK of no known flow: never the start of one, so the host's stack answers it.
    StraySynAck = Pass, "stray_syn_ack";
    /// A service whose table was not written yet.
    NotReady = Pass, "not_ready";
    /// A service without an up backend: answered with a reset or "port unreachable".
    NoBackend = Refuse, "no_backend";
    /// Every NAT port that this flow may use towards its backend is taken: answered with a reset or
    /// "port unreachable".
    NatFull = Refuse, "nat_full";
    /// A packet within a connection whose backend is down, where it is configured to say so: answered with a reset.
    FlowLost = Refuse, "flow_lost";
    /// Rewritten, but its next hop is not known: the host's stack sends it on.
    ViaKernel = Pass, "via_kernel";
    /// Sent to a backend by NAT.
    Nat = Forward, "nat";
    /// A backend's answer, translated back and sent towards the client.
    NatReply = Forward, "nat_reply";
    /// Sent to a backend by direct server return on the link.
    DsrL2 = Forward, "dsr_l2";
    /// Sent to a backend through an IP-in-IP tunnel.
    DsrIpip = Forward, "dsr_ipip";
    /// Sent to a backend through a GUE tunnel.
    DsrGue = Forward, "dsr_gue";
    /// The packet, with the outer header of its tunnel if it gets one, is longer than the way on takes: answered with
    /// "fragmentation needed" or "packet too big".
    TooBig = TooBig, "too_big";
    /// An ICMP error about a flow, sent to the flow's backend.
    IcmpToBackend = Forward, "icmp_to_backend";
    /// An ICMP error about a NAT packet to a backend, translated back and sent towards the client.
    IcmpToClient = Forward, "icmp_to_client";
    /// An echo request to a VIP, answered.
    Echo = Forward, "echo";
    /// More answers or ICMP errors than are allowed at once.
    AnswerLimited = Drop, "answer_limited";
    /// A packet to be answered that must not be: a reset, one whose source is no host's, or one that cannot be
    /// quoted.
    Unanswered = Drop, "unanswered";
    /// No hops left (TTL or hop limit 1): answered with "time exceeded".
    HopLimit = Expired, "hop_limit";
    /// Direct server return, but the backend's MAC address is not known.
    NoNextHop = Drop, "no_next_hop";
    /// NAT without a source address of this family.
    NoNatSource = Drop, "no_nat_source";
    /// A later fragment for a service or the NAT address, and its packet's first fragment was not seen: it
    /// came too early, or the first was lost, dropped or answered.
    FragmentEarly = Drop, "fragment_early";
    /// A packet with two VLAN tags for a NAT backend that is not on the interface it came in on. A NAT
    /// record remembers one tag, so the answer would not find its way.
    TwoTags = Drop, "two_tags";
    /// The frame was to grow by a tunnel's header or a VLAN tag, and its driver leaves no room in front of it.
    NoHeadroom = Drop, "no_headroom";
    /// Another CPU is just writing this flow's NAT record; the client will send again.
    NatBusy = Drop, "nat_busy";
    /// From a client that the deny list names.
    Denied = Drop, "denied";
    /// A new flow of a source that has opened as many as the service allows it.
    RateLimited = Drop, "rate_limited";
    /// A service without an up backend, where it is configured to tell nobody.
    NoBackendDropped = Drop, "no_backend_dropped";
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = Reason::ALL.len();

    /// Index of the counter of packets of a service that ended with this reason. Service 0 stands for
    /// packets of none.
    #[inline(always)]
    pub fn counter(self, service: u32) -> u32 {
        service * Reason::COUNT as u32 + self as u32
    }

    /// The reason with this number.
    pub fn from_number(number: u8) -> Option<Reason> {
        Reason::ALL.get(number as usize).copied()
    }
}
