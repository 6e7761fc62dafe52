//! From a file or a text to a checked configuration.

use std::{path::Path, sync::Arc};

use super::{
    Config, check,
    error::{ConfigError, Problem},
    host::{self, HostFacts},
    locations::Locations,
    shape,
};

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
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Loaded::parse(&text, path)
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

    /// Compares the configuration with the host it is to run on, and returns warnings.
    ///
    /// # Errors
    /// The configuration cannot work on this host: [`ConfigError::Refused`].
    pub fn check_host(&self, facts: &HostFacts) -> Result<Vec<Problem>, ConfigError> {
        host::check(&self.config, &self.file, &self.locations, facts)
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
