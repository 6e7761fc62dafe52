//! `usher reload`: the configuration's file, read again by the running daemon.

use std::process::ExitCode;

use clap::Args;

use super::{REFUSED, advise, print, warn_of_not_kept};
use crate::{
    api::Client,
    reload::{ReloadQuery, Reloaded},
};

/// Have the daemon read its configuration again
///
/// The file is checked as `usher check-config` does, and then all of it is in force, or nothing. No packet and no flow
/// of what stays is lost: health, counters, what `usher server` set and what `usher deny` added are kept. SIGHUP does the
/// same, and says so in the log.
///
/// Some settings need a restart, such as interfaces and NAT addresses, and the size of the flow table needs `usher detach` before
/// it; the command names them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  usher reload --dry-run      what would change
  usher reload")]
pub(super) struct ReloadCommand {
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
}

impl ReloadCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let query = ReloadQuery { dry_run: self.dry_run };
        let Some(changes) = made(client.reload(query).await.map_err(advise)?) else {
            return Ok(ExitCode::from(REFUSED));
        };
        let lines: String = changes.iter().map(|change| format!("{change}\n")).collect();
        let said = match (changes.len(), self.dry_run) {
            (0, _) => "nothing differs from what is in force\n".to_owned(),
            (1, true) => "1 change would be made\n".to_owned(),
            (many, true) => format!("{many} changes would be made\n"),
            (1, false) => "reloaded: 1 change\n".to_owned(),
            (many, false) => format!("reloaded: {many} changes\n"),
        };
        print(&(lines + &said))
    }
}

/// The changes that were made, or would be; `None`, and the reasons on stderr, when all was refused.
pub(super) fn made(reloaded: Reloaded) -> Option<Vec<String>> {
    let Reloaded { changes, warnings, refused, not_kept } = reloaded;
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    refused.iter().for_each(|why| eprintln!("{why}"));
    warn_of_not_kept(not_kept.as_deref());
    refused.is_empty().then_some(changes)
}
