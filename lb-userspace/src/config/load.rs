//! From a file or a text to a checked configuration.

use std::{path::Path, sync::Arc};

use super::{
    Config, check,
    edits::{Edit, Edits},
    error::{ConfigError, Position, Problem},
    host::{self, HostFacts},
    locations::Locations,
    shape,
};
use crate::unreadable;

/// A checked configuration, with what a check against the host and a report to people need besides.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is probably not meant.
    pub warnings: Vec<Problem>,
    file: Arc<Path>,
    locations: Locations,
}

impl Loaded {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The file cannot be read, or its content is refused.
    pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
        Loaded::parse(&read(path)?, path)
    }

    /// Checks a text. Pure: `path` only names the file in messages.
    ///
    /// # Errors
    /// The text is refused: [`ConfigError::Refused`] with everything that was found.
    pub fn parse(text: &str, path: &Path) -> Result<Loaded, ConfigError> {
        let file: Arc<Path> = Arc::from(path);
        let written = shape::read(text, &file).map_err(ConfigError::Refused)?;
        let (config, warnings, locations) = check::check(written, text, &file)?;
        Ok(Loaded { config, warnings, file, locations })
    }

    /// Reads and checks a file, and what becomes of it with the changes that commands have made, and one more. Gives the
    /// changes that still count, and a line for each that the file says itself by now.
    ///
    /// # Errors
    /// As [`Loaded::load`], for the file and for the whole; or the change cannot be made.
    pub fn load_edited(
        path: &Path,
        edits: Edits,
        edit: Option<&Edit>,
    ) -> Result<(Loaded, Edits, Vec<String>), ConfigError> {
        let text = read(path)?;
        let alone = Loaded::parse(&text, path)?;
        if edits.is_empty() && edit.is_none() {
            return Ok((alone, edits, Vec::new()));
        }
        let file: toml::Table = text.parse().map_err(ConfigError::Unwritable)?;
        let (edits, notes) = edits.settled(&file);
        let edits = match edit {
            Some(edit) => edits.changed(&file, edit).map_err(ConfigError::Edit)?,
            None => edits,
        };
        let whole = edits.apply(file).to_string();
        let loaded = Loaded::parse(&whole, path).map_err(ConfigError::without_places)?;
        // Nobody sees the text that was checked.
        let warnings = loaded.warnings.into_iter().map(Problem::without_place).collect();
        Ok((Loaded { warnings, locations: Locations::default(), ..loaded }, edits, notes))
    }

    /// Compares the configuration with the host it is to run on, and returns warnings.
    ///
    /// # Errors
    /// The configuration cannot work on this host: [`ConfigError::Unfit`].
    pub fn check_host(&self, facts: &HostFacts) -> Result<Vec<Problem>, ConfigError> {
        host::check(&self.config, &self.file, &self.locations, facts).map_err(|error| match error {
            ConfigError::Refused(problems) => ConfigError::Unfit(problems),
            other => other,
        })
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source: unreadable::explained(source),
    })
}

impl Problem {
    /// Of a text that is in no file.
    fn without_place(self) -> Problem {
        Problem { position: Position::default(), ..self }
    }
}

impl ConfigError {
    fn without_places(self) -> ConfigError {
        match self {
            ConfigError::Refused(problems) => {
                ConfigError::Refused(problems.into_iter().map(Problem::without_place).collect())
            }
            other => other,
        }
    }
}

impl Config {
    /// Reads and checks a file; see [`Loaded::load`] for the warnings and the check against the host.
    ///
    /// # Errors
    /// The file cannot be read, or its content is refused.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        Loaded::load(path).map(|loaded| loaded.config)
    }

    /// Checks a text; `path` only names the file in messages.
    ///
    /// # Errors
    /// The text is refused.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        Loaded::parse(text, path).map(|loaded| loaded.config)
    }
}
