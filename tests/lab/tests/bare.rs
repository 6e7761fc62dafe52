//! The lab by itself, its nodes without usher: what end-to-end tests rely on.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use usher_lab::{DnsServer, Family, Fault, Forward, Host, Lab, Options, can_raise, until};

const LIMIT: Duration = Duration::from_secs(10);

fn bare() -> Options {
    Options { run_usher: false, ..Options::default() }
}

/// What curl gets on `host` from a backend's web server.
fn web(lab: &Lab, host: Host, backend: u8, family: Family) -> Result<String> {
    let address = lab.back_address(Host::Backend(backend))?.of(family);
    let url =
        if family == Family::V6 { format!("http://[{address}]/") } else { format!("http://{address}/") };
    lab.run(host, &["curl", "-sS", "-m", "1", &url])
}

#[test]
fn client_reaches_web_and_echo_through_the_router() -> Result<()> {
    if !can_raise() {
        return Ok(());
    }
    let lab = Lab::up(&bare())?;
    lab.verify()?;
    for family in Family::ALL {
        assert_eq!(web(&lab, Host::Client, 3, family)?, "backend3\n");
    }
    assert_eq!(lab.ask_udp("203.0.113.21:7", "hello", None)?, "backend1 hello");
    assert_eq!(lab.ask_udp("[2001:db8:2::22]:7", "hello", Some("[2001:db8:100::9]:4007"))?, "backend2 hello");
    let file = lab.big_file("file", 3_000_000)?;
    let sum = "curl -sS http://203.0.113.21:8080/big/file | cksum";
    let expected = Command::new("sh").args(["-c", &format!("cksum <{}", file.display())]).output()?.stdout;
    assert_eq!(lab.run(Host::Client, &["sh", "-c", sum])?.into_bytes(), expected);
    lab.down()
}

#[test]
fn killed_web_server_refuses_and_comes_back() -> Result<()> {
    if !can_raise() {
        return Ok(());
    }
    let lab = Lab::up(&bare())?;
    lab.kill_backend(2)?;
    let refused = web(&lab, Host::Client, 2, Family::V4).expect_err("nobody listens").to_string();
    assert!(refused.contains("on client: exit code 7"), "{refused}");
    assert!(lab.verify().expect_err("nginx is missing").to_string().contains("no nginx runs on backend2"));
    lab.start_backend(2)?;
    until("backend2 answers", LIMIT, || web(&lab, Host::Client, 2, Family::V6))?;
    lab.verify()
}

/// Echo requests that have arrived at a host.
fn echoes(lab: &Lab, host: Host) -> Result<u64> {
    let text = lab.run(host, &["cat", "/proc/net/snmp"])?;
    let lines: Vec<Vec<&str>> =
        text.lines().filter(|line| line.starts_with("Icmp:")).map(|line| line.split(' ').collect()).collect();
    let place = lines[0].iter().position(|name| *name == "InEchos").context("InEchos")?;
    Ok(lines[1][place].parse()?)
}

/// Whether an echo request of one host arrives at the other, and whether an answer returns.
fn ping(lab: &Lab, from: Host, to: Host) -> Result<(bool, bool)> {
    let before = echoes(lab, to)?;
    let address = lab.back_address(to)?.v4.to_string();
    let answered = lab.output(from, &["ping", "-c", "1", "-W", "1", &address])?.code == Some(0);
    Ok((echoes(lab, to)? > before, answered))
}

#[test]
fn every_fault_takes_away_what_it_says_and_heals() -> Result<()> {
    if !can_raise() {
        return Ok(());
    }
    let lab = Lab::up(&bare())?;
    let (node, backend) = (Host::Node(1), Host::Backend(1));
    let carrier = || lab.run(node, &["cat", "/sys/class/net/front/carrier"]);
    let sleeper = lab.command(node, &["sleep", "1000"]).spawn()?;
    let state = || lab.run(node, &["sh", "-c", &format!("cut -d' ' -f3 /proc/{}/stat", sleeper.id())]);
    // Which of node1's requests arrive at the backend, and which of the backend's at node1.
    for (fault, out, into) in [
        (Fault::LinkDown, false, false),
        (Fault::Drop, false, false),
        (Fault::DropIn, true, false),
        (Fault::DropOut, false, true),
        (Fault::Freeze, false, false),
    ] {
        for (from, to) in [(node, backend), (backend, node)] {
            until(&format!("{from} reaches {to} before {fault}"), LIMIT, || {
                ensure!(ping(&lab, from, to)? == (true, true), "no answer");
                Ok(())
            })?;
        }
        for _ in 0..2 {
            lab.fault(node, fault)?;
            assert_eq!(ping(&lab, node, backend)?, (out, false), "{fault}");
            assert_eq!(ping(&lab, backend, node)?, (into, false), "{fault}");
        }
        assert_eq!(carrier()?, if fault == Fault::LinkDown { "0\n" } else { "1\n" }, "{fault}");
        assert_eq!(state()?, if fault == Fault::Freeze { "T\n" } else { "S\n" }, "{fault}");
        for _ in 0..2 {
            lab.fault(node, Fault::Heal)?;
        }
    }
    until("node1 is heard again", LIMIT, || web(&lab, node, 1, Family::V4))?;
    assert_eq!(state()?, "S\n");
    let error = lab.fault(Host::Client, Fault::Drop).expect_err("it has no cable there").to_string();
    assert_eq!(error, "client is not at the switch");
    lab.fault(backend, Fault::DropOut)?;
    assert!(web(&lab, node, 1, Family::V4).is_err());
    lab.fault(backend, Fault::Heal)?;
    until("backend1 is heard again", LIMIT, || web(&lab, node, 1, Family::V6))?;
    Ok(())
}

#[test]
fn direct_return_backends_answer_from_the_node_address() -> Result<()> {
    if !can_raise() {
        return Ok(());
    }
    for forward in [Forward::DsrL2, Forward::DsrIpip, Forward::DsrGue] {
        let lab = Lab::up(&Options { forward, backends: 1, ..bare() })?;
        lab.verify()?;
        for address in
            [lab.address(Host::Node(2))?.v4.to_string(), format!("[{}]", lab.address(Host::Node(2))?.v6)]
        {
            let to = format!("{address}:7");
            assert_eq!(lab.run(Host::Backend(1), &["usher-lab-udp", "ask", &to, "x"])?, "backend1 x\n");
        }
        // Nodes reach backends, over the link or through the router.
        for family in Family::ALL {
            assert_eq!(web(&lab, Host::Node(1), 1, family)?, "backend1\n", "{forward}");
        }
    }
    Ok(())
}

/// An update that a node signs with its key.
fn update(lab: &Lab, node: Host, lines: &str) -> Result<()> {
    let server = lab.address(Host::Dns)?.v4;
    let key = lab.key_file(node);
    let script = format!("printf 'server {server}\\n{lines}send\\n' | nsupdate -v -k {}", key.display());
    lab.run(node, &["sh", "-c", &script]).map(drop)
}

#[test]
fn nodes_write_their_names_into_the_zone_of_each_primary_and_no_others() -> Result<()> {
    if !can_raise() {
        return Ok(());
    }
    for dns in DnsServer::ALL.into_iter().filter(|dns| dns.is_shared()) {
        let lab = Lab::up(&Options { dns, backends: 1, ..bare() })?;
        lab.verify()?;
        // What the client learns by its resolver.
        let found = |name: &str, kind: &str| lab.run(Host::Client, &["dig", "+short", name, kind]);
        let operators = || -> Result<()> {
            assert_eq!(found("static.example.test", "A")?, "203.0.113.99\n", "{dns}");
            assert_eq!(found("example.test", "TXT")?, "\"the operator's own\"\n", "{dns}");
            Ok(())
        };
        operators()?;
        assert_eq!(found("www.example.test", "A")?, "", "{dns}");
        for node in lab.options().node_hosts() {
            let (v4, v6) = (lab.address(node)?.v4, lab.address(node)?.v6);
            let lines = format!(
                "update add www.example.test 1 A {v4}\\nupdate add www.example.test 1 AAAA {v6}\\n\
                 update add _usher-{node}.www.example.test 1 TXT lease\\n"
            );
            update(&lab, node, &lines)?;
        }
        until("the client sees both nodes", LIMIT, || {
            for kind in ["A", "AAAA"] {
                let addresses = found("www.example.test", kind)?;
                ensure!(addresses.lines().count() == 2, "{dns}: {addresses}");
            }
            Ok(())
        })?;
        assert_eq!(found("_usher-node2.www.example.test", "TXT")?, "\"lease\"\n", "{dns}");

        let refused = update(&lab, Host::Node(1), "update add static.example.test 1 A 192.0.2.11\\n");
        // It leaves out what is not granted, and says nothing.
        assert_eq!(refused.is_ok(), dns == DnsServer::Powerdns, "{dns}: {refused:?}");
        operators()?;
    }
    Ok(())
}
