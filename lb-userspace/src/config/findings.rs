//! Collects what a check of the configuration finds.

use std::{path::Path, sync::Arc};

use super::{
    error::{ConfigError, Position, Problem},
    key::Key,
    locations::Locations,
};

/// Problems and warnings so far, and where in the file things stand.
pub(super) struct Findings {
    file: Arc<Path>,
    pub(super) locations: Locations,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Findings {
    pub(super) fn new(file: Arc<Path>, locations: Locations) -> Self {
        Self { file, locations, problems: Vec::new(), warnings: Vec::new() }
    }

    /// Notes something that must not be.
    pub(super) fn refuse(&mut self, key: &Key, what: impl Into<String>, mend: impl Into<String>) {
        let position = self.locations.get(key);
        self.refuse_at(position, key, what, mend);
    }

    /// The same for one of several values that share a key.
    pub(super) fn refuse_at(
        &mut self,
        position: Position,
        key: &Key,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) {
        let problem = self.problem(position, key, &what.into(), &mend.into());
        self.problems.push(problem);
    }

    /// Notes something that works but is probably not meant.
    pub(super) fn warn(&mut self, key: &Key, what: impl Into<String>, mend: impl Into<String>) {
        let position = self.locations.get(key);
        let problem = self.problem(position, key, &what.into(), &mend.into());
        self.warnings.push(problem);
    }

    /// Whether nothing was refused at this key, inside it or as a whole that it is in. A check that
    /// compares two settings asks first, so that one mistake is not reported twice.
    pub(super) fn sound(&self, key: &Key) -> bool {
        !self.problems.iter().any(|problem| problem.key.is_within(key) || key.is_within(&problem.key))
    }

    /// The same where there are many keys, which are made only if something was refused.
    pub(super) fn sound_at(&self, key: impl FnOnce() -> Key) -> bool {
        self.problems.is_empty() || self.sound(&key())
    }

    /// Whether there is a warning at this key already.
    pub(super) fn warned(&self, key: &Key) -> bool {
        self.warnings.iter().any(|warning| warning.key == *key)
    }

    /// The warnings and locations, or all problems; both in the file's order.
    pub(super) fn finish(self) -> Result<(Vec<Problem>, Locations), ConfigError> {
        let Self { mut problems, mut warnings, locations, .. } = self;
        problems.sort_by_key(|problem| problem.position);
        warnings.sort_by_key(|problem| problem.position);
        if problems.is_empty() { Ok((warnings, locations)) } else { Err(ConfigError::Refused(problems)) }
    }

    fn problem(&self, position: Position, key: &Key, what: &str, mend: &str) -> Problem {
        Problem::new(&self.file, position, key.clone(), what, mend)
    }
}
