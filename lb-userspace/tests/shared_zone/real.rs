//! The schedules on a real BIND.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_userspace::{
    core::{
        ids::Family,
        lease::owner,
        records::{Change, Contents, Outcome, Update},
        shared::{Act, Settings, SharedZone, Situation, Trouble},
    },
    dns::update::{Keys, Primary as Client},
};
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use tokio::runtime::Runtime;

use crate::{
    cluster::{NAME, NODES, Primary, address, nodes, seconds, seen_by, settings, wish},
    name_server::{self, NameServer, Place, can_run},
    schedules::{World, events, run},
};

/// Schedules in a test; `USHER_SCHEDULES` sets another number.
const SCHEDULES: u64 = 100;

const LIMIT: Duration = Duration::from_secs(20);

/// What the operator has in the zone, beside the name that nodes write.
const ZONE: &str = r#"$TTL 60
@ IN SOA ns.example.test. hostmaster.example.test. 1 60 60 60 5
@ IN NS ns.example.test.
@ IN TXT "the operator's"
ns IN A 127.0.0.1
static IN A 203.0.113.99
"#;

const KEY: &str = "key \"usher-key\" {\n\talgorithm hmac-sha256;\n\tsecret \"dGhlIHNlY3JldCBvZiB1c2hlcidzIG5vZGVzLCAzMi4=\";\n};\n";

struct Bind<'a> {
    runtime: &'a Runtime,
    client: &'a Client,
}

impl Primary for Bind<'_> {
    fn contents(&mut self, names: &[&str], nodes: &[Arc<str>]) -> Contents {
        let texts: Vec<Arc<str>> =
            names.iter().flat_map(|name| nodes.iter().map(move |node| owner(node, name))).collect();
        let names: Vec<Arc<str>> = names.iter().map(|&name| name.into()).collect();
        self.runtime.block_on(self.client.read(&names, &texts, LIMIT)).unwrap()
    }

    fn update(&mut self, update: &Update) -> Outcome {
        self.runtime.block_on(self.client.update(update, LIMIT)).unwrap()
    }
}

fn start(runtime: &Runtime, place: Place, zone: &str) -> NameServer {
    place.write("usher.key", KEY);
    place.write("example.test.zone", zone);
    let path = place.path().to_owned();
    let example = include_str!("../../../dist/dns/named.conf");
    let zones = example
        .replace("/etc/bind", &path.display().to_string())
        .replace("/var/lib/bind", &path.display().to_string());
    runtime.block_on(name_server::bind(place, &zones))
}

fn keys(folder: &Path) -> Arc<Keys> {
    let path = folder.join("publish.key");
    fs::write(&path, KEY).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    Arc::new(Keys::read(&path).unwrap())
}

/// What is the operator's, as the primary answers.
fn of_the_operator(runtime: &Runtime, client: &Client) -> Contents {
    let names = ["static.example.test", "ns.example.test"].map(Arc::from);
    runtime.block_on(client.read(&names, &["example.test".into()], LIMIT)).unwrap()
}

#[test]
fn the_name_is_never_empty_on_a_real_bind_whatever_happens() {
    if !can_run("named", "bind9") {
        return;
    }
    let count = std::env::var("USHER_SCHEDULES").ok().map_or(SCHEDULES, |count| count.parse().unwrap());
    let runtime = Runtime::new().unwrap();
    let server = start(&runtime, Place::new(), ZONE);
    let folder = tempfile::TempDir::new().unwrap();
    let client = Client::new(server.address(), "example.test", keys(folder.path())).unwrap();
    let before = of_the_operator(&runtime, &client);
    assert_eq!(before.texts["example.test"], ["the operator's"]);
    for seed in 0..count {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let schedule = events().new_tree(&mut runner).unwrap().current();
        println!("seed {seed}: {} events", schedule.len());
        let mut world = run(World::new(Bind { runtime: &runtime, client: &client }), &schedule);
        world.leave();
        let left = world.primary.contents(&[NAME], &NODES.map(Arc::from));
        assert!(left.names[NAME].sets.is_empty() && left.texts.values().all(Vec::is_empty), "{left:?}");
    }
    assert_eq!(of_the_operator(&runtime, &client), before);
}

/// Beside `NAME`.
const ECHO: &str = "echo.example.test";

/// As many as BIND lets a name have by default (`max-records-per-type`).
const MOST: usize = 100;

/// Reads and writes until nothing is left to do, as a publisher does.
fn publish(bind: &mut Bind<'_>, zone: &mut SharedZone, situation: &Situation, now: Instant) -> Vec<Trouble> {
    for _ in 0..20 {
        zone.observe(&bind.contents(&[NAME, ECHO], &nodes()), &nodes(), now);
        let mut troubles = Vec::new();
        let Some(planned) = zone.decide(situation, now, &mut troubles) else { return troubles };
        match bind.runtime.block_on(bind.client.update(&planned.update, LIMIT)) {
            Ok(outcome) => zone.note(&planned, outcome, now),
            Err(error) => {
                assert!(error.is_refusal(), "{error}");
                zone.refused(&planned, &error.to_string(), now);
            }
        }
    }
    panic!("it never rests");
}

#[test]
fn a_name_that_is_full_keeps_nothing_from_the_other_on_a_real_bind() {
    if !can_run("named", "bind9") {
        return;
    }
    let runtime = Runtime::new().unwrap();
    let others: String = (0..MOST).map(|host| format!("echo 60 IN A 203.0.113.{host}\n")).collect();
    let server = start(&runtime, Place::new(), &(ZONE.to_owned() + &others));
    let folder = tempfile::TempDir::new().unwrap();
    let client = Client::new(server.address(), "example.test", keys(folder.path())).unwrap();
    let mut bind = Bind { runtime: &runtime, client: &client };
    let settings = Settings { share_rrset: true, ..settings() };
    let mut zone = SharedZone::new(NODES[0].into(), 1, settings);
    let wanted = [NAME, ECHO].map(|name| (Arc::from(name), wish(0)));
    let situation =
        Situation { names: wanted.into(), voters: NODES.len(), seen_by: seen_by(&wish(0), NODES.len()) };
    let holds = |bind: &mut Bind<'_>, name: &str| {
        let contents = bind.contents(&[name], &[]);
        contents.names[name].sets.get(&Family::V4).is_some_and(|set| set.addresses.contains(&address(0)))
    };

    let now = Instant::now();
    let said = publish(&mut bind, &mut zone, &situation, now);
    let [Trouble::Refused { name, act: Act::Add(Family::V4), why }] = &said[..] else { panic!("{said:?}") };
    assert!(**name == *ECHO && why.contains("max-records-per-type"), "{said:?}");
    assert!(holds(&mut bind, NAME) && !holds(&mut bind, ECHO));
    let lease =
        |bind: &mut Bind<'_>, name| bind.contents(&[name], &nodes()).texts[&owner(NODES[0], name)].clone();
    let before = [NAME, ECHO].map(|name| lease(&mut bind, name));
    assert_eq!(publish(&mut bind, &mut zone, &situation, now + seconds(20)), said);
    for (name, before) in [NAME, ECHO].into_iter().zip(before) {
        assert_ne!(lease(&mut bind, name), before, "{name} is renewed");
    }

    let first = Change::RemoveAddress { name: ECHO.into(), address: "203.0.113.0".parse().unwrap() };
    let room = Update { prerequisites: Vec::new(), changes: vec![first] };
    assert_eq!(bind.update(&room), Outcome::Applied);
    assert_eq!(publish(&mut bind, &mut zone, &situation, now + seconds(21)), []);
    assert!(holds(&mut bind, ECHO));
}
