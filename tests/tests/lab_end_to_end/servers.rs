//! Backends that an administrator drains, takes out for maintenance and weighs anew.

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, Result, ensure};
use lb_userspace::core::admin::Admin;
use usher_lab::{Connections, Family, Host, Lab, Tally, until};

use crate::{
    reload::Written,
    support::{Mounted, RECOVERY, expect_equal, service, status, sum},
};

/// The backend that it is done to. Not the one that other checks kill: with DSR, its resets go past the nodes, which then
/// remember connections that are over; a client that uses one's port again goes on with it, drained or not.
const DRAINED: u8 = 3;

/// Long-lived connections, over both families and to all nodes.
const CONNECTIONS: usize = 60;

/// Requests per family that must all go to others.
const REQUESTS: usize = 100;

/// Says something of the backend to a node; what the command answers.
fn set(lab: &Lab, node: u8, words: &[&str]) -> Result<String> {
    let server = name();
    lab.run(Host::Node(node), &[&["usher", "server", "set", &server], words].concat())
}

fn set_everywhere(lab: &Lab, words: &[&str]) -> Result<()> {
    (1..=lab.options().nodes).try_for_each(|node| set(lab, node, words).map(drop))
}

fn name() -> String {
    format!("web/{}", Host::Backend(DRAINED))
}

pub(crate) fn d42_drained_backend_keeps_its_flows_and_gets_no_new_ones(lab: &Lab) -> Result<()> {
    let mut streams = [lab.stream(Family::V4)?, lab.stream(Family::V6)?];
    let connections = Connections::open(lab, CONNECTIONS)?;
    set_everywhere(lab, &["state", "drain"])?;
    let drained = Instant::now();
    expect_others_answer(&mut streams, drained)?;

    // Those that it has go on, however often they ask.
    let before = sum(lab, 1, DRAINED, |backend| backend.packets)?;
    connections.wait_rounds(3)?;
    ensure!(
        sum(lab, 1, DRAINED, |backend| backend.packets)? > before,
        "it serves no connection through node1"
    );
    expect_equal("slots", &sum(lab, 1, DRAINED, |backend| backend.slots.into())?, &0)?;
    let flows = sum(lab, 1, DRAINED, |backend| backend.flows)?;
    ensure!(flows > 0, "node1 counts no flow");
    let waiting = ["usher", "server", "wait", &name(), "--drained", "--timeout", "0s"];
    let given_up = lab.output(Host::Node(1), &waiting)?;
    ensure!(given_up.code == Some(1) && given_up.stderr.contains(" still has "), "{given_up:?}");

    set_everywhere(lab, &["state", "ready"])?;
    let ready = Instant::now();
    for stream in &mut streams {
        let tally = Tally::of(&stream.since(ready, REQUESTS)?);
        tally.expect_no_failure()?;
        let victim = Host::Backend(DRAINED).to_string();
        ensure!(tally.backends.contains_key(&victim), "it gets nothing: {:?}", tally.backends);
    }
    connections.wait_rounds(1)?;
    connections.finish()?.expect_whole(CONNECTIONS, 4)
}

/// With `on_drain_end = "keep"`, what is left goes on in maintenance; with `"reset"`, it and nothing else is reset.
pub(crate) fn d42_drain_ends_at_its_deadline(lab: &Lab) -> Result<()> {
    let victim = Host::Backend(DRAINED).to_string();
    let streams = [lab.stream(Family::V4)?, lab.stream(Family::V6)?];
    let connections = Connections::open(lab, CONNECTIONS)?;
    let its_own = connections.all().iter().filter(|one| one.backend == victim).count();
    ensure!(0 < its_own && its_own < CONNECTIONS, "{its_own} connections go to {victim}");

    drain_to_its_end(lab)?;
    let before = sum(lab, 1, DRAINED, |backend| backend.packets)?;
    connections.wait_rounds(2)?;
    ensure!(sum(lab, 1, DRAINED, |backend| backend.packets)? > before, "what was left does not go on");
    connections.finish()?.expect_whole(CONNECTIONS, 4)?;
    set_everywhere(lab, &["state", "ready"])?;

    let written = Written::every(lab)?;
    for node in &written {
        node.reload(&node.with_after("name = \"web\"", "on_drain_end = \"reset\"")?)?;
    }
    let connections = Connections::open(lab, CONNECTIONS)?;
    let its_own = connections.all().iter().filter(|one| one.backend == victim).count();
    drain_to_its_end(lab)?;
    connections.wait_rounds(2)?;
    let broken = connections.finish()?.broken;
    let reset = |told: &&String| told.contains(&format!("({victim})")) && told.contains("reset by peer");
    ensure!(broken.iter().filter(reset).count() == its_own, "{its_own} are its own: {broken:?}");
    expect_equal("broken", &broken.len(), &its_own)?;

    for mut stream in streams {
        Tally::of(stream.answers()).expect_no_failure()?;
    }
    set_everywhere(lab, &["state", "ready"])?;
    written.iter().try_for_each(|node| node.reload(&node.ordinary).map(drop))
}

/// Drains it for a short time, and waits until every node has put it into maintenance.
fn drain_to_its_end(lab: &Lab) -> Result<()> {
    set_everywhere(lab, &["state", "drain", "--for", "2s"])?;
    let is_in_maintenance = |node| -> Result<()> {
        let status = status(lab, node)?;
        let name = Host::Backend(DRAINED).to_string();
        for backend in service(&status, "web")?.backends.iter().filter(|backend| backend.name == name) {
            expect_equal("state", &backend.admin, &Admin::Maint)?;
            ensure!(backend.flows > 0, "node{node}: {}: nothing is left", backend.family);
        }
        Ok(())
    };
    until("the drain is over", RECOVERY, || (1..=lab.options().nodes).try_for_each(is_in_maintenance))?;
    let said = format!("server {}: the time of its drain is over: drain -> maint", name());
    let log = lab.node_log(1)?;
    let line = log.lines().rfind(|line| line.contains(&said)).context("node1 does not log it")?;
    ensure!(line.contains("flows=") && !line.contains("flows=0"), "{line}");
    Ok(())
}

fn expect_others_answer(streams: &mut [usher_lab::Stream], since: Instant) -> Result<()> {
    let victim = Host::Backend(DRAINED).to_string();
    for stream in streams {
        let tally = Tally::of(&stream.since(since, REQUESTS)?);
        tally.expect_no_failure()?;
        ensure!(!tally.backends.contains_key(&victim), "it gets new flows: {:?}", tally.backends);
    }
    Ok(())
}

/// Although its checks pass, and until they count again.
pub(crate) fn backend_in_maintenance_or_said_to_be_down_gets_nothing(lab: &Lab) -> Result<()> {
    let mut streams = [lab.stream(Family::V4)?, lab.stream(Family::V6)?];
    for (away, back) in [(["state", "maint"], ["state", "ready"]), (["health", "down"], ["health", "auto"])] {
        set_everywhere(lab, &away)?;
        expect_others_answer(&mut streams, Instant::now())?;
        set_everywhere(lab, &back)?;
    }
    let all_well = lab.wait_all_well(RECOVERY);
    drop(streams);
    all_well
}

pub(crate) fn what_was_set_outlives_the_daemon(lab: &Lab) -> Result<()> {
    let restart = || {
        lab.stop_usher(1)?;
        lab.start_usher(1)?;
        lab.wait_all_well(RECOVERY)
    };
    let shown = || -> Result<_> {
        let status = status(lab, 1)?;
        let name = Host::Backend(DRAINED).to_string();
        let backend = service(&status, "web")?.backends.iter().find(|backend| backend.name == name);
        let backend = backend.context("the backend is gone")?;
        let has_end = backend.drain_left_s.is_some_and(|left| (3_000..=3_600).contains(&left));
        Ok((backend.admin.to_string(), has_end, backend.weight, backend.configured_weight))
    };
    let said = set(lab, 1, &["weight", "7"])?;
    expect_equal("said", &said.trim(), &&*format!("{}: ready, weight 7 (was ready)", name()))?;
    let said = set(lab, 1, &["state", "drain", "--for", "1h"])?;
    let expected = format!("{}: drain, weight 7, 1 h left (was ready, weight 7)", name());
    expect_equal("said", &said.trim(), &&*expected)?;
    restart()?;
    expect_equal("after a restart", &shown()?, &("drain".to_owned(), true, 7, 1))?;
    expect_equal("slots", &sum(lab, 1, DRAINED, |backend| backend.slots.into())?, &0)?;

    set(lab, 1, &["state", "ready"])?;
    set(lab, 1, &["weight", "100%"])?;
    restart()?;
    expect_equal("after another", &shown()?, &("ready".to_owned(), false, 1, 1))?;
    what_is_not_there_is_refused(lab)?;
    what_cannot_be_kept_is_in_force_and_said(lab)
}

fn what_cannot_be_kept_is_in_force_and_said(lab: &Lab) -> Result<()> {
    let full = Mounted::new("tmpfs", "size=4k")?;
    fs::write(full.path().join("much"), [0; 4_096])?;
    let read_only = Mounted::new("tmpfs", "ro")?;
    // Nothing can be made in the first.
    for (folder, why) in [
        (Path::new("/proc/usher"), ""),
        (full.path(), ": No space left on device"),
        (read_only.path(), ": Read-only file system"),
    ] {
        cannot_be_kept(lab, &folder.join("state.json"), why)?;
    }
    lab.stop_usher(1)?;
    lab.start_usher(1)
}

fn cannot_be_kept(lab: &Lab, state_file: &Path, why: &str) -> Result<()> {
    let path = lab.node_config(1);
    let ordinary = fs::read_to_string(&path)?;
    let line = ordinary.lines().find(|line| line.starts_with("state_file = ")).context("no state_file")?;
    let state_file = state_file.display();
    fs::write(&path, ordinary.replace(line, &format!("state_file = \"{state_file}\"")))?;
    lab.stop_usher(1)?;
    lab.start_usher(1)?;
    lab.wait_all_well(RECOVERY)?;
    let output = lab.output(Host::Node(1), &["usher", "server", "set", &name(), "state", "drain"])?;
    ensure!(output.code == Some(0), "{output:?}");
    let said = format!("it is in force, but forgotten if the daemon ends now: cannot write {state_file}");
    ensure!(output.stderr.contains(&said) && output.stderr.contains(why), "{output:?}");
    expect_equal("slots", &sum(lab, 1, DRAINED, |backend| backend.slots.into())?, &0)?;
    Ok(fs::write(&path, ordinary)?)
}

fn what_is_not_there_is_refused(lab: &Lab) -> Result<()> {
    for (words, code, complaint) in [
        (["web/backend99", "state", "drain"], 1, "no backend is called `backend99`; there are backend1, "),
        (["wbe/backend1", "state", "drain"], 1, "no service is called `wbe`; there are "),
        (["web", "state", "drain"], 2, "write the service's name, a slash and the backend's name"),
        (["web/backend1", "weight", "half"], 2, "`half` is no weight; use 0 to 65535, or 0% to 100%"),
        (["web/backend1", "state", "gone"], 2, "[possible values: ready, drain, maint]"),
    ] {
        let output = lab.output(Host::Node(1), &[&["usher", "server", "set"], &words[..]].concat())?;
        ensure!(output.code == Some(code) && output.stderr.contains(complaint), "{words:?}: {output:?}");
    }
    let drained =
        lab.output(Host::Node(1), &["usher", "server", "wait", "internal/backend99", "--drained"])?;
    ensure!(drained.code == Some(1) && drained.stderr.contains("has no backend"), "{drained:?}");
    Ok(())
}
