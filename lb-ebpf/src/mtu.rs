//! Packets that are longer than their way takes.

use lb_common::Reason;

use crate::{Outcome, parse::Packet};

/// Every IPv6 link takes packets of this length (RFC 8200 section 5), and no host sends shorter ones when
/// told to.
const IPV6_LEAST_MTU: u16 = 1280;

/// Whether the packet, to grow by `overhead` bytes, fits a way that takes IP packets of `mtu` bytes, where 0 stands for
/// any. An IPv6 packet that every link must take is sent in any case.
#[inline(always)]
pub fn fits(packet: &Packet, mtu: u16, overhead: u16, outcome: &mut Outcome) -> Result<(), Reason> {
    let mtu = if mtu == 0 { u16::MAX } else { mtu };
    let most = mtu.saturating_sub(overhead);
    let most = if packet.v6() && most < IPV6_LEAST_MTU { IPV6_LEAST_MTU } else { most };
    if packet.length > most {
        outcome.mtu = most;
        return Err(Reason::TooBig);
    }
    Ok(())
}
