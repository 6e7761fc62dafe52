//! Copies of the loaded program's large tables, to look at, and to change while no packet comes.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    slice,
};

use anyhow::{Context as _, Result};
use lb_common::{
    Bucket, NatSet, Shape, Word,
    chunk::{HEAD_WORDS as HEAD, WORDS},
};
use nix::libc::{SYS_bpf, syscall};

/// What tables hold: nothing but words.
pub trait Item: Sized {}

impl Item for Bucket {}
impl Item for NatSet {}

/// A table's items, chunk after chunk.
pub struct Copied<T> {
    words: Vec<Word>,
    /// As they were read.
    before: Vec<u64>,
    shape: Shape,
    item: PhantomData<T>,
}

impl<T: Item> Copied<T> {
    /// Reads a table.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn read(table: BorrowedFd, shape: Shape) -> Result<Copied<T>> {
        let mut copied = Copied { words: Vec::new(), before: Vec::new(), shape, item: PhantomData };
        for chunk in 0..shape.chunks {
            let words = read(&open(table, chunk)?)?;
            copied.before.extend(&words[HEAD..][..copied.words_per_chunk()]);
        }
        copied.words = copied.before.iter().copied().map(Word::new).collect();
        Ok(copied)
    }

    /// The items.
    pub fn items(&self) -> &[T] {
        // SAFETY: items are words, of which any value is good, and as many as their shape says were read.
        unsafe { slice::from_raw_parts(self.words.as_ptr().cast(), self.shape.count() as usize) }
    }

    /// Writes what was changed.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn write_to(&self, table: BorrowedFd) -> Result<()> {
        let per_chunk = self.words_per_chunk();
        let chunks = self.words.chunks(per_chunk).zip(self.before.chunks(per_chunk));
        for (chunk, (items, before)) in (0..).zip(chunks) {
            if items.iter().map(Word::load).eq(before.iter().copied()) {
                continue;
            }
            let map = open(table, chunk)?;
            let mut words = read(&map)?;
            words[HEAD..].iter_mut().zip(items).for_each(|(word, item)| *word = item.load());
            element(&map, Command::Update, &mut words).context("write a chunk")?;
        }
        Ok(())
    }

    fn words_per_chunk(&self) -> usize {
        self.shape.items as usize * size_of::<T>() / 8
    }
}

fn read(chunk: &OwnedFd) -> Result<Vec<u64>> {
    let mut words = vec![0; WORDS];
    element(chunk, Command::Lookup, &mut words).context("read a chunk")?;
    Ok(words)
}

/// Commands of bpf(2), include/uapi/linux/bpf.h.
#[derive(Clone, Copy)]
enum Command {
    Lookup = 1,
    Update = 2,
    OpenById = 14,
}

/// The part of `union bpf_attr` for elements.
#[repr(C)]
#[derive(Default)]
struct Element {
    map: u64,
    key: u64,
    value: u64,
    flags: u64,
}

/// One of the maps that an array of maps holds: reading its number, and opening it by that, takes root.
fn open(table: BorrowedFd, chunk: u32) -> Result<OwnedFd> {
    let mut id = 0_u32;
    let attr = Element {
        map: table.as_raw_fd() as u64,
        key: (&raw const chunk) as u64,
        value: (&raw mut id) as u64,
        flags: 0,
    };
    bpf(Command::Lookup, &attr).context("find a chunk")?;
    let attr = Element { map: u64::from(id), ..Element::default() };
    let fd = bpf(Command::OpenById, &attr).context("open a chunk")?;
    // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn element(map: &OwnedFd, command: Command, value: &mut [u64]) -> io::Result<i32> {
    let key = 0_u32;
    let attr = Element {
        map: map.as_raw_fd() as u64,
        key: (&raw const key) as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    bpf(command, &attr)
}

fn bpf(command: Command, attr: &Element) -> io::Result<i32> {
    // SAFETY: the attribute's pointers lead to a key and a value of the map's sizes, which outlive the call.
    let result = unsafe { syscall(SYS_bpf, command as i64, &raw const *attr, size_of::<Element>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
