//! Tests that cannot be run here.

use std::env;

use crate::lab::ensure_root;

/// Tests that are skipped elsewhere fail where this variable is set.
const NO_SKIP: &str = "USHER_NO_SKIP";

/// Whether a lab can be raised here; a test returns at once when not. Says so, because a test that
/// was skipped is no test that passed.
///
/// # Panics
/// Without root, where `USHER_NO_SKIP` is set.
pub fn can_raise() -> bool {
    let Err(why) = ensure_root() else { return true };
    assert!(env::var_os(NO_SKIP).is_none(), "{NO_SKIP} is set, and {why}");
    eprintln!("skipped: {why}");
    false
}
