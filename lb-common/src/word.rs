//! A shared 8-byte word: the unit in which the program, other CPUs and the daemon see the tables change.
//!
//! `AtomicU64` does not compile for BPF with this toolchain, but a volatile 8-byte access is one
//! instruction there, and one instruction of inline assembly compares and exchanges (kernel 5.12,
//! commit 5ffa25502b5a).

use core::cell::UnsafeCell;

/// An 8-byte word that is read and written whole.
#[repr(transparent)]
pub struct Word(UnsafeCell<u64>);

// SAFETY: every access goes through `load`, `store` and `compare_exchange`, which are single
// instructions in BPF and atomic operations on the host.
unsafe impl Sync for Word {}

impl Default for Word {
    fn default() -> Word {
        Word::new(0)
    }
}

impl Word {
    /// A word with this value.
    pub const fn new(value: u64) -> Word {
        Word(UnsafeCell::new(value))
    }
}

#[cfg(target_arch = "bpf")]
impl Word {
    /// The value now.
    #[inline(always)]
    pub fn load(&self) -> u64 {
        // SAFETY: the pointer comes from a reference, so it is valid and aligned; a volatile read of
        // 8 aligned bytes is one BPF instruction and cannot be torn.
        unsafe { self.0.get().read_volatile() }
    }

    /// Sets the value.
    #[inline(always)]
    pub fn store(&self, value: u64) {
        // SAFETY: as in `load`; memory behind an `UnsafeCell` may be written through a shared reference.
        unsafe { self.0.get().write_volatile(value) }
    }

    /// Sets the value if it is still `old`; whether it was.
    #[inline(always)]
    pub fn compare_exchange(&self, old: u64, new: u64) -> bool {
        let seen: u64;
        // SAFETY: the instruction reads and writes the 8 bytes of this word and the register r0 only.
        unsafe {
            core::arch::asm!(
                "r0 = cmpxchg_64({word} + 0, r0, {new})",
                word = in(reg) self.0.get(),
                new = in(reg) new,
                inout("r0") old => seen,
            );
        }
        seen == old
    }
}

#[cfg(not(target_arch = "bpf"))]
impl Word {
    /// The value now.
    pub fn load(&self) -> u64 {
        self.atomic().load(core::sync::atomic::Ordering::Acquire)
    }

    /// Sets the value.
    pub fn store(&self, value: u64) {
        self.atomic().store(value, core::sync::atomic::Ordering::Release);
    }

    /// Sets the value if it is still `old`; whether it was.
    pub fn compare_exchange(&self, old: u64, new: u64) -> bool {
        use core::sync::atomic::Ordering::{AcqRel, Acquire};
        self.atomic().compare_exchange(old, new, AcqRel, Acquire).is_ok()
    }

    fn atomic(&self) -> &core::sync::atomic::AtomicU64 {
        // SAFETY: the pointer is valid and 8-byte aligned for the life of `self`, and every access in
        // this process is atomic.
        unsafe { core::sync::atomic::AtomicU64::from_ptr(self.0.get()) }
    }
}
