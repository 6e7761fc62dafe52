//! Choices without branches: all ones or 0, by which other numbers are masked.
//!
//! The verifier would follow both ways of a branch, and again for each entry of a loop. The compiler makes one of anything
//! that it can see through, so in BPF it does not see this.

/// All ones if `a` is less than `b`, else 0; both are below 2^63.
#[inline(always)]
pub fn if_less(a: u64, b: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut mask = a;
        // SAFETY: arithmetic on the registers that it is given.
        unsafe { core::arch::asm!("{a} -= {b}", "{a} s>>= 63", a = inout(reg) mask, b = in(reg) b) };
        mask
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        if a < b { u64::MAX } else { 0 }
    }
}

/// All ones if `a` is 0, else 0; it is below 2^63.
#[inline(always)]
pub fn if_zero(a: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut mask = a;
        // SAFETY: arithmetic on the register that it is given.
        unsafe { core::arch::asm!("{a} += -1", "{a} s>>= 63", a = inout(reg) mask) };
        mask
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        if_less(a, 1)
    }
}
