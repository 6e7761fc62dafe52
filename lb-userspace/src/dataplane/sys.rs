//! What aya 0.14 does not offer: batch updates, mapped arrays, and asking the kernel what it knows.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr::NonNull,
    thread,
    time::Duration,
};

// Commands of bpf(2), include/uapi/linux/bpf.h.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;

/// `BPF_MAP_TYPE_ARRAY`.
pub(super) const ARRAY: u32 = 2;
/// `BPF_MAP_TYPE_ARRAY_OF_MAPS`.
pub(super) const ARRAY_OF_MAPS: u32 = 12;
/// `BPF_F_MMAPABLE`.
pub(super) const MMAPABLE: u32 = 1 << 10;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// `BPF_F_XDP_HAS_FRAGS`.
pub(super) const XDP_HAS_FRAGS: u32 = 1 << 5;

/// The part of `union bpf_attr` that makes a map.
#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

/// The part of `union bpf_attr` that loads a program.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The part of `union bpf_attr` that runs a program on a frame.
#[repr(C)]
#[derive(Default)]
struct RunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// The part of `union bpf_attr` that writes an element.
#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map_fd: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part of `union bpf_attr` that batch commands use.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Sets many elements of a map by one system call.
///
/// # Safety
/// The map's keys and values must have the sizes of `K` and `V`.
pub(super) unsafe fn update_batch<K: Copy, V: Copy>(
    map: BorrowedFd,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    debug_assert_eq!(keys.len(), values.len());
    let mut attr = BatchAttr { values: values.as_ptr() as u64, ..batch(map, keys) };
    // SAFETY: the attribute's pointers lead to arrays of `count` elements that outlive the call.
    unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) }.map(drop)
}

/// Reads elements of a per-CPU array from index `first` on, by one system call; how many there were.
/// (Kernel 5.13, commit f008d732ab18.)
///
/// # Safety
/// The map must be a per-CPU array whose values have the size of `V`, a multiple of 8, and are valid for any bytes;
/// `cpus` must be the number of possible CPUs.
pub(super) unsafe fn lookup_batch<V: Copy>(
    map: BorrowedFd,
    first: u32,
    values: &mut [V],
    cpus: usize,
) -> io::Result<usize> {
    // The kernel goes on behind the key that it is given; every key that is no index stands before the first.
    let before = first.wrapping_sub(1);
    let mut next = 0_u32;
    let mut keys = vec![0_u32; values.len() / cpus];
    let mut attr = BatchAttr {
        in_batch: (&raw const before) as u64,
        out_batch: (&raw mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len() as u32,
        map_fd: map.as_raw_fd() as u32,
        ..BatchAttr::default()
    };
    // SAFETY: the attribute's pointers lead to room for `count` elements that outlives the call.
    match unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) } {
        // The map's end.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(attr.count as usize),
    }
}

/// Removes many elements of a map by few system calls; those that are gone already are no mistake.
///
/// # Safety
/// The map's keys must have the size of `K`.
pub(super) unsafe fn delete_batch<K: Copy>(map: BorrowedFd, keys: &[K]) -> io::Result<()> {
    let mut rest = keys;
    while !rest.is_empty() {
        let mut attr = batch(map, rest);
        // SAFETY: the attribute's pointer leads to an array of `count` elements that outlives the call.
        match unsafe { bpf(BPF_MAP_DELETE_BATCH, &mut attr) } {
            // The kernel has counted those before the one that was gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                rest = rest.get(attr.count as usize + 1..).unwrap_or_default();
            }
            result => return result.map(drop),
        }
    }
    Ok(())
}

fn batch<K>(map: BorrowedFd, keys: &[K]) -> BatchAttr {
    BatchAttr {
        keys: keys.as_ptr() as u64,
        count: keys.len() as u32,
        map_fd: map.as_raw_fd() as u32,
        ..BatchAttr::default()
    }
}

/// Makes an array map of one element that holds `value`.
pub(super) fn array_of_one(value: &[u16]) -> io::Result<OwnedFd> {
    let map = create(&Map { kind: ARRAY, value_size: size_of_val(value) as u32, ..Map::default() })?;
    let key = 0_u32;
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        key: (&raw const key) as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    // SAFETY: key and value have the sizes that the map was made with and outlive the call.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) }?;
    Ok(map)
}

/// Lets a descriptor's number stand for what another one stands for; what it stood for before is closed.
///
/// # Safety
/// Nobody may rely on what `number` stood for; it must stay open as long as the number is used.
pub(super) unsafe fn replace_descriptor(number: BorrowedFd, by: BorrowedFd) -> io::Result<()> {
    // SAFETY: both are open; what that means to others is the caller's concern.
    let result = unsafe { libc::dup3(by.as_raw_fd(), number.as_raw_fd(), libc::O_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until every packet that is under way is done: the kernel answers after a grace period of RCU
/// (kernel 4.16, commit c5f58bd58f43). Kernels with `nohz_full` refuse, and a while has to do.
pub(super) fn wait_for_packets() {
    /// Thousands of times what a packet takes.
    const LONG_ENOUGH: Duration = Duration::from_millis(20);
    // SAFETY: a system call without pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 {
        thread::sleep(LONG_ENOUGH);
    }
}

/// A map of one element with a 4-byte key.
#[derive(Default)]
pub(super) struct Map {
    /// [`ARRAY`] or [`ARRAY_OF_MAPS`].
    pub(super) kind: u32,
    pub(super) value_size: u32,
    /// [`MMAPABLE`] or 0.
    pub(super) flags: u32,
    /// For an array of maps, the descriptor of a map such as it holds.
    pub(super) inner: u32,
}

/// Makes a map.
pub(super) fn create(map: &Map) -> io::Result<OwnedFd> {
    let mut attr = CreateAttr {
        map_type: map.kind,
        key_size: size_of::<u32>() as u32,
        value_size: map.value_size,
        max_entries: 1,
        map_flags: map.flags,
        inner_map_fd: map.inner,
    };
    // SAFETY: the attribute holds no pointers.
    let fd = unsafe { bpf(BPF_MAP_CREATE, &mut attr) }?;
    // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Loads an XDP program.
pub(super) fn load_xdp(instructions: &[u64], flags: u32) -> io::Result<OwnedFd> {
    let mut attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        prog_flags: flags,
        ..LoadAttr::default()
    };
    // SAFETY: the attribute's pointers lead to the instructions and to a string that outlive the call.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attr) }?;
    // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs an XDP program that looks at no frame; what it returned.
pub(super) fn run_xdp(program: BorrowedFd) -> io::Result<u32> {
    // The shortest that the kernel takes: an Ethernet header.
    const FRAME: [u8; 14] = [0; 14];
    let mut attr = RunAttr {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: FRAME.len() as u32,
        data_in: FRAME.as_ptr() as u64,
        ..RunAttr::default()
    };
    // SAFETY: the attribute's pointer leads to as many bytes as it says, which outlive the call.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr) }?;
    Ok(attr.retval)
}

/// # Safety
/// `attr` must be a valid prefix of `union bpf_attr` for the command, and what it points to must be
/// valid for the kernel to read.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: passed on to the caller; the size belongs to the attribute.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// An array map in this process's memory.
pub(super) struct Mapped<T> {
    start: NonNull<T>,
    length: usize,
}

// SAFETY: the mapping is plain shared memory, which any thread may use as far as `T` may be shared.
unsafe impl<T: Sync> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Mapped<T> {}

impl<T> Mapped<T> {
    /// Maps the first `length` elements.
    ///
    /// # Safety
    /// The map must be an array with `BPF_F_MMAPABLE` and at least `length` values of type `T`, which
    /// must be valid for any bytes and change only by atomic operations under shared references.
    pub(super) unsafe fn new(map: BorrowedFd, length: usize) -> io::Result<Mapped<T>> {
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length * size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(start.cast::<T>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Ok(Mapped { start, length }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The elements.
    pub(super) fn as_slice(&self) -> &[T] {
        // SAFETY: mapped in `new` for `length` elements, until this value is dropped.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, with its length; nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length * size_of::<T>()) };
    }
}
