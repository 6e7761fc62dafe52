//! What must hold for any packet.

use lb_common::{Fate, Reason};
use lb_ebpf::Outcome;

use super::is_sent_on;
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
    let decided = |outcome: &Outcome| {
        (outcome.reason, outcome.interface, outcome.service, outcome.backend, outcome.slot, outcome.known)
    };
    assert_eq!(decided(&explained), decided(&outcome), "explained otherwise than done");
    assert_ne!(outcome.reason.fate(), Fate::Odd, "no program decided");
    let forwarded = outcome.reason.fate() == Fate::Forward;
    assert_eq!(forwarded, outcome.interface != 0, "{outcome:?}");
    assert!(is_sent_on(outcome.reason) || after == frame, "{:?}, and the frame was changed", outcome.reason);
    if is_sent_on(outcome.reason) {
        sent_on(&outcome, frame, &after);
    }
    (outcome, after)
}

/// The frame after something was done with it, which must have kept to it.
fn within<R>(frame: &[u8], act: impl FnOnce(&mut AlignedFrame) -> R) -> (R, Vec<u8>) {
    let mut memory = AlignedFrame::new(frame);
    let result = act(&mut memory);
    assert!(memory.is_clean_outside(), "written outside of the frame");
    (result, memory.bytes().to_vec())
}

fn sent_on(outcome: &Outcome, frame: &[u8], after: &[u8]) {
    if outcome.reason == Reason::DsrL2 {
        // Tags may come or go with the link.
        let (came, left) = (oracle::l3(frame), oracle::l3(after));
        assert_eq!(after[left..], frame[came..], "direct return changes nothing behind the Ethernet header");
        return;
    }
    let Read::Packet(came) = oracle::read(frame) else { return };
    if matches!(outcome.reason, Reason::DsrIpip | Reason::DsrGue) {
        let inner = &frame[oracle::l3(frame)..][..came.length];
        assert_eq!(
            oracle::carried(after),
            Some(inner),
            "{:?} does not carry the packet unchanged",
            outcome.reason
        );
        return;
    }
    let left = oracle::read(after);
    let Read::Packet(left) = left else { panic!("a packet came in, and left as {left:?}") };
    assert_eq!((left.protocol, left.flags, left.length), (came.protocol, came.flags, came.length));
    assert_eq!(left.hops, came.hops - 1);
    if oracle::sums_are_right(frame) == Some(true) {
        assert_eq!(oracle::sums_are_right(after), Some(true), "checksums were right, and are wrong now");
    }
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
