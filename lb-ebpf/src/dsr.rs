//! Direct server return on the link: the packet stays as it is, only the frame is addressed to the
//! backend, which holds the VIP and answers the client itself.

use lb_common::{Hop, Reason};

use crate::{parse::Packet, select::Choice, tables::Tables};

/// Where the frame goes. A packet for a backend without a known MAC address ends here: the host's stack
/// would take it for its own, since the VIP is the node's address.
#[inline(always)]
pub fn forward<T: Tables>(packet: &Packet, choice: &Choice) -> Result<Hop, Reason> {
    if choice.is_lost {
        choice.close::<T>();
        return Err(Reason::FlowLost);
    }
    let hop = choice.backend.hop;
    if !hop.is_known() {
        return Err(Reason::NoNextHop);
    }
    choice.remember::<T>(packet, choice.is_from_earlier_tick());
    Ok(hop)
}
