//! `[peer_check]` and a service's `check`.

use std::{ops::RangeInclusive, time::Duration};

use tokio_rustls::rustls::pki_types::ServerName;

use super::{
    DAY, http,
    reader::{Field, Reader},
};
use crate::config::{
    Aim, Check, CheckKind, Forward, Passive, PeerCheck, Protocol, Timing, Tls,
    file::{self, Value},
    key::Key,
};

const BACKENDS: Timing = Timing {
    interval: Duration::from_secs(2),
    fast_interval: Duration::from_secs(2),
    timeout: Duration::from_secs(1),
    rise: 2,
    fall: 3,
    jitter: 0.1,
};
/// Long enough for an upgrade, short enough that a backend that dies meanwhile is not trusted for long.
const RESTART_GRACE: Duration = Duration::from_secs(60);
/// 25 services on addresses of peers are checked at the usual interval; what a peer's backends hardly notice.
const PROBE_RATE: u32 = 50;
/// Quicker than backends: 3 × 500 ms, and a dead node has left every peer's answers.
const PEERS: Timing = Timing {
    interval: Duration::from_millis(500),
    fast_interval: Duration::from_millis(500),
    timeout: Duration::from_millis(500),
    ..BACKENDS
};

pub(super) fn peer_check(reader: &mut Reader<'_>, root: &Key, section: Value<file::PeerCheck>) -> PeerCheck {
    let Some(Field { key, value: section, .. }) = reader.optional(root, "peer_check", section) else {
        return PeerCheck { timing: PEERS, restart_grace: RESTART_GRACE, peer_probe_rate: PROBE_RATE };
    };
    let rhythm = file::Timing {
        interval: section.interval,
        fast_interval: None,
        timeout: section.timeout,
        rise: section.rise,
        fall: section.fall,
        jitter: section.jitter,
    };
    let grace = section.restart_grace;
    let rate = reader.optional(&key, "peer_probe_rate", section.peer_probe_rate);
    let whole = |reader: &mut Reader<'_>, rate: Field<i64>| {
        reader.whole(&rate, 1..=100_000, "use 1 to 100000; 50 suits most")
    };
    PeerCheck {
        peer_probe_rate: rate.and_then(|rate| whole(reader, rate)).unwrap_or(PROBE_RATE),
        timing: timing(reader, &key, rhythm, PEERS),
        restart_grace: reader.duration_or(&key, "restart_grace", grace, RESTART_GRACE, Duration::ZERO..=DAY),
    }
}

/// `forward` is how the service's packets reach its backends, if that is known.
pub(super) fn check(
    reader: &mut Reader<'_>,
    service: &Key,
    section: Value<file::Check>,
    forward: Option<Forward>,
    protocol: Option<Protocol>,
) -> Check {
    let is_seen = forward == Some(Forward::Nat) && protocol == Some(Protocol::Tcp);
    let passive = if is_seen { Passive::Check } else { Passive::Off };
    let usual = if forward.is_some_and(Forward::is_direct) { Aim::Vip } else { Aim::Address };
    let Some(Field { key, value: section, .. }) = reader.optional(service, "check", section) else {
        return Check {
            kind: CheckKind::Tcp.into(),
            port: None,
            aim: usual,
            source: Vec::new(),
            passive,
            timing: BACKENDS,
        };
    };
    let rhythm = file::Timing {
        interval: section.interval,
        fast_interval: section.fast_interval,
        timeout: section.timeout,
        rise: section.rise,
        fall: section.fall,
        jitter: section.jitter,
    };
    let timing = timing(reader, &key, rhythm, BACKENDS);
    let port = reader.optional(&key, "port", section.port).and_then(|port| reader.port(&port));
    let passive = reader
        .optional(&key, "passive", section.passive)
        .and_then(|passive| passive_of(reader, &passive, forward, protocol))
        .unwrap_or(passive);
    let mend = "keep one per family";
    let source = reader.address_per_family(&key, "source", section.source, "checks", mend);
    let source = source.into_iter().map(|field| field.value).collect();
    let kind = reader
        .optional(&key, "kind", section.kind)
        .and_then(|kind| reader.choice(&kind, &Kind::ALL.map(|kind| (kind.name(), kind))));
    let path = reader.optional(&key, "path", section.path);
    let host = reader.optional(&key, "host", section.host);
    let send = reader.optional(&key, "send", section.send);
    let method = reader.optional(&key, "method", section.method);
    let headers = reader.optional(&key, "headers", section.headers);
    let expect_header = reader.optional(&key, "expect_header", section.expect_header);
    let expect_body = reader.optional(&key, "expect_body", section.expect_body);
    let expect = reader.optional(&key, "expect", section.expect);
    let server_name = reader.optional(&key, "server_name", section.server_name);
    let ca_file = reader.optional(&key, "ca_file", section.ca_file);
    let verify = reader.optional(&key, "verify", section.verify);
    let command = reader.list(&key, "command", section.command, String::clone);
    let query = reader.optional(&key, "query", section.query);
    let record = reader.optional(&key, "record", section.record);
    let grpc_service = reader.optional(&key, "grpc_service", section.grpc_service);
    // With a misspelt kind nobody knows what belongs here.
    if !reader.sound(&key.child("kind")) {
        return Check { kind: CheckKind::Tcp.into(), port, aim: usual, source, passive, timing };
    }
    let kind = kind.unwrap_or(Kind::Tcp);

    let written = [
        ("method", method.is_some(), &Kind::OF_HTTP[..]),
        ("path", path.is_some(), &Kind::OF_HTTP),
        ("host", host.is_some(), &Kind::OF_HTTP),
        ("headers", headers.is_some(), &Kind::OF_HTTP),
        ("expect_header", expect_header.is_some(), &Kind::OF_HTTP),
        ("expect_body", expect_body.is_some(), &Kind::OF_HTTP),
        ("send", send.is_some(), &[Kind::Udp]),
        ("expect", expect.is_some(), &[Kind::Http, Kind::Https, Kind::Udp, Kind::Dns]),
        ("server_name", server_name.is_some(), &Kind::OVER_TLS),
        ("ca_file", ca_file.is_some(), &Kind::OVER_TLS),
        ("verify", verify.is_some(), &Kind::OVER_TLS),
        ("command", command.is_some(), &[Kind::Exec]),
        ("query", query.is_some(), &[Kind::Dns]),
        ("record", record.is_some(), &[Kind::Dns]),
        ("grpc_service", grpc_service.is_some(), &[Kind::Grpc, Kind::Grpcs]),
    ];
    for (name, _, theirs) in written.iter().filter(|(_, written, theirs)| *written && !theirs.contains(&kind))
    {
        let what = format!("means nothing to a check of kind \"{}\"", kind.name());
        // `grpcs` rather than `https` for a check of kind "grpc".
        let kin = theirs.iter().find(|their| their.name().starts_with(kind.name()));
        let mend = format!("set kind = \"{}\", or remove it", kin.unwrap_or(&theirs[0]).name());
        reader.refuse(&key.child(name), what, mend);
    }
    let host = host.and_then(|host| http::host(reader, host));
    let tls = Kind::OVER_TLS
        .contains(&kind)
        .then(|| tls(reader, &key, server_name, host.as_deref(), ca_file, verify));
    let kind = match (kind, tls) {
        (Kind::Tls, Some(tls)) => CheckKind::Tls(tls),
        (Kind::Tcp | Kind::Tls, _) => CheckKind::Tcp,
        (Kind::Http | Kind::Https, tls) => {
            let written = http::Written { method, path, headers, expect, expect_header, expect_body };
            CheckKind::Http(Box::new(http::http(reader, written, host, tls)))
        }
        (Kind::Dns, _) => dns(reader, &key, query, record, expect),
        (Kind::Agent, _) => {
            if port.is_none() && reader.sound(&key.child("port")) {
                let mend = "set port = 9000, or where the agent listens";
                reader.refuse(&key.child("port"), "is missing: an agent has a port of its own", mend);
            }
            CheckKind::Agent
        }
        (Kind::Grpc | Kind::Grpcs, tls) => CheckKind::Grpc {
            service: grpc_service.map_or_else(String::new, |field| grpc_name(reader, field)),
            tls,
        },
        (Kind::Exec, _) => CheckKind::Exec { command: exec(reader, &key, command) },
        (Kind::Udp, _) => CheckKind::Udp {
            send: send.map_or_else(
                || {
                    let mend = "set send = \"…\" to what the backend answers";
                    reader.refuse(&key.child("send"), "is missing: servers do not answer to nothing", mend);
                    String::new()
                },
                |send| send.value,
            ),
            expect: expect.map(|expect| expect.value),
        },
    };
    let aim = aim(reader, &key, section.aim, &kind, forward).unwrap_or(usual);
    Check {
        aim: if kind.may_aim_at_vip() { aim } else { Aim::Address },
        kind: kind.into(),
        port,
        source,
        passive,
        timing,
    }
}

fn aim(
    reader: &mut Reader<'_>,
    check: &Key,
    value: Value<String>,
    kind: &CheckKind,
    forward: Option<Forward>,
) -> Option<Aim> {
    let aim = reader.optional(check, "aim", value)?;
    let wanted = reader.choice(&aim, &[("vip", Aim::Vip), ("address", Aim::Address)])?;
    let why_not = match forward {
        Some(Forward::Nat) => {
            Some("is not possible under forward = \"nat\", where backends do not have the service's address")
        }
        _ if !kind.may_aim_at_vip() => {
            Some("is not possible for this kind of check, which does not go to the service")
        }
        _ => None,
    };
    if let (Aim::Vip, Some(why)) = (wanted, why_not) {
        reader.refuse(&aim.key, why, "remove it");
    }
    Some(wanted)
}

fn passive_of(
    reader: &mut Reader<'_>,
    passive: &Field<String>,
    forward: Option<Forward>,
    protocol: Option<Protocol>,
) -> Option<Passive> {
    let choices = [("off", Passive::Off), ("check", Passive::Check), ("fail", Passive::Fail)];
    let wanted = reader.choice(passive, &choices)?;
    let why_not = match (forward, protocol) {
        _ if wanted == Passive::Off => None,
        (Some(forward), _) if forward.is_direct() => Some(format!(
            "is not possible under forward = \"{forward}\", where answers do not pass this node"
        )),
        (_, Some(Protocol::Udp)) => Some("is not possible for UDP, which opens no connections".to_owned()),
        _ => None,
    };
    if let Some(why) = why_not {
        reader.refuse(&passive.key, why, "remove it");
    }
    Some(wanted)
}

/// The kinds of check, as the file names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Http,
    Https,
    Tls,
    Udp,
    Dns,
    Grpc,
    Grpcs,
    Agent,
    Exec,
}

impl Kind {
    const ALL: [Kind; 10] = [
        Kind::Tcp,
        Kind::Http,
        Kind::Https,
        Kind::Tls,
        Kind::Udp,
        Kind::Dns,
        Kind::Grpc,
        Kind::Grpcs,
        Kind::Agent,
        Kind::Exec,
    ];

    const OF_HTTP: [Kind; 2] = [Kind::Http, Kind::Https];

    /// Those that have a certificate to judge.
    const OVER_TLS: [Kind; 3] = [Kind::Https, Kind::Tls, Kind::Grpcs];

    fn name(self) -> &'static str {
        match self {
            Kind::Tcp => "tcp",
            Kind::Http => "http",
            Kind::Https => "https",
            Kind::Tls => "tls",
            Kind::Udp => "udp",
            Kind::Dns => "dns",
            Kind::Grpc => "grpc",
            Kind::Grpcs => "grpcs",
            Kind::Agent => "agent",
            Kind::Exec => "exec",
        }
    }
}

/// Without a name of its own, the certificate is for the host that is asked for.
fn tls(
    reader: &mut Reader<'_>,
    key: &Key,
    server_name: Option<Field<String>>,
    host: Option<&str>,
    ca_file: Option<Field<String>>,
    verify: Option<Field<bool>>,
) -> Tls {
    let server_name = match server_name {
        Some(name) => tls_name(reader, name),
        None => host.map(|host| without_port(host).to_owned()),
    };
    let verify = verify.is_none_or(|verify| verify.value);
    if !verify && ca_file.is_some() {
        let what = "means nothing with verify = false";
        reader.refuse(&key.child("ca_file"), what, "set verify = true, or remove it");
    }
    let ca_file = ca_file.and_then(|file| reader.absolute_path(&file, "/etc/usher/ca.pem"));
    Tls {
        server_name: server_name.filter(|name| ServerName::try_from(name.as_str()).is_ok()),
        ca_file,
        verify,
    }
}

/// The name or address in a `Host` header.
fn without_port(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

/// Types of records that a server can be asked for, the usual one first.
const RECORDS: [&str; 10] = ["A", "AAAA", "CNAME", "MX", "NS", "PTR", "SOA", "SRV", "TXT", "CAA"];

/// A question, and what is expected of the answer.
fn dns(
    reader: &mut Reader<'_>,
    key: &Key,
    query: Option<Field<String>>,
    record: Option<Field<String>>,
    expect: Option<Field<String>>,
) -> CheckKind {
    const EXAMPLE: &str = "www.example.test";
    let query = match query {
        Some(query) => reader.dns_name(&query, EXAMPLE),
        None => {
            let mend = format!("set query = \"{EXAMPLE}\" to a name that the backend answers");
            reader.refuse(&key.child("query"), "is missing", mend);
            None
        }
    };
    let record = record.and_then(|record| reader.choice(&record, &RECORDS.map(|name| (name, name))));
    CheckKind::Dns {
        query: query.map_or_else(String::new, |query| query.to_string()),
        record: record.unwrap_or(RECORDS[0]),
        expect: expect.map(|expect| expect.value),
    }
}

/// As protocol buffers name it: `package.Service`.
fn grpc_name(reader: &mut Reader<'_>, field: Field<String>) -> String {
    const LONGEST: usize = 255;
    let good = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-' | '/');
    if field.value.len() > LONGEST || !field.value.chars().all(good) {
        let mend = "write its package and name, such as \"shop.Orders\", or \"\" for the whole server";
        reader.refuse(&field.key, "is not the name of a gRPC service", mend);
    }
    field.value
}

/// A program and its arguments.
fn exec(reader: &mut Reader<'_>, key: &Key, command: Option<Vec<Field<String>>>) -> Vec<String> {
    let words = command.unwrap_or_else(|| {
        let mend = "write the program and its arguments, such as [\"/usr/local/bin/check-db\", \"--quick\"]";
        reader.refuse(&key.child("command"), "is missing", mend);
        Vec::new()
    });
    if let Some(program) = words.first()
        && !program.value.starts_with('/')
    {
        let what = format!("\"{}\" is not an absolute path", program.value);
        reader.refuse(
            &program.key,
            what,
            "write the program's whole path, such as \"/usr/local/bin/check-db\"",
        );
    }
    words.into_iter().map(|word| word.value).collect()
}

fn tls_name(reader: &mut Reader<'_>, Field { key, value: name, .. }: Field<String>) -> Option<String> {
    if ServerName::try_from(name.as_str()).is_ok() {
        return Some(name);
    }
    let what = format!("\"{name}\" is not a name that a certificate can be for");
    reader.refuse(&key, what, "write a host name or an address: \"www.example.test\"");
    None
}

fn timing(reader: &mut Reader<'_>, key: &Key, section: file::Timing, default: Timing) -> Timing {
    /// A shorter interval loads the backends more than it tells; a longer one is no check.
    const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(10)..=DAY;
    const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY;

    let interval = reader.duration_or(key, "interval", section.interval, default.interval, INTERVAL);
    // The default follows a shorter interval, so that setting the interval alone is enough.
    let default_timeout = default.timeout.min(interval);
    let written = section.timeout.is_some();
    let timeout = reader.duration_or(key, "timeout", section.timeout, default_timeout, TIMEOUT);
    if written && timeout > interval && reader.sound(&key.child("interval")) {
        let what = format!("{} is longer than the interval, {}", show(timeout), show(interval));
        reader.refuse(
            &key.child("timeout"),
            what,
            format!("use {} or less, or a longer interval", show(interval)),
        );
    }
    let fast_interval = reader.duration_or(key, "fast_interval", section.fast_interval, interval, INTERVAL);
    if fast_interval > interval && reader.sound(&key.child("interval")) {
        let what = format!("{} is longer than the interval, {}", show(fast_interval), show(interval));
        let mend = format!("use {} or less, or remove it", show(interval));
        reader.refuse(&key.child("fast_interval"), what, mend);
    }
    let rise = reader.optional(key, "rise", section.rise);
    let fall = reader.optional(key, "fall", section.fall);
    Timing {
        interval,
        fast_interval,
        timeout,
        rise: rise.and_then(|rise| times(reader, &rise)).unwrap_or(default.rise),
        fall: fall.and_then(|fall| times(reader, &fall)).unwrap_or(default.fall),
        jitter: jitter(reader, key, section.jitter).unwrap_or(default.jitter),
    }
}

/// Results in a row.
fn times(reader: &mut Reader<'_>, field: &Field<i64>) -> Option<u32> {
    reader.whole(field, 1..=1_000, "use 1 to 1000 results in a row, such as 3")
}

#[expect(clippy::cast_possible_truncation, reason = "a share of an interval needs no more than f32 has")]
fn jitter(reader: &mut Reader<'_>, table: &Key, written: Value<f64>) -> Option<f32> {
    let Field { key, value, .. } = reader.optional(table, "jitter", written)?;
    if (0.0..=0.5).contains(&value) {
        return Some(value as f32);
    }
    reader.refuse(
        &key,
        format!("{value} is not a share from 0 to 0.5"),
        "use 0.1 to vary each interval by a tenth",
    );
    None
}

fn show(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}
