//! Backends that answer no clients while their checks, of another port, pass.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_userspace::{core::check::Code, status};
use usher_lab::{Family, Host, Lab, until};

use crate::{
    reload::Written,
    support::{Background, RECOVERY, backends, status, vip},
};

/// The backend that suffers.
const VICTIM: u8 = 2;

/// The node whose clients suffer.
const NODE: u8 = 1;

/// Requests that must all succeed.
const REQUESTS: usize = 60;

/// The port of the web server that clients reach; the other one is checked.
const PORT: &str = "8080";

/// It is named and checked at once; and taken down, if so wished, so that clients find only those who answer.
pub(crate) fn silent_backend_is_named_and_taken_down_although_its_checks_pass(lab: &Lab) -> Result<()> {
    let written = Written::every(lab)?;
    let elsewhere = |node: &Written, passive: &str| {
        let check = format!("path = \"/healthz\", port = 80, passive = \"{passive}\"");
        let text = node.ordinary.replacen(&format!("path = \"/healthz\", port = {PORT}"), &check, 1);
        ensure!(text != node.ordinary, "the lab's web service is checked otherwise");
        Ok(text)
    };
    for node in &written {
        node.reload(&elsewhere(node, "check")?)?;
    }
    lab.wait_all_well(RECOVERY)?;
    let target = vip(lab, NODE, Family::V4, 80)?;
    silence(lab, "add")?;
    let crowd = format!(
        "while :; do for i in $(seq 40); do curl -s -m 1 -o /dev/null http://{target}/ & done; wait; done"
    );
    let crowd = Background::start(lab, Host::Client, &["sh", "-c", &crowd])?;
    until("the silence is noticed", RECOVERY, || {
        let silence = victim(lab)?.silence.context("nothing is")?;
        ensure!(silence.opened >= 8 && silence.held_ms.is_none(), "{silence:?}");
        Ok(())
    })?;
    ensure!(victim(lab)?.health == status::State::Up, "it is not to be taken down");
    let said = "none answered; it is checked at once";
    ensure!(lab.node_log(NODE)?.contains(said), "the log says nothing");

    for node in &written {
        node.reload(&elsewhere(node, "fail")?)?;
    }
    until("it is down", RECOVERY, || {
        let victim = victim(lab)?;
        ensure!(victim.health == status::State::Down, "{:?}", victim.health);
        Ok(())
    })?;
    drop(crowd);
    let held = victim(lab)?.silence.context("the silence is forgotten")?.held_ms;
    ensure!(held.is_some_and(|held| held > 0), "passing checks count already");
    let command =
        format!("for i in $(seq {REQUESTS}); do curl -sS -f -m 1 -o /dev/null http://{target}/; done");
    lab.run(Host::Client, &["sh", "-ec", &command])?;
    let page = lab.run(Host::Node(NODE), &["usher", "status"])?;
    ensure!(page.contains("none answered") && page.contains("passing checks count in"), "{page}");
    let log = lab.node_log(NODE)?;
    ensure!(log.contains(&format!("up -> down: {}", Code::L4Tout)), "{log}");

    silence(lab, "delete")?;
    written.iter().try_for_each(|node| node.reload(&node.ordinary).map(drop))?;
    lab.wait_all_well(RECOVERY + Duration::from_secs(10))
}

/// Lets nothing leave the backend's port any more, or again; its other port, which is checked, answers all the while.
fn silence(lab: &Lab, change: &str) -> Result<()> {
    let rule = ["rule", change, "pref", "1", "sport", PORT, "ipproto", "tcp", "blackhole"];
    lab.run(Host::Backend(VICTIM), &[&["ip"], &rule[..]].concat()).map(drop)
}

/// How the node sees the backend over IPv4.
fn victim(lab: &Lab) -> Result<status::Backend> {
    let status = status(lab, NODE)?;
    let name = Host::Backend(VICTIM).to_string();
    let all = backends(&status, "web", Family::V4)?;
    all.into_iter().find(|backend| backend.name == name).cloned().context("it is not there")
}
