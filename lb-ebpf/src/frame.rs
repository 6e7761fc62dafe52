//! The frame, and the one place that checks bounds.

use core::marker::PhantomData;

use lb_common::Reason;
use network_types::eth::EthHdr;

/// A frame in packet memory: two pointers, because the verifier knows packet pointers and their
/// comparison, but not slices.
pub struct Frame<'a> {
    start: usize,
    end: usize,
    memory: PhantomData<&'a mut [u8]>,
}

/// Headers: types that any bytes are a value of.
///
/// # Safety
/// Every bit pattern must be valid, and the alignment must be 1 or 2: frames begin at an even address,
/// and headers at an even offset.
pub unsafe trait Header {}

// SAFETY: arrays of bytes and a u16.
unsafe impl Header for EthHdr {}
// SAFETY: arrays of bytes.
unsafe impl Header for network_types::ip::Ipv4Hdr {}
// SAFETY: as above.
unsafe impl Header for network_types::ip::Ipv6Hdr {}
// SAFETY: as above.
unsafe impl Header for network_types::udp::UdpHdr {}
// SAFETY: as above.
unsafe impl Header for [u8; 1] {}
// SAFETY: as above.
unsafe impl Header for [u8; 2] {}
// SAFETY: as above.
unsafe impl Header for [u8; 4] {}
// SAFETY: as above.
unsafe impl Header for [u8; 8] {}
// SAFETY: as above.
unsafe impl Header for [u8; 12] {}
// SAFETY: as above.
unsafe impl Header for [u8; 14] {}
// SAFETY: as above.
unsafe impl Header for [u8; 18] {}
// SAFETY: as above.
unsafe impl Header for [u8; 20] {}

impl<'a> Frame<'a> {
    /// A frame in ordinary memory.
    ///
    /// # Panics
    /// When the memory begins at an odd address; packet memory never does.
    pub fn new(bytes: &'a mut [u8]) -> Frame<'a> {
        let range = bytes.as_mut_ptr_range();
        assert!((range.start as usize).is_multiple_of(2), "a frame begins at an even address");
        Frame { start: range.start as usize, end: range.end as usize, memory: PhantomData }
    }

    /// A frame in packet memory.
    ///
    /// # Safety
    /// `start` and `end` are the `data` and `data_end` of the packet that the program was called for,
    /// and nothing moves them while the frame lives. (The kernel starts every frame at an even address.)
    #[inline(always)]
    pub unsafe fn from_raw(start: usize, end: usize) -> Frame<'a> {
        Frame { start, end, memory: PhantomData }
    }

    /// The frame has been given other bounds: room in front of it, or bytes of it, were taken in or given up.
    ///
    /// # Safety
    /// As for [`Frame::from_raw`]; or both lie within the memory of [`Frame::new`].
    #[inline(always)]
    pub unsafe fn moved(&mut self, start: usize, end: usize) {
        (self.start, self.end) = (start, end);
    }

    /// Where it begins and ends in memory.
    #[inline(always)]
    pub fn bounds(&self) -> (usize, usize) {
        (self.start, self.end)
    }

    /// The header of type `H` that begins `offset` bytes into the frame, if all of it is there.
    #[inline(always)]
    pub fn at<H: Header>(&mut self, offset: usize) -> Result<&mut H, Reason> {
        const { assert!(align_of::<H>() <= 2) };
        let place = self.start + offset;
        if place + size_of::<H>() > self.end {
            return Err(Reason::Malformed);
        }
        // SAFETY: the bytes from `place` on lie within the frame (offsets are far below what could
        // wrap), the frame is borrowed mutably, and `H` takes any bytes at even addresses.
        Ok(unsafe { &mut *(place as *mut H) })
    }

    /// The same for an offset that is not a constant. The compiler must not find out that the place was checked
    /// before: it would leave out the check, while the verifier forgets it with each new sum.
    #[inline(always)]
    pub fn at_variable<H: Header>(&mut self, offset: usize) -> Result<&mut H, Reason> {
        self.at(hidden(offset))
    }

    /// Destination and source MAC address.
    #[inline(always)]
    pub fn mac_addresses(&mut self) -> Result<&mut [u8; 12], Reason> {
        self.at(0)
    }
}

/// The same number, of which the compiler knows nothing: the verifier sees bounds on the very register that is compared.
#[inline(always)]
pub fn hidden(number: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut number = number;
        // SAFETY: adds nothing to the register that it is given.
        unsafe { core::arch::asm!("{number} += 0", number = inout(reg) number) };
        number
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        number
    }
}

/// The same number, but the verifier no longer knows which: else it would follow all that comes after once for each that it
/// may be. `unknown` is any value of which it knows nothing. The caller masks the result, for a bound.
#[inline(always)]
pub fn forgotten(number: usize, unknown: u64) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut hidden = number as u64;
        // SAFETY: exclusive or of two registers. The compiler cannot see that it is undone below.
        unsafe {
            core::arch::asm!("{hidden} ^= {unknown}", hidden = inout(reg) hidden, unknown = in(reg) unknown)
        };
        (hidden ^ unknown) as usize
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = unknown;
        number
    }
}
