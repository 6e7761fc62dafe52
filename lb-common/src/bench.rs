//! What the benchmark's wrapper program and the benchmark agree on: which frame comes next.

/// Words of a frame's headers in a [`Plan`].
pub const WORDS: usize = 10;

/// Bytes of a frame that the words cover: Ethernet, IPv6 and TCP header, and 4 bytes more.
pub const COVERED: usize = 78;

/// Where the word begins in the frame. From the IP header on, words lie as the IPv6 addresses do: so
/// nothing that a program reads at once was written in two pieces, which the CPU would punish.
#[inline(always)]
pub const fn offset(word: usize) -> usize {
    match word {
        0 => 0,
        1 => 6,
        _ => 14 + (word - 2) * 8,
    }
}

/// Which frames the wrapper program makes: one template, and for each a flow of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Plan {
    /// The headers, in memory order, each word at its [`offset`]; zeros where the flow goes.
    pub words: [u64; WORDS],
    /// Bytes of the frame.
    pub length: u32,
    /// 1: IPv6.
    pub v6: u32,
    /// What the next flow's index is made of; changes with every frame to
    /// `state × multiplier + increment`.
    pub state: u64,
    /// As above: 1 counts, another one makes pseudo-random numbers.
    pub multiplier: u64,
    /// As above.
    pub increment: u64,
    /// Lowest bit of the 32 that are taken from the state.
    pub shift: u32,
    /// Bits of the address that vary: the last ones.
    pub mask: u32,
    /// How many flows there are, at most 2³².
    pub population: u64,
    /// Last four bytes of the first address.
    pub address: u32,
    /// 1: frames are backends' answers, which the wrapper's list of answers names.
    pub answers: u32,
}

const _: () = assert!(size_of::<Plan>() == 136);

impl Plan {
    /// Goes on to the next flow; its index.
    #[inline(always)]
    pub fn advance(&mut self) -> u32 {
        self.state = self.state.wrapping_mul(self.multiplier).wrapping_add(self.increment);
        let number = (self.state >> (self.shift & 63)) as u32;
        ((number as u64).wrapping_mul(self.population) >> 32) as u32
    }

    /// The last four bytes of a flow's client address, and the client's port. Different for every index,
    /// and scattered: neighbours have little in common.
    #[inline(always)]
    pub fn client(&self, index: u32) -> (u32, u16) {
        // Steps of the golden ratio.
        let scattered = index.wrapping_mul(0x9e37_79b1);
        (self.address | (scattered & self.mask), 0x8000 | (scattered >> 17) as u16)
    }

    /// The address and port of a backend's answer in the list: the backend's number in the upper half.
    #[inline(always)]
    pub fn answer(&self, entry: u32) -> (u32, u16) {
        (self.address.wrapping_add(entry >> 16), entry as u16)
    }

    /// The headers of a frame with this address and port of the other side.
    #[inline(always)]
    pub fn headers(&self, address: u32, port: u16) -> [u64; WORDS] {
        let mut words = self.words;
        let address = (address.to_be() as u64) << 32;
        // An answer's varying port is its destination, two bytes further.
        let port = (port.to_be() as u64) << ((self.answers & 1) * 16);
        if self.v6 != 0 {
            words[4] |= address;
            words[7] |= port;
        } else {
            words[3] |= address;
            words[4] |= port << 32;
        }
        words
    }
}

/// Most entries of the list of answers.
pub const MAX_ANSWERS: usize = 16_384;

/// Names in the benchmark's object.
pub mod name {
    /// The program that makes a frame and calls what is measured.
    pub const WRAPPER: &str = "usher_bench";
    /// The program that does nothing: what is left is the wrapper's cost.
    pub const NULL: &str = "usher_null";
    /// One [`Plan`](super::Plan).
    pub const PLAN: &str = "PLAN";
    /// What is measured: an array of one program.
    pub const TARGET: &str = "TARGET";
    /// The list of answers: backend's number (upper half) and NAT port.
    pub const ANSWERS: &str = "ANSWERS";
}
