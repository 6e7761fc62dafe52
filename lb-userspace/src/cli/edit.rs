//! Changes to services and backends, beside what the file says.

use std::process::ExitCode;

use super::{REFUSED, advise, print, reload};
use crate::{api::Client, config::Edit};

/// Has a change made; says what is different now.
pub(super) async fn make(client: &Client, edit: &Edit) -> anyhow::Result<ExitCode> {
    let Some(changes) = reload::made(client.edit(edit).await.map_err(advise)?) else {
        return Ok(ExitCode::from(REFUSED));
    };
    let lines: String = changes.iter().map(|change| format!("{change}\n")).collect();
    print(if lines.is_empty() { "nothing is different\n" } else { &lines })
}
