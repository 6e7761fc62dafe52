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
    /// Has them where the configuration wants them; and again after an interface was made anew.
    pub(super) fn follow(&mut self, config: &Config) {
        let result = match is_used(config) {
            true => self.attach(&config.node.interfaces),
            false => {
                self.loaded = None;
                Ok(())
            }
        };
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

    fn attach(&mut self, interfaces: &[String]) -> Result<(), DataplaneError> {
        let path = match &mut self.loaded {
            Some(path) => path,
            None => self.loaded.insert(CheckPath::load()?),
        };
        path.follow(interfaces)
    }

    /// What takes checks there; `None` when they go to the backends' addresses.
    pub(super) fn ways(&self) -> Option<Ways> {
        self.loaded.as_ref().map(CheckPath::ways)
    }
}
