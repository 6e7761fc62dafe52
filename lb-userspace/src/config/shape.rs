//! Text to file types: TOML syntax, unknown keys and values of the wrong kind.
//!
//! serde stops at the first error. To name them all, the part that it refused is cut out of the
//! parsed document and the rest is tried again.

use std::{ops::Range, path::Path, sync::Arc};

use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeTable, DeValue, Deserializer},
};

use super::{
    error::Problem,
    file::{self, File},
    key::Key,
    locations::LineIndex,
};

/// Problems of syntax and shape named at once; a file with more is not a configuration of ours.
const MOST_PROBLEMS: usize = 20;

/// Reads a text into the file types, or says everything that keeps it from being one.
pub(super) fn read(text: &str, path: &Arc<Path>) -> Result<File, Vec<Problem>> {
    let lines = LineIndex::new(text);
    let problem = |offset: usize, key: Key, what: String, mend: String| {
        Problem::new(path, lines.position(offset), key, &what, &mend)
    };

    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(syntax_problems(text, &errors, problem));
    }

    check_version(document.get_ref(), text)
        .map_err(|(offset, what, mend)| vec![problem(offset, Key::root().child("version"), what, mend)])?;

    if let Ok(file) = File::deserialize(Deserializer::from(document)) {
        return Ok(file);
    }

    // Read again: a copy of what is consumed would be for bad files only, and cost the good ones, too.
    let (mut document, _) = DeTable::parse_recoverable(text);
    let mut problems = Vec::new();
    loop {
        let error = match File::deserialize(Deserializer::from(document.clone())) {
            Ok(_) => break,
            Err(error) => error,
        };
        let span = error.span().unwrap_or(0..0);
        let fault = cut(document.get_mut(), &Key::root(), "", &span);
        let found = fault.is_some();
        problems.push(match fault {
            Some(fault) => {
                let (what, mend) =
                    describe(&fault, text.get(span.clone()).unwrap_or_default(), error.message());
                problem(span.start, fault.key, what, mend)
            }
            None => problem(
                span.start,
                Key::root(),
                error.message().to_owned(),
                "see docs/configuration.md for what belongs here".to_owned(),
            ),
        });
        if !found || problems.len() == MOST_PROBLEMS {
            break;
        }
    }
    problems.sort_by_key(|problem| problem.position);
    Err(problems)
}

/// The version is judged before all else: in a file of another version other keys are right.
fn check_version(document: &DeTable<'_>, text: &str) -> Result<(), (usize, String, String)> {
    let mend = || format!("write `version = {}` above the first section", file::VERSION);
    let Some(version) = document.get("version") else {
        return Err((0, "is missing".to_owned(), mend()));
    };
    let is = |number: &toml::de::DeInteger<'_>| {
        i64::from_str_radix(number.as_str(), number.radix()).ok() == Some(file::VERSION)
    };
    if version.get_ref().as_integer().is_some_and(is) {
        return Ok(());
    }
    let what = format!(
        "{} is not a version that this usher reads",
        excerpt(text.get(version.span()).unwrap_or_default())
    );
    Err((version.span().start, what, mend()))
}

/// The part of the document that serde refused.
struct Fault {
    key: Key,
    /// Path of the table it is in, as in [`file::tables`].
    table: String,
    name: String,
    /// The key itself is not known; otherwise its value is of the wrong kind.
    unknown: bool,
    /// What kind of value is there.
    kind: &'static str,
}

/// Takes the entry out whose key, value or list item stands at `span`.
fn cut(table: &mut DeTable<'_>, key: &Key, path: &str, span: &Range<usize>) -> Option<Fault> {
    let fault = |name: &str, unknown, kind| Fault {
        key: key.child(name),
        table: path.to_owned(),
        name: name.to_owned(),
        unknown,
        kind,
    };
    let hit = table.iter().find_map(|(name, value)| {
        let (unknown, kind) = if name.span() == *span {
            (true, value.get_ref().type_str())
        } else if value.span() == *span {
            (false, value.get_ref().type_str())
        } else {
            let items = value.get_ref().as_array()?;
            (false, items.iter().find(|item| item.span() == *span)?.get_ref().type_str())
        };
        Some(fault(name.get_ref(), unknown, kind))
    });
    if let Some(fault) = hit {
        table.remove(fault.name.as_str());
        return Some(fault);
    }
    table.iter_mut().find_map(|(name, value)| {
        let name = name.get_ref();
        let path = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        cut_inside(value, key, name, &path, span)
    })
}

fn cut_inside(
    value: &mut Spanned<DeValue<'_>>,
    key: &Key,
    name: &str,
    path: &str,
    span: &Range<usize>,
) -> Option<Fault> {
    match value.get_mut() {
        DeValue::Table(table) => cut(table, &key.child(name), path, span),
        DeValue::Array(items) => items.iter_mut().enumerate().find_map(|(index, item)| {
            let DeValue::Table(table) = item.get_mut() else { return None };
            let key = if file::header(path).starts_with("[[") {
                let label = table.get("name").and_then(|name| name.get_ref().as_str()).map(str::to_owned);
                key.element(name, label.as_deref(), index)
            } else {
                key.child(name)
            };
            cut(table, &key, path, span)
        }),
        _ => None,
    }
}

/// What is wrong with the refused part, and how to mend it.
fn describe(fault: &Fault, text: &str, message: &str) -> (String, String) {
    if fault.unknown {
        return ("is not a known key".to_owned(), suggest_key(&fault.table, &fault.name));
    }
    let what = if fault.kind == "integer" && text.parse::<i64>().is_err() {
        format!("{} is too large a number", excerpt(text))
    } else if message.starts_with("invalid type") {
        format!("{} is {}", excerpt(text), with_article(fault.kind))
    } else {
        format!("{}: {message}", excerpt(text))
    };
    // In a table of headers the names are not the format's.
    let known = file::tables().iter().any(|(path, _)| *path == fault.table);
    let table = fault.table.rsplit('.').next().filter(|_| !known);
    (what, format!("write {}", form(table.unwrap_or(&fault.name))))
}

/// A key with nearly that name; else the table where it belongs; else all that are known here.
fn suggest_key(table: &str, name: &str) -> String {
    let tables = file::tables();
    let here = tables.iter().find(|(path, _)| *path == table).map_or(&[][..], |(_, keys)| keys);
    let elsewhere: Vec<_> = tables.iter().filter(|(_, keys)| keys.contains(&name)).collect();
    if let [(path, _)] = elsewhere[..] {
        return format!("it belongs to {}", file::header(path));
    }
    match nearest(name, here.iter().copied()) {
        Some(known) => format!("did you mean `{known}`?"),
        None => format!("{} knows {}", file::header(table), list(here.iter())),
    }
}

/// The candidate that a person may have meant.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    /// Below this Jaro-Winkler similarity a suggestion confuses more than it helps.
    const ALIKE: f64 = 0.8;
    // The start of a word is meant for the word.
    let mut longer = candidates.clone().filter(|candidate| word.len() >= 3 && candidate.starts_with(word));
    if let (Some(only), None) = (longer.next(), longer.next()) {
        return Some(only);
    }
    candidates
        .map(|candidate| (strsim::jaro_winkler(&word.to_lowercase(), candidate), candidate))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `a, b and c` of anything shown.
pub(super) fn list<T: std::fmt::Display>(items: impl Iterator<Item = T>) -> String {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    match items.split_last() {
        None => "nothing".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

/// What a value of each key looks like; the same name means the same in every table.
const FORMS: &[(&str, &str)] = &[
    ("version", "`version = 1`"),
    ("node", "`[node]` on a line of its own, and its settings below"),
    ("nat", "`[nat]` on a line of its own, and its settings below"),
    ("tunnel", "`[tunnel]` on a line of its own, and its settings below"),
    ("flows", "`[flows]` on a line of its own, and its settings below"),
    ("dns", "`[dns]` on a line of its own, and its settings below"),
    ("peer_check", "`[peer_check]` on a line of its own, and its settings below"),
    ("peer", "`[[peer]]`, in double brackets, above each peer's settings"),
    ("service", "`[[service]]`, in double brackets, above each service's settings"),
    ("backend", "`[[service.backend]]`, in double brackets, above each backend's settings"),
    ("check", "a table such as { kind = \"tcp\", interval = \"2s\" }"),
    ("name", "a name in quotes, such as \"web1\""),
    ("interfaces", "a list of names, such as [\"eth0\"]"),
    ("withdraw_below", "a share in percent without quotes, such as 50"),
    ("panic_below", "a share in percent without quotes, such as 50"),
    ("slow_start", "a duration in quotes, such as \"30s\""),
    ("backup", "true or false"),
    ("aim", "\"vip\" or \"address\""),
    ("grpc_service", "a name in quotes, such as \"shop.Orders\""),
    ("query", "a DNS name in quotes, such as \"www.example.test\""),
    ("record", "a type in quotes, such as \"A\" or \"SOA\""),
    ("reload_on_change", "true or false"),
    ("on_stop", "\"keep\" or \"detach\""),
    ("peer_probe_rate", "a number without quotes, such as 50"),
    ("restart_grace", "a duration in quotes, such as \"60s\""),
    ("xdp_mode", "\"auto\", \"native\" or \"generic\""),
    ("addresses", "a list of addresses, such as [\"192.0.2.11\", \"2001:db8:1::11\"]"),
    ("address", "an address in quotes, such as \"203.0.113.21\""),
    (
        "publish",
        "below [dns] `[[dns.publish]]`, in double brackets, above each zone's settings; of an address another one in \
         quotes, such as \"192.0.2.11\"",
    ),
    ("check_address", "an address in quotes, such as \"203.0.113.21\""),
    ("primaries", "a list of addresses with ports, such as [\"192.0.2.53:53\"]"),
    ("key_file", "a path in quotes, such as \"/etc/usher/publish.key\""),
    ("lease", "a duration in quotes, such as \"60s\""),
    ("renew", "a duration in quotes, such as \"20s\""),
    ("share_rrset", "true or false"),
    ("two_nodes", "\"remove-after-lease\" or \"never\""),
    ("witness", "true or false"),
    ("socket", "a path in quotes, such as \"/run/usher/usher.sock\""),
    ("state_file", "a path in quotes, such as \"/var/lib/usher/state.json\""),
    ("pin_dir", "a path in quotes, such as \"/sys/fs/bpf/usher\""),
    ("secret_file", "a path in quotes, such as \"/etc/usher/secret\""),
    (
        "source",
        "a list of addresses, such as [\"203.0.113.11\"], or under [tunnel] of networks, such as \
         [\"198.51.100.0/28\"]",
    ),
    ("gue_port", "a port without quotes, such as 6080"),
    ("icmp_rate", "a whole number without quotes, such as 1000"),
    ("metrics_listen", "a list of addresses with ports, such as [\"127.0.0.1:9464\"]"),
    ("reply", "\"last-hop\" or \"route\""),
    ("ports", "a range in quotes, such as \"1024-32767\""),
    ("max", "a whole number without quotes, such as 1000000"),
    ("tcp_timeout", "a duration in quotes, such as \"1h\""),
    ("udp_timeout", "a duration in quotes, such as \"2m\""),
    ("closing_timeout", "a duration in quotes, such as \"60s\""),
    ("listen", "a list of addresses with ports, such as [\"192.0.2.11:53\"]"),
    ("zone", "a DNS name in quotes, such as \"example.test\""),
    ("ttl", "a duration in quotes, such as \"30s\""),
    ("ttl_in_doubt", "a duration in quotes, such as \"5s\""),
    ("negative_ttl", "a duration in quotes, such as \"5s\""),
    ("contact", "a DNS name in quotes, such as \"hostmaster.example.test\""),
    (
        "all_down",
        "in [dns] \"all\" or \"none\", in a service \"reset\", \"drop\" or a table such as { service = \"sorry\" }",
    ),
    ("dns_port", "a port without quotes, such as 53"),
    ("require", "\"all\" or \"any\""),
    ("dns_name", "a DNS name in quotes, such as \"www.example.test\""),
    ("protocol", "\"tcp\" or \"udp\""),
    ("port", "a port without quotes, such as 80"),
    ("forward", "\"nat\", \"dsr-l2\", \"dsr-ipip\" or \"dsr-gue\""),
    ("fragments", "a whole number without quotes, such as 16384"),
    ("defence", "`[defence]` on a line of its own, and its settings below"),
    ("deny", "a list of prefixes, such as [\"198.51.100.0/24\", \"2001:db8:bad::/48\"]"),
    ("deny_file", "a path in quotes, such as \"/etc/usher/deny\""),
    ("new_per_second", "a whole number without quotes, such as 200000"),
    (
        "affinity",
        "in [flows] a whole number such as 100000, in a service a duration in quotes such as \"10m\"",
    ),
    ("on_backend_down", "\"keep\" or \"reset\""),
    ("drain_timeout", "a duration in quotes, such as \"10m\""),
    ("on_drain_end", "\"keep\" or \"reset\""),
    ("hash", "\"flow\" or \"client\""),
    ("rate_limit", "a table such as { per_source = 100, burst = 200 }"),
    ("per_source", "a whole number without quotes, such as 100"),
    ("burst", "a whole number without quotes, such as 200"),
    ("quic", "a table such as { server_id_length = 4 }"),
    ("server_id_length", "a whole number without quotes, such as 4"),
    ("config_id", "a whole number without quotes, such as 0"),
    ("quic_server_id", "hexadecimal digits in quotes, such as \"0a0b0c0d\""),
    ("idle_timeout", "a duration in quotes, such as \"10m\""),
    (
        "kind",
        "\"tcp\", \"http\", \"https\", \"tls\", \"udp\", \"dns\", \"grpc\", \"grpcs\", \"agent\" or \"exec\"; in \
         [[dns.publish]] \"rfc2136\"",
    ),
    ("passive", "\"off\", \"check\" or \"fail\""),
    ("method", "\"GET\", \"HEAD\", \"OPTIONS\" or \"POST\""),
    ("headers", "a table such as { \"X-Probe\" = \"usher\" }"),
    ("expect_header", "a table such as { \"X-State\" = \"ready\" }"),
    ("expect_body", "a text in quotes, such as \"ready\""),
    ("path", "a path in quotes, such as \"/healthz\""),
    ("host", "a host name in quotes, such as \"www.example.test\""),
    ("server_name", "a name in quotes, such as \"www.example.test\""),
    ("ca_file", "a path in quotes, such as \"/etc/usher/ca.pem\""),
    ("command", "a list of texts, such as [\"/usr/local/bin/check-db\", \"--quick\"]"),
    ("verify", "true or false, without quotes"),
    ("send", "what is sent, in quotes, such as \"ping\""),
    (
        "expect",
        "HTTP status codes in quotes, such as \"200-399\", or of a \"udp\" check what the answer contains",
    ),
    ("interval", "a duration in quotes, such as \"2s\""),
    ("fast_interval", "a duration in quotes, such as \"500ms\""),
    ("timeout", "a duration in quotes, such as \"1s\""),
    ("rise", "a whole number without quotes, such as 2"),
    ("fall", "a whole number without quotes, such as 3"),
    ("jitter", "a share of the interval without quotes, such as 0.1"),
    ("weight", "a whole number without quotes, such as 1 or 100"),
];

/// What a value of this key looks like.
pub(super) fn form(name: &str) -> &'static str {
    FORMS.iter().find(|(key, _)| *key == name).map_or("what docs/configuration.md shows", |(_, form)| form)
}

/// The syntax errors up to the first that makes the parser lose its way: what it reports from there
/// on is mostly a consequence.
fn syntax_problems(
    text: &str,
    errors: &[toml::de::Error],
    problem: impl Fn(usize, Key, String, String) -> Problem,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for error in errors.iter().take(MOST_PROBLEMS) {
        let offset = error.span().map_or(0, |span| span.start);
        let Syntax { what, mend, local } = describe_syntax(error.message(), text, offset);
        problems.push(problem(offset, Key::root(), what, mend));
        if !local {
            break;
        }
    }
    problems
}

/// A syntax error in words.
struct Syntax {
    what: String,
    mend: String,
    /// The parser knows how to go on.
    local: bool,
}

/// From the parser's words, `what, expected this`, and the text around the place.
fn describe_syntax(message: &str, text: &str, offset: usize) -> Syntax {
    let (what, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    let word = word_at(text, offset);
    let local = |what: String, mend: String| Syntax { what, mend, local: true };
    if what == "duplicate key" {
        return local(format!("{what} `{}`", excerpt(word)), "keep one of the two".to_owned());
    }
    // A text without its quotes is taken for a broken number, or worse.
    if what.starts_with("invalid") || what.contains("quoted") {
        if word.is_empty() {
            return local("a value is missing".to_owned(), "write it after the `=`".to_owned());
        }
        if word.starts_with(|first: char| first.is_alphanumeric() || first == '/' || first == ':') {
            let word = excerpt(word);
            return local(format!("`{word}` is not a number"), format!("if it is a text, write \"{word}\""));
        }
    }
    let mend = match (what, expected) {
        ("missing comma between array elements", _) => {
            "put a `,` between the values, or the `]` that ends the list before this line".to_owned()
        }
        (_, "") => "texts, addresses and durations stand in quotes, lists in square brackets".to_owned(),
        (_, expected) => format!("expected {expected}"),
    };
    Syntax { what: what.to_owned(), mend, local: false }
}

/// The value, or what should be one, that `offset` is in: up to a comma, a bracket or the line's end.
fn word_at(text: &str, offset: usize) -> &str {
    let (Some(before), Some(after)) = (text.get(..offset), text.get(offset..)) else { return "" };
    let start = before.rfind(['\n', '=', ',', '[', '{']).map_or(0, |separator| separator + 1);
    let end = after.find(['\n', ',', ']', '}', '#']).map_or(text.len(), |separator| offset + separator);
    let word = text[start..end].trim();
    // A duplicate key comes with its own value.
    word.split_once('=').map_or(word, |(key, _)| key.trim_end())
}

/// A value as the file has it, if it is short enough for a message.
fn excerpt(text: &str) -> &str {
    /// Longest value repeated in a message, in bytes.
    const LONGEST: usize = 60;
    if text.len() <= LONGEST && !text.contains('\n') { text } else { "the value" }
}

fn with_article(kind: &str) -> &'static str {
    match kind {
        "string" => "a text",
        "integer" => "a whole number",
        "float" => "a number with a fraction",
        "boolean" => "true or false",
        "datetime" => "a date",
        "array" => "a list",
        _ => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_says_what_its_value_looks_like() {
        let keys = || file::tables().into_iter().flat_map(|(_, keys)| keys);
        for key in keys() {
            assert!(FORMS.iter().any(|(name, _)| name == key), "FORMS lacks {key}");
        }
        for (name, _) in FORMS {
            assert!(keys().any(|key| key == name), "FORMS has {name}, which is no key");
        }
    }

    #[test]
    fn lists_read_like_sentences() {
        assert_eq!(list([1].iter()), "1");
        assert_eq!(list([1, 2, 3].iter()), "1, 2 and 3");
    }
}
