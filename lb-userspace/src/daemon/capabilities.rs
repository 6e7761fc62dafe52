//! What the daemon may do of all that root may.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use tracing::{info, warn};

/// For programs and maps, XDP and neighbours, and ports below 1024: reloads and captures need them too.
const KEPT: [Capability; 4] = [
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_BIND_SERVICE,
];

/// The bounding set first: taking from it needs a capability that goes with the others.
const SETS: [CapSet; 5] =
    [CapSet::Bounding, CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted];

/// Drops what the daemon does not need, for the calling thread and those that it starts. Without it usher works, and may
/// do more than it must.
pub(super) fn drop_others() {
    let kept = KEPT.map(|kept| kept.to_string()).join(" ");
    match keep_of_all() {
        Ok(false) => {}
        Ok(true) => info!(kept, "all other capabilities are dropped"),
        Err(error) => warn!(%error, "cannot drop capabilities that usher does not need"),
    }
}

/// For each thread of the runtime as it starts: capabilities are a thread's own. What fails, [`drop_others`] says.
pub(crate) fn begin_thread() {
    let _ = keep_of_all();
}

/// Takes what can be taken from every set. Whether there was anything to take.
fn keep_of_all() -> Result<bool, CapsError> {
    // All are tried, before the first error counts.
    SETS.map(keep).into_iter().try_fold(false, |all, one| Ok(all | one?))
}

fn keep(set: CapSet) -> Result<bool, CapsError> {
    let have = caps::read(None, set)?;
    let (kept, others): (CapsHashSet, CapsHashSet) = have.into_iter().partition(|have| KEPT.contains(have));
    if others.is_empty() {
        return Ok(false);
    }
    match set {
        CapSet::Bounding => others.into_iter().try_for_each(|other| caps::drop(None, set, other))?,
        set => caps::set(None, set, &kept)?,
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_keeps_what_it_needs_and_no_more() {
        let before = SETS.map(|set| caps::read(None, set).unwrap());
        // What a thread drops, it does not get back.
        let after = thread::spawn(|| {
            begin_thread();
            SETS.map(|set| caps::read(None, set).unwrap())
        });
        let kept = KEPT.into_iter().collect();
        let wanted =
            before.clone().map(|before| before.intersection(&kept).copied().collect::<CapsHashSet>());
        // Who has no right to take from the bounding set keeps that.
        let first = usize::from(!before[3].contains(&Capability::CAP_SETPCAP));
        assert_eq!(after.join().unwrap()[first..], wanted[first..]);
        assert_eq!(SETS.map(|set| caps::read(None, set).unwrap()), before, "of another thread");
    }
}
