//! Steps with an outcome, and the table at the end.

use std::{fmt, time::Instant};

use anyhow::{Result, bail};

/// How a step ended.
enum Outcome {
    Held(String),
    Failed,
    Skipped(String),
}

struct Row {
    name: String,
    seconds: f64,
    outcome: Outcome,
}

/// What was done so far.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Does a step under a heading; its figure or failure goes into the table. Says whether it held.
    pub(crate) fn step(&mut self, name: &str, step: impl FnOnce() -> Result<String>) -> bool {
        println!("\n{}. {name}", self.rows.len() + 1);
        let start = Instant::now();
        let outcome = match step() {
            Ok(figure) => Outcome::Held(figure),
            Err(error) => {
                println!("  FAILED: {error:#}");
                Outcome::Failed
            }
        };
        let held = matches!(outcome, Outcome::Held(_));
        self.rows.push(Row { name: name.to_owned(), seconds: start.elapsed().as_secs_f64(), outcome });
        held
    }

    /// Notes a step that is not done, and why.
    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        println!("\n{}. {name}: skipped, {why}", self.rows.len() + 1);
        self.rows.push(Row {
            name: name.to_owned(),
            seconds: 0.0,
            outcome: Outcome::Skipped(why.to_owned()),
        });
    }

    /// Prints the table.
    ///
    /// # Errors
    /// Names the steps that failed.
    pub(crate) fn conclude(&self) -> Result<()> {
        println!("\n{self}");
        let failed = self.rows.iter().filter(|row| matches!(row.outcome, Outcome::Failed));
        let failed: Vec<_> = failed.map(|row| row.name.as_str()).collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        for row in &self.rows {
            let (word, figure) = match &row.outcome {
                Outcome::Held(figure) => ("ok", figure.as_str()),
                Outcome::Failed => ("FAILED", "see above"),
                Outcome::Skipped(why) => ("skipped", why.as_str()),
            };
            writeln!(f, "{:width$}  {word:7}  {:7.1} s  {figure}", row.name, row.seconds)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_steps_are_named_and_fail_the_whole() {
        let mut report = Report::default();
        assert!(report.step("first", || Ok("3 things".to_owned())));
        report.skip("second", "no need");
        report.conclude().expect("nothing failed");
        assert!(!report.step("third", || bail!("broken")));
        assert_eq!(report.conclude().expect_err("third failed").to_string(), "failed: third");
        let table = report.to_string();
        assert!(table.contains("first   ok") && table.contains("3 things"), "{table}");
    }
}
