//! What the data path needs of the kernel, tried out: distributions add to old versions what new ones have,
//! so a version says little.

use std::{io, os::fd::OwnedFd};

use super::sys::{self, Map};
use crate::config::host::{Kernel, Lack};

/// Something that the data path needs.
struct Need {
    what: &'static str,
    /// The first version of Linux that has it.
    since: &'static str,
    probe: fn() -> io::Result<OwnedFd>,
}

/// In the order of the versions: the last one that is missing tells how new a kernel has to be.
const NEEDS: &[Need] = &[
    Need { what: "BPF arrays that can be mapped into memory", since: "5.5", probe: mmapable_array },
    Need { what: "the BPF helper bpf_ktime_get_coarse_ns", since: "5.11", probe: coarse_clock },
    Need { what: "compare-and-exchange in BPF programs", since: "5.12", probe: compare_exchange },
    Need { what: "XDP programs for frames in several buffers", since: "5.18", probe: frags },
    // Commit 9263dddc7b6f.
    Need { what: "batch updates of BPF maps of maps", since: "5.19", probe: batch_update },
];

/// Tries everything. Without the privilege to load programs nothing can be said, and nothing seems to be
/// missing.
pub fn kernel() -> Kernel {
    let lacks = NEEDS.iter().filter(|need| is_missing(need.probe));
    Kernel {
        release: crate::net::sysctl::kernel_release(),
        lacks: lacks.map(|need| Lack { what: need.what.to_owned(), since: need.since }).collect(),
    }
}

/// Whether the kernel does not know what it was asked for. That it refused for want of a privilege or of
/// memory says nothing.
fn is_missing(probe: fn() -> io::Result<OwnedFd>) -> bool {
    match probe() {
        Ok(_) => false,
        Err(error) => !matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOMEM)),
    }
}

fn mmapable_array() -> io::Result<OwnedFd> {
    sys::create(&Map { kind: sys::ARRAY, value_size: 8, flags: sys::MMAPABLE, ..Map::default() })
}

fn coarse_clock() -> io::Result<OwnedFd> {
    sys::load_xdp(&[call(160), SET_R0_PASS, EXIT], 0)
}

fn compare_exchange() -> io::Result<OwnedFd> {
    let store = instruction(0x7a, 10, 0, -8, 0);
    // BPF_ATOMIC, 8 bytes: compares r0 with what is at r10 - 8, and replaces that by r1.
    let exchange = instruction(0xdb, 10, 1, -8, 0xf1);
    sys::load_xdp(&[store, set(0, 0), set(1, 1), exchange, SET_R0_PASS, EXIT], 0)
}

fn frags() -> io::Result<OwnedFd> {
    sys::load_xdp(&[SET_R0_PASS, EXIT], sys::XDP_HAS_FRAGS)
}

fn batch_update() -> io::Result<OwnedFd> {
    use std::os::fd::{AsFd, AsRawFd};
    let inner = sys::create(&Map { kind: sys::ARRAY, value_size: 8, ..Map::default() })?;
    let inner_fd = inner.as_raw_fd() as u32;
    let outer = Map { kind: sys::ARRAY_OF_MAPS, value_size: 4, inner: inner_fd, ..Map::default() };
    let outer = sys::create(&outer)?;
    // SAFETY: keys and values of an array of maps have 4 bytes.
    unsafe { sys::update_batch(outer.as_fd(), &[0_u32], &[inner_fd]) }?;
    Ok(outer)
}

/// `r0 = XDP_PASS`, which is 2 in `enum xdp_action`: nothing is ever run.
const SET_R0_PASS: u64 = set(0, 2);
const EXIT: u64 = instruction(0x95, 0, 0, 0, 0);

const fn set(register: u8, value: i32) -> u64 {
    instruction(0xb7, register, 0, 0, value)
}

const fn call(helper: i32) -> u64 {
    instruction(0x85, 0, 0, 0, helper)
}

/// `struct bpf_insn`, include/uapi/linux/bpf.h, on a little-endian machine.
const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    let registers = (from << 4 | to) as u64;
    code as u64 | registers << 8 | (offset as u16 as u64) << 16 | (value as u32 as u64) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_usher_runs_on_lack_nothing_and_unknown_things_are_missed() {
        assert_eq!(kernel().lacks, []);
        assert_ne!(kernel().release, "");
        let unknown: fn() -> io::Result<OwnedFd> = || sys::load_xdp(&[call(99_999), SET_R0_PASS, EXIT], 0);
        let privileged = coarse_clock().is_ok();
        assert_eq!(is_missing(unknown), privileged, "without a privilege nothing is said to be missing");
    }
}
