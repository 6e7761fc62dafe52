//! Work that several threads share.

use std::{
    panic::resume_unwind,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
};

/// Has so many threads, this one among them, do `work` with pieces from 0 on: each takes the next when it is done with one, until
/// it has had enough. What each made of its pieces; a panic goes on here.
pub(crate) fn share<R: Send>(
    threads: usize,
    work: impl Fn(&mut dyn Iterator<Item = usize>) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let work = || work(&mut std::iter::repeat_with(|| next.fetch_add(1, Relaxed)));
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let first = work();
        let others =
            others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        std::iter::once(first).chain(others).collect()
    })
}
