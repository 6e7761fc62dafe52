//! The lab by itself, its nodes without usher: what end-to-end tests rely on.

use std::{process::Command, time::Duration};

use anyhow::Result;
use usher_lab::{Family, Forward, Host, Lab, Options, can_raise, until};

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

#[test]
fn node_is_cut_silenced_and_healed() -> Result<()> {
    if !can_raise() {
        return Ok(());
    }
    let lab = Lab::up(&bare())?;
    let node = Host::Node(1);
    let carrier = |lab: &Lab| lab.run(node, &["cat", "/sys/class/net/front/carrier"]);
    web(&lab, node, 1, Family::V4)?;

    lab.cut_node(1)?;
    assert_eq!(carrier(&lab)?, "0\n");
    assert!(web(&lab, node, 1, Family::V4).is_err());
    lab.heal_node(1)?;
    until("node1 has its links back", LIMIT, || web(&lab, node, 1, Family::V6))?;

    lab.silence_node(1)?;
    assert_eq!(carrier(&lab)?, "1\n");
    assert!(web(&lab, node, 1, Family::V4).is_err());
    lab.heal_node(1)?;
    until("node1 is heard again", LIMIT, || web(&lab, node, 1, Family::V4))?;
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
