//! What the reference balancer, in C, needs by the same method, and what part of it we allow ourselves.

use lb_common::Forward;

use super::matrix::{MOST_KNOWN, Row, Traffic};
use crate::world::{TCP4, TCP6, UDP4};

/// A figure to beat.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reference {
    /// What the reference needs, in ns. Where it was measured as a range, the lower end.
    pub(super) ns: i64,
    /// The part of it that is allowed, in percent.
    pub(super) percent: i64,
}

/// The figure for a row, where the reference was measured: forwarding by GUE for ours by GUE and by IPIP for
/// all others, 100 backends, aged tables of 1,000,000 flows, minimum of 21 runs.
pub(super) fn reference(row: &Row) -> Option<Reference> {
    let nat = row.forward == Forward::Nat;
    let gue = row.forward == Forward::DsrGue;
    let (ns, percent) = match (row.case, row.traffic) {
        (TCP4, Traffic::Known(1)) => (if gue { 294 } else { 108 }, 65),
        (TCP4, Traffic::Known(MOST_KNOWN)) => (if gue { 457 } else { 259 }, 75),
        (TCP4, Traffic::Known(_)) => (if gue { 308 } else { 106 }, 65),
        (UDP4, Traffic::Known(1)) => (133, 65),
        (TCP6, Traffic::Known(1)) => (110, 65),
        // 400 ns under NAT.
        (TCP4, Traffic::New) => (if gue { 900 } else { 694 }, if nat { 57 } else { 35 }),
        (TCP4, Traffic::NotOurs) => (49, 60),
        _ => return None,
    };
    let known = matches!(row.traffic, Traffic::Known(_));
    Some(Reference { ns, percent: if nat && known { 100 } else { percent } })
}
