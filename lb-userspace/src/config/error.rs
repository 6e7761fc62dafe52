//! What is wrong with a configuration: every problem found, each with its place and its remedy.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{edits::EditError, key::Key};

/// Why a configuration is refused. Nothing of it is then used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot read the configuration", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file says something that cannot be or cannot work; one line per problem.
    #[error("{}", Lines(.0))]
    Refused(Vec<Problem>),
    /// It does not fit the host as it is now; one line per problem. It may a moment later: an interface is being made anew, a route is
    /// not there yet.
    #[error("{}", Lines(.0))]
    Unfit(Vec<Problem>),
    /// A change cannot be made to the file's services.
    #[error(transparent)]
    Edit(EditError),
    /// The file, although it was read before, is no TOML.
    #[error("the configuration cannot be changed by commands")]
    Unwritable(#[source] toml::de::Error),
}

impl ConfigError {
    /// All that it says, with its cause: one line per problem.
    pub fn lines(&self) -> Vec<String> {
        match self {
            ConfigError::Refused(problems) | ConfigError::Unfit(problems) => {
                problems.iter().map(ToString::to_string).collect()
            }
            ConfigError::Unreadable { source, .. } => vec![format!("{self}: {source}")],
            ConfigError::Unwritable(source) => vec![format!("{self}: {source}")],
            ConfigError::Edit(_) => vec![self.to_string()],
        }
    }

    /// The problems, in the file's order; none when the file could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            ConfigError::Refused(problems) | ConfigError::Unfit(problems) => problems,
            ConfigError::Unreadable { .. } | ConfigError::Edit(_) | ConfigError::Unwritable(_) => &[],
        }
    }
}

/// One thing that is wrong, or (as a warning) that is probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: Arc<Path>,
    /// Where in the file; line 0: in what commands have made of it.
    pub position: Position,
    /// Which setting; empty for an error of the TOML syntax.
    pub key: Key,
    /// What is wrong.
    pub what: String,
    /// How to mend it.
    pub mend: String,
}

impl Problem {
    /// Control characters of the file are escaped: a message is one line, whatever it quotes.
    pub(super) fn new(file: &Arc<Path>, position: Position, key: Key, what: &str, mend: &str) -> Problem {
        Problem { file: file.clone(), position, key, what: printable(what), mend: printable(mend) }
    }
}

/// The text with control characters escaped.
pub(super) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

/// `usher.toml:14: service "web": port: 0 is not a port; use 1 to 65535`. A problem without a key
/// (TOML syntax) names the column as well; one that is not in the file itself names neither.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.position.line > 0 {
            write!(f, "{}:", self.position.line)?;
        }
        if self.key.is_root() {
            write!(f, "{}: ", self.position.column)?;
        } else {
            write!(f, " {}: ", self.key)?;
        }
        write!(f, "{}; {}", self.what, self.mend)
    }
}

/// A place in a text; both numbers count from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}
