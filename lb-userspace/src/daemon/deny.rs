//! The deny list as the configuration and its file have it.

use std::{fs, sync::Arc};

use anyhow::{Context as _, bail};
use lb_common::defence::MAX_DENIED;

use crate::{
    config::Defence,
    core::deny::{self, DenyList},
};

/// The rules of the file, then those of the configuration, which thus have the last word.
///
/// # Errors
/// When the file cannot be read, has a mistake, or there are too many rules.
pub(super) fn read(defence: Option<&Defence>) -> anyhow::Result<DenyList> {
    let Some(defence) = defence else { return Ok(DenyList::default()) };
    let mut rules = Vec::new();
    if let Some(file) = &defence.deny_file {
        let name = file.display();
        let text = fs::read_to_string(file).with_context(|| format!("cannot read the deny list {name}"))?;
        let listed = deny::parse_file(&text);
        rules = listed.map_err(|(line, error)| anyhow::anyhow!("{name}:{line}: {error}"))?;
    }
    rules.extend(&defence.deny);
    let list: DenyList = Arc::new(rules.into_iter().map(|rule| (rule.prefix, rule.denied)).collect());
    if list.len() > MAX_DENIED {
        bail!("the deny list has {} prefixes, more than {MAX_DENIED}", list.len());
    }
    Ok(list)
}
