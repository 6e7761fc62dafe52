//! Bytes as a script: what is configured at first, then one operation after the other.
//!
//! The format is made for mutation: every byte string is a script, an operation's length comes before its
//! bytes, and what is too long is cut.

use lb_common::Forward;

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// A frame comes in as it is.
    Frame(&'a [u8]),
    /// A frame comes in, its checksums made right.
    Mended(&'a [u8]),
    /// The backend answers the packet before; by TCP with these flags.
    Answer {
        /// TCP flags.
        flags: u8,
    },
    /// Time passes: this many ticks.
    Later(u16),
    /// The daemon changes the maps.
    Configure {
        /// Which part.
        what: u8,
        /// How.
        value: u8,
    },
}

/// Longest frame.
const LONGEST: usize = 2_047;

/// What is there at first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    /// Two bits for each service.
    forward: u8,
    /// The clock.
    pub(super) tick: u16,
}

impl Start {
    /// How a service forwards.
    pub(super) fn forward(self, service: u32) -> Forward {
        forward(self.forward >> (2 * (service - 1)))
    }
}

/// The ways to forward, by their bits.
pub(super) const FORWARDS: [Forward; 4] = [Forward::Nat, Forward::DsrL2, Forward::DsrIpip, Forward::DsrGue];

/// A way to forward.
pub(super) fn forward(bits: u8) -> Forward {
    FORWARDS[usize::from(bits) % FORWARDS.len()]
}

/// The backends of a service.
pub(super) fn backends_of(service: u32) -> [u16; 2] {
    [2 * service as u16 - 1, 2 * service as u16]
}

/// Reads a script.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(data: &'a [u8]) -> Reader<'a> {
        Reader(data)
    }

    pub(super) fn start(&mut self) -> Start {
        Start { forward: self.byte(), tick: self.word() }
    }

    /// The next operation; `None` at the end.
    pub(super) fn operation(&mut self) -> Option<Operation<'a>> {
        if self.0.is_empty() {
            return None;
        }
        Some(match self.byte() % 5 {
            0 => Operation::Frame(self.bytes()),
            1 => Operation::Mended(self.bytes()),
            2 => Operation::Answer { flags: self.byte() },
            3 => Operation::Later(self.word()),
            _ => Operation::Configure { what: self.byte(), value: self.byte() },
        })
    }

    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(first, rest)| (*first, rest));
        self.0 = rest;
        first
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = (usize::from(self.word()) & LONGEST).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }
}

/// Writes a script.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    /// All services forward alike.
    pub(super) fn new(forward: Forward, tick: u16) -> Writer {
        // Two bits for each of four services.
        let bits = 0b0101_0101 * FORWARDS.iter().position(|one| *one == forward).unwrap() as u8;
        let [high, low] = tick.to_be_bytes();
        Writer(vec![bits, high, low])
    }

    pub(super) fn add(&mut self, operation: Operation) {
        match operation {
            Operation::Frame(frame) => self.frame(0, frame),
            Operation::Mended(frame) => self.frame(1, frame),
            Operation::Answer { flags } => self.0.extend([2, flags]),
            Operation::Later(ticks) => {
                self.0.push(3);
                self.0.extend(ticks.to_be_bytes());
            }
            Operation::Configure { what, value } => self.0.extend([4, what, value]),
        }
    }

    fn frame(&mut self, kind: u8, frame: &[u8]) {
        let frame = &frame[..frame.len().min(LONGEST)];
        self.0.push(kind);
        self.0.extend((frame.len() as u16).to_be_bytes());
        self.0.extend(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let operations = [
            Operation::Mended(&[1, 2, 3]),
            Operation::Answer { flags: 18 },
            Operation::Later(700),
            Operation::Configure { what: 1, value: 0x20 },
            Operation::Frame(&[]),
        ];
        let mut writer = Writer::new(Forward::DsrL2, 0xfffe);
        operations.iter().for_each(|operation| writer.add(*operation));
        let mut reader = Reader::new(&writer.0);
        let start = reader.start();
        assert!((1..=4).all(|service| start.forward(service) == Forward::DsrL2));
        assert_eq!(start.tick, 0xfffe);
        let read: Vec<_> = std::iter::from_fn(|| reader.operation()).collect();
        assert_eq!(read, operations);
    }
}
