//! Writing pcapng files (draft-ietf-opsawg-pcapng): the four kinds of block that a capture needs.
//!
//! Little endian, Ethernet, times in nanoseconds. Every block is a value of bytes, so that a stream of
//! blocks is a valid file wherever it is cut between two of them.

/// Time stamps count nanoseconds: 10^-9 s.
const TSRESOL_NS: u8 = 9;
/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;

// Types of blocks.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

// Codes of options.
const COMMENT: u16 = 1;
const USER_APPLICATION: u16 = 4;
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_TSRESOL: u16 = 9;
const IF_RECEIVED: u16 = 4;
const IF_DROPPED: u16 = 5;
const PACKET_FLAGS: u16 = 2;
const PACKET_ID: u16 = 5;
const PACKET_VERDICT: u16 = 7;

/// Verdicts of type 2 are actions of an XDP program.
const VERDICT_OF_XDP: u8 = 2;

/// The block that begins a file.
pub fn section(application: &str) -> Vec<u8> {
    let mut block = Block::new(SECTION);
    block.u32(0x1a2b_3c4d);
    // Version 1.0, length not known.
    block.bytes(&[1, 0, 0, 0]);
    block.bytes(&[0xff; 8]);
    block.option(USER_APPLICATION, application.as_bytes());
    block.finish()
}

/// An interface; they count from 0 in the order in which they stand in the file.
pub fn interface(name: &str, description: &str, snap: u32) -> Vec<u8> {
    let mut block = Block::new(INTERFACE);
    block.bytes(&ETHERNET.to_le_bytes());
    block.bytes(&[0, 0]);
    block.u32(snap);
    block.option(IF_NAME, name.as_bytes());
    block.option(IF_DESCRIPTION, description.as_bytes());
    block.option(IF_TSRESOL, &[TSRESOL_NS]);
    block.finish()
}

/// Which way a packet went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// It came in.
    In = 1,
    /// It is on its way out.
    Out = 2,
}

/// A captured packet.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// The interface's number.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Its length on the wire.
    pub length: u32,
    /// As much of it as was captured.
    pub data: &'a [u8],
    /// For people.
    pub comment: &'a str,
    /// Which way it went.
    pub direction: Direction,
    /// The same for a packet before and after.
    pub id: u64,
    /// The XDP program's action by its number.
    pub action: u64,
}

/// A packet.
pub fn packet(packet: &Packet) -> Vec<u8> {
    let mut block = Block::new(PACKET);
    block.u32(packet.interface);
    block.time(packet.time_ns);
    block.u32(packet.data.len() as u32);
    block.u32(packet.length);
    block.padded(packet.data);
    block.option(COMMENT, packet.comment.as_bytes());
    block.option(PACKET_FLAGS, &(packet.direction as u32).to_le_bytes());
    block.option(PACKET_ID, &packet.id.to_le_bytes());
    let mut verdict = [VERDICT_OF_XDP; 9];
    verdict[1..].copy_from_slice(&packet.action.to_le_bytes());
    block.option(PACKET_VERDICT, &verdict);
    block.finish()
}

/// How many packets an interface captured, and how many it had to leave out.
pub fn statistics(interface: u32, time_ns: u64, received: u64, dropped: u64) -> Vec<u8> {
    let mut block = Block::new(STATISTICS);
    block.u32(interface);
    block.time(time_ns);
    block.option(IF_RECEIVED, &received.to_le_bytes());
    block.option(IF_DROPPED, &dropped.to_le_bytes());
    block.finish()
}

/// What a stream of blocks held so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets, each as often as interfaces saw it.
    pub packets: u64,
    /// What the statistics of an interface said was left out.
    pub dropped: u64,
}

impl Tally {
    /// Takes the whole blocks from the front of a stream, and counts them. What remains is the beginning of a
    /// block.
    pub fn take_blocks(&mut self, stream: &mut Vec<u8>) -> Vec<u8> {
        let mut whole = 0;
        while let Some((kind, block)) = first_block(&stream[whole..]) {
            match kind {
                PACKET => self.packets += 1,
                STATISTICS => self.dropped = dropped(block).unwrap_or(self.dropped),
                _ => {}
            }
            whole += block.len();
        }
        let rest = stream.split_off(whole);
        std::mem::replace(stream, rest)
    }
}

/// The type and the bytes of the block that a stream begins with, if it is there as a whole.
fn first_block(stream: &[u8]) -> Option<(u32, &[u8])> {
    let number = |at: usize| Some(u32::from_le_bytes(*stream.get(at..)?.first_chunk()?));
    let (kind, length) = (number(0)?, number(4)?);
    // A shorter one would be no block at all, and never end.
    Some((kind, stream.get(..(length as usize).max(12))?))
}

/// [`IF_DROPPED`] as [`statistics`] writes it: behind the interface's number, the time and [`IF_RECEIVED`].
fn dropped(block: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*block.get(36..)?.first_chunk()?))
}

/// A block under construction: type and length, then what the caller adds.
struct Block(Vec<u8>);

impl Block {
    fn new(kind: u32) -> Block {
        let mut block = Block(Vec::with_capacity(256));
        block.u32(kind);
        // The length, once it is known.
        block.u32(0);
        block
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Bytes, and zeros up to a multiple of four.
    fn padded(&mut self, bytes: &[u8]) {
        self.bytes(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn u32(&mut self, number: u32) {
        self.bytes(&number.to_le_bytes());
    }

    fn time(&mut self, ns: u64) {
        self.u32((ns >> 32) as u32);
        self.u32(ns as u32);
    }

    /// An option. Values longer than an option can be are cut.
    fn option(&mut self, code: u16, value: &[u8]) {
        let value = &value[..value.len().min(usize::from(u16::MAX))];
        self.bytes(&code.to_le_bytes());
        self.bytes(&(value.len() as u16).to_le_bytes());
        self.padded(value);
    }

    /// Ends the options, and closes the block: its length stands before and after its content.
    fn finish(mut self) -> Vec<u8> {
        self.u32(0);
        let length = (self.0.len() + 4) as u32;
        self.u32(length);
        self.0[4..8].copy_from_slice(&length.to_le_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, time::Duration};

    use pcap_file::pcapng::{
        PcapNgReader,
        blocks::{
            Block,
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_statistics::InterfaceStatisticsOption,
        },
    };

    use super::*;

    /// Read back by somebody else's reader.
    #[test]
    fn a_reader_finds_what_was_written() {
        let frame = [1, 2, 3, 4, 5];
        let example = Packet {
            interface: 1,
            time_ns: 1_700_000_000_123_456_789,
            length: 1_500,
            data: &frame,
            comment: "after: nat",
            direction: Direction::Out,
            id: 7,
            action: 3,
        };
        let file = [
            section("usher"),
            interface("before", "as it came in", 64),
            interface("after", "as it left", 64),
            packet(&example),
            statistics(1, 1_700_000_000_000_000_000, 1, 2),
        ]
        .concat();
        let mut reader = PcapNgReader::new(file.as_slice()).expect("a pcapng file");
        let mut packets = Vec::new();
        let mut dropped = None;
        while let Some(block) = reader.next_block() {
            match block.expect("a valid block") {
                Block::EnhancedPacket(packet) => packets.push(packet.into_owned()),
                Block::InterfaceStatistics(statistics) => {
                    dropped = statistics.options.iter().find_map(|option| match option {
                        InterfaceStatisticsOption::IsbIfDrop(count) => Some(*count),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        let names: Vec<_> = reader.interfaces().iter().map(|one| (one.snaplen, one.linktype)).collect();
        assert_eq!(names, [(64, pcap_file::DataLink::ETHERNET); 2]);
        let [EnhancedPacketBlock { interface_id, timestamp, original_len, data, options }] =
            packets.as_slice()
        else {
            panic!("{packets:?}")
        };
        assert_eq!((*interface_id, *original_len, &**data), (1, 1_500, frame.as_slice()));
        assert_eq!(*timestamp, Duration::from_nanos(example.time_ns));
        assert_eq!(options[0], EnhancedPacketOption::Comment(Cow::Borrowed("after: nat")));
        assert_eq!(options[1], EnhancedPacketOption::Flags(2));
        assert_eq!(dropped, Some(2));

        let mut tally = Tally::default();
        let mut stream = Vec::new();
        let mut copy = Vec::new();
        for byte in &file {
            stream.push(*byte);
            copy.extend(tally.take_blocks(&mut stream));
        }
        assert_eq!((copy, stream), (file, vec![]), "whole blocks, however the stream is cut");
        assert_eq!(tally, Tally { packets: 1, dropped: 2 });
    }
}
