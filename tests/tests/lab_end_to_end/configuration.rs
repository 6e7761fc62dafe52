//! Bad configurations, refused by the real binary on a real host. The messages are tested one by one in
//! `lb-userspace/tests/config_refused.rs`; here, that they reach the user and that nothing else happens.

use std::fs;

use anyhow::{Context, Result, ensure};
use usher_lab::{Host, Lab};

use crate::support::expect_equal;

const NODE: Host = Host::Node(1);

/// The file is wrong, whatever the host is: systemd does not try again.
const MISTAKE: i32 = 2;

/// The host is not as the file wants it, but may be so a moment later.
const UNFIT: i32 = 1;

/// What is replaced in the node's good file, by what, where in it the refusal points, and what it says.
struct Case {
    from: &'static str,
    to: &'static str,
    place: &'static str,
    message: &'static str,
}

/// A case whose refusal points at what was put in.
const fn case(from: &'static str, to: &'static str, message: &'static str) -> Case {
    Case { from, to, place: to, message }
}

pub(crate) fn bad_files_are_refused_with_place_and_remedy(lab: &Lab) -> Result<()> {
    expect_good(lab)?;
    let cases = [
        case(
            "forward = \"nat\"",
            "forwrd = \"nat\"",
            "service \"web\": forwrd: is not a known key; did you mean `forward`?",
        ),
        case(
            "port = 80\n",
            "port = 80000\n",
            "service \"web\": port: 80000 is more than 65535; use a port from 1 to 65535",
        ),
        case(
            "interval = \"200ms\"",
            "interval = \"100ms\"",
            "service \"web\": check: timeout: 200ms is longer than the interval, 100ms; use 100ms or less, or a longer \
             interval",
        ),
        case(
            "address = [\"203.0.113.21\"",
            "address = [\"203.0.113.11\"",
            "service \"web\": backend \"backend1\": address: 203.0.113.11: is this node itself; use the address of the \
             server behind it; a node cannot balance to nodes",
        ),
    ];
    cases.iter().try_for_each(|case| expect_refused(lab, case, MISTAKE))
}

pub(crate) fn file_that_does_not_fit_the_host_is_refused(lab: &Lab) -> Result<()> {
    let cases = [
        case(
            "[\"front\", \"back\"]",
            "[\"frnt\", \"back\"]",
            "node: interfaces: frnt: is no interface of this host; did you mean \"front\"? this host has lo, front and \
             back",
        ),
        case(
            "addresses = [\"192.0.2.11\"",
            "addresses = [\"192.0.2.99\"",
            "node: addresses: 192.0.2.99: is on no interface of this host; add it (`ip address add 192.0.2.99/32 dev \
             front`), or use one that this host has",
        ),
        case(
            "source = [\"203.0.113.11\"",
            "source = [\"203.0.113.99\"",
            "nat: source: 203.0.113.99: is on no interface of this host; add it (`ip address add 203.0.113.99/32 dev \
             front`), or use one that this host has",
        ),
    ];
    cases.iter().try_for_each(|case| expect_refused(lab, case, UNFIT))
}

/// What a start would not find, `check-config` does not find either.
pub(crate) fn files_that_are_named_and_missing_are_told(lab: &Lab) -> Result<()> {
    let good = good(lab)?;
    let path = lab.node_config(1).with_file_name("bad.toml");
    let absent = "/nonexistent/file";
    let secret = good.lines().find(|line| line.starts_with("secret_file")).context("no secret_file")?;
    let defence = format!("[defence]\ndeny_file = \"{absent}\"\n\n[[service]]");
    for bad in [
        good.replacen(secret, &format!("secret_file = \"{absent}\""), 1),
        good.replacen("[[service]]", &defence, 1),
    ] {
        fs::write(&path, &bad).context("bad.toml")?;
        let path = path.to_string_lossy();
        for verb in ["check-config", "run"] {
            let output = lab.output(NODE, &["timeout", "10", "usher", verb, "--config", &path])?;
            let said = output.stderr.lines().last().unwrap_or_default();
            ensure!(
                said.starts_with("usher: cannot read the ") && said.contains(absent),
                "{verb}: {output:?}"
            );
            expect_equal(&format!("usher {verb}: exit code"), &output.code, &Some(1))?;
            expect_equal("stdout", &output.stdout.as_str(), &"")?;
        }
        ensure!(!lab.node_config(1).with_file_name("usher.sock").exists(), "a control socket is left");
        let file_only = lab.output(NODE, &["usher", "check-config", "--file-only", "--config", &path])?;
        expect_equal("the file alone: exit code", &file_only.code, &Some(0))?;
    }
    Ok(())
}

/// The node would check the backend from the VIP, which the backend holds too under direct server return.
pub(crate) fn dsr_service_on_the_address_that_checks_come_from_is_refused(lab: &Lab) -> Result<()> {
    let route =
        |verb| lab.run(NODE, &["ip", "route", verb, "203.0.113.21", "dev", "back", "src", "192.0.2.11"]);
    route("add")?;
    let refused = expect_refused(
        lab,
        &Case {
            from: "port = 7\nforward = \"nat\"",
            to: "port = 7\nforward = \"dsr-l2\"",
            place: "address = [\"203.0.113.21\"",
            message: "service \"web\": backend \"backend1\": address: 203.0.113.21: would be checked from 192.0.2.11, \
                      which it holds itself for the dsr-l2 service \"echo\": it would answer itself; offer \"echo\" on \
                      another address, or let this host use another source towards it (`ip route replace \
                      203.0.113.21/32 … src 203.0.113.11`)",
        },
        UNFIT,
    );
    route("delete")?;
    refused
}

pub(crate) fn nat_ports_that_the_kernel_hands_out_are_refused(lab: &Lab) -> Result<()> {
    let set = |range: &str| {
        let write = format!("echo {range} >/proc/sys/net/ipv4/ip_local_port_range");
        lab.run(NODE, &["sh", "-c", &write])
    };
    set("1024 65535")?;
    let refused = expect_refused(
        lab,
        &case(
            "[nat]\n",
            "[nat]\n",
            "nat: ports: 1024-32767 overlaps 1024-65535, the ports of this host's own connections \
             (net.ipv4.ip_local_port_range); run `sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\"`",
        ),
        UNFIT,
    );
    set("32768 60999")?;
    refused?;
    expect_good(lab)
}

/// The file that the lab wrote.
fn good(lab: &Lab) -> Result<String> {
    fs::read_to_string(lab.node_config(1)).context("the node's configuration")
}

fn expect_good(lab: &Lab) -> Result<()> {
    let output = lab.run(NODE, &["usher", "check-config"])?;
    ensure!(output.ends_with("fits this host\n"), "{output}");
    Ok(())
}

/// `code`: the exit code of `usher run`.
fn expect_refused(lab: &Lab, case: &Case, code: i32) -> Result<()> {
    let good = good(lab)?;
    ensure!(good.contains(case.from), "the node's file has no {:?}", case.from);
    let bad = good.replacen(case.from, case.to, 1);
    let path = lab.node_config(1).with_file_name("bad.toml");
    fs::write(&path, &bad).context("bad.toml")?;
    let place = bad.find(case.place).with_context(|| format!("no {:?}", case.place))?;
    let line = bad[..place + case.place.trim_end().len()].lines().count();
    let expected = format!("{}:{line}: {}\n", path.display(), case.message);
    let path = path.to_string_lossy();
    for (verb, code) in [("check-config", MISTAKE), ("run", code)] {
        let output = lab.output(NODE, &["timeout", "10", "usher", verb, "--config", &path])?;
        expect_equal(&format!("usher {verb}: stderr"), &output.stderr, &expected)?;
        expect_equal(&format!("usher {verb}: exit code"), &output.code, &Some(code))?;
        expect_equal("stdout", &output.stdout.as_str(), &"")?;
    }
    let links = lab.run(NODE, &["ip", "link", "show"])?;
    ensure!(!links.contains("prog/xdp"), "something is attached: {links}");
    ensure!(!lab.node_config(1).with_file_name("usher.sock").exists(), "a control socket is left");
    Ok(())
}
