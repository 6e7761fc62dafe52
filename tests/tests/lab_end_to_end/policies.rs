//! Who gets new flows: backups, another service's backends, and everybody in a panic, when few are well; those that come
//! up slowly; and by the word of agents.

use std::{fs, time::Instant};

use anyhow::{Context as _, Result, ensure};
use lb_userspace::{config::AllDown, status::State};
use usher_lab::{Connections, Family, Host, Lab, Stream, Tally, until};

use crate::{
    reload::Written,
    support::{Background, RECOVERY, backends, client, expect_equal, explain, status, vip, wait_health},
};

/// Requests that must all succeed.
const REQUESTS: usize = 60;

/// Requests of which shares are counted.
const MANY: usize = 100;

/// Long-lived connections, over both families and to all nodes.
const CONNECTIONS: usize = 60;

/// A backup gets nothing while another backend is up, and everything when none is; then nothing again.
pub(crate) fn backup_serves_only_while_nobody_else_does(lab: &Lab) -> Result<()> {
    let written = Written::every(lab)?;
    for node in &written {
        node.reload(&node.with_after("name = \"backend3\"", "backup = true")?)?;
    }
    expect_slots(lab, [true, true, false])?;
    ensure!(status_page(lab)?.contains("1, backup"), "{}", status_page(lab)?);
    let tally = lab.fetch(Family::V4, REQUESTS)?;
    expect_used(&tally, &["backend1", "backend2"])?;

    kill_both(lab)?;
    expect_slots(lab, [false, false, true])?;
    let page = status_page(lab)?;
    ensure!(page.contains("v4: only backups are up, and get the flows"), "{page}");
    expect_used(&lab.fetch(Family::V6, REQUESTS)?, &["backend3"])?;

    start_both(lab)?;
    expect_slots(lab, [true, true, false])?;
    written.iter().try_for_each(|node| node.reload(&node.ordinary).map(drop))
}

/// With one backend of three up, all are used, and said so; the dead refuse, and that was wanted.
pub(crate) fn in_a_panic_all_are_used(lab: &Lab) -> Result<()> {
    let written = Written::every(lab)?;
    for node in &written {
        node.reload(&node.with_after("name = \"web\"", "panic_below = 50")?)?;
    }
    lab.kill_backend(1)?;
    wait_health(lab, 1, "down", Instant::now(), RECOVERY)?;
    expect_slots(lab, [false, true, true])?;
    lab.kill_backend(2)?;
    wait_health(lab, 2, "down", Instant::now(), RECOVERY)?;
    expect_slots(lab, [true; 3])?;
    let page = status_page(lab)?;
    let said = "v4: PANIC: only 1 of 3 backends are up, so all are used, whatever checks find";
    ensure!(page.contains(said), "{page}");
    // The next daemon knows who is down, and goes on.
    lab.kill_usher(1)?;
    lab.start_usher(1)?;
    let status = until("the daemon answers", RECOVERY, || status(lab, 1))?;
    let healths: Vec<_> = backends(&status, "web", Family::V4)?.iter().map(|one| one.health).collect();
    expect_equal("health after a restart", &healths, &vec![State::Down, State::Down, State::Up])?;
    expect_slots(lab, [true; 3])?;
    start_both(lab)?;
    ensure!(!status_page(lab)?.contains("PANIC"), "it goes on");
    written.iter().try_for_each(|node| node.reload(&node.ordinary).map(drop))
}

/// Of two thresholds the one for DNS comes first: the node whose checks of two backends fail leaves to the other one.
pub(crate) fn node_with_too_few_backends_leaves_dns_before_a_panic(lab: &Lab) -> Result<()> {
    let written = Written::every(lab)?;
    for node in &written {
        node.reload(&node.with_after("name = \"web\"", "withdraw_below = 50\npanic_below = 30")?)?;
    }
    lab.fail_checks(1, 1)?;
    wait_www(lab, &[1, 2])?;
    lab.fail_checks(2, 1)?;
    wait_www(lab, &[2])?;
    let page = status_page(lab)?;
    ensure!(page.contains("only 1 of 3 backends are up") && !page.contains("PANIC"), "{page}");
    lab.fetch(Family::V6, REQUESTS)?.expect_no_failure()?;
    lab.pass_checks(1, 1)?;
    wait_www(lab, &[1, 2])?;
    lab.pass_checks(2, 1)?;
    lab.wait_all_well(RECOVERY)?;
    written.iter().try_for_each(|node| node.reload(&node.ordinary).map(drop))
}

/// A backend that returns gets few connections at first, more with each step, and its whole share in the end. One that was up
/// before a restart has it all the time.
pub(crate) fn returning_backend_gets_its_share_step_by_step(lab: &Lab) -> Result<()> {
    let written = Written::every(lab)?;
    for node in &written {
        node.reload(&node.with_after("name = \"web\"", "slow_start = \"20s\"")?)?;
    }
    lab.kill_backend(1)?;
    wait_health(lab, 1, "down", Instant::now(), RECOVERY)?;
    expect_slots(lab, [false, true, true])?;
    let mut stream = lab.stream(Family::V4)?;
    let connections = Connections::open(lab, CONNECTIONS)?;
    lab.start_backend(1)?;
    wait_health(lab, 1, "up", Instant::now(), RECOVERY)?;
    let up = Instant::now();
    let page = status_page(lab)?;
    ensure!(page.contains("slow start; 5 % of its weight count"), "{page}");
    let early = share(&mut stream, up)?;

    let mut slots = Vec::new();
    until("the whole weight counts", 2 * RECOVERY, || {
        let status = status(lab, 1)?;
        let backend = backends(&status, "web", Family::V4)?[0];
        slots.push(backend.slots);
        ensure!(backend.slow_start.is_none(), "{:?}", backend.slow_start);
        Ok(())
    })?;
    ensure!(slots.is_sorted(), "{slots:?}");
    slots.dedup();
    ensure!((5..=10).contains(&slots.len()), "{slots:?}");
    let late = share(&mut stream, Instant::now())?;
    ensure!(3 * early < 2 * late, "of {MANY} requests it got {early} at first and {late} in the end");
    connections.finish()?.expect_whole(CONNECTIONS, 4)?;

    lab.stop_usher(1)?;
    lab.start_usher(1)?;
    lab.wait_all_well(RECOVERY)?;
    ensure!(!status_page(lab)?.contains("slow start"), "after a restart");
    for state in ["drain", "ready"] {
        lab.run(Host::Node(1), &["usher", "server", "set", "web/backend2", "state", state])?;
    }
    let page = status_page(lab)?;
    ensure!(page.contains("1, 5 %"), "after a drain: {page}");
    written.iter().try_for_each(|node| node.reload(&node.ordinary).map(drop))?;
    ensure!(!status_page(lab)?.contains("slow start"), "it is off");
    Ok(())
}

/// How many requests of [`MANY`] the backend got that was away.
fn share(stream: &mut Stream, since: Instant) -> Result<usize> {
    let tally = Tally::of(&stream.since(since, MANY)?);
    tally.expect_no_failure()?;
    Ok(tally.backends.get("backend1").copied().unwrap_or(0))
}

/// A service that says sorry, by a backend that is taken from the other one.
const SORRY: &str = "\n[[service]]\nname = \"sorry\"\nprotocol = \"tcp\"\nport = 81\n\
    check = { kind = \"tcp\", port = 8080, interval = \"200ms\", timeout = \"200ms\" }\n";

/// A name of two services, of which one has no backend on the second node; then both.
pub(crate) fn name_of_two_services_needs_all_or_any_of_them(lab: &Lab) -> Result<()> {
    let written = Written::every(lab)?;
    let text = |node: &Written, require: &str, check: &str| {
        format!(
            "{}\n[[service]]\nname = \"api\"\ndns_name = \"www.example.test\"\n{require}protocol = \"tcp\"\nport = 81\n\
             check = {{ {check} }}\n[[service.backend]]\nname = \"backend1\"\n\
             address = [\"203.0.113.21\", \"2001:db8:2::21\"]\nport = 8080\n",
            node.ordinary
        )
    };
    // Nothing listens on port 9.
    let (well, ill) =
        ("interval = \"200ms\", timeout = \"200ms\"", "port = 9, interval = \"200ms\", timeout = \"200ms\"");
    let [first, second] = &written[..] else { anyhow::bail!("two nodes are needed") };
    for (require, nodes) in [("", &[1][..]), ("require = \"any\"\n", &[1, 2])] {
        first.reload(&text(first, require, well))?;
        second.reload(&text(second, require, ill))?;
        wait_www(lab, nodes)?;
        lab.fetch(Family::V4, REQUESTS)?.expect_no_failure()?;
        let why = lab.run(Host::Node(1), &["usher", "dns", "why", "www.example.test"])?;
        ensure!(why.contains("any of its services is enough") != require.is_empty(), "{why}");
    }

    // What web is checked by: nothing is left that node2 could serve.
    let neither =
        text(second, "require = \"any\"\n", ill).replacen("port = 8080, interval", "port = 9, interval", 1);
    second.reload(&neither)?;
    wait_www(lab, &[1])?;
    written.iter().try_for_each(|node| node.reload(&node.ordinary).map(drop))
}

/// Waits until both nodes name these and no others as `www`, in both families.
fn wait_www(lab: &Lab, nodes: &[u8]) -> Result<()> {
    until(&format!("www is nodes {nodes:?}"), RECOVERY, || {
        for (asked, family) in [1, 2].into_iter().flat_map(|asked| Family::ALL.map(|family| (asked, family)))
        {
            let mut named = lab.dig(asked, "www", family)?;
            named.sort();
            let wanted = nodes.iter().map(|&node| Ok(lab.address(Host::Node(node))?.of(family).to_string()));
            expect_equal(&format!("node{asked}"), &named, &wanted.collect::<Result<_>>()?)?;
        }
        Ok(())
    })
}

/// Without a backend a service's connections go to another's, and stay there; then nobody answers, if so wished.
pub(crate) fn another_service_stands_in_or_packets_are_dropped(lab: &Lab) -> Result<()> {
    let written = Written::every(lab)?;
    let with = |node: &Written, all_down: &str| -> Result<String> {
        let lent = node.backend(Host::Backend(3))?;
        let others = node.without(Host::Backend(3))?;
        let all_down = format!("name = \"web\"\nall_down = {all_down}\n");
        Ok(format!("{}{SORRY}{lent}", others.replacen("name = \"web\"\n", &all_down, 1)))
    };
    for node in &written {
        node.reload(&with(node, "{ service = \"sorry\" }")?)?;
    }
    // Nobody stands in before it was checked.
    wait_health(lab, 3, "up", Instant::now(), RECOVERY)?;
    expect_slots(lab, [true, true, false])?;
    expect_used(&lab.fetch(Family::V4, REQUESTS)?, &["backend1", "backend2"])?;

    kill_both(lab)?;
    expect_slots(lab, [false, false, true])?;
    let page = status_page(lab)?;
    let said = "v6: FALLBACK: no backend is up, so those of the service sorry get the flows";
    ensure!(page.contains(said) && page.contains("sorry/backend3") && page.contains("1, fallback"), "{page}");
    ensure!(lab.node_log(1)?.contains("service web/v4: FALLBACK: "), "it is not logged");
    until("no node counts as serving", RECOVERY, || {
        let dns = status(lab, 1)?.dns.context("no DNS")?;
        let policy = dns.names.iter().find(|name| name.name.starts_with("www.")).context("no www")?;
        expect_equal("policy", &policy.policy_in_force, &Some(AllDown::All))
    })?;
    for family in Family::ALL {
        expect_used(&lab.fetch(family, REQUESTS)?, &["backend3"])?;
    }
    let from = client(lab, Family::V4, 27_001)?;
    let chosen = explain(lab, 1, from, vip(lab, 1, Family::V4, 80)?, "tcp")?.backend;
    expect_equal("explained", &chosen.map(|backend| backend.name), &Some("sorry/backend3".to_owned()))?;
    let connections = Connections::open(lab, CONNECTIONS)?;

    start_both(lab)?;
    expect_slots(lab, [true, true, false])?;
    expect_used(&lab.fetch(Family::V6, REQUESTS)?, &["backend1", "backend2"])?;
    // A restart knows the numbers of lent backends again.
    lab.stop_usher(1)?;
    lab.start_usher(1)?;
    connections.wait_rounds(3)?;
    connections.finish()?.expect_whole(CONNECTIONS, 4)?;

    for node in &written {
        node.reload(&with(node, "\"drop\"")?)?;
    }
    kill_both(lab)?;
    let url = format!("http://{}/", vip(lab, 1, Family::V4, 80)?);
    let silence = lab.output(Host::Client, &["curl", "-sS", "-m", "2", &url])?;
    // 28: it waited in vain; 7 would be a reset.
    ensure!(silence.code == Some(28), "{silence:?}");
    ensure!(status(lab, 1)?.drops["no_backend_dropped"] > 0, "it is not counted");
    start_both(lab)?;
    written.iter().try_for_each(|node| node.reload(&node.ordinary).map(drop))
}

fn kill_both(lab: &Lab) -> Result<()> {
    for backend in [1, 2] {
        lab.kill_backend(backend)?;
        wait_health(lab, backend, "down", Instant::now(), RECOVERY)?;
    }
    Ok(())
}

fn start_both(lab: &Lab) -> Result<()> {
    lab.start_backend(1)?;
    lab.start_backend(2)?;
    lab.wait_all_well(RECOVERY)
}

/// A server on the backend that answers each connection with what is in a file, as an agent does.
const AGENT: &str = "use IO::Socket::IP; $SIG{PIPE} = 'IGNORE'; \
    my $s = IO::Socket::IP->new(LocalHost => '::', LocalPort => 9000, Listen => 9, V6Only => 0, ReuseAddr => 1) or die $@; \
    while (my $c = $s->accept) { open(my $f, '<', $ARGV[0]); print {$c} <$f>; close $c }";

/// What agents say counts at once; what an administrator says comes first.
pub(crate) fn agents_words_count_at_once(lab: &Lab) -> Result<()> {
    let words = |backend: u8| lab.node_config(1).with_file_name(format!("agent{backend}"));
    let say = |backend: u8, line: &str| fs::write(words(backend), line);
    let agents: Vec<_> = (1..=lab.options().backends)
        .map(|backend| {
            say(backend, "up\n")?;
            let file = words(backend);
            Background::start(lab, Host::Backend(backend), &["perl", "-e", AGENT, &file.to_string_lossy()])
        })
        .collect::<Result<_>>()?;
    let written = Written::every(lab)?;
    for node in &written {
        let (before, after) = node.ordinary.split_once("\ncheck = ").context("no check")?;
        let (_, after) = after.split_once('\n').context("no line")?;
        let check = "{ kind = \"agent\", port = 9000, interval = \"200ms\", rise = 2, fall = 3 }";
        node.reload(&format!("{before}\ncheck = {check}\n{after}"))?;
    }
    lab.wait_all_well(RECOVERY)?;
    expect_slots(lab, [true; 3])?;
    let shown = |what: &str| {
        until(&format!("status shows {what}"), RECOVERY, || {
            let page = status_page(lab)?;
            ensure!(page.contains(what), "{page}");
            Ok(())
        })
    };
    say(2, "drain # until Friday\n")?;
    expect_slots(lab, [true, false, true])?;
    shown("L7OK drain # until Friday")?;
    say(2, "ready up\n")?;
    expect_slots(lab, [true; 3])?;
    say(3, "0%\n")?;
    expect_slots(lab, [true, true, false])?;
    shown("0 of 1")?;
    for node in 1..=lab.options().nodes {
        lab.run(Host::Node(node), &["usher", "server", "set", "web/backend3", "weight", "5"])?;
    }
    expect_slots(lab, [true; 3])?;
    for node in 1..=lab.options().nodes {
        lab.run(Host::Node(node), &["usher", "server", "set", "web/backend3", "weight", "100%"])?;
    }
    say(3, "100%\n")?;
    say(1, "down # no disk\n")?;
    expect_slots(lab, [false, true, true])?;
    shown("L7STS down # no disk")?;
    say(1, "up\n")?;
    lab.wait_all_well(RECOVERY)?;
    expect_slots(lab, [true; 3])?;
    written.iter().try_for_each(|node| node.reload(&node.ordinary).map(drop))?;
    drop(agents);
    lab.wait_all_well(RECOVERY)
}

/// Which backends of the service `web` get new flows, on every node and over both families.
fn expect_slots(lab: &Lab, expected: [bool; 3]) -> Result<()> {
    until("the slots are as they should be", RECOVERY, || {
        for node in 1..=lab.options().nodes {
            let status = status(lab, node)?;
            for family in Family::ALL {
                let of = backends(&status, "web", family)?;
                let used: Vec<_> = of.iter().map(|backend| backend.slots > 0).collect();
                expect_equal(&format!("node{node}, {family}"), &used, &expected.to_vec())?;
            }
        }
        Ok(())
    })
}

fn expect_used(tally: &Tally, expected: &[&str]) -> Result<()> {
    tally.expect_no_failure()?;
    let used: Vec<_> = tally.backends.keys().map(String::as_str).collect();
    expect_equal("backends that answer", &used, &expected.to_vec())
}

fn status_page(lab: &Lab) -> Result<String> {
    lab.run(Host::Node(1), &["usher", "status"]).context("status")
}
