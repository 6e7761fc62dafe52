//! VLAN tags of a frame that is sent on: it leaves in its next hop's VLAN.

use lb_common::{Hop, Reason};

use crate::{
    Frame, Tables,
    parse::{L3, Packet, TAG},
};

/// The type of a customer's tag, IEEE 802.1Q.
const TAG_TYPE: [u8; 2] = [0x81, 0x00];

/// Where the first tag is, or the type of a frame without one.
const FIRST: usize = L3 - 2;

/// A next hop that says nothing of VLANs: a frame that leaves by the interface it came in on stays in its
/// VLAN, any other leaves untagged.
#[inline(always)]
pub fn on_link(hop: Hop, packet: &Packet, ingress: u32) -> Hop {
    if hop.interface() == ingress { hop.in_vlan(packet.vlan) } else { hop }
}

/// Gives the frame the tag of its hop, or none. Tags that fit already stay as they are, a provider's tag and
/// the priority included.
#[inline(always)]
pub fn set<T: Tables>(
    frame: &mut Frame,
    packet: &Packet,
    hop: &Hop,
    ingress: u32,
    tables: &T,
) -> Result<(), Reason> {
    if hop.interface() == ingress && hop.vlan() == packet.vlan {
        return Ok(());
    }
    let (have, want) = (packet.tags(), if hop.vlan() != 0 { TAG } else { 0 });
    let fits = if want > have {
        tables.grow(frame, want - have)
    } else {
        have == want || tables.shrink(frame, have - want)
    };
    if !fits {
        return Err(Reason::NoHeadroom);
    }
    // The type of what the tags were around is where it belongs: right in front of the IP header.
    if want != 0 {
        let [high, low] = hop.vlan().to_be_bytes();
        *frame.at::<[u8; TAG]>(FIRST)? = [TAG_TYPE[0], TAG_TYPE[1], high, low];
    }
    Ok(())
}

/// Copies the tags to the front of a frame that has grown by so many bytes.
#[inline(always)]
pub fn take_along(frame: &mut Frame, packet: &Packet, grown: usize) -> Result<(), Reason> {
    if packet.tags() >= TAG {
        *frame.at::<[u8; TAG]>(FIRST)? = *frame.at::<[u8; TAG]>(FIRST + grown)?;
    }
    if packet.tags() > TAG {
        *frame.at::<[u8; TAG]>(FIRST + TAG)? = *frame.at::<[u8; TAG]>(FIRST + TAG + grown)?;
    }
    Ok(())
}

/// Sets the type of what follows the tags. Each place is a constant: of a variable one the verifier forgets
/// that it was checked.
#[inline(always)]
pub fn set_type(frame: &mut Frame, packet: &Packet, ether_type: u16) -> Result<(), Reason> {
    let place: &mut [u8; 2] = match packet.tags() {
        0 => frame.at(FIRST)?,
        TAG => frame.at(FIRST + TAG)?,
        _ => frame.at(FIRST + 2 * TAG)?,
    };
    *place = ether_type.to_ne_bytes();
    Ok(())
}
