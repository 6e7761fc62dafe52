//! The host `dns`: a primary name server for the zone, set up as `dist/dns/` shows.

use std::{fmt::Write, path::PathBuf};

use anyhow::Result;

use crate::{
    configs::{addresses, file, state},
    host::Host,
    lab::Lab,
    process::spawn,
    raise::{log, random_hex, write, write_readable_by_root},
    secondary::{bind_options, v4},
    topology::{DnsServer, Options, ZONE},
};

/// The nodes' names under which they publish their addresses; the examples in `dist/dns/` grant them.
const NAMES: [&str; 2] = ["www", "echo"];

/// Where a node has the key that it signs with.
pub(crate) fn key_file(node: Host) -> PathBuf {
    file(node, "publish.key")
}

/// The program that serves the zone, if nodes do not.
pub(crate) fn program(options: &Options) -> Option<&'static str> {
    match options.dns {
        DnsServer::Embedded => None,
        DnsServer::Bind => Some("named"),
        DnsServer::Knot => Some("knotd"),
        DnsServer::Powerdns => Some("pdns_server"),
    }
}

/// Writes the key to all who need it, and what the server reads.
pub(crate) fn write_files(options: &Options) -> Result<()> {
    if !options.dns.is_shared() {
        return Ok(());
    }
    // Hexadecimal digits are base64, too.
    let secret = random_hex()?;
    let key = format!("key \"usher-key\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{secret}\";\n}};\n");
    for host in options.node_hosts().chain([Host::Dns]) {
        write_readable_by_root(&key_file(host), &key)?;
    }
    let operators = key.replace("usher-key", "operator-key").replace(&secret, &random_hex()?);
    write_readable_by_root(&ours(OPERATOR), &operators)?;
    write(&ours(ZONE_FILE), &zone(options))?;
    match options.dns {
        DnsServer::Embedded => Ok(()),
        DnsServer::Bind => write(&ours("named.conf"), &named_conf()),
        DnsServer::Knot => write_readable_by_root(&ours("knot.conf"), &knot_conf(options, &secret)),
        DnsServer::Powerdns => {
            write(
                &ours("usher-update-policy.lua"),
                include_str!("../../../dist/dns/usher-update-policy.lua"),
            )?;
            // For `pdnsutil` when the server is started; nobody else looks at it.
            write_readable_by_root(&ours("secret"), &secret)?;
            write(&ours("pdns.conf"), &pdns_conf())
        }
    }
}

/// As `faketime` has it, which would stay between us and the server. The C library comes before jemalloc, which asks for
/// the time while the other one looks for its functions.
const FAKETIME: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1:libc.so.6";

/// Starts the server, if there is one, with the right time of day or one that is off by so many seconds.
pub(crate) fn start(lab: &Lab, clock: Option<&str>) -> Result<()> {
    let config = |name: &str| ours(name).to_string_lossy().into_owned();
    let words: Vec<String> = match lab.options().dns {
        DnsServer::Embedded => return Ok(()),
        DnsServer::Bind => ["named", "-g", "-n", "1", "-c", &config("named.conf")].map(str::to_owned).into(),
        DnsServer::Knot => ["knotd", "-c", &config("knot.conf")].map(str::to_owned).into(),
        DnsServer::Powerdns => {
            let folder = format!("--config-dir={}", config(""));
            let import = format!(
                "set -e; pdnsutil {folder} load-zone {ZONE} {}; \
                 pdnsutil {folder} import-tsig-key usher-key hmac-sha256 $(cat {})",
                config(ZONE_FILE),
                config("secret")
            );
            // A server that is started again has its records.
            if !ours("pdns.lmdb").exists() {
                lab.run(Host::Dns, &["sh", "-c", &import])?;
            }
            vec!["pdns_server".to_owned(), folder]
        }
    };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut command = lab.command(Host::Dns, &words);
    if let Some(clock) = clock {
        // Timers go on as ever.
        command.env("LD_PRELOAD", FAKETIME).env("FAKETIME", clock).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
    spawn(command, &log(Host::Dns, words[0]))
}

/// Makes an operator's changes on BIND.
pub(crate) fn change(lab: &Lab, lines: &[&str]) -> Result<()> {
    let script = ours("changes");
    let server = lab.address(Host::Dns)?.v4;
    write(&script, &format!("server {server}\nzone {ZONE}\n{}\nsend\n", lines.join("\n")))?;
    let key = ours(OPERATOR).to_string_lossy().into_owned();
    lab.run(Host::Dns, &["nsupdate", "-k", &key, &script.to_string_lossy()]).map(drop)
}

const ZONE_FILE: &str = "example.test.zone";

/// The key of the zone's operator, who may change everything.
const OPERATOR: &str = "operator.key";

/// A file of the host `dns`.
fn ours(name: &str) -> PathBuf {
    file(Host::Dns, name)
}

/// What an operator has there already.
fn zone(options: &Options) -> String {
    let mut text = format!(
        r#"$TTL 60
@ 5 IN SOA dns.{ZONE}. hostmaster.{ZONE}. 1 60 60 600 5
@ IN TXT "the operator's own"
static IN A 203.0.113.99
"#
    );
    for host in options.dns_hosts() {
        let _ = writeln!(text, "@ IN NS {host}.{ZONE}.");
        for address in addresses(host) {
            let kind = if address.is_ipv4() { "A" } else { "AAAA" };
            let _ = writeln!(text, "{host} IN {kind} {address}");
        }
    }
    text
}

fn named_conf() -> String {
    let own = include_str!("../../../dist/dns/named.conf")
        .replace("/var/lib/bind", &state(&Host::Dns.to_string()).to_string_lossy())
        .replace("/etc/bind/usher.key", &key_file(Host::Dns).to_string_lossy())
        .replace("update-policy {", "update-policy {\n        grant operator-key zonesub ANY;");
    let operator = ours(OPERATOR);
    // Notifications go to all that the zone's NS records name, and anybody may have it.
    format!("include {operator:?};\n{}{own}", bind_options(Host::Dns))
}

fn knot_conf(options: &Options, secret: &str) -> String {
    let folder = state(&Host::Dns.to_string());
    let folder = folder.display();
    let listen: Vec<_> = addresses(Host::Dns).map(|address| format!("{address}@53")).collect();
    let leases = |name: &'static str| options.node_hosts().map(move |node| format!("_usher-{node}.{name}"));
    let owners: Vec<_> =
        NAMES.into_iter().flat_map(|name| [name.to_owned()].into_iter().chain(leases(name))).collect();
    let granted = |line: &str| match line.split_once("update-owner-name:") {
        Some((before, _)) => format!("{before}update-owner-name: [{}]\n", owners.join(", ")),
        None => format!("{line}\n"),
    };
    let own: String = include_str!("../../../dist/dns/knot.conf").lines().map(granted).collect();
    let secondary: String = v4(Host::Secondary).map(|address| address.to_string()).collect();
    let own = own
        .replace("/var/lib/knot", &folder.to_string())
        .replace("SECRET", secret)
        .replace(
            "\nacl:\n",
            &format!("\nacl:\n  - id: secondary\n    address: {secondary}\n    action: transfer\n"),
        )
        .replace("\n    acl: usher\n", "\n    acl: [usher, secondary]\n    notify: secondary\n");
    format!(
        r#"server:
    rundir: "{folder}"
    listen: [{listen}]
database:
    storage: "{folder}"
remote:
  - id: secondary
    address: {secondary}
log:
  - target: stderr
    any: info
{own}"#,
        listen = listen.join(", ")
    )
}

fn pdns_conf() -> String {
    let folder = state(&Host::Dns.to_string());
    let listen: Vec<_> = addresses(Host::Dns).map(|address| address.to_string()).collect();
    let policy = folder.join("usher-update-policy.lua");
    let own = include_str!("../../../dist/dns/pdns.conf")
        .replace("/etc/powerdns/usher-update-policy.lua", &policy.to_string_lossy());
    format!(
        "launch=lmdb\nlmdb-filename={folder}/pdns.lmdb\nlocal-address={listen}\nsocket-dir={folder}\n\
         disable-syslog=yes\nsecurity-poll-suffix=\n{own}",
        folder = folder.display(),
        listen = listen.join(", ")
    )
}
