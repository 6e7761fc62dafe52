//! The programs that take checks along the data path: loaded when a check needs them, attached where the data path is.

use tracing::{info, warn};

use crate::{
    config::Config,
    core::check_path::is_used,
    dataplane::{CheckPath, DataplaneError, Ways},
};

/// The programs, if any are needed and can be had.
#[derive(Default)]
pub(super) struct CheckPrograms {
    loaded: Option<CheckPath>,
    /// What went wrong last, which is said once.
    trouble: Option<String>,
}

impl CheckPrograms {
    /// Has them where the configuration wants them. What the kernel refuses is tried again when the configuration is: only then
    /// do checks ask for the way again.
    pub(super) fn follow(&mut self, config: &Config) {
        let result = self.load(is_used(config)).and_then(|()| self.attach(config));
        self.tell(result);
    }

    /// Has those that are loaded on interfaces that were made anew, too.
    pub(super) fn attach_again(&mut self, config: &Config) {
        if self.loaded.is_some() {
            let result = self.attach(config);
            self.tell(result);
        }
    }

    fn tell(&mut self, result: Result<(), DataplaneError>) {
        let trouble = result.err().map(|error| format!("{:#}", anyhow::Error::from(error)));
        match &trouble {
            Some(why) if trouble != self.trouble && self.loaded.is_none() => {
                warn!("{why}; backends are checked at their own addresses, not through the data path");
            }
            Some(why) if trouble != self.trouble => {
                warn!("{why}; checks of backends behind it fail until it can be");
            }
            None if self.trouble.is_some() => info!("checks go through the data path again"),
            _ => {}
        }
        self.trouble = trouble;
    }

    fn load(&mut self, is_used: bool) -> Result<(), DataplaneError> {
        match (is_used, &self.loaded) {
            (true, None) => self.loaded = Some(CheckPath::load()?),
            (false, Some(_)) => self.loaded = None,
            (true, Some(_)) | (false, None) => {}
        }
        Ok(())
    }

    fn attach(&mut self, config: &Config) -> Result<(), DataplaneError> {
        self.loaded.as_mut().map_or(Ok(()), |path| path.follow(&config.node.interfaces))
    }

    /// What takes checks there; `None` when they go to the backends' addresses.
    pub(super) fn ways(&self) -> Option<Ways> {
        self.loaded.as_ref().map(CheckPath::ways)
    }
}
