//! `usher diff`: where the running daemon and its file differ.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{advise, print};
use crate::{api::Client, reload::ReloadQuery};

/// Show where what is in force differs from the configuration's file
///
/// First what commands have set: backends and services that were added or taken away, states, weights. Then what the file
/// says and `usher reload` has not put in force yet.
#[derive(Debug, Args)]
pub(super) struct DiffCommand {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What differs.
#[derive(Debug, Serialize)]
struct Differences {
    /// Set by commands, not in the file.
    set: Vec<String>,
    /// In the file, not in force.
    not_reloaded: Vec<String>,
    /// Why the file would be refused.
    refused: Vec<String>,
}

impl DiffCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let status = client.status().await.map_err(advise)?;
        let reload = client.reload(ReloadQuery { dry_run: true }).await.map_err(advise)?;
        let found = Differences { set: status.set, not_reloaded: reload.changes, refused: reload.refused };
        match self.json {
            true => print(&(serde_json::to_string_pretty(&found)? + "\n")),
            false => print(&found.text()),
        }
    }
}

impl Differences {
    fn text(&self) -> String {
        let parts = [
            ("set by commands, not in the file:", &self.set),
            ("in the file, not reloaded yet:", &self.not_reloaded),
            ("the file would be refused:", &self.refused),
        ];
        let part = |(title, lines): (&str, &Vec<String>)| {
            let lines: String = lines.iter().map(|line| format!("  {line}\n")).collect();
            if lines.is_empty() { lines } else { format!("{title}\n{lines}") }
        };
        let text: String = parts.into_iter().map(part).collect();
        if text.is_empty() { "nothing differs\n".to_owned() } else { text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_said_by_kind() {
        let lines = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut found = Differences { set: vec![], not_reloaded: vec![], refused: vec![] };
        assert_eq!(found.text(), "nothing differs\n");
        found.set = lines(&["server web/b4: added"]);
        found.not_reloaded = lines(&["service web: port: 80 -> 81"]);
        assert_eq!(
            found.text(),
            "set by commands, not in the file:\n  server web/b4: added\n\
             in the file, not reloaded yet:\n  service web: port: 80 -> 81\n"
        );
    }
}
