//! Waiting for something to become true.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// How often a condition is looked at.
const RHYTHM: Duration = Duration::from_millis(20);

/// Asks `poll` again and again until it succeeds; its last error becomes the reason when `limit` is over.
///
/// # Errors
/// Says what was waited for, for how long, and why it is not so.
pub fn until<T>(what: &str, limit: Duration, mut poll: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match poll() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= limit => {
                return Err(error).with_context(|| {
                    format!("waited {:.1} s in vain until {what}", start.elapsed().as_secs_f64())
                });
            }
            Err(_) => thread::sleep(RHYTHM),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn waits_for_success() {
        let mut left = 3;
        let value = until("three tries", Duration::from_secs(60), || {
            left -= 1;
            if left == 0 { Ok("there") } else { bail!("{left} to go") }
        });
        assert_eq!(value.expect("third try succeeds"), "there");
    }

    #[test]
    fn tells_what_was_awaited_and_why_it_is_not_so() {
        let error = until("pigs fly", Duration::ZERO, || -> Result<()> { bail!("no wings") });
        let text = format!("{:#}", error.expect_err("pigs"));
        assert!(text.ends_with("until pigs fly: no wings"), "{text}");
    }
}
