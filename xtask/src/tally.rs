//! What `cargo test` says of many test programs, added up.

use std::fmt;

/// What a test prints that cannot be made here; libtest counts it as passed.
const SKIPPED: &str = "skipped: ";

/// Tests counted by outcome.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    skipped: usize,
    /// Their names.
    failed: Vec<String>,
    /// Between the output of tests that passed, and whose it is.
    passed_output: Option<String>,
}

impl Tally {
    /// Reads a line of `cargo test -- --show-output`; gives what of it is worth showing. The output of
    /// tests that passed is not, but for why one was skipped.
    pub(crate) fn read(&mut self, line: &str) -> Option<String> {
        let ends_output = line.starts_with("test result: ") || line == "failures:";
        if ends_output || line == "successes:" {
            self.passed_output = (!ends_output).then(String::new);
        }
        if let Some(test) = &mut self.passed_output {
            if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"))
            {
                name.clone_into(test);
            }
            let why = line.strip_prefix(SKIPPED)?;
            // Once per test, however often it says so.
            let test = Some(std::mem::take(test)).filter(|test| !test.is_empty())?;
            self.passed = self.passed.saturating_sub(1);
            self.skipped += 1;
            return Some(format!("test {test} skipped: {why}"));
        }
        if let Some(test) = line.strip_prefix("test ")
            && let Some((name, outcome)) = test.split_once(" ... ")
        {
            let name = name.trim();
            match outcome {
                "FAILED" => self.failed.push(name.to_owned()),
                _ if outcome.starts_with("ignored") => self.skipped += 1,
                _ => self.passed += 1,
            }
        }
        Some(line.to_owned())
    }

    /// The names of those that failed.
    pub(crate) fn failed(&self) -> &[String] {
        &self.failed
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_added_up_and_skipped_tests_named() {
        let output = "\
running 3 tests
test a ... ok
test b ... ok
test c ... FAILED

successes:

---- a stdout ----
skipped: the lab needs root

---- b stdout ----
a figure nobody asked for

successes:
    a
    b

failures:

---- c stdout ----
broken

failures:
    c

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out

running 2 tests
test nat::d     ... ignored
test nat::lab::e ... ok

test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out
";
        let mut tally = Tally::default();
        let shown: Vec<_> = output.lines().filter_map(|line| tally.read(line)).collect();
        assert_eq!(tally.to_string(), "2 passed, 1 failed, 2 skipped");
        assert_eq!(tally.failed(), ["c"]);
        let shown = shown.join("\n");
        assert!(shown.contains("test a skipped: the lab needs root"), "{shown}");
        assert!(shown.contains("broken") && !shown.contains("a figure nobody asked for"), "{shown}");
    }
}
