//! What a start is based on: the file, what commands have changed of it, and the host that both are checked against.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context as _;
use tracing::{error, info, warn};

use super::admin::Administration;
use crate::{
    config::{Config, ConfigError, Edits, Loaded},
    dataplane,
    net::facts::{self, HostFacts},
};

/// It can run here.
pub(super) struct Basis {
    pub(super) config: Config,
    pub(super) host: HostFacts,
    pub(super) administration: Administration,
}

impl Basis {
    /// Reads and checks. Changes of commands that the file or the host leaves no place for are left out, and said.
    ///
    /// # Errors
    /// A [`ConfigError`] when the file is refused, or does not fit the host; another when nothing can be said of the host.
    pub(super) async fn read(path: &Path) -> anyhow::Result<Basis> {
        let file = Loaded::load(path)?;
        let mut administration = Administration::read(&file.config.node.state_file);
        let known = administration.edits().clone();
        if !known.is_empty() {
            match edited(path, known.clone()).await {
                Ok((config, host, edits)) => {
                    administration.begin_with(edits, &config);
                    return Ok(Basis { config, host, administration });
                }
                Err(error) => {
                    let changes = known.lines().join(", ");
                    match error.downcast::<ConfigError>()? {
                        why @ ConfigError::Unfit(_) => {
                            let remembered = file.config.node.state_file.clone();
                            // Is it the changes? Not if the file alone does not fit either.
                            checked(file).await?;
                            let file = remembered.display();
                            error!(%file, "what commands have changed does not fit the host now, and waits: {changes}");
                            return Err(why.into());
                        }
                        why => error!(
                            "what commands have changed does not fit the configuration any more, and is forgotten: {changes}: {why}"
                        ),
                    }
                }
            }
        }
        let (config, host) = checked(file).await?;
        administration.begin_with(Edits::default(), &config);
        Ok(Basis { config, host, administration })
    }
}

async fn edited(path: &Path, known: Edits) -> anyhow::Result<(Config, HostFacts, Edits)> {
    let (loaded, edits, notes) = Loaded::load_edited(path, known, None)?;
    let (config, host) = checked(loaded).await?;
    notes.iter().for_each(|note| info!("{note}"));
    edits.lines().iter().for_each(|line| info!("{line} by a command, beside what the file says"));
    Ok((config, host, edits))
}

async fn checked(loaded: Loaded) -> anyhow::Result<(Config, HostFacts)> {
    let host = facts::gather(loaded.config.destinations(), &BTreeMap::new())
        .await
        .context("cannot read the host's network")?;
    let warnings = loaded.check_host(&host.clone().for_config(dataplane::kernel()))?;
    for warning in loaded.warnings.iter().chain(&warnings) {
        warn!("{warning}");
    }
    Ok((loaded.config, host))
}
