//! What `cargo test` says of many test programs, added up.

use std::fmt;

/// What a test prints that cannot be made here; libtest counts it as passed.
const SKIPPED: &str = "skipped: ";

/// Lines of a failed test's output that are repeated at the end; the rest stands above.
const LINES_OF_A_FAILURE: usize = 12;

/// Tests counted by outcome.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    skipped: usize,
    failed: Vec<Failure>,
    /// Among the output of tests that failed, and whose it is.
    failed_output: Option<String>,
    /// Between the output of tests that passed, and whose it is.
    passed_output: Option<String>,
}

/// A test that failed, and the first lines that it printed.
#[derive(Debug)]
pub(crate) struct Failure {
    name: String,
    output: Vec<String>,
}

impl Tally {
    /// Reads a line of `cargo test -- --show-output`; gives what of it is worth showing. The output of
    /// tests that passed is not, but for why one was skipped.
    pub(crate) fn read(&mut self, line: &str) -> Option<String> {
        let ends_output = line.starts_with("test result: ") || line == "failures:";
        if ends_output || line == "successes:" {
            self.passed_output = (!ends_output).then(String::new);
            self.failed_output = (line == "failures:").then(String::new);
        }
        if let Some(test) = &mut self.failed_output {
            match heading(line) {
                Some(name) => name.clone_into(test),
                None => note(&mut self.failed, test, line),
            }
        }
        if let Some(test) = &mut self.passed_output {
            if let Some(name) = heading(line) {
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
                "FAILED" => self.failed.push(Failure { name: name.to_owned(), output: Vec::new() }),
                _ if outcome.starts_with("ignored") => self.skipped += 1,
                _ => self.passed += 1,
            }
        }
        Some(line.to_owned())
    }

    pub(crate) fn failed(&self) -> &[Failure] {
        &self.failed
    }
}

/// Whose output follows: libtest writes `---- name stdout ----`, libtest-mimic `---- name ----`.
fn heading(line: &str) -> Option<&str> {
    let name = line.strip_prefix("---- ")?.strip_suffix(" ----")?;
    Some(name.strip_suffix(" stdout").unwrap_or(name))
}

/// Keeps a line of the output of `test`.
fn note(failed: &mut [Failure], test: &str, line: &str) {
    if let Some(failure) = failed.iter_mut().rfind(|failure| failure.name == test)
        && failure.output.len() < LINES_OF_A_FAILURE
        && !line.trim().is_empty()
    {
        failure.output.push(line.to_owned());
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        self.output.iter().try_for_each(|line| write!(f, "\n        {line}"))
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

running 3 tests
test nat::d     ... ignored
test nat::lab::e ... ok
test nat::lab::f ... FAILED

failures:

---- nat::lab::f ----
no answer


failures:
    nat::lab::f

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out
";
        let mut tally = Tally::default();
        let shown: Vec<_> = output.lines().filter_map(|line| tally.read(line)).collect();
        assert_eq!(tally.to_string(), "2 passed, 2 failed, 2 skipped");
        let failed: Vec<_> = tally.failed().iter().map(ToString::to_string).collect();
        assert_eq!(failed, ["c\n        broken", "nat::lab::f\n        no answer"]);
        let shown = shown.join("\n");
        assert!(shown.contains("test a skipped: the lab needs root"), "{shown}");
        assert!(shown.contains("broken") && !shown.contains("a figure nobody asked for"), "{shown}");
    }
}
