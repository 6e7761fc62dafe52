//! What an HTTP check asks for, and what it expects.

use std::ops::RangeInclusive;

use super::reader::{Field, Reader};
use crate::config::{Http, Tls, file};
use hyper::header::{self, HeaderName, HeaderValue};

/// Methods that a check may use: answers to them have the form that it reads.
const METHODS: [&str; 4] = ["GET", "HEAD", "OPTIONS", "POST"];

/// As the file has them.
pub(super) struct Written {
    pub(super) method: Option<Field<String>>,
    pub(super) path: Option<Field<String>>,
    pub(super) headers: Option<Field<file::Texts>>,
    pub(super) expect: Option<Field<String>>,
    pub(super) expect_header: Option<Field<file::Texts>>,
    pub(super) expect_body: Option<Field<String>>,
}

/// `host` and `tls` have been judged.
pub(super) fn http(
    reader: &mut Reader<'_>,
    written: Written,
    host: Option<String>,
    tls: Option<Tls>,
) -> Http {
    let usual = Http::default();
    let method = written.method.and_then(|method| {
        let choices = METHODS.map(|method| (method, method));
        reader.choice(&method, &choices)
    });
    let method = method.unwrap_or(usual.method);
    let expect_body = written.expect_body.and_then(|body| {
        if method == "HEAD" {
            let mend = "use another method, or remove it";
            reader.refuse(&body.key, "never comes: an answer to HEAD has no body", mend);
        } else if body.value.is_empty() {
            reader.refuse(&body.key, "is empty, and every body contains that", "remove it");
        } else {
            return Some(body.value);
        }
        None
    });
    Http {
        method,
        path: written.path.and_then(|path| path_of(reader, path)).unwrap_or(usual.path),
        host,
        headers: written.headers.map(|field| headers(reader, field, is_ours)).unwrap_or_default(),
        expect: written.expect.and_then(|expect| statuses(reader, &expect)).unwrap_or(usual.expect),
        expect_header: written
            .expect_header
            .map(|field| headers(reader, field, |_| None))
            .unwrap_or_default(),
        expect_body,
        tls,
    }
}

/// Names and values; `taken` says why one cannot be set, and what to do.
fn headers(
    reader: &mut Reader<'_>,
    Field { key, value: texts, .. }: Field<file::Texts>,
    taken: impl Fn(&HeaderName) -> Option<(&'static str, &'static str)>,
) -> Vec<(HeaderName, String)> {
    let mut headers = Vec::new();
    for (name, value) in texts {
        let Field { key, value, .. } = reader.take(key.child(&name), value);
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            let mend = "write one such as \"X-Probe\": letters, digits and \"-\"";
            reader.refuse(&key, "is not the name of a header", mend);
            continue;
        };
        if let Some((what, mend)) = taken(&name) {
            reader.refuse(&key, what, mend);
        } else if HeaderValue::from_str(&value).is_err() {
            let what = "has a value with a control character or one that is not ASCII";
            reader.refuse(&key, what, "write letters, digits, spaces and punctuation only");
        } else {
            headers.push((name, value));
        }
    }
    headers
}

/// Headers that are not for the operator to set.
fn is_ours(name: &HeaderName) -> Option<(&'static str, &'static str)> {
    match *name {
        header::HOST => Some(("has a setting of its own", "set host = \"www.example.test\" instead")),
        header::CONNECTION | header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::UPGRADE => {
            Some(("says how the request travels, which the check does itself", "remove it"))
        }
        _ => None,
    }
}

fn path_of(reader: &mut Reader<'_>, Field { key, value: path, .. }: Field<String>) -> Option<String> {
    let what = if !path.starts_with('/') {
        "does not begin with /"
    } else if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        "has a space, a control character or one that is not ASCII"
    } else {
        return Some(path);
    };
    let mend = "write it as in a URL after the host, such as \"/healthz\"";
    reader.refuse(&key, format!("\"{path}\" {what}"), mend);
    None
}

pub(super) fn host(reader: &mut Reader<'_>, Field { key, value: host, .. }: Field<String>) -> Option<String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
    if !host.is_empty() && host.bytes().all(good) {
        return Some(host);
    }
    let what = format!("\"{host}\" is not a host");
    reader.refuse(&key, what, "write a name or address, with a port if need be: \"www.example.test\"");
    None
}

/// `"200"`, `"200-399"`, `"200,204,300-302"`.
fn statuses(
    reader: &mut Reader<'_>,
    Field { key, value: text, .. }: &Field<String>,
) -> Option<Vec<RangeInclusive<u16>>> {
    let status = |text: &str| text.trim().parse::<u16>().ok().filter(|status| (100..=599).contains(status));
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (status(first)?, status(last)?);
        (first <= last).then_some(first..=last)
    };
    let mut ranges = Vec::new();
    for part in text.split(',') {
        let Some(range) = range(part) else {
            let what = format!("\"{part}\" is not an HTTP status from 100 to 599, nor a range of them");
            reader.refuse(key, what, "write \"200\", \"200-399\" or \"200,204,300-302\"");
            return None;
        };
        ranges.push(range);
    }
    Some(ranges)
}
