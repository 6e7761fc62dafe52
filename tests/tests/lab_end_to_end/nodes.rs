//! Nodes that are cut off, fall silent, stop, crash; and a second daemon.

use std::{
    fs,
    io::IoSliceMut,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::net::UnixDatagram,
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};
use usher_lab::{Connections, Family, Fault, Host, Lab, until};

use crate::{
    reload::Written,
    support::{Background, RECOVERY, Traffic, config, expect_equal, status, sum, vip},
};

/// A node that fails is out of the others' answers by then, and so is one that is well back in them:
/// three checks, 500 ms apart, each of which may take 500 ms.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// The node that suffers.
pub(crate) const VICTIM: u8 = 2;

pub(crate) fn f61_node_that_is_cut_off_leaves_dns_and_comes_back(lab: &Lab) -> Result<()> {
    lose_and_regain(lab, Fault::LinkDown)
}

pub(crate) fn f61_node_that_falls_silent_leaves_dns_and_comes_back(lab: &Lab) -> Result<()> {
    lose_and_regain(lab, Fault::Drop)
}

/// Each service alone would be found dead after three turns, eight seconds here.
pub(crate) fn f61_node_that_falls_silent_leaves_dns_though_services_take_turns(lab: &Lab) -> Result<()> {
    let written = Written::every(lab)?;
    for written in &written {
        let service = |port: u16| {
            format!(
                "\n[[service]]\nname = \"many{port}\"\nprotocol = \"tcp\"\nport = {port}\n\
                 [[service.backend]]\nname = \"backend1\"\naddress = [\"203.0.113.21\", \"2001:db8:2::21\"]\n\
                 port = 8080\n"
            )
        };
        let services: String = (9_000..9_010).map(service).collect();
        let check = "\n[peer_check]\npeer_probe_rate = 8\n";
        written.reload(&format!("{}{check}{services}", written.ordinary))?;
    }
    until("all services have had their turn", RECOVERY, || {
        let pools = status(lab, 1)?.peers.remove(0).pools;
        let missing = pools.iter().filter(|pool| pool.last_check.is_none()).count();
        ensure!(pools.len() > 20 && missing == 0, "{missing} of {} have not", pools.len());
        Ok(())
    })?;
    lose_and_regain(lab, Fault::Drop)
}

fn lose_and_regain(lab: &Lab, fault: Fault) -> Result<()> {
    let timing = config(lab, 1)?.peer_check.timing;
    let half = Duration::from_millis(500);
    expect_equal(
        "[peer_check]",
        &(timing.interval, timing.timeout, timing.rise, timing.fall),
        &(half, half, 2, 3),
    )?;

    lab.fault(Host::Node(VICTIM), fault)?;
    wait_named(lab, 1, VICTIM, false)?;
    expect_requests_through(lab, &[1])?;
    lab.fault(Host::Node(VICTIM), Fault::Heal)?;
    wait_named(lab, 1, VICTIM, true)?;
    lab.wait_all_well(LIMIT)?;
    expect_requests_through(lab, &[1, VICTIM])
}

/// Waits until a node's DNS names another one in both families and for both services, or in none.
pub(crate) fn wait_named(lab: &Lab, asked: u8, other: u8, named: bool) -> Result<()> {
    let address = lab.address(Host::Node(other))?;
    let what = if named { "names" } else { "drops" };
    let start = Instant::now();
    // A little longer than allowed: a figure says more than a wait in vain.
    until(&format!("node{asked}'s DNS {what} node{other}"), LIMIT + Duration::from_secs(2), || {
        for family in Family::ALL {
            for label in ["www", "echo"] {
                let answer = lab.dig(asked, label, family)?;
                let present = answer.contains(&address.of(family).to_string());
                ensure!(present == named, "{label}, {family}: {}", answer.join(" "));
            }
        }
        Ok(())
    })?;
    ensure!(start.elapsed() <= LIMIT, "it took {:?}", start.elapsed());
    Ok(())
}

/// Requests by name must all succeed, and use these nodes and no other.
fn expect_requests_through(lab: &Lab, nodes: &[u8]) -> Result<()> {
    until("the resolver has heard of it", LIMIT, || {
        for kind in ["A", "AAAA"] {
            let answer = lab.run(Host::Client, &["dig", "+short", "+time=1", "www.example.test", kind])?;
            ensure!(answer.lines().count() == nodes.len(), "{kind}: {}", answer.replace('\n', " "));
        }
        Ok(())
    })?;
    for family in Family::ALL {
        let tally = lab.fetch(family, 60)?;
        tally.expect_no_failure()?;
        let used: Vec<_> = tally.addresses.keys().copied().collect();
        let expected = nodes.iter().map(|&node| Ok(lab.address(Host::Node(node))?.of(family)));
        expect_equal("addresses used", &used, &expected.collect::<Result<_>>()?)?;
    }
    Ok(())
}

pub(crate) fn stopped_node_withdraws_serves_on_and_leaves_nothing_attached(lab: &Lab) -> Result<()> {
    let node = Host::Node(VICTIM);
    let written = Written::of(lab, VICTIM)?;
    let other = written.ordinary.replace("\nsocket = ", "\non_stop = \"detach\"\nsocket = ");
    fs::write(lab.node_config(VICTIM), other)?;
    // Once more, by ourselves, for its exit code.
    lab.stop_usher(VICTIM)?;
    let mut usher = Background::start(lab, node, &["usher", "run"])?;
    lab.wait_all_well(LIMIT * 2)?;
    ensure!(attached(lab, node)? == 2, "the program is not on both interfaces");

    usher.signal("TERM")?;
    let own = lab.address(node)?;
    until("the node withdraws itself", LIMIT, || {
        let answer = lab.dig(VICTIM, "www", Family::V4)?;
        ensure!(!answer.contains(&own.v4.to_string()), "{answer:?}");
        Ok(())
    })?;
    let url = format!("http://{}/", own.v4);
    let served = lab.output(Host::Client, &["curl", "-sS", "-m", "1", &url])?;
    // Clients may hold the old answer for its TTL, one second here.
    ensure!(served.code == Some(0) || !usher.is_running()?, "it withdrew and served no longer: {served:?}");

    wait_named(lab, 1, VICTIM, false)?;
    let (code, _, log) = usher.finish(Duration::from_secs(10))?;
    expect_equal("exit code", &code, &Some(0))?;
    ensure!(log.contains("stopping: this node withdraws its addresses"), "{log}");
    expect_equal("programs attached afterwards", &attached(lab, node)?, &0)?;
    let gone = lab.output(node, &["usher", "status"])?;
    ensure!(gone.code == Some(1) && gone.stderr.contains("is `usher run` running"), "{gone:?}");
    ensure!(!lab.pin_dir(VICTIM).exists(), "{} is left", lab.pin_dir(VICTIM).display());
    expect_requests_through(lab, &[1])?;
    drop(written);
    lab.start_usher(VICTIM)
}

/// As systemd would hear it.
pub(crate) fn service_manager_is_told_when_the_node_serves_lives_and_stops(lab: &Lab) -> Result<()> {
    let socket = lab.node_config(VICTIM).with_file_name("notify.sock");
    let _ = fs::remove_file(&socket);
    let manager = UnixDatagram::bind(&socket)?;
    manager.set_read_timeout(Some(LIMIT * 2))?;
    let hear = || Ok::<_, anyhow::Error>(hear(&manager)?.0);
    lab.stop_usher(VICTIM)?;
    let address = format!("NOTIFY_SOCKET={}", socket.display());
    let run = ["env", &address, "WATCHDOG_USEC=30000000", "usher", "run"];
    let usher = Background::start(lab, Host::Node(VICTIM), &run)?;
    expect_equal("first", &hear()?.as_str(), &"FDSTORE=1\nFDNAME=dns\n")?;
    let mut heard = vec![hear()?];
    while heard.last().is_some_and(|message| message != "READY=1\n") {
        expect_equal("before it is ready", &heard[heard.len() - 1].as_str(), &"WATCHDOG=1\n")?;
        heard.push(hear()?);
    }
    let own = lab.address(Host::Node(VICTIM))?.v4.to_string();
    ensure!(lab.dig(VICTIM, "www", Family::V4)?.contains(&own), "it is ready and does not answer DNS");
    expect_equal("then", &hear()?.as_str(), &"WATCHDOG=1\n")?;
    usher.signal("TERM")?;
    let last = loop {
        let message = hear()?;
        if message != "WATCHDOG=1\n" {
            break message;
        }
    };
    expect_equal("at the end", &last.as_str(), &"STOPPING=1\n")?;
    let (code, _, log) = usher.finish(Duration::from_secs(10))?;
    ensure!(code == Some(0), "exit code {code:?}: {log}");
    fs::remove_file(&socket)?;
    lab.start_usher(VICTIM)
}

/// A message to the service manager, and the sockets that it shall keep open.
fn hear(manager: &UnixDatagram) -> Result<(String, Vec<OwnedFd>)> {
    let mut text = [0; 100];
    let mut space = nix::cmsg_space!([RawFd; 16]);
    let mut parts = [IoSliceMut::new(&mut text)];
    let message = recvmsg::<()>(manager.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())
        .context("the service manager hears nothing")?;
    let mut kept = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            // SAFETY: the kernel has just opened them for this process.
            kept.extend(
                descriptors.into_iter().map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }),
            );
        }
    }
    let length = message.bytes;
    Ok((String::from_utf8(text[..length].to_vec())?, kept))
}

/// Between one daemon and the next a service manager keeps the DNS sockets open: a query in that time is answered.
pub(crate) fn dns_query_during_a_restart_is_answered(lab: &Lab) -> Result<()> {
    let path = lab.node_config(VICTIM).with_file_name("notify.sock");
    let _ = fs::remove_file(&path);
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(LIMIT * 2))?;
    lab.stop_usher(VICTIM)?;
    let run = |kept: &[RawFd]| {
        // The kernel gives them other numbers than the protocol wants: from 3 on, one after the other.
        let passed: String =
            (3..).zip(kept).map(|(place, descriptor)| format!("{place}<&{descriptor} ")).collect();
        let script = format!(
            "exec {passed}; NOTIFY_SOCKET={} LISTEN_FDS={} LISTEN_PID=$$ exec usher run",
            path.display(),
            kept.len()
        );
        Background::start(lab, Host::Node(VICTIM), &["bash", "-c", &script])
    };
    let first = run(&[])?;
    let (_, kept) = hear(&manager)?;
    expect_equal("sockets of two addresses", &kept.len(), &4)?;
    while hear(&manager)?.0 != "READY=1\n" {}
    first.signal("TERM")?;
    first.finish(Duration::from_secs(10))?;

    let server = format!("@{}", lab.address(Host::Node(VICTIM))?.v4);
    let dig = ["dig", "+short", "+tries=1", "+time=10", &server, "www.example.test"];
    let query = Background::start(lab, Host::Client, &dig)?;
    let numbers: Vec<RawFd> =
        kept.iter().map(|socket| fcntl(socket, FcntlArg::F_DUPFD(100))).collect::<Result<_, _>>()?;
    let second = run(&numbers)?;
    let (code, answer, errors) = query.finish(Duration::from_secs(12))?;
    let own = lab.address(Host::Node(VICTIM))?.v4.to_string();
    ensure!(code == Some(0) && answer.contains(&own), "{answer}{errors}");
    // Over TCP too, and by the same sockets: nobody else could have opened others beside them.
    ensure!(lab.run(Host::Client, &[&dig[..], &["+tcp"]].concat())?.contains(&own));
    second.signal("TERM")?;
    second.finish(Duration::from_secs(10))?;
    for number in numbers {
        nix::unistd::close(number)?;
    }
    drop(kept);
    fs::remove_file(&path)?;
    lab.start_usher(VICTIM)
}

/// Nobody is cut off, and peers hear of it at once.
pub(crate) fn d46_drained_node_leaves_dns_and_serves_on(lab: &Lab) -> Result<()> {
    let node = Host::Node(VICTIM);
    let connections = Connections::open(lab, 20)?;
    expect_equal("said", &lab.run(node, &["usher", "node", "drain"])?.as_str(), &"drained\n")?;
    for asked in [1, VICTIM] {
        wait_named(lab, asked, VICTIM, false)?;
    }
    expect_requests_through(lab, &[1])?;
    let page = lab.run(node, &["usher", "status"])?;
    ensure!(page.contains("DRAINED: out of DNS until `usher node ready`"), "{page}");
    let url = format!("http://{}/", lab.address(node)?.v4);
    lab.run(Host::Client, &["curl", "-sS", "-m", "3", &url])?;
    connections.wait_rounds(2)?;
    connections.finish()?.expect_whole(20, 2)?;

    // It is remembered; and it ends by itself, if that was said.
    lab.stop_usher(VICTIM)?;
    lab.start_usher(VICTIM)?;
    until("the node runs again", LIMIT * 2, || {
        let page = lab.run(node, &["usher", "status"])?;
        ensure!(page.contains("DRAINED"), "{page}");
        Ok(())
    })?;
    wait_named(lab, VICTIM, VICTIM, false)?;
    let said = lab.run(node, &["usher", "node", "drain", "--for", "1s"])?;
    expect_equal("said", &said.as_str(), &"drained for 1s\n")?;
    lab.wait_all_well(LIMIT * 4)?;
    expect_equal("said", &lab.run(node, &["usher", "node", "ready"])?.as_str(), &"ready already\n")
}

/// Peers do not try what they are told is not served; but clients may come that nobody leads here.
pub(crate) fn drained_node_is_safe_to_stop_when_no_flow_begins(lab: &Lab) -> Result<()> {
    let node = Host::Node(VICTIM);
    let drain = |timeout| {
        lab.output(node, &["usher", "node", "drain", "--wait", "--quiet", "3s", "--timeout", timeout])
    };
    let script =
        format!("while :; do curl -s -m 1 -o /dev/null http://{}/; sleep 0.2; done", lab.address(node)?.v4);
    let client = Background::start(lab, Host::Client, &["bash", "-c", &script])?;
    let late = drain("5s")?;
    ensure!(
        late.code == Some(1) && late.stderr.contains("not safe to stop yet: clients still open flows: "),
        "{late:?}"
    );
    drop(client);
    let safe = drain("20s")?;
    let quiet = safe.stdout.split_once("safe to stop: 0 new flows for ");
    let quiet = quiet.and_then(|(_, rest)| rest.split_once(" s, the last TTL ran out at "));
    let quiet: u64 = quiet.with_context(|| format!("{safe:?}"))?.0.parse()?;
    ensure!(safe.code == Some(0) && quiet >= 3, "{safe:?}");
    ensure!(safe.stdout.ends_with(" flows are left\n"), "{safe:?}");
    lab.run(node, &["usher", "node", "ready"])?;
    wait_named(lab, 1, VICTIM, true)?;
    lab.wait_all_well(LIMIT)
}

/// The backend of which the nodes think differently.
const DOUBTED: u8 = 2;

/// One node sees a backend down, and the others see it up: each node keeps the connections that it has, and gives new ones
/// to whom it thinks well.
pub(crate) fn d52_nodes_that_disagree_on_health_break_no_flow(lab: &Lab) -> Result<()> {
    let traffic = Traffic::start(lab)?;
    let name = Host::Backend(DOUBTED).to_string();
    for doubting in 1..=lab.options().nodes {
        doubt(lab, doubting)?;
        let before = Counted::by_every_node(lab)?;
        traffic.wait_rounds(3)?;
        until("each node does as it thinks", RECOVERY, || {
            for ((node, before), after) in (1..).zip(&before).zip(Counted::by_every_node(lab)?) {
                let seen = if node == doubting { "down" } else { "up" };
                lab.status(node)?.expect_health(&name, seen)?;
                ensure!(after.packets > before.packets, "node{node} keeps none of its connections");
                let gets_new = after.begun > before.begun;
                ensure!(
                    gets_new == (node != doubting),
                    "node{node} sees it {seen}: {before:?}, then {after:?}"
                );
            }
            Ok(())
        })?;
        lab.pass_checks(DOUBTED, doubting)?;
        lab.wait_all_well(RECOVERY)?;
    }
    traffic.expect_nothing_lost()
}

/// Lets a node, and no other, see the backend down.
fn doubt(lab: &Lab, node: u8) -> Result<()> {
    lab.fail_checks(DOUBTED, node)?;
    let name = Host::Backend(DOUBTED).to_string();
    until(&format!("node{node} sees {name} down"), RECOVERY, || {
        lab.status(node)?.expect_health(&name, "down")
    })
}

/// A node dies that has seen a backend down. Another one, which sees it up and knows none of the connections, takes over its
/// address: it sends them where they went. (One that sees it down would send them elsewhere: nodes share no state.)
pub(crate) fn d52_connections_go_on_through_the_node_that_takes_the_address_of_one_that_disagreed(
    lab: &Lab,
) -> Result<()> {
    const CONNECTIONS: usize = 60;
    let heir = Written::of(lab, 2)?;
    let connections = Connections::open(lab, CONNECTIONS)?;
    doubt(lab, 1)?;
    lab.fault(Host::Node(1), Fault::LinkDown)?;
    inherit(lab, &heir)?;
    connections.wait_rounds(2)?;
    connections.finish()?.expect_whole(CONNECTIONS, 2)?;
    for family in Family::ALL {
        let url = format!("http://{}/", vip(lab, 1, family, 80)?);
        lab.run(Host::Client, &["curl", "-sSf", "-m", "3", &url])?;
    }

    // First, or probes of node1 would leave from its own address.
    addresses(lab, "delete")?;
    heir.reload(&heir.ordinary)?;
    lab.pass_checks(DOUBTED, 1)?;
    lab.fault(Host::Node(1), Fault::Heal)?;
    lab.run(Host::Router, &["ip", "neigh", "flush", "dev", "front"]).map(drop)
}

/// Gives node2 the addresses of node1, which is none of its peers any more.
fn inherit(lab: &Lab, heir: &Written<'_>) -> Result<()> {
    addresses(lab, "add")?;
    let own = heir.ordinary.lines().find(|line| line.starts_with("addresses = ")).context("no addresses")?;
    let both = lab.address(Host::Node(1))?.both().map(|address| format!(", \"{address}\"")).concat();
    let text = heir.ordinary.replacen(own, &format!("{}{both}]", own.trim_end_matches(']')), 1);
    let peer = text.find("\n[[peer]]").context("no peer")?;
    let rest = text[peer..].find("\n[[service]]").context("no service")?;
    heir.reload(&format!("{}{}", &text[..peer], &text[peer + rest..]))?;
    lab.run(Host::Router, &["ip", "neigh", "flush", "dev", "front"]).map(drop)
}

/// Adds the addresses of node1 to node2, or deletes them there.
fn addresses(lab: &Lab, change: &str) -> Result<()> {
    let address = lab.address(Host::Node(1))?;
    for (address, more) in
        [(format!("{}/24", address.v4), &[][..]), (format!("{}/64", address.v6), &["nodad"][..])]
    {
        let words = ["ip", "address", change, &address, "dev", "front"];
        lab.run(Host::Node(2), &[&words, more].concat())?;
    }
    Ok(())
}

/// What a node has sent to the doubted backend.
#[derive(Debug)]
struct Counted {
    /// Flows, of which the flow table may have forgotten some.
    begun: u64,
    packets: u64,
}

impl Counted {
    fn by_node(lab: &Lab, node: u8) -> Result<Counted> {
        let sum = |of| sum(lab, node, DOUBTED, of);
        Ok(Counted { begun: sum(|backend| backend.flows_begun)?, packets: sum(|backend| backend.packets)? })
    }

    fn by_every_node(lab: &Lab) -> Result<Vec<Counted>> {
        (1..=lab.options().nodes).map(|node| Counted::by_node(lab, node)).collect()
    }
}

/// Every thread of it, for good; and what it then may not read, it says.
pub(crate) fn running_daemon_keeps_four_capabilities(lab: &Lab) -> Result<()> {
    /// CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_NET_BIND_SERVICE.
    const KEPT: u64 = 1 << 39 | 1 << 38 | 1 << 12 | 1 << 10;
    let node = Host::Node(VICTIM);
    let written = Written::of(lab, VICTIM)?;
    // With all the threads that it can have.
    let watching = written.ordinary.replace("\nsocket = ", "\nreload_on_change = true\nsocket = ");
    fs::write(lab.node_config(VICTIM), watching)?;
    // Once more, by ourselves, for its pid.
    lab.stop_usher(VICTIM)?;
    let usher = Background::start(lab, node, &["usher", "run"])?;
    lab.wait_all_well(LIMIT * 2)?;
    for thread in fs::read_dir(format!("/proc/{}/task", usher.pid()))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        for (set, expected) in
            [("CapBnd", KEPT), ("CapPrm", KEPT), ("CapEff", KEPT), ("CapInh", 0), ("CapAmb", 0)]
        {
            let line = format!("{set}:\t{expected:016x}\n");
            ensure!(status.contains(&line), "no line {line} in {status}");
        }
    }
    // Port 53 of another address, another program, and the file: all work with these.
    written.reload(&written.with_after("name = \"backend1\"", "weight = 9")?)?;
    lab.run(node, &["usher", "capture", "--count", "1", "--write", "/dev/null"])?;
    let file = lab.node_config(VICTIM);
    lab.run(node, &["chown", "nobody", &file.display().to_string()])?;
    lab.run(node, &["chmod", "600", &file.display().to_string()])?;
    let refused = lab.output(node, &["usher", "reload"])?;
    lab.run(node, &["chown", "root", &file.display().to_string()])?;
    ensure!(
        refused.code == Some(2) && refused.stderr.contains("keeps no CAP_DAC_OVERRIDE"),
        "a file that is somebody else's: {refused:?}"
    );
    written.reload(&written.ordinary)?;
    usher.signal("TERM")?;
    let (code, _, log) = usher.finish(Duration::from_secs(10))?;
    expect_equal("exit code", &code, &Some(0))?;
    ensure!(log.contains("all other capabilities are dropped"), "{log}");
    drop(written);
    lab.start_usher(VICTIM)
}

/// On how many interfaces of a host there is an XDP program.
fn attached(lab: &Lab, host: Host) -> Result<usize> {
    Ok(lab.run(host, &["ip", "link", "show"])?.matches("prog/xdp").count())
}

pub(crate) fn second_usher_on_the_same_socket_is_refused(lab: &Lab) -> Result<()> {
    let node = Host::Node(1);
    let programs = || lab.run(node, &["ip", "link", "show"]);
    let before = programs()?;
    let second = lab.output(node, &["usher", "run"])?;
    expect_equal("exit code", &second.code, &Some(1))?;
    ensure!(second.stderr.contains("another usher runs: it answers at "), "{}", second.stderr);
    expect_equal("interfaces and programs", &programs()?, &before)?;
    lab.status(1)?.expect_all_well()
}
