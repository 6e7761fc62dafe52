//! The page that `usher status` prints.

use std::net::SocketAddr;

use crate::{
    cli::text::{Cell, Tone, age, bytes, check_duration, count, left, percent, printable, shorten, table},
    config::AllDown,
    core::{health::Health, passive},
    status::{
        AttachedMode, Backend, Checks, Dns, DnsName, Drained, Failing, FlowTable, Interface, LastCheck,
        Memory, NatShortage, Peer, Publisher, Service, Silence, State, Status,
    },
};

/// Longer details would push the columns off the screen; JSON has them whole.
const DETAIL_LIMIT: usize = 40;

/// The page, one section per subject, in the order in which a packet meets them.
pub(super) fn render(status: &Status, colour: bool) -> String {
    let mut sections = vec![node(status)];
    if !status.nat_shortages.is_empty() {
        sections.push(nat_shortages(&status.nat_shortages, colour));
    }
    sections.push(interfaces(&status.interfaces, colour));
    sections.extend(status.services.iter().map(|found| service(found, colour)));
    if !status.peers.is_empty() {
        sections.push(peers(&status.peers, colour));
    }
    sections.push(match &status.dns {
        Some(found) => {
            let publishers = found.publishers.iter().map(|one| publisher(one, colour));
            std::iter::once(dns(found, colour)).chain(publishers).collect()
        }
        None => "DNS: not configured\n".to_owned(),
    });
    let numbers = [checks(&status.checks), flow_table(status.flow_table), memory(status.memory)];
    sections.push([numbers.concat(), drops(status, colour)].concat());
    sections.join("\n")
}

/// Packets by service and reason, without zeros; `-` stands for packets of no service.
pub(super) fn reasons(status: &Status) -> String {
    let of_services = |reason: &str| -> u64 {
        status.services.iter().filter_map(|service| service.packets.get(reason)).sum()
    };
    let others = status.packets.iter();
    let others = others.map(|(reason, all)| ("-", reason, all.saturating_sub(of_services(reason))));
    let services = status.services.iter().flat_map(|service| {
        service.packets.iter().map(|(reason, &packets)| (service.name.as_str(), reason, packets))
    });
    let mut rows = vec![vec![Cell::text("SERVICE"), Cell::text("REASON"), Cell::number("PACKETS")]];
    let counted = services.chain(others).filter(|(.., packets)| *packets > 0);
    rows.extend(counted.map(|(service, reason, packets)| {
        vec![Cell::text(service), Cell::text(reason), Cell::number(count(packets))]
    }));
    table(&rows, false)
}

fn node(status: &Status) -> String {
    let drained = match status.drained {
        None => String::new(),
        Some(Drained { left_s: None }) => "DRAINED: out of DNS until `usher node ready`\n".to_owned(),
        Some(Drained { left_s: Some(left) }) => {
            format!(
                "DRAINED: out of DNS for {}, or until `usher node ready`\n",
                age(left.saturating_mul(1_000))
            )
        }
    };
    let set: String =
        status.set.iter().map(|line| format!("NOT IN THE FILE: {}\n", printable(line))).collect();
    format!(
        "usher {} on {}, running for {}, configured by {}\n{drained}{set}",
        printable(&status.version),
        printable(&status.node),
        age(status.started_ago_ms),
        printable(&status.config_path.display().to_string())
    )
}

/// First of all, because users feel it.
fn nat_shortages(shortages: &[NatShortage], colour: bool) -> String {
    let mut rows = vec![headings(&["SERVICE", "FOR", "REFUSED", "BACKEND", "FLOWS", "FROM"])];
    rows.extend(shortages.iter().map(|shortage| {
        let sources: Vec<String> = shortage.sources.iter().map(ToString::to_string).collect();
        vec![
            Cell::text(format!("{}/{}", shortage.service, shortage.family)).tone(Tone::Bad),
            Cell::text(age(shortage.since_ms)),
            Cell::number(count(shortage.refused)),
            Cell::text(&shortage.backend),
            Cell::number(count(shortage.flows)),
            Cell::text(sources.join(", ")),
        ]
    }));
    format!(
        "NAT PORTS HAVE RUN OUT: new flows are refused (nat_full); {}\n{}",
        NatShortage::MEND,
        table(&rows, colour)
    )
}

fn interfaces(interfaces: &[Interface], colour: bool) -> String {
    let mut rows = vec![headings(&["INTERFACE", "XDP"])];
    rows.extend(interfaces.iter().map(|interface| {
        let mode = match interface.xdp_mode {
            AttachedMode::Native => Cell::text("native"),
            AttachedMode::Generic => Cell::text("generic"),
            AttachedMode::None => Cell::text("none").tone(Tone::Bad),
        };
        vec![Cell::text(&interface.name), mode, Cell::text(&interface.detail)]
    }));
    format!("Interfaces\n{}", table(&rows, colour))
}

fn service(service: &Service, colour: bool) -> String {
    let addresses: Vec<String> = service.addresses.iter().map(ToString::to_string).collect();
    let dns_name =
        service.dns_name.as_deref().map(|name| format!(", {}", printable(name))).unwrap_or_default();
    let mut out = format!(
        "Service {}: {} port {} on {}, {}{dns_name}, {} flows\n",
        printable(&service.name),
        service.protocol,
        service.port,
        addresses.join(", "),
        service.forward,
        count(service.flows),
    );
    for (family, why) in &service.unusual {
        out.push_str(&format!("  {}: {}\n", printable(family), printable(why)));
    }
    let mut rows = vec![
        headings(&["BACKEND", "ADDRESS", "ADMIN", "HEALTH", "LAST CHECK"])
            .into_iter()
            .chain(["WEIGHT", "SHARE", "FLOWS", "BEGUN", "PACKETS", "BYTES"].map(Cell::number))
            .collect(),
    ];
    rows.extend(service.backends.iter().map(|backend| backend_row(service, backend)));
    out.push_str(&table(&rows, colour));
    for backend in service.backends.iter().filter(|backend| backend.next_hop.is_none()) {
        out.push_str(&format!(
            "  {} at {}: no next hop; no route to it, or its neighbour does not answer\n",
            printable(&backend.name),
            backend.address
        ));
    }
    for (backend, silence) in service.backends.iter().filter_map(|one| Some((one, one.silence?))) {
        let Silence { opened, window_ms, ago_ms, held_ms } = silence;
        let held = held_ms.map(|left| format!("; passing checks count in {}", age(left))).unwrap_or_default();
        out.push_str(&format!(
            "  {} at {}: {}, {} ago{held}\n",
            printable(&backend.name),
            backend.address,
            passive::Silence { opened, window_ms },
            age(ago_ms)
        ));
    }
    for (backend, start) in service.backends.iter().filter_map(|one| Some((one, one.slow_start?))) {
        out.push_str(&format!(
            "  {} at {}: slow start; {} % of its weight count, all in {}\n",
            printable(&backend.name),
            backend.address,
            start.share,
            age(start.left_ms)
        ));
    }
    out
}

fn backend_row(service: &Service, backend: &Backend) -> Vec<Cell> {
    let pool_slots: u64 = service
        .backends
        .iter()
        .filter(|other| other.family == backend.family)
        .map(|other| u64::from(other.slots))
        .sum();
    vec![
        Cell::text(&backend.name),
        Cell::text(SocketAddr::new(backend.address, backend.port).to_string()),
        Cell::text(format!("{}{}", backend.admin, left(backend.drain_left_s))),
        health(backend),
        last_check(backend.last_check.as_ref()),
        Cell::number(weight(backend)),
        Cell::number(percent(backend.slots.into(), pool_slots)),
        Cell::number(count(backend.flows)),
        Cell::number(count(backend.flows_begun)),
        Cell::number(count(backend.packets)),
        Cell::number(bytes(backend.bytes)),
    ]
}

/// As checks find it, unless the administrator says otherwise.
fn health(backend: &Backend) -> Cell {
    match backend.forced_health {
        Some(Health::Up) => Cell::text("up, set").tone(Tone::Good),
        Some(Health::Down) => Cell::text("down, set").tone(Tone::Bad),
        None => state(backend.health, backend.since_ms),
    }
}

/// The one that counts, the configuration's if that is another, and how much of it counts.
fn weight(backend: &Backend) -> String {
    let weight = match backend.weight == backend.configured_weight {
        true => backend.weight.to_string(),
        false => format!("{} of {}", backend.weight, backend.configured_weight),
    };
    let weight = match backend.slow_start {
        Some(start) => format!("{weight}, {} %", start.share),
        None => weight,
    };
    match (backend.fallback, backend.backup) {
        (true, _) => format!("{weight}, fallback"),
        (_, true) => format!("{weight}, backup"),
        _ => weight,
    }
}

fn peers(peers: &[Peer], colour: bool) -> String {
    let mut rows = vec![headings(&["PEER", "SERVICE", "ADDRESS", "STATE", "LAST CHECK"])];
    for peer in peers {
        rows.extend(peer.pools.iter().map(|pool| {
            vec![
                Cell::text(&peer.name),
                Cell::text(format!("{}/{}", pool.service, pool.family)),
                Cell::text(pool.address.to_string()),
                state(pool.state, pool.since_ms),
                last_check(pool.last_check.as_ref()),
            ]
        }));
    }
    let silent = peers.iter().filter(|peer| peer.answers == Some(false));
    let silent = silent.map(|peer| format!("  {}: its daemon does not answer\n", peer.name));
    let drifted =
        peers.iter().filter_map(|peer| Some(format!("  {}: {}\n", peer.name, peer.drift.as_ref()?)));
    let notes: String = silent.chain(drifted).collect();
    format!("Peers\n{}{notes}", table(&rows, colour))
}

fn dns(dns: &Dns, colour: bool) -> String {
    let mut rows = vec![headings(&["NAME", "NODE", "ADDRESS", "PUBLISHED", "WHY"])];
    for name in &dns.names {
        rows.extend(name.addresses.iter().map(|address| {
            vec![
                Cell::text(&name.name),
                Cell::text(&address.node),
                Cell::text(address.address.to_string()),
                if address.published {
                    Cell::text("yes").tone(Tone::Good)
                } else {
                    Cell::text("no").tone(Tone::Bad)
                },
                Cell::text(&address.why),
            ]
        }));
    }
    let policy: String = dns.names.iter().map(|name| policy(name) + &doubt(name)).collect();
    format!(
        "DNS zone {}: serial {}, {} queries answered\n{}{policy}",
        printable(&dns.zone),
        dns.serial,
        count(dns.queries),
        table(&rows, colour),
    )
}

fn publisher(publisher: &Publisher, colour: bool) -> String {
    let Publisher { zone, primary, .. } = publisher;
    let read = publisher
        .read_ago_ms
        .map_or_else(|| "not read yet".to_owned(), |ago| format!("read {} ago", age(ago)));
    let failing = publisher.failing.as_ref().map(|Failing { since_ms, why, again_in_ms, .. }| {
        let (since, again) = (age(*since_ms), age(*again_in_ms));
        format!("  FAILING for {since}, next try in {again}: {}\n", printable(why))
    });
    let mut rows = vec![headings(&["NAME", "NODE", "ADDRESS", "STATE", "LEASE"])];
    rows.extend(publisher.addresses.iter().map(|address| {
        let tone = if address.state == "published" { Tone::Good } else { Tone::Bad };
        let lease =
            address.lease_age_ms.map_or_else(|| "none".to_owned(), |ago| format!("changed {} ago", age(ago)));
        vec![
            Cell::text(&address.name),
            Cell::text(&address.node),
            Cell::text(address.address.to_string()),
            Cell::text(&address.state).tone(tone),
            Cell::text(lease),
        ]
    }));
    let troubles: String =
        publisher.troubles.iter().map(|trouble| format!("  {}\n", printable(trouble))).collect();
    format!(
        "Published in {} at {primary}: {read}\n{}{}{troubles}",
        printable(zone),
        failing.unwrap_or_default(),
        table(&rows, colour)
    )
}

fn doubt(name: &DnsName) -> String {
    short_ttl(name).map_or_else(String::new, |why| format!("  {}: {why}\n", printable(&name.name)))
}

/// Why a name's TTL is short, while it is.
pub(super) fn short_ttl(name: &DnsName) -> Option<String> {
    let doubts = name.in_doubt.join(", ");
    (!doubts.is_empty()).then(|| format!("TTL {} s, since {}", name.ttl_s, printable(&doubts)))
}

fn policy(name: &DnsName) -> String {
    let answer = match name.policy_in_force {
        Some(AllDown::All) => "answers name every node (all_down = \"all\")",
        Some(AllDown::None) => "answers are empty (all_down = \"none\")",
        None => return String::new(),
    };
    format!("  {}: no node can serve; {answer}\n", printable(&name.name))
}

/// A check that begins later than this finds out later than the configuration promises.
const LATE_MS: u32 = 50;

fn checks(checks: &Checks) -> String {
    let late = checks.later_than_ms.get(&LATE_MS).copied().unwrap_or(0);
    format!(
        "Checks: {} begun, the latest of the last minute {} late; {} more than {LATE_MS} ms late since the start\n",
        count(checks.begun),
        check_duration(checks.worst_late_ms),
        count(late)
    )
}

fn flow_table(flows: FlowTable) -> String {
    format!(
        "Flow table: {} of {} flows ({}): {} new, {} proven, {} closing\n",
        count(flows.used),
        count(flows.capacity),
        percent(flows.used, flows.capacity),
        count(flows.new),
        count(flows.proven),
        count(flows.closing)
    )
}

fn memory(memory: Memory) -> String {
    format!(
        "Memory: flow table {}, NAT records {}, Maglev tables {}, other maps {}; the daemon {}\n",
        bytes(memory.flow_table),
        bytes(memory.nat),
        bytes(memory.maglev),
        bytes(memory.other),
        bytes(memory.daemon)
    )
}

fn drops(status: &Status, colour: bool) -> String {
    let rows: Vec<Vec<Cell>> = status
        .drops
        .iter()
        .filter(|&(_, &packets)| packets > 0)
        .map(|(reason, &packets)| vec![Cell::text(reason), Cell::number(count(packets))])
        .collect();
    if rows.is_empty() {
        return "Dropped packets: none\n".to_owned();
    }
    format!("Dropped packets\n{}", table(&rows, colour))
}

fn headings(names: &[&str]) -> Vec<Cell> {
    names.iter().map(Cell::text).collect()
}

fn state(state: State, since_ms: u64) -> Cell {
    let since = age(since_ms);
    match state {
        State::Up => Cell::text(format!("up {since}")).tone(Tone::Good),
        State::Down => Cell::text(format!("down {since}")).tone(Tone::Bad),
        State::Unchecked => Cell::text("unchecked"),
    }
}

fn last_check(check: Option<&LastCheck>) -> Cell {
    let Some(check) = check else { return Cell::text("none yet") };
    let detail = if check.detail.is_empty() {
        String::new()
    } else {
        format!(" {}", shorten(&check.detail, DETAIL_LIMIT))
    };
    Cell::text(format!(
        "{}{detail}, {}, {} ago",
        check.code,
        check_duration(check.duration_ms),
        age(check.ago_ms)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Status {
        serde_json::from_str(include_str!("../../tests/api/status.json")).expect("example is a status")
    }

    #[test]
    fn page_shows_the_whole_example() {
        assert_eq!(render(&example(), false), include_str!("../../tests/api/status.txt"));
    }

    #[test]
    fn colour_adds_only_escape_codes() {
        let page = render(&example(), true);
        assert!(page.contains("\x1b[32mup 2 h 5 min\x1b[0m"), "{page}");
        assert!(page.contains("\x1b[31mdown 12 s\x1b[0m"), "{page}");
        let plain =
            ["\x1b[31m", "\x1b[32m", "\x1b[0m"].iter().fold(page, |text, code| text.replace(code, ""));
        assert_eq!(plain, render(&example(), false));
    }

    #[test]
    fn packets_are_shown_by_service_and_reason() {
        let page = "  \
  SERVICE  REASON        PACKETS
  web      nat         1,235,547
  web      nat_reply   1,180,211
  web      no_backend         17
  -        forwarded   1,235,547
  -        no-backend         17
  -        not-ours       52,310
";
        assert_eq!(reasons(&example()), page);
    }

    #[test]
    fn empty_parts_are_said_or_left_out() {
        let mut status = example();
        status.peers.clear();
        status.dns = None;
        status.drops.values_mut().for_each(|packets| *packets = 0);
        status.interfaces[0].xdp_mode = AttachedMode::None;
        status.drained = Some(Drained { left_s: None });
        status.nat_shortages.clear();
        let page = render(&status, false);
        assert!(page.contains("DNS: not configured\n"), "{page}");
        assert!(page.ends_with("Dropped packets: none\n"), "{page}");
        assert!(page.contains("  front      none\n"), "{page}");
        assert!(page.contains("\nDRAINED: out of DNS until `usher node ready`\n"), "{page}");
        assert!(!page.contains("Peers"), "{page}");
        assert!(!page.contains("NAT PORTS"), "{page}");
    }
}
