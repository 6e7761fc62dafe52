//! `usher deny`: who is denied, and changing it while packets flow.

use std::{
    fs,
    io::{self, Read as _},
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, anyhow, ensure};
use clap::{Args, Subcommand};

use super::{advise, print, text::count};
use crate::{
    api::{Client, ClientError},
    core::deny::{Rule, RuleError, Source, parse_file},
    deny::{Denied, DenyAction, DenyChange, DenyCounts, DenyQuery, ListedRule, MOST_RULES},
};

/// Deny clients, or see who is denied
///
/// Packets of a denied client to any service are dropped, those of its established connections too. Packets to
/// the node itself are not. The longest prefix that holds a client decides; `!` before a prefix allows it
/// although a shorter one is denied.
///
/// Rules of the configuration (`deny` and `deny_file` in `[defence]`) and rules added here are kept apart. For the
/// same prefix the one added here counts. Rules added here are forgotten when the daemon ends.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  usher deny add 198.51.100.0/24 2001:db8:bad::/48
  usher deny add '!198.51.100.7'                  allowed after all; quoted for the shell's sake
  usher deny add --file drop.txt                  one rule on each line, up to 1,000,000
  usher deny del 198.51.100.0/24
  usher deny list --client 198.51.100.7           what decides about a client
  usher deny list --source command > drop.txt     in the form of such a file")]
pub(super) struct DenyCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Add rules; they are in force when the command returns
    Add(Rules),
    /// Remove rules that were added
    ///
    /// What the configuration says it alone can take back; until then the contrary can be added.
    #[command(visible_alias = "delete")]
    Del(Rules),
    /// List the rules, those of one prefix together, the one that counts last
    List(List),
}

#[derive(Debug, Args)]
struct Rules {
    /// Addresses or prefixes; `!` before one allows it after all
    #[arg(value_name = "PREFIX", value_parser = rule, required_unless_present = "file")]
    rules: Vec<Rule>,
    /// More of them in a file, one on each line, `#` begins a comment; `-` is stdin
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct List {
    /// Only rules of this source
    #[arg(long, value_name = "SOURCE")]
    source: Option<Source>,
    /// Only rules that hold this client; the last one decides
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// Count them, and list none
    #[arg(long, conflicts_with_all = ["client", "source"])]
    count: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl DenyCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Add(rules) => rules.send(DenyAction::Add, client).await,
            Verb::Del(rules) => rules.send(DenyAction::Remove, client).await,
            Verb::List(list) => list.run(client).await,
        }
    }
}

impl Rules {
    /// Sends the rules in several requests, if they are many. The whole file was read before.
    async fn send(self, action: DenyAction, client: &Client) -> anyhow::Result<ExitCode> {
        let mut rules = self.rules;
        if let Some(file) = &self.file {
            rules.extend(read(file)?);
        }
        ensure!(!rules.is_empty(), "the file has no rules");
        let word = if action == DenyAction::Add { "added" } else { "removed" };
        let (mut changed, mut last) = (0, None);
        for (done, some) in (0..).step_by(MOST_RULES).zip(rules.chunks(MOST_RULES)) {
            let change = DenyChange { action, rules: some.to_vec() };
            let answer =
                client.deny(&change).await.map_err(|error| broken_off(error, done, rules.len(), word))?;
            changed += answer.changed;
            last = Some(answer.counts);
        }
        let counts = last.unwrap_or_default();
        let there = match rules.len() - changed {
            0 => String::new(),
            there if action == DenyAction::Add => format!(" ({} were there already)", count(there as u64)),
            twice => format!(" ({} were named twice)", count(twice as u64)),
        };
        print(&format!("{} {word}{there}; {}\n", count(changed as u64), sum(&counts)))
    }
}

/// What a refused request means after others that were carried out.
fn broken_off(error: ClientError, done: usize, all: usize, word: &str) -> anyhow::Error {
    let error = advise(error);
    match done {
        0 => error,
        done => anyhow!("{error:#}; the first {done} of {all} rules were {word}"),
    }
}

impl List {
    async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let limit = if self.count { 0 } else { MOST_RULES };
        let mut query = DenyQuery { client: self.client, source: self.source, after: None, limit };
        let mut answer = client.denied(&query).await.map_err(advise)?;
        if self.json {
            while let Some(next) = answer.next {
                query.after = Some(next);
                let page = client.denied(&query).await.map_err(advise)?;
                answer.rules.extend(page.rules);
                answer.next = page.next;
            }
            return print(&format!("{}\n", serde_json::to_string_pretty(&answer)?));
        }
        print(&format!("# {}\n", sum(&answer.counts)))?;
        loop {
            print(&page(&answer))?;
            let Some(next) = answer.next else { return Ok(ExitCode::SUCCESS) };
            query.after = Some(next);
            answer = client.denied(&query).await.map_err(advise)?;
        }
    }
}

/// The rules as a file has them.
fn page(answer: &Denied) -> String {
    let line = |ListedRule { rule, source, overridden }: &ListedRule| {
        let overridden = if *overridden { ", overridden" } else { "" };
        // The width of most IPv6 networks.
        format!("{:<24} # {source}{overridden}\n", rule.to_string())
    };
    answer.rules.iter().map(line).collect()
}

fn sum(counts: &DenyCounts) -> String {
    let number = |number: usize| count(number as u64);
    format!(
        "{} prefixes: {} in the configuration, {} in its file, {} by command",
        number(counts.prefixes),
        number(counts.configuration),
        number(counts.file),
        number(counts.command)
    )
}

fn rule(text: &str) -> Result<Rule, String> {
    text.parse().map_err(|error: RuleError| format!("`{text}` {error}; {}", error.mend()))
}

fn read(path: &Path) -> anyhow::Result<Vec<Rule>> {
    let name = path.display();
    let mut text = String::new();
    match path == Path::new("-") {
        true => io::stdin().read_to_string(&mut text).map(drop),
        false => fs::read_to_string(path).map(|read| text = read),
    }
    .with_context(|| format!("cannot read {name}"))?;
    parse_file(&text).map_err(|(line, error)| {
        anyhow!("{name}:{line}: the rule {error}; {}; nothing was changed", error.mend())
    })
}
