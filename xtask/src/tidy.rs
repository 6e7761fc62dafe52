//! The rules that reviewers would otherwise repeat; design's "import one way", checked by name.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::places;

/// Words that may stand in some places only.
struct Rule {
    /// Whole words, `::` included where the word alone means other things.
    words: &'static [&'static str],
    /// Where the rule holds: path prefixes.
    within: &'static [&'static str],
    /// Where it does not.
    except: &'static [&'static str],
    /// What to do instead.
    advice: &'static str,
}

const CODE: &[&str] = &["lb-common/src", "lb-ebpf/src", "lb-userspace/src"];
const CORE: &str = "lb-userspace/src/core";
const PROGRAMS: &str = "lb-ebpf/src/bin";

const RULES: &[Rule] = &[
    Rule {
        words: &["aya", "aya_ebpf", "aya_obj", "aya_log", "aya_log_ebpf"],
        within: CODE,
        except: &["lb-userspace/src/dataplane", PROGRAMS],
        advice: "only the dataplane module and the BPF programs name aya: give them a function of their own for it",
    },
    Rule {
        words: &["domain::"],
        within: CODE,
        except: &["lb-userspace/src/dns"],
        advice: "only the dns module names the DNS library: pass plain names and addresses to and from it",
    },
    Rule {
        words: &["axum"],
        within: CODE,
        except: &["lb-userspace/src/api"],
        advice: "only the api module names the web framework: pass plain values to and from it",
    },
    Rule {
        words: &["tokio", "Instant::now", "SystemTime"],
        within: &[CORE, "lb-ebpf/src", "lb-common/src"],
        except: &[],
        advice: "pure code neither waits nor reads a clock: take `now` as an argument, and let the caller do I/O",
    },
    Rule {
        words: &["xdp_action"],
        within: CODE,
        except: &[PROGRAMS],
        advice: "only the BPF programs know XDP's actions: end with a `Reason`, and let the program turn it into one",
    },
];

/// Checks every rule.
///
/// # Errors
/// Lists each place that breaks one, with what to do.
pub(crate) fn tidy() -> Result<String> {
    let root = places::root();
    let mut files = Vec::new();
    for folder in CODE {
        list_files(&root.join(folder), &mut files)?;
    }
    let mut findings = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
        findings.extend(check_file(file.strip_prefix(&root).unwrap_or(file), &text));
    }
    if findings.is_empty() {
        return Ok(format!("{} rules, {} files", RULES.len(), files.len()));
    }
    bail!("{} places break a rule:\n  {}", findings.len(), findings.join("\n  "))
}

/// The Rust files below `folder`.
fn list_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let path = entry.context("folder entry")?.path();
        if path.is_dir() {
            list_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn check_file(path: &Path, text: &str) -> Vec<String> {
    let under = |folders: &[&str]| folders.iter().any(|folder| path.starts_with(folder));
    let rules: Vec<_> = RULES.iter().filter(|rule| under(rule.within) && !under(rule.except)).collect();
    let mut findings = Vec::new();
    for (number, line) in before_tests(path, text).lines().enumerate() {
        let code = line.split_once("//").map_or(line, |(code, _)| code);
        for rule in &rules {
            if let Some(word) = rule.words.iter().find(|word| names(code, word)) {
                findings.push(format!("{}:{}: `{word}`: {}", path.display(), number + 1, rule.advice));
            }
        }
    }
    findings
}

/// The part of a file that is not its tests: those may read a clock to have some `now` to begin with.
fn before_tests<'a>(path: &Path, text: &'a str) -> &'a str {
    if path.ends_with("tests.rs") {
        return "";
    }
    text.find("#[cfg(test)]\nmod ").map_or(text, |start| &text[..start])
}

/// Whether `code` has `word` as a word of its own: `aya::` has `aya`, but `playa` has not.
fn names(code: &str, word: &str) -> bool {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(start, _)| {
        let after = &code[start + word.len()..];
        !code[..start].ends_with(in_word) && (word.ends_with("::") || !after.starts_with(in_word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> usize {
        check_file(Path::new(path), text).len()
    }

    #[test]
    fn libraries_stay_in_their_modules() {
        for (allowed, refused, line) in [
            ("lb-userspace/src/dataplane/load.rs", "lb-userspace/src/daemon.rs", "use aya::Ebpf;"),
            ("lb-ebpf/src/bin/usher_xdp.rs", "lb-ebpf/src/parse.rs", "use aya_ebpf::programs::XdpContext;"),
            ("lb-userspace/src/dns/server.rs", "lb-userspace/src/core/zone.rs", "use domain::base::Name;"),
            ("lb-userspace/src/api/mod.rs", "lb-userspace/src/cli/mod.rs", "let app = axum::Router::new();"),
            ("lb-ebpf/src/bin/usher_xdp.rs", "lb-ebpf/src/lib.rs", "xdp_action::XDP_PASS"),
            ("lb-userspace/src/daemon.rs", "lb-userspace/src/core/health.rs", "let now = Instant::now();"),
        ] {
            assert_eq!(findings(allowed, line), 0, "{allowed}: {line}");
            assert_eq!(findings(refused, line), 1, "{refused}: {line}");
        }
    }

    #[test]
    fn words_and_comments_are_told_apart() {
        assert_eq!(findings("lb-userspace/src/core/a.rs", "//! no aya, no tokio"), 0);
        assert_eq!(findings("lb-userspace/src/core/a.rs", "let subdomain = playa; // aya"), 0);
        assert_eq!(findings("lb-userspace/src/core/a.rs", "fn take(now: Instant) {}"), 0);
    }

    #[test]
    fn tests_may_read_a_clock() {
        let text = "fn logic() {}\n#[cfg(test)]\nmod tests {\n    let now = Instant::now();\n}\n";
        assert_eq!(findings("lb-userspace/src/core/a.rs", text), 0);
        assert_eq!(findings("lb-userspace/src/core/a/tests.rs", "let now = Instant::now();"), 0);
    }

    #[test]
    fn this_workspace_is_tidy() {
        tidy().expect("tidy");
    }
}
