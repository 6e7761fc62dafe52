//! Whatever the text, reading it ends in a configuration or in problems that can be understood.

use std::path::Path;

use lb_userspace::config::{ConfigError, Loaded};
use proptest::prelude::*;

const EXAMPLE: &str = include_str!("../../dist/usher.toml");

/// Every problem has a line of the file, and a cause and a remedy of one line each.
fn judge(text: &str) {
    let problems = match Loaded::parse(text, Path::new("usher.toml")) {
        Ok(loaded) => loaded.warnings,
        Err(ConfigError::Refused(problems)) => {
            assert!(!problems.is_empty(), "refused without a reason");
            problems
        }
        Err(error) => panic!("it is about no line of the text: {error}"),
    };
    let lines = text.split('\n').count();
    for problem in problems {
        assert!((1..=lines).contains(&problem.position.line), "{problem}: the file has {lines} lines");
        assert!(!problem.what.is_empty() && !problem.mend.is_empty(), "{problem}");
        assert!(!problem.to_string().contains('\n'), "{problem:?}");
    }
}

/// One change of a text; places are fractions of its length, so that they fit whatever came before.
#[derive(Debug, Clone)]
enum Edit {
    /// Takes out a run of characters.
    Cut(f64, usize),
    /// Puts something in.
    Insert(f64, String),
    /// Repeats a line elsewhere.
    CopyLine(f64, f64),
    /// Takes out a line.
    DropLine(f64),
}

fn edit() -> impl Strategy<Value = Edit> {
    let token = prop_oneof![
        prop::sample::select(vec![
            "[",
            "]",
            "[[",
            "]]",
            "{",
            "}",
            "=",
            ",",
            "\"",
            "'",
            "#",
            "\n",
            ".",
            "-1",
            "0",
            "99999999999999999999",
            "nan",
            "true",
            "\"\"",
            "\"::1\"",
            "\"192.0.2.11\"",
            "[[service]]\n",
            "[[service.backend]]\n",
            "[dns]\n",
            "version = 1\n",
            "port = 0\n",
            "weight = 0\n",
            "\u{fc}",
            "\u{1f600}",
            "\0",
            "\"\\u0000\\n\"",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    prop_oneof![
        (0.0..1.0, 1..40_usize).prop_map(|(at, length)| Edit::Cut(at, length)),
        (0.0..1.0, token).prop_map(|(at, token)| Edit::Insert(at, token)),
        (0.0..1.0, 0.0..1.0).prop_map(|(from, to)| Edit::CopyLine(from, to)),
        (0.0..1.0).prop_map(Edit::DropLine),
    ]
}

/// The place in a sequence that a fraction of its length stands for.
fn place(at: f64, length: usize) -> usize {
    ((at * length as f64) as usize).min(length)
}

fn apply(text: &str, edit: &Edit) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    let mut lines: Vec<&str> = text.split('\n').collect();
    match edit {
        Edit::Cut(at, length) => {
            let start = place(*at, characters.len());
            let end = (start + length).min(characters.len());
            characters.drain(start..end);
            characters.into_iter().collect()
        }
        Edit::Insert(at, token) => {
            let start = place(*at, characters.len());
            characters.splice(start..start, token.chars());
            characters.into_iter().collect()
        }
        Edit::CopyLine(from, to) => {
            let line = lines[place(*from, lines.len() - 1)];
            lines.insert(place(*to, lines.len()), line);
            lines.join("\n")
        }
        Edit::DropLine(at) => {
            lines.remove(place(*at, lines.len() - 1));
            lines.join("\n")
        }
    }
}

/// The example without its explanations, so that edits hit settings.
fn settings() -> String {
    let lines = EXAMPLE.lines().filter(|line| !line.is_empty() && !line.starts_with("# "));
    lines.map(|line| format!("{}\n", line.strip_prefix('#').unwrap_or(line))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in any::<String>()) {
        judge(&text);
    }

    #[test]
    fn any_text_after_the_version(text in "(?s)[\\[\\]{}=\",.#a-z0-9_: \n-]{0,200}") {
        judge(&format!("version = 1\n{text}"));
    }

    #[test]
    fn the_example_after_a_few_edits(edits in prop::collection::vec(edit(), 1..6)) {
        judge(&edits.iter().fold(settings(), |text, edit| apply(&text, edit)));
    }
}
