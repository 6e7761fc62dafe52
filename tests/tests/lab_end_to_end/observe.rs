//! `usher flows` and `usher capture`, and counters to the packet.

use std::{
    fs::File,
    io::BufReader,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lb_userspace::{
    flows::{Flows, Stage},
    status::{Backend, Status},
};
use pcap_file::pcapng::{Block, PcapNgReader, blocks::enhanced_packet::EnhancedPacketOption};
use usher_lab::{Family, Forward, Host, Lab, Tally, until};

use crate::support::{RECOVERY, client, expect_equal, first_line, service, status, vip, way_out};

const WEB: u16 = 80;
const ECHO: u16 = 7;

/// Fetches the page from this client port; which backend answered.
fn fetch(lab: &Lab, family: Family, port: u16) -> Result<String> {
    let from = client(lab, family, port)?.ip().to_string();
    let url = format!("http://{}/", vip(lab, 1, family, WEB)?);
    let port = port.to_string();
    let curl = ["curl", "-sSf", "-m", "2", "--interface", &from, "--local-port", &port, &url];
    Ok(first_line(&lab.run(Host::Client, &curl)?))
}

/// The word for the reason with which a client's packets are sent on.
fn sent(lab: &Lab) -> &'static str {
    match lab.options().forward {
        Forward::Nat => "nat",
        Forward::DsrL2 => "dsr_l2",
        Forward::DsrIpip => "dsr_ipip",
        Forward::DsrGue => "dsr_gue",
    }
}

/// What `usher flows` of node 1 shows.
pub(crate) fn flows(lab: &Lab, words: &[&str]) -> Result<Flows> {
    let command = [&["usher", "flows", "--json"], words].concat();
    serde_json::from_str(&lab.run(Host::Node(1), &command)?).context("`usher flows --json` are no flows")
}

pub(crate) fn flows_of_one_client_are_found_with_their_backend(lab: &Lab) -> Result<()> {
    for (family, port) in [(Family::V4, 27_001), (Family::V6, 27_002)] {
        let from = client(lab, family, port)?;
        let backend = fetch(lab, family, port)?;
        let nat = lab.options().forward == Forward::Nat;
        // curl is done with its connection, and the backend will be soon.
        until("the flow is shown", RECOVERY, || {
            let found = flows(lab, &["--service", "web", "--client", &from.to_string()])?;
            let [flow] = found.flows.as_slice() else { bail!("not one flow of {from}: {found:?}") };
            expect_equal("backend", &flow.backend, &backend)?;
            expect_equal("client", &flow.client, &Some(from))?;
            expect_equal("VIP", &flow.vip, &Some(vip(lab, 1, family, WEB)?))?;
            expect_equal("state", &flow.state, &Stage::Closing)?;
            expect_equal("has a NAT port", &flow.nat_port.is_some(), &nat)?;
            expect_equal("in the flow table", &found.flow_table.map(|counts| counts.closing), &Some(1))?;
            expect_equal("NAT records", &found.nat.closing, &u64::from(nat))
        })?;

        let other = flows(lab, &["--service", "echo", "--client", &from.to_string()])?;
        ensure!(other.flows.is_empty(), "{from} never used the echo: {other:?}");
    }
    let counted = lab.run(Host::Node(1), &["usher", "flows", "--backend", "backend1", "--count"])?;
    ensure!(counted.starts_with("Flow table: "), "{counted}");
    let unknown = lab.output(Host::Node(1), &["usher", "flows", "--service", "wbe"])?;
    ensure!(unknown.stderr.contains("no service is called `wbe`; there are "), "{unknown:?}");
    Ok(())
}

pub(crate) fn metrics_tell_what_status_tells(lab: &Lab) -> Result<()> {
    fetch(lab, Family::V4, 27_003)?;
    let before = status(lab, 1)?;
    let text = lab.run(Host::Node(1), &["curl", "-sSf", "-m", "2", "http://127.0.0.1:9464/metrics"])?;
    let after = status(lab, 1)?;
    let figure = |name: &str, backend: &Backend| {
        let Backend { family, name: of, .. } = backend;
        let series = format!("{name}{{service=\"web\",family=\"{family}\",backend=\"{of}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&series));
        value.with_context(|| format!("no {series}in:\n{text}"))?.parse::<f64>().context("a number")
    };
    let backends = &service(&before, "web")?.backends;
    for (backend, later) in backends.iter().zip(&service(&after, "web")?.backends) {
        expect_equal("up", &figure("usher_backend_up", backend)?, &1.0)?;
        let packets = figure("usher_backend_packets_total", backend)? as u64;
        ensure!((backend.packets..=later.packets).contains(&packets), "{packets} packets of {backend:?}");
    }
    ensure!(backends.iter().any(|backend| backend.packets > 0), "no packets: {backends:?}");
    ensure!(text.ends_with("# EOF\n"), "{text}");
    Ok(())
}

/// Packets of a service by reason.
fn reasons(status: &Status, name: &str) -> Result<Vec<(String, u64)>> {
    let packets = &service(status, name)?.packets;
    Ok(packets.iter().filter(|(_, count)| **count > 0).map(|(name, count)| (name.clone(), *count)).collect())
}

/// Nothing but this check uses the echo.
pub(crate) fn f63_packets_are_counted_by_service_and_reason(lab: &Lab) -> Result<()> {
    const DATAGRAMS: u64 = 30;
    let before = status(lab, 1)?;
    for family in Family::ALL {
        let to = vip(lab, 1, family, ECHO)?.to_string();
        for port in 28_000..28_000 + DATAGRAMS as u16 {
            lab.ask_udp(&to, "counted", Some(&client(lab, family, port)?.to_string()))?;
        }
    }
    let after = status(lab, 1)?;
    let count = |status: &Status, reason: &str| -> Result<u64> {
        let reasons = reasons(status, "echo")?;
        Ok(reasons.iter().find(|(name, _)| name == reason).map_or(0, |(_, count)| *count))
    };
    let grown = |reason| -> Result<u64> { Ok(count(&after, reason)? - count(&before, reason)?) };
    expect_equal("packets sent to backends", &grown(sent(lab))?, &(2 * DATAGRAMS))?;
    let answers = if lab.options().forward == Forward::Nat { 2 * DATAGRAMS } else { 0 };
    expect_equal("answers", &grown("nat_reply")?, &answers)?;
    let all = |status| -> Result<u64> { Ok(reasons(status, "echo")?.iter().map(|(_, count)| count).sum()) };
    expect_equal("packets with other reasons", &(all(&after)? - all(&before)?), &(2 * DATAGRAMS + answers))
}

/// One captured packet.
#[derive(Debug)]
struct Packet {
    interface: u32,
    comment: String,
    data: Vec<u8>,
}

fn read(path: &Path) -> Result<Vec<Packet>> {
    let mut reader = PcapNgReader::new(BufReader::new(File::open(path)?))?;
    let mut packets = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block? {
            let comment = packet.options.iter().find_map(|option| match option {
                EnhancedPacketOption::Comment(text) => Some(text.to_string()),
                _ => None,
            });
            let comment = comment.context("a packet without comment")?;
            packets.push(Packet { interface: packet.interface_id, comment, data: packet.data.to_vec() });
        }
    }
    Ok(packets)
}

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

fn tcp_ports(frame: &[u8]) -> Result<(u16, u16)> {
    let sliced = SlicedPacket::from_ethernet(frame)?;
    ensure!(matches!(sliced.net, Some(NetSlice::Ipv4(_) | NetSlice::Ipv6(_))), "{sliced:?}");
    match sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => Ok((tcp.source_port(), tcp.destination_port())),
        other => bail!("no TCP: {other:?}"),
    }
}

/// curl's packets, and no other's, in a file that two independent readers can read.
pub(crate) fn f64_capture_sees_curls_packets_before_and_after(lab: &Lab) -> Result<()> {
    let path = Path::new("/run/usher-lab/capture.pcapng");
    let file = path.to_str().context("UTF-8")?;
    for (family, port) in [(Family::V4, 29_001), (Family::V6, 29_002)] {
        let _ = std::fs::remove_file(path);
        let from = client(lab, family, port)?.ip().to_string();
        let words =
            ["usher", "capture", "--service", "web", "--reason", sent(lab), "--client", &from, "-w", file];
        let mut capture = lab.command(Host::Node(1), &words).stderr(Stdio::piped()).spawn()?;
        until("the capture begins", RECOVERY, || {
            ensure!(path.metadata().is_ok_and(|file| file.len() > 0), "no file yet");
            Ok(())
        })?;
        let backend = fetch(lab, family, port)?;
        until("curl's last packets are in the file", RECOVERY, || {
            // SYN, ACK, request, FIN, at least.
            ensure!(read(path)?.len() >= 2 * 4, "{:?}", read(path)?.len());
            Ok(())
        })?;
        Command::new("kill").args(["-INT", &capture.id().to_string()]).status()?;
        ensure!(capture.wait()?.success(), "the capture failed");

        let packets = read(path)?;
        for pair in packets.chunks(2) {
            let [before, after] = pair else { bail!("a packet without its other half: {pair:?}") };
            expect_equal("interfaces", &(before.interface, after.interface), &(0, 1))?;
            let word = if family == Family::V4 { "v4" } else { "v6" };
            let said = format!("{}, service web/{word}, backend {backend}, from front", sent(lab));
            expect_equal("before", &before.comment, &format!("before: {said} to {}", way_out(lab)))?;
            expect_equal("after", &after.comment, &format!("after: {said} to {}", way_out(lab)))?;
            expect_equal("client's ports", &tcp_ports(&before.data)?, &(port, WEB))?;
            match lab.options().forward {
                Forward::Nat => {
                    let (source, _) = tcp_ports(&after.data)?;
                    ensure!(source != port, "the client's port is still there");
                }
                Forward::DsrL2 => expect_equal("ports", &tcp_ports(&after.data)?, &(port, WEB))?,
                Forward::DsrIpip | Forward::DsrGue => {
                    ensure!(
                        after.data.ends_with(&before.data[ETHERNET..]),
                        "the packet is not in the tunnel's"
                    );
                }
            }
            ensure!(before.data != after.data, "nothing was rewritten");
        }
        let shown = Command::new("tcpdump").args(["-nr", file]).output()?;
        let lines = String::from_utf8_lossy(&shown.stdout).lines().count();
        ensure!(shown.status.success(), "tcpdump: {}", String::from_utf8_lossy(&shown.stderr));
        expect_equal("packets that tcpdump reads", &lines, &packets.len())?;
    }
    Ok(())
}

/// A capture that is killed, one that has enough, and one too many.
pub(crate) fn f64_capture_ends_however_it_ends(lab: &Lab) -> Result<()> {
    let program =
        || -> Result<String> { lab.run(Host::Node(1), &["ip", "-details", "link", "show", "front"]) };
    let id = |shown: String| -> Result<String> {
        let (_, rest) = shown.split_once("prog/xdp id ").context("no program")?;
        Ok(rest.split(' ').next().unwrap_or_default().to_owned())
    };
    let ordinary = id(program()?)?;
    let file = "/run/usher-lab/killed.pcapng";
    let _ = std::fs::remove_file(file);
    let begun = |after: &str| -> Result<()> {
        until("the capturing program is attached", RECOVERY, || {
            ensure!(id(program()?)? != after, "still program {after}");
            Ok(())
        })
    };
    let mut killed = lab.command(Host::Node(1), &["usher", "capture", "-w", file]).spawn()?;
    begun(&ordinary)?;
    let capturing = id(program()?)?;
    let second = lab.output(Host::Node(1), &["usher", "capture", "-w", "/dev/null"])?;
    ensure!(second.stderr.contains("another capture is running; only one can"), "{second:?}");
    killed.kill()?;
    killed.wait()?;
    begun(&capturing)?;

    // Its own end: 5 packets of the requests that run meanwhile.
    let mut stream = lab.stream(Family::V4)?;
    let ended = until_free(lab, &["usher", "capture", "--service", "web", "--count", "5", "-w", file])?;
    expect_equal("said at the end", &ended.trim(), &"5 packets captured, 0 lost")?;
    expect_equal("packets in the file", &read(Path::new(file))?.len(), &10)?;
    let tally = Tally::of(&stream.since(Instant::now(), 10)?);
    let all = Tally::of(stream.answers());
    ensure!(tally.failures.is_empty() && all.failures.is_empty(), "programs were replaced, and: {all:?}");
    Ok(())
}

/// Runs a capture as soon as the one before is gone; what it said on stderr.
fn until_free(lab: &Lab, words: &[&str]) -> Result<String> {
    let mut said = String::new();
    until("a capture can run", RECOVERY + Duration::from_secs(5), || {
        let output = lab.output(Host::Node(1), words)?;
        ensure!(!output.stderr.contains("another capture"), "{}", output.stderr);
        said.clone_from(&output.stderr);
        Ok(())
    })?;
    Ok(said)
}
