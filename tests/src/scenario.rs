//! What a scenario is made of. The scenarios themselves are in [`crate::table`].

use std::{fmt, rc::Rc};

use lb_common::{Reason, State};
use lb_userspace::core::{image::Image, passive::Openings};

use crate::{
    packet::{NatPorts, Packet},
    run::Memory,
    world::World,
};

/// One scenario.
pub struct Scenario {
    /// Its number in the list of acceptance scenarios, if it is there, and what it shows.
    pub id: String,
    /// What is configured when it begins. The tables are empty then.
    pub world: World,
    /// What happens.
    pub steps: Vec<Step>,
    /// What is in the tables when it is over.
    pub after: After,
}

/// Something that happens.
pub enum Step {
    /// A packet comes in on the front interface.
    Packet {
        /// It.
        frame: Frame,
        /// What is done with it.
        verdict: Verdict,
        /// Why. This counter goes up by one, and no other.
        reason: Reason,
        /// What it has become.
        out: Out,
    },
    /// The daemon changes the maps.
    Configure(Box<dyn Fn(&mut Image)>),
    /// These, and no others, are the rules of the deny list from now on.
    Deny(&'static [&'static str]),
    /// Time passes: this many ticks.
    Later(u16),
    /// Something else changes the tables: another CPU, or what must never happen.
    Disturb(fn(&Memory)),
    /// The packets from now on arrive on this CPU, if there is one.
    OnCpu(usize),
}

/// What comes in.
#[derive(Debug, Clone)]
pub enum Frame {
    /// A packet.
    Packet(Box<Packet>),
    /// Anything.
    Bytes(Vec<u8>),
    /// Anything that depends on the NAT ports.
    Made(Made),
}

/// A frame that depends on the NAT ports which flows were given.
#[derive(Clone)]
pub struct Made(Rc<Make>);

type Make = dyn Fn(&NatPorts) -> Vec<u8>;

impl Made {
    /// The frame that this function makes.
    pub fn by(make: impl Fn(&NatPorts) -> Vec<u8> + 'static) -> Made {
        Made(Rc::new(make))
    }

    /// The frame.
    pub fn bytes(&self, nat_ports: &NatPorts) -> Vec<u8> {
        (self.0)(nat_ports)
    }
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Made")
    }
}

impl From<Packet> for Frame {
    fn from(packet: Packet) -> Frame {
        Frame::Packet(Box::new(packet))
    }
}

/// What has become of a frame.
#[derive(Debug, Clone)]
pub enum Out {
    /// It is as it was, to the last byte.
    Untouched,
    /// It is this packet now, to the last byte. If it bears a NAT port that has not occurred before, that
    /// port is learned from the frame, and checked against the rule that limits the choice to 16.
    Packet(Box<Packet>),
    /// It is this now, to the last byte.
    Made(Made),
}

/// What is done with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The host's stack gets it.
    Pass,
    /// It ends here.
    Drop,
    /// It leaves by the interface it came in on.
    Tx,
    /// It is answered: what leaves by the interface it came in on is ours.
    Answered,
    /// It leaves by the interface with this index.
    Redirect(u32),
}

/// What was sent to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// Packets.
    pub packets: u64,
    /// Bytes of IP packets.
    pub bytes: u64,
    /// Flows that began.
    pub begun: u64,
}

/// What is in the tables.
#[derive(Debug, Default)]
pub struct After {
    /// The idle limit that applies to proven flows, if not TCP's: an entry does not tell its protocol.
    pub idle: Option<u16>,
    /// All live flows: state and backend, in any order.
    pub flows: Vec<(State, u16)>,
    /// All live NAT records: state and backend, in any order.
    pub nat: Vec<(State, u16)>,
    /// What was sent to these backends since the scenario began.
    pub sent: Vec<(u16, Sent)>,
    /// What was opened to these backends since then, and what they answered.
    pub openings: Vec<(u16, Openings)>,
}
