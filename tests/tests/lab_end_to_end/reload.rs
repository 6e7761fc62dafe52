//! Other configurations for running nodes.

use std::{
    fs,
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use usher_lab::{Connections, Family, Host, Lab, Tally, until};

use crate::support::{Background, RECOVERY, backends, expect_equal, service, status, vip};

/// Long-lived connections, over both families and to all nodes.
const CONNECTIONS: usize = 60;

/// Reloads of each node, one right after the other.
const RELOADS: usize = 50;

/// Requests per family that must all succeed.
const REQUESTS: usize = 100;

/// The backend that leaves and returns.
const VICTIM: u8 = 3;

/// A node's configuration as the lab has made it; put back when dropped.
pub(crate) struct Written<'a> {
    lab: &'a Lab,
    node: u8,
    pub(crate) ordinary: String,
}

impl<'a> Written<'a> {
    pub(crate) fn of(lab: &'a Lab, node: u8) -> Result<Written<'a>> {
        let ordinary = fs::read_to_string(lab.node_config(node))?;
        Ok(Written { lab, node, ordinary })
    }

    pub(crate) fn every(lab: &'a Lab) -> Result<Vec<Written<'a>>> {
        (1..=lab.options().nodes).map(|node| Written::of(lab, node)).collect()
    }

    /// Writes another text and has it read; what the command says.
    pub(crate) fn reload(&self, text: &str) -> Result<String> {
        fs::write(self.lab.node_config(self.node), text)?;
        self.lab.run(Host::Node(self.node), &["usher", "reload"])
    }

    /// The ordinary text with something else after a line, in the service `web`.
    pub(crate) fn with_after(&self, line: &str, more: &str) -> Result<String> {
        let web = self.ordinary.find("name = \"web\"").context("no service web")?;
        let at =
            web + self.ordinary[web..].find(line).with_context(|| format!("no line {line}"))? + line.len();
        Ok(format!("{}\n{more}{}", &self.ordinary[..at], &self.ordinary[at..]))
    }

    /// The ordinary text without a backend of the service `web`.
    pub(crate) fn without(&self, backend: Host) -> Result<String> {
        let Range { start, end } = self.place(backend)?;
        Ok(format!("{}{}", &self.ordinary[..start], &self.ordinary[end..]))
    }

    /// The text of a backend of the service `web`.
    pub(crate) fn backend(&self, backend: Host) -> Result<&str> {
        Ok(&self.ordinary[self.place(backend)?])
    }

    fn place(&self, backend: Host) -> Result<Range<usize>> {
        let head = format!("[[service.backend]]\nname = \"{backend}\"\n");
        let begin = self.ordinary.find(&head).with_context(|| format!("{backend} is in no service"))?;
        let rest = &self.ordinary[begin + head.len()..];
        let end = rest.find("[[").map_or(self.ordinary.len(), |next| begin + head.len() + next);
        Ok(begin..end)
    }
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        // A check that failed leaves the lab to nobody.
        let _ = fs::write(self.lab.node_config(self.node), &self.ordinary);
    }
}

/// Weights, check and options change back and forth under load, as fast as the daemons follow.
pub(crate) fn d48_reloads_cut_no_flow(lab: &Lab) -> Result<()> {
    let mut streams = [lab.stream(Family::V4)?, lab.stream(Family::V6)?];
    let connections = Connections::open(lab, CONNECTIONS)?;
    let written = Written::every(lab)?;
    let begin = Instant::now();
    for round in 0..RELOADS {
        for node in &written {
            let other = node.with_after("name = \"backend1\"", "weight = 9")?.replace("rise = 2", "rise = 1");
            let said = node.reload(if round % 2 == 0 { &other } else { &node.ordinary })?;
            ensure!(said.contains("\nreloaded: "), "{said}");
        }
    }
    println!("{RELOADS} reloads of each node took {:?}", begin.elapsed());
    connections.wait_rounds(2)?;
    for stream in &mut streams {
        let tally = Tally::of(&stream.since(Instant::now(), REQUESTS)?);
        expect_equal("backends that answer", &tally.backends.len(), &lab.options().backend_hosts().count())?;
        let all = Tally::of(stream.answers());
        all.expect_no_failure()?;
    }
    connections.finish()?.expect_whole(CONNECTIONS, 2)
}

/// A backend leaves one service and stays in another, and returns; connections to others go on.
pub(crate) fn d41_d45_backend_leaves_a_service_and_returns_by_reload(lab: &Lab) -> Result<()> {
    let mut streams = [lab.stream(Family::V4)?, lab.stream(Family::V6)?];
    let connections = Connections::open(lab, CONNECTIONS)?;
    let victim = Host::Backend(VICTIM);
    let its_own = connections.all().iter().filter(|one| one.backend == victim.to_string()).count();
    ensure!(0 < its_own && its_own < CONNECTIONS, "{its_own} connections go to {victim}");

    let written = Written::every(lab)?;
    for node in &written {
        let said = node.reload(&node.without(victim)?)?;
        expect_equal(
            "said",
            &said,
            &format!("service web: backend {victim}: removed\nreloaded: 1 change\n"),
        )?;
    }
    let gone = Instant::now();
    let status = status(lab, 1)?;
    let has = |name: &str| -> Result<bool> {
        Ok(service(&status, name)?.backends.iter().any(|backend| backend.name == victim.to_string()))
    };
    expect_equal("web and echo have it", &(has("web")?, has("echo")?), &(false, true))?;
    for family in Family::ALL {
        let echo = backends(&status, "echo", family)?;
        let slots =
            echo.iter().find(|backend| backend.name == victim.to_string()).map(|backend| backend.slots);
        ensure!(slots.is_some_and(|slots| slots > 0), "echo no longer uses it: {slots:?}");
    }
    for stream in &mut streams {
        let tally = Tally::of(&stream.since(gone, REQUESTS)?);
        tally.expect_no_failure()?;
        ensure!(!tally.backends.contains_key(&victim.to_string()), "it answers: {:?}", tally.backends);
    }

    for node in &written {
        let said = node.reload(&node.ordinary)?;
        expect_equal("said", &said, &format!("service web: backend {victim}: added\nreloaded: 1 change\n"))?;
    }
    let added = Instant::now();
    lab.wait_all_well(RECOVERY)?;
    let back = Instant::now();
    for stream in &mut streams {
        let tally = Tally::of(&stream.since(back, REQUESTS)?);
        ensure!(tally.backends.contains_key(&victim.to_string()), "it gets nothing: {:?}", tally.backends);
        let since_added: Vec<_> =
            stream.answers().iter().filter(|answer| answer.began > added).cloned().collect();
        let tally = Tally::of(&since_added);
        tally.expect_no_failure()?;
    }
    connections.wait_rounds(1)?;
    connections.finish()?.expect_broken_at_most(its_own)
}

/// A service comes and goes; its clients are served, and then refused by the host.
pub(crate) fn service_is_added_and_removed_by_reload(lab: &Lab) -> Result<()> {
    let node = Written::of(lab, 1)?;
    let web = node.ordinary.find("[[service]]\nname = \"web\"").context("no service web")?;
    let more = &node.ordinary[web..];
    let end = more[1..].find("\n[[service]]").map_or(more.len(), |next| next + 1);
    let more = more[..end].replace("name = \"web\"", "name = \"more\"").replace("port = 80\n", "port = 81\n");
    let more: String =
        more.lines().filter(|line| !line.starts_with("dns_name")).map(|line| format!("{line}\n")).collect();
    let fetch = |family| -> Result<Option<i32>> {
        let url = format!("http://{}/", vip(lab, 1, family, 81)?);
        Ok(lab.output(Host::Client, &["curl", "-sS", "-m", "3", "-o", "/dev/null", &url])?.code)
    };
    let said = node.reload(&format!("{}\n{more}", node.ordinary))?;
    expect_equal("said", &said.as_str(), &"service more: added\nreloaded: 1 change\n")?;
    for family in Family::ALL {
        until("the new service serves", RECOVERY, || {
            let code = fetch(family)?;
            ensure!(code == Some(0), "curl: {code:?}");
            Ok(())
        })?;
    }
    let said = node.reload(&node.ordinary)?;
    expect_equal("said", &said.as_str(), &"service more: removed\nreloaded: 1 change\n")?;
    for family in Family::ALL {
        // 7: the host itself refuses.
        expect_equal("curl", &fetch(family)?, &Some(7))?;
    }
    Ok(())
}

/// With the old one in force, whole.
pub(crate) fn what_cannot_be_reloaded_is_refused_with_the_reason(lab: &Lab) -> Result<()> {
    let node = Written::of(lab, 1)?;
    let before = status(lab, 1)?;
    let reload = |words: &[&str]| lab.output(Host::Node(1), &[&["usher", "reload"], words].concat());
    for (text, complaint) in [
        (node.ordinary.replace("port = 80\n", "port = 0\n"), "usher.toml:"),
        (node.with_after("name = \"backend1\"", "weight = 70000")?, "70000 is more than 65535"),
        (
            format!("{}\n[flows]\nmax = 7777\n", node.ordinary),
            "[flows] max: the tables stay as they are; to make them anew, stop usher, ",
        ),
        (
            node.ordinary.replace("interfaces = [\"front\"", "interfaces = [\"front\", \"lo\""),
            "[node] interfaces: only a restart can change it",
        ),
    ] {
        fs::write(lab.node_config(1), &text)?;
        let output = reload(&[])?;
        ensure!(output.code == Some(2) && output.stderr.contains(complaint), "{complaint}: {output:?}");
        ensure!(output.stdout.is_empty(), "{output:?}");
    }
    let weight = |status: &lb_userspace::status::Status| -> Result<u16> {
        Ok(service(status, "web")?.backends[0].weight)
    };
    fs::write(lab.node_config(1), node.with_after("name = \"backend1\"", "weight = 9")?)?;
    let expected = "service web: backend backend1: weight 1 -> 9\n1 change would be made\n";
    expect_equal("a dry run", &reload(&["--dry-run"])?.stdout.as_str(), &expected)?;
    let after = status(lab, 1)?;
    expect_equal("weight", &weight(&after)?, &weight(&before)?)?;
    fs::write(lab.node_config(1), &node.ordinary)?;
    let said = reload(&[])?.stdout;
    expect_equal("nothing new", &said.as_str(), &"nothing differs from what is in force\n")
}

/// Before the daemon hears that the way to it is another one: what is found wrong with it is what the kernel says.
pub(crate) fn backend_that_is_on_the_link_again_is_accepted_at_once(lab: &Lab) -> Result<()> {
    let node = Host::Node(1);
    let route = |verb| lab.run(node, &["ip", "route", verb, "203.0.113.21", "via", "203.0.113.22"]);
    let reload = || lab.output(node, &["usher", "reload"]);
    route("add")?;
    let refused = until("a backend behind a gateway is refused", RECOVERY, || {
        let output = reload()?;
        let complaint = "is reached through the gateway 203.0.113.22";
        ensure!(output.code == Some(2) && output.stderr.contains(complaint), "{output:?}");
        Ok(())
    });
    route("delete")?;
    let accepted = reload()?;
    refused?;
    ensure!(accepted.code == Some(0), "{accepted:?}");
    Ok(())
}

/// Written over or replaced; a broken one changes nothing.
pub(crate) fn changed_file_is_in_force_without_a_command(lab: &Lab) -> Result<()> {
    let node = Written::of(lab, 1)?;
    let watched = |weight: u16| -> Result<String> {
        let text = node.with_after("name = \"backend1\"", &format!("weight = {weight}"))?;
        Ok(text.replace("\nsocket = ", "\nreload_on_change = true\nsocket = "))
    };
    let wait_weight = |weight: u16| {
        until(&format!("the weight is {weight}"), RECOVERY, || {
            expect_equal("weight", &service(&status(lab, 1)?, "web")?.backends[0].weight, &weight)
        })
    };
    // By ourselves, for its log.
    lab.stop_usher(1)?;
    let log = lab.node_config(1).with_file_name("watched.log");
    let run = format!("exec usher run 2> {}", log.display());
    let usher = Background::start(lab, Host::Node(1), &["sh", "-c", &run])?;
    let wait_logged = |line: &str| {
        until(&format!("the log says `{line}`"), RECOVERY, || {
            let log = fs::read_to_string(&log)?;
            ensure!(log.contains(line), "{log}");
            Ok(())
        })
    };
    lab.wait_all_well(RECOVERY)?;
    node.reload(&watched(2)?)?;
    fs::write(lab.node_config(1), watched(3)?)?;
    wait_weight(3)?;
    wait_logged("the configuration's file has changed")?;
    let beside = lab.node_config(1).with_extension("new");
    fs::write(&beside, "version = 2\n")?;
    fs::rename(&beside, lab.node_config(1))?;
    wait_logged("the configuration is not reloaded: ")?;
    wait_weight(3)?;
    fs::write(&beside, watched(4)?)?;
    fs::rename(&beside, lab.node_config(1))?;
    wait_weight(4)?;
    wait_logged("reload: service web: backend backend1: weight 3 -> 4")?;

    node.reload(&node.ordinary)?;
    wait_logged("reload: [node] reload_on_change: changed")?;
    usher.signal("TERM")?;
    let (code, ..) = usher.finish(Duration::from_secs(10))?;
    expect_equal("exit code", &code, &Some(0))?;
    fs::remove_file(&log)?;
    drop(node);
    lab.start_usher(1)
}

/// As `systemctl reload` of older units and people's fingers do.
pub(crate) fn signal_reloads_and_the_log_says_what(lab: &Lab) -> Result<()> {
    let node = Written::of(lab, 1)?;
    // By ourselves, for its pid.
    lab.stop_usher(1)?;
    let usher = Background::start(lab, Host::Node(1), &["usher", "run"])?;
    lab.wait_all_well(RECOVERY)?;
    fs::write(lab.node_config(1), node.with_after("name = \"backend1\"", "weight = 9")?)?;
    usher.signal("HUP")?;
    until("the weight is another", RECOVERY, || {
        let status = status(lab, 1)?;
        expect_equal("weight", &service(&status, "web")?.backends[0].weight, &9)
    })?;
    fs::write(lab.node_config(1), "version = 2\n")?;
    usher.signal("HUP")?;
    // It stays, and says why; then it ends as always.
    let refused = lab.output(Host::Node(1), &["usher", "reload"])?;
    expect_equal("exit code of a reload", &refused.code, &Some(2))?;
    usher.signal("TERM")?;
    let (code, _, log) = usher.finish(Duration::from_secs(10))?;
    expect_equal("exit code", &code, &Some(0))?;
    for line in [
        "reload: service web: backend backend1: weight 1 -> 9",
        "the configuration is reloaded changes=1",
        "the configuration is not reloaded: ",
    ] {
        ensure!(log.contains(line), "no line `{line}` in {log}");
    }
    drop(node);
    lab.start_usher(1)
}
