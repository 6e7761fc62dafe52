//! `usher init`: the secret that the nodes of a cluster share.

use std::{
    io::{self, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};

use super::print;
use crate::secret::Secret;

/// More than any secret's file holds.
const LONGEST: u64 = 64 << 10;

/// Make the secret that all nodes share, or take it over from another node
///
/// From it derive the key of the hash that chooses backends and the key with which nodes sign what they tell each other. It
/// travels over ssh, from standard output to standard input, never in an argument. Each command tells the secret's id, which
/// is no secret: all nodes must show the same.
///
/// One secret takes the place of another in three steps. After each, all other nodes take the file over (`--join`) and
/// every daemon is restarted, one after the other:
///   1. `--rotate add`: a new secret is believed, too.
///   2. `--rotate switch`: it is the one in use. It chooses other backends, so drain each node before its restart
///      (`usher node drain --wait`): connections that are open there may break.
///   3. `--rotate drop`: the old one is forgotten.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  usher init                                                   on the first node
  ssh root@node1 cat /etc/usher/secret | usher init --join     on every other one
  usher init --rotate add                                      the first of three steps to another secret"
)]
pub(super) struct Init {
    /// The file
    #[arg(long, value_name = "FILE", default_value = "/etc/usher/secret")]
    secret_file: PathBuf,
    /// Take the secret over from standard input
    #[arg(long, conflicts_with = "rotate")]
    join: bool,
    /// A step from one secret to another
    #[arg(long, value_name = "STEP")]
    rotate: Option<Step>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Step {
    /// Believe a new secret, too
    Add,
    /// Use the other one
    Switch,
    /// Forget the one that is not in use
    Drop,
}

impl Init {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let path = &self.secret_file;
        let there = path.try_exists().with_context(|| format!("cannot look for {}", path.display()))?;
        let before = Secret::read(there.then_some(path))?;
        let secret = match (self.join, self.rotate) {
            (true, _) => joined(path, before.as_ref())?,
            (false, Some(step)) => rotated(path, before.as_ref(), step)?,
            (false, None) => made(path, before.as_ref())?,
        };
        let is_news = before.as_ref() != Some(&secret);
        if is_news {
            secret.write(path).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let what = if is_news { "written" } else { "as it was" };
        let other = match secret.other_id() {
            Some(other) => format!(", and secret {other:08x} is believed, too"),
            None => String::new(),
        };
        let mut said = format!("{}: {what}; secret {:08x} is in use{other}\n", path.display(), secret.id());
        if !self.join && is_news {
            said += &format!(
                "every other node: ssh root@THIS cat {0} | usher init --join --secret-file {0}\n",
                path.display()
            );
        }
        if before.is_some() && is_news {
            said += "then restart usher on every node, one after the other\n";
        }
        print(&said)
    }
}

fn made(path: &Path, before: Option<&Secret>) -> anyhow::Result<Secret> {
    if let Some(before) = before {
        bail!(
            "{} holds secret {:08x}; another one takes its place in three steps, the first of which is: usher init \
             --rotate add --secret-file {0}",
            path.display(),
            before.id()
        );
    }
    Ok(Secret::random())
}

fn joined(path: &Path, before: Option<&Secret>) -> anyhow::Result<Secret> {
    let stdin = io::stdin();
    ensure!(
        !stdin.is_terminal(),
        "the secret is expected on standard input: ssh root@node1 cat {} | usher init --join",
        path.display()
    );
    let mut content = Vec::new();
    stdin.take(LONGEST).read_to_end(&mut content).context("cannot read standard input")?;
    ensure!(
        !content.trim_ascii().is_empty(),
        "nothing came on standard input: did ssh reach the other node, and is its secret in another file?"
    );
    // A greeting of the other host's shell would be a secret that others know.
    let is_line = |line: &[u8]| line.trim_ascii().iter().all(u8::is_ascii_graphic);
    ensure!(
        content.split(|&byte| byte == b'\n').all(is_line),
        "what came on standard input is no secret's file: its lines have no spaces"
    );
    let secret = Secret::parse(&content, Path::new("on standard input"))?;
    if let Some(before) = before.filter(|before| !before.has_one_of(&secret)) {
        bail!(
            "{} holds secret {:08x} of another cluster, not {:08x}; to leave that one, remove the file first",
            path.display(),
            before.id(),
            secret.id()
        );
    }
    Ok(secret)
}

fn rotated(path: &Path, before: Option<&Secret>, step: Step) -> anyhow::Result<Secret> {
    let before = before
        .with_context(|| format!("there is no secret {}; make one with: usher init", path.display()))?;
    let (next, why) = match step {
        Step::Add => {
            (before.with_next(), "there are two secrets already; go on with --rotate switch, or drop")
        }
        Step::Switch => (before.switched(), "there is no other secret; begin with --rotate add"),
        Step::Drop => (before.alone(), "there is no other secret"),
    };
    next.with_context(|| format!("{}: {why}", path.display()))
}
