//! The host `dns2`: BIND as a secondary of the zone's primary: BIND or Knot.

use std::net::IpAddr;

use anyhow::Result;

use crate::{
    configs::{addresses, file, state},
    host::Host,
    lab::Lab,
    process::spawn,
    raise::{log, write},
    topology::{Options, ZONE},
};

/// What serves the zone there.
pub(crate) const PROGRAM: &str = "named";

/// Writes what it reads, if there is one.
pub(crate) fn write_files(options: &Options) -> Result<()> {
    if !options.dns.has_secondary() {
        return Ok(());
    }
    let primaries: String = v4(Host::Dns).map(|address| format!("{address}; ")).collect();
    let zone = format!("zone \"{ZONE}\" {{ type secondary; primaries {{ {primaries}}}; }};\n");
    write(&file(Host::Secondary, "named.conf"), &(bind_options(Host::Secondary) + &zone))
}

/// Starts it, if there is one.
pub(crate) fn start(lab: &Lab) -> Result<()> {
    if !lab.options().dns.has_secondary() {
        return Ok(());
    }
    let config = file(Host::Secondary, "named.conf");
    let words = [PROGRAM, "-g", "-n", "1", "-c", &config.to_string_lossy()];
    spawn(lab.command(Host::Secondary, &words), &log(Host::Secondary, PROGRAM))
}

/// Where primaries send notifications to, and whom they give the zone.
pub(crate) fn v4(host: Host) -> impl Iterator<Item = IpAddr> {
    addresses(host).filter(IpAddr::is_ipv4)
}

/// BIND on a host, for what follows.
pub(crate) fn bind_options(host: Host) -> String {
    let list = |all: &mut dyn Iterator<Item = IpAddr>| -> String {
        all.map(|address| format!("{address}; ")).collect()
    };
    let folder = state(&host.to_string());
    format!(
        r#"options {{
    directory "{folder}";
    listen-on {{ {v4}}};
    listen-on-v6 {{ {v6}}};
    pid-file none;
    session-keyfile none;
    managed-keys-directory "{folder}";
    recursion no;
    dnssec-validation no;
}};
controls {{}};
"#,
        folder = folder.display(),
        v4 = list(&mut v4(host)),
        v6 = list(&mut addresses(host).filter(IpAddr::is_ipv6)),
    )
}
