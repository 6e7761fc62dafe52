//! Changes to services and backends, beside what the file says.

use std::process::ExitCode;

use super::{REFUSED, advise, print, warn_of_not_kept};
use crate::{api::Client, config::Edit, reload::Reloaded};

/// Has a change made; says what is different now.
pub(super) async fn make(client: &Client, edit: &Edit) -> anyhow::Result<ExitCode> {
    let Reloaded { changes, warnings, refused, not_kept } = client.edit(edit).await.map_err(advise)?;
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    if !refused.is_empty() {
        refused.iter().for_each(|why| eprintln!("{why}"));
        return Ok(ExitCode::from(REFUSED));
    }
    warn_of_not_kept(not_kept.as_deref());
    let lines: String = changes.iter().map(|change| format!("{change}\n")).collect();
    print(if lines.is_empty() { "nothing is different\n" } else { &lines })
}
