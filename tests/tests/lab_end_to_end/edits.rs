//! Backends and services that commands add and take away, beside what the file says.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use usher_lab::{Family, Host, Lab, Tally, until};

use crate::{
    reload::Written,
    support::{RECOVERY, backends, expect_equal, status, vip},
};

/// Requests that must all succeed.
const REQUESTS: usize = 60;

/// The new name of a backend that the file has as `backend3`.
const SPARE: &str = "spare";

/// A backend is taken away and comes back under another name; a restart, a crash and a reload change nothing of that.
pub(crate) fn backends_come_and_go_by_command_and_outlive_the_daemon(lab: &Lab) -> Result<()> {
    let address = lab.address(Host::Backend(3))?;
    let (v4, v6) = (address.of(Family::V4).to_string(), address.of(Family::V6).to_string());
    let spare = format!("web/{SPARE}");
    let add = ["server", "add", &spare, "--address", &v4, "--address", &v6, "--port", "8080"];
    everywhere(lab, &["server", "del", "web/backend3"])?;
    until("backend3 gets nothing", RECOVERY, || expect_names(lab, &["backend1", "backend2"]))?;
    expect_answers(lab, &["backend1", "backend2"])?;
    everywhere(lab, &add)?;
    let with_spare = ["backend1", "backend2", SPARE];
    until("the spare is up", RECOVERY, || expect_names(lab, &with_spare))?;
    // It is the same server.
    let all = ["backend1", "backend2", "backend3"];
    expect_answers(lab, &all)?;

    let set =
        "set by commands, not in the file:\n  server web/backend3: taken away\n  server web/spare: added\n";
    expect_equal("diff", &usher(lab, &["diff"])?, &set.to_owned())?;
    for end in [Lab::stop_usher, Lab::kill_usher] {
        end(lab, 1)?;
        lab.start_usher(1)?;
        until("the daemon is back", RECOVERY, || expect_names(lab, &with_spare))?;
        expect_equal("diff", &usher(lab, &["diff"])?, &set.to_owned())?;
    }
    usher(lab, &["reload"])?;
    expect_names(lab, &with_spare)?;
    expect_answers(lab, &all)?;

    for (words, why) in [
        (&add[..], "there is `web/spare` already; take it away first, or choose another name\n"),
        (
            &["server", "add", "web/backend3", "--address", &v4],
            "`web/backend3` is in the configuration's file, and was taken away by a command; `reset` brings it back\n",
        ),
        (
            &["server", "add", "web/own", "--address", "192.0.2.11"],
            "address: 192.0.2.11: is this node itself",
        ),
    ] {
        let refused = lab.output(Host::Node(1), &[&["usher"], words].concat())?;
        ensure!(refused.code == Some(2) && refused.stderr.contains(why), "{words:?}: {refused:?}");
    }
    everywhere(lab, &["server", "del", &spare])?;
    everywhere(lab, &["server", "reset", "web/backend3"])?;
    expect_equal("diff", &usher(lab, &["diff"])?, &"nothing differs\n".to_owned())?;
    lab.wait_all_well(RECOVERY)
}

/// A service is added from a description, serves, and is taken away; the file is never touched.
pub(crate) fn services_come_and_go_by_command(lab: &Lab) -> Result<()> {
    let file = lab.node_config(1).with_file_name("more.toml");
    let description = |check: &str| {
        let address = lab.address(Host::Backend(1))?.of(Family::V4);
        Ok::<_, anyhow::Error>(format!(
            "[[service]]\nname = \"more\"\nprotocol = \"tcp\"\nport = 81\n{check}\n\
             backend = [{{ name = \"b1\", address = \"{address}\", port = 8080 }}]\n"
        ))
    };
    let path = file.to_string_lossy().into_owned();
    fs::write(&file, description("chek = { kind = \"tcp\" }")?)?;
    let refused = lab.output(Host::Node(1), &["usher", "service", "add", &path])?;
    let why = "service \"more\": chek: is not a known key; did you mean `check`?";
    ensure!(refused.code == Some(2) && refused.stderr.contains(why), "{refused:?}");

    fs::write(&file, description("check = { kind = \"tcp\", interval = \"200ms\", timeout = \"200ms\" }")?)?;
    expect_equal("add", &usher(lab, &["service", "add", &path])?, &"service more: added\n".to_owned())?;
    let url = format!("http://{}/", vip(lab, 1, Family::V4, 81)?);
    let ask = || lab.run(Host::Client, &["curl", "-sSf", "-m", "1", &url]);
    until("it serves", RECOVERY, ask)?;
    ensure!(usher(lab, &["status"])?.contains("NOT IN THE FILE: service more: added\n"));

    expect_equal("del", &usher(lab, &["service", "del", "more"])?, &"service more: removed\n".to_owned())?;
    ensure!(ask().is_err(), "it still serves");
    expect_equal("diff", &usher(lab, &["diff"])?, &"nothing differs\n".to_owned())
}

/// The file gets what a command had added, and later loses the service that a command has changed.
pub(crate) fn what_does_not_fit_the_file_is_left_out(lab: &Lab) -> Result<()> {
    let written = Written::of(lab, 1)?;
    usher(lab, &["server", "add", "web/spare", "--address", "203.0.113.99", "--port", "8080"])?;
    let more = "[[service.backend]]\nname = \"spare\"\naddress = \"203.0.113.98\"\nport = 8080";
    let (head, echo) = written.ordinary.split_once("\n[[service]]\nname = \"echo\"").context("no echo")?;
    written.reload(&format!("{head}\n{more}\n[[service]]\nname = \"echo\"{echo}"))?;
    expect_equal("diff", &usher(lab, &["diff"])?, &"nothing differs\n".to_owned())?;
    let log = lab.node_log(1)?;
    let note = "server web/spare: the file has it now; what a command had added is forgotten";
    ensure!(log.contains(note), "not logged: {note}");
    written.reload(&written.ordinary)?;

    // A backend that the file gives another name: refused by the reload, left out by the start.
    usher(lab, &["server", "add", "web/spare", "--address", "203.0.113.99", "--port", "8080"])?;
    let other = more.replace("\"spare\"", "\"other\"").replace("113.98", "113.99");
    fs::write(lab.node_config(1), format!("{head}\n{other}\n[[service]]\nname = \"echo\"{echo}"))?;
    let refused = lab.output(Host::Node(1), &["usher", "reload"])?;
    ensure!(refused.code == Some(2) && refused.stderr.contains("203.0.113.99"), "{refused:?}");
    lab.stop_usher(1)?;
    lab.start_usher(1)?;
    until("it is left out", RECOVERY, || {
        expect_equal("diff", &usher(lab, &["diff"])?, &"nothing differs\n".to_owned())
    })?;
    let why = "what commands have changed does not fit the configuration any more, and is forgotten: server web/spare: added";
    ensure!(lab.node_log(1)?.contains(why), "not logged: {why}");
    written.reload(&written.ordinary)?;
    lab.wait_all_well(RECOVERY)
}

fn usher(lab: &Lab, words: &[&str]) -> Result<String> {
    lab.run(Host::Node(1), &[&["usher"], words].concat())
}

fn everywhere(lab: &Lab, words: &[&str]) -> Result<()> {
    (1..=lab.options().nodes)
        .try_for_each(|node| lab.run(Host::Node(node), &[&["usher"], words].concat()).map(drop))
}

/// Every node gives new flows to these backends of `web`, and has no others.
fn expect_names(lab: &Lab, expected: &[&str]) -> Result<()> {
    for node in 1..=lab.options().nodes {
        let status = status(lab, node)?;
        for family in Family::ALL {
            let found = backends(&status, "web", family)?;
            let names: Vec<_> = found.iter().map(|backend| backend.name.as_str()).collect();
            expect_equal("backends", &names, &expected.to_vec())?;
            ensure!(found.iter().all(|backend| backend.slots > 0), "node{node}: one gets nothing");
        }
    }
    Ok(())
}

fn expect_answers(lab: &Lab, expected: &[&str]) -> Result<()> {
    for family in Family::ALL {
        let tally: Tally = lab.fetch(family, REQUESTS)?;
        tally.expect_no_failure()?;
        let names: Vec<_> = tally.backends.keys().map(String::as_str).collect();
        expect_equal("who answers", &names, &expected.to_vec())?;
    }
    Ok(())
}
