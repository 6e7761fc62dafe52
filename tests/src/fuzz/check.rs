//! What must hold for any packet.

use lb_common::{Fate, Reason};
use lb_ebpf::Outcome;

use crate::{
    host::{AlignedFrame, HostTables},
    oracle::{self, Fields, Read},
    world::FRONT,
};

/// Treats a frame, after a dry run; what became of it, and the frame afterwards.
///
/// # Panics
/// When it was treated otherwise than any frame may be.
pub(super) fn process(tables: &HostTables, frame: &[u8]) -> (Outcome, Vec<u8>) {
    let before = tables.memory().snapshot();
    let (explained, _) = within(frame, |frame| tables.explain_frame(frame, FRONT));
    assert_eq!(tables.memory().snapshot(), before, "explaining the packet changed the tables");

    let (outcome, after) = within(frame, |frame| tables.process_frame(frame, FRONT));
    let unanswered = matches!(outcome.reason, Reason::Unanswered | Reason::AnswerLimited);
    let decided = |outcome: &Outcome| {
        let Outcome { interface, service, backend, slot, known, .. } = *outcome;
        // Whether there will be an answer is not foretold.
        let reason = if unanswered { None } else { Some(outcome.reason) };
        (reason, interface, service, backend, slot, known)
    };
    assert_eq!(decided(&explained), decided(&outcome), "explained otherwise than done");
    let reason = outcome.reason;
    assert_eq!(reason.fate() == Fate::Forward, outcome.interface != 0, "{outcome:?}");
    match reason.fate() {
        Fate::Forward => sent_on(reason, frame, &after),
        Fate::Refuse | Fate::TooBig | Fate::Expired => refused(reason, frame, &after),
        Fate::Pass if reason == Reason::ViaKernel => sent_on(reason, frame, &after),
        // What remains of a frame that is dropped is nobody's business.
        Fate::Drop if unanswered || reason == Reason::NoHeadroom => {}
        Fate::Pass | Fate::Drop => assert_eq!(after, frame, "{reason:?}, and the frame was changed"),
        Fate::Odd | Fate::Icmp => panic!("no program decided: {reason:?}"),
    }
    (outcome, after)
}

/// The frame after something was done with it, which must have kept to it.
fn within<R>(frame: &[u8], act: impl FnOnce(&mut AlignedFrame) -> R) -> (R, Vec<u8>) {
    let mut memory = AlignedFrame::new(frame);
    let result = act(&mut memory);
    assert!(memory.is_clean_in_front(), "written in front of the frame");
    (result, memory.bytes().to_vec())
}

/// A frame that leaves.
fn sent_on(reason: Reason, frame: &[u8], after: &[u8]) {
    if reason == Reason::DsrL2 {
        // Tags may come or go with the link.
        let (came, left) = (oracle::l3(frame), oracle::l3(after));
        assert_eq!(after[left..], frame[came..], "direct return changes nothing behind the Ethernet header");
        return;
    }
    let Some(came) = oracle::ip_packet(frame) else { return };
    let carried = oracle::carried(after) == Some(came);
    if matches!(reason, Reason::DsrIpip | Reason::DsrGue) {
        assert!(carried, "{reason:?} does not carry the packet unchanged");
    }
    // Errors go to a backend by the way of their flow.
    if carried {
        return;
    }
    if oracle::sums_are_right(frame) == Some(true) {
        let right = oracle::sums_are_right(after);
        assert_eq!(right, Some(true), "{reason:?}: checksums were right, and are not now");
    }
    let Read::Packet(came) = oracle::read(frame) else { return };
    let left = oracle::read(after);
    let Read::Packet(left) = left else { panic!("a packet came in, and left as {left:?}") };
    assert_eq!((left.protocol, left.flags, left.length), (came.protocol, came.flags, came.length));
    assert_eq!(left.hops, came.hops - 1);
}

/// A frame that is answered at once: the answer goes to whom it came from.
fn refused(reason: Reason, frame: &[u8], after: &[u8]) {
    let Some([from, to]) = oracle::ends(frame) else { return };
    assert_eq!(oracle::ends(after), Some([to, from]), "the answer to {reason:?} goes elsewhere");
    assert_eq!(oracle::sums_are_right(after), Some(true), "the answer to {reason:?} has wrong checksums");
    assert_eq!((&after[..6], &after[6..12]), (&frame[6..12], &frame[..6]), "it goes back to the last hop");
}

/// The packet that a backend would send back; `None` where etherparse does not see what was sent.
pub(super) fn answer_to(sent: &[u8], flags: u8) -> Option<Vec<u8>> {
    let Read::Packet(Fields { l4, protocol, source: (source, _), .. }) = oracle::read(sent) else {
        return None;
    };
    let l3 = oracle::l3(sent);
    let mut frame = sent.to_vec();
    swap(&mut frame, 0, 6);
    match source.is_ipv4() {
        true => {
            swap(&mut frame, l3 + 12, 4);
            frame[l3 + 8] = 64;
        }
        false => {
            swap(&mut frame, l3 + 8, 16);
            frame[l3 + 7] = 64;
        }
    }
    swap(&mut frame, l4, 2);
    if protocol == 6 {
        frame[l4 + 13] = flags;
    }
    oracle::mend(&mut frame);
    Some(frame)
}

/// Two neighbours of this length change places.
fn swap(frame: &mut [u8], at: usize, length: usize) {
    let (first, second) = frame[at..at + 2 * length].split_at_mut(length);
    first.swap_with_slice(second);
}

/// The answer to a packet that has just gone to a backend by NAT goes to the client as the VIP's.
pub(super) fn answered(outcome: &Outcome, after: &[u8], came: &[u8]) {
    assert!(
        matches!(outcome.reason, Reason::NatReply | Reason::ViaKernel),
        "the answer to a packet by NAT ends with {:?}",
        outcome.reason
    );
    let (Read::Packet(client), Read::Packet(answer)) = (oracle::read(came), oracle::read(after)) else {
        panic!("a packet came and was answered, and one of both cannot be read any more");
    };
    assert_eq!((answer.source, answer.destination), (client.destination, client.source));
}
