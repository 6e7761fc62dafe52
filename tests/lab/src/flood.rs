//! Floods: packets with forged sources, put at full speed on the wire in front of a node.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use etherparse::{Ethernet2Header, PacketBuilder, PacketBuilderStep};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, bind, socket},
    unistd,
};

use crate::{
    host::Host,
    lab::Lab,
    namespace::{inside, link},
    topology::{Net, Pair, SPOOFED, local_address, switch_port},
};

/// How long the node may take none of our packets.
const PATIENCE: Duration = Duration::from_secs(5);

/// TTL and hop limit of a client a few routers away.
const HOPS: u8 = 60;

const WEB: u16 = 80;
const ECHO: u16 = 7;

/// What a flood's packets are. Every flow is new, and of both families in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// Connections that begin, and nothing more.
    Syn,
    /// The middle of connections that never were.
    Ack,
    /// Two packets of each flow: a SYN, and at once the ACK that a client would send.
    SynThenAck,
    /// A datagram to the echo, which answers.
    Udp,
}

impl Flood {
    /// Every kind, in an order in which none makes room for the next.
    pub const ALL: [Flood; 4] = [Flood::Syn, Flood::Ack, Flood::SynThenAck, Flood::Udp];
}

impl Lab {
    /// Sends `packets` packets to a node's addresses, as from its router. Returns when the node's
    /// interface has taken all of them. What they provoke ends at the router.
    ///
    /// # Errors
    /// When the node takes none for some seconds.
    pub fn flood(&self, node: u8, kind: Flood, packets: u32) -> Result<()> {
        let mac = |host| inside(host, || link(Net::Front.interface())?.addr().context("no MAC address"));
        let (router, node) = (mac(Host::Router)?, Host::Node(node));
        let to = To {
            source_mac: router,
            mac: mac(node)?,
            vip: local_address(node).context("a node has an address")?,
        };
        inside(Host::Switch, || send(&switch_port(node, Net::Front), &to, kind, packets))
    }
}

/// Whom a flood is for.
struct To {
    source_mac: [u8; 6],
    mac: [u8; 6],
    vip: Pair,
}

fn send(port: &str, to: &To, kind: Flood, packets: u32) -> Result<()> {
    let wire = open(port).with_context(|| format!("cannot send on {port}"))?;
    let mut frame = Vec::new();
    let mut sources = Sources::new(rand::random());
    let mut left = packets;
    while left > 0 {
        let (source, source_port) = sources.next_pair();
        for &segment in segments(kind) {
            frame.clear();
            write(&mut frame, to, source, source_port, segment)?;
            put(&wire, &frame)?;
            left = left.saturating_sub(1);
        }
    }
    Ok(())
}

/// A socket that sends whole frames out of an interface, and receives none.
fn open(port: &str) -> Result<OwnedFd> {
    let wire =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).context("socket")?;
    bind(wire.as_raw_fd(), &link(port)?).context("bind")?;
    Ok(wire)
}

/// Waits while the ring of the other end is full.
fn put(wire: &OwnedFd, frame: &[u8]) -> Result<()> {
    let mut refused_since = None;
    loop {
        match unistd::write(wire, frame) {
            Ok(_) => return Ok(()),
            Err(Errno::ENOBUFS) => {
                if refused_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    bail!("the node has taken no packet for {PATIENCE:?}");
                }
                thread::yield_now();
            }
            Err(error) => return Err(error).context("cannot send"),
        }
    }
}

/// A packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Segment {
    Syn,
    Ack,
    Datagram,
}

fn segments(kind: Flood) -> &'static [Segment] {
    match kind {
        Flood::Syn => &[Segment::Syn],
        Flood::Ack => &[Segment::Ack],
        Flood::SynThenAck => &[Segment::Syn, Segment::Ack],
        Flood::Udp => &[Segment::Datagram],
    }
}

/// Makes the frame, checksums included: backends shall take the packets for real.
fn write(frame: &mut Vec<u8>, to: &To, source: IpAddr, port: u16, segment: Segment) -> Result<()> {
    let ethernet: PacketBuilderStep<Ethernet2Header> = PacketBuilder::ethernet2(to.source_mac, to.mac);
    let ip = match source {
        IpAddr::V4(source) => ethernet.ipv4(source.octets(), to.vip.v4.octets(), HOPS),
        IpAddr::V6(source) => ethernet.ipv6(source.octets(), to.vip.v6.octets(), HOPS),
    };
    let sequence = u32::from(port);
    match segment {
        Segment::Syn => ip.tcp(port, WEB, sequence, 64_240).syn().write_to_vec(frame, &[]),
        Segment::Ack => ip.tcp(port, WEB, sequence + 1, 64_240).ack(1).write_to_vec(frame, &[]),
        Segment::Datagram => ip.udp(port, ECHO).write_to_vec(frame, b"flood"),
    }
    .context("packet")
}

/// Forged sources, IPv4 and IPv6 in turn, none twice within 8 million of a family.
struct Sources(u32);

/// Bits of the number that tells IPv4 sources apart: 7 of the address and 16 of the port.
const BITS: u32 = 23;

impl Sources {
    fn new(start: u32) -> Sources {
        Sources(start)
    }

    fn next_pair(&mut self) -> (IpAddr, u16) {
        self.0 = self.0.wrapping_add(1);
        // Odd, so that no two of 2^23 numbers in a row become the same.
        let scattered = (self.0 >> 1).wrapping_mul(0x9e37_79b1) & ((1 << BITS) - 1);
        let (address, port) = (scattered >> 16, scattered as u16);
        let source = if self.0.is_multiple_of(2) {
            IpAddr::V4(Ipv4Addr::from(u32::from(SPOOFED.v4) + address))
        } else {
            let low = u128::from(scattered).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) >> 33;
            IpAddr::V6(Ipv6Addr::from(u128::from(SPOOFED.v6) | low))
        };
        (source, port)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use etherparse::SlicedPacket;

    use super::*;
    use crate::topology::SPOOFED_BITS;

    #[test]
    fn sources_are_distinct_and_where_the_router_drops_them() {
        let mut sources = Sources::new(u32::MAX - 500_000);
        let drawn: Vec<_> = (0..1_000_000).map(|_| sources.next_pair()).collect();
        assert_eq!(drawn.iter().collect::<HashSet<_>>().len(), drawn.len());
        assert_eq!(drawn.iter().filter(|(source, _)| source.is_ipv4()).count(), drawn.len() / 2);
        let (v4_shift, v6_shift) = (32 - SPOOFED_BITS.0, 128 - SPOOFED_BITS.1);
        for (source, _) in drawn {
            let dropped = match source {
                IpAddr::V4(source) => u32::from(source) >> v4_shift == u32::from(SPOOFED.v4) >> v4_shift,
                IpAddr::V6(source) => u128::from(source) >> v6_shift == u128::from(SPOOFED.v6) >> v6_shift,
            };
            assert!(dropped, "{source}");
        }
    }

    #[test]
    fn packets_are_whole() {
        let vip = Pair { v4: Ipv4Addr::new(192, 0, 2, 11), v6: "2001:db8:1::11".parse().expect("address") };
        let to = To { source_mac: [2, 0, 0, 0, 0, 1], mac: [2, 0, 0, 0, 0, 2], vip };
        for source in [IpAddr::V4(SPOOFED.v4), IpAddr::V6(SPOOFED.v6)] {
            for segment in [Segment::Syn, Segment::Ack, Segment::Datagram] {
                let mut frame = Vec::new();
                write(&mut frame, &to, source, 4711, segment).expect("packet");
                let packet = SlicedPacket::from_ethernet(&frame).expect("valid");
                assert!(packet.net.is_some() && packet.transport.is_some(), "{source} {segment:?}");
            }
        }
    }
}
