//! Records of a zone on real primaries: BIND, Knot and PowerDNS, set up as `dist/dns/` shows.

#![expect(clippy::unwrap_used, reason = "the lint spares tests, but not their helpers")]

mod name_server;

use std::{
    fs,
    io::Read as _,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use lb_userspace::{
    core::{
        ids::Family,
        records::{AddressSet, Change, Contents, Outcome, Prerequisite, Update},
    },
    dns::{
        Way, look_up, look_up_over_tcp,
        update::{Keys, Primary, UpdateError},
    },
};
use name_server::{NameServer, Place, can_run};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

/// For answers that come.
const LONG: Duration = Duration::from_secs(20);
/// For answers that do not.
const SHORT: Duration = Duration::from_millis(300);

/// What the operator has in the zone. Nodes may write at `www` and `echo`.
const ZONE: &str = r#"$TTL 60
@ IN SOA ns.example.test. hostmaster.example.test. 1 60 60 60 5
@ IN NS ns.example.test.
@ IN TXT "the operator's"
ns IN A 127.0.0.1
static IN A 203.0.113.99
echo IN CNAME static.example.test.
"#;

const WWW: &str = "www.example.test";
const LEASE: &str = "_usher-node1.www.example.test";
const STATIC: &str = "static.example.test";
const ECHO: &str = "echo.example.test";
const APEX: &str = "example.test";

/// In base64, as key files have them: of `usher-key`, and of all other keys.
const SECRET: &str = "dGhlIHNlY3JldCBvZiB1c2hlcidzIG5vZGVzLCAzMi4=";
const OTHER_SECRET: &str = "c29tZSBvdGhlciBzZWNyZXQgb2YgMzIgYnl0ZXMuLi4=";

/// A key as `tsig-keygen` prints it.
fn key(name: &str, secret: &str) -> String {
    format!("key \"{name}\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{secret}\";\n}};\n")
}

fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn keys(text: &str) -> Arc<Keys> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("publish.key");
    write_secret(&path, text);
    Arc::new(Keys::read(&path).unwrap())
}

fn primary(address: SocketAddr, zone: &str, keys_text: &str) -> Primary {
    Primary::new(address, zone, keys(keys_text)).unwrap()
}

/// `usher-key` as the primary has it.
fn usher_key() -> String {
    key("usher-key", SECRET)
}

fn addresses<const N: usize>(addresses: [&str; N]) -> [IpAddr; N] {
    addresses.map(|address| address.parse().unwrap())
}

fn add(name: &str, address: &str) -> Change {
    Change::AddAddress { name: name.into(), address: address.parse().unwrap(), ttl: 30 }
}

fn remove(name: &str, address: &str) -> Change {
    Change::RemoveAddress { name: name.into(), address: address.parse().unwrap() }
}

fn set_text(text: &str) -> Change {
    Change::SetText { name: LEASE.into(), text: text.to_owned(), ttl: 5 }
}

fn text_is(text: &str) -> Prerequisite {
    Prerequisite::TextIs { name: LEASE.into(), text: text.to_owned() }
}

fn addresses_are<const N: usize>(family: Family, all: [&str; N]) -> Prerequisite {
    Prerequisite::AddressesAre { name: WWW.into(), family, addresses: addresses(all).into() }
}

async fn update(
    primary: &Primary,
    prerequisites: impl Into<Vec<Prerequisite>>,
    changes: impl Into<Vec<Change>>,
) -> Result<Outcome, UpdateError> {
    let update = Update { prerequisites: prerequisites.into(), changes: changes.into() };
    primary.update(&update, LONG).await
}

async fn read(primary: &Primary) -> Contents {
    let names = [WWW, STATIC, ECHO].map(Arc::from);
    primary.read(&names, &[LEASE, APEX].map(Arc::from), LONG).await.unwrap()
}

/// The sets of a name: TTL and addresses.
fn sets(contents: &Contents, name: &str) -> Vec<(Family, AddressSet)> {
    contents.names[name].sets.iter().map(|(family, set)| (*family, set.clone())).collect()
}

fn set<const N: usize>(ttl: u32, all: [&str; N]) -> AddressSet {
    AddressSet { ttl, addresses: addresses(all).into() }
}

/// What servers differ in; [`said`] holds it.
struct Differences {
    /// To changes that the key may not make.
    forbidden: &'static str,
    /// To a key that may make none.
    no_grant: &'static str,
    /// To a name that is not in the zone.
    outside: &'static str,
    /// To an update of a zone that it does not serve.
    other_zone: &'static str,
    /// To an address beside an alias.
    alias: &'static str,
    /// To a wrong secret.
    wrong_secret: &'static str,
    /// To an unknown key.
    unknown_key: &'static str,
    /// To a clock that is off.
    wrong_time: &'static str,
}

/// What became of an update, in words.
fn said(outcome: Result<Outcome, UpdateError>) -> String {
    outcome.map_or_else(|error| error.to_string(), |outcome| format!("{outcome:?}"))
}

#[track_caller]
fn assert_said(outcome: Result<Outcome, UpdateError>, expected: &str) {
    let said = said(outcome);
    assert!(said.contains(expected), "{said}");
}

/// The whole behaviour that publishing relies on.
async fn behaves(server: &NameServer, differences: &Differences) {
    let own = primary(server.address(), APEX, &usher_key());
    assert_eq!(own.key_taken(), None);
    let before = read(&own).await;
    assert_eq!(own.key_taken(), Some(0));
    assert_eq!(sets(&before, WWW), []);
    assert_eq!(before.texts[LEASE], [""; 0]);
    let serial = own.serial(LONG).await.unwrap();

    changes_are_made(&own).await;
    prerequisites_decide(&own).await;
    texts_of_any_length(&own).await;
    an_alias_stays(&own, differences).await;
    many_names_at_once(&own).await;
    assert_ne!(own.serial(LONG).await.unwrap(), serial);

    others_records_are_refused(&own, differences).await;
    keys_are_told_apart(server.address(), differences).await;
    clocks_are_compared(server.address(), differences).await;

    let after = read(&own).await;
    for name in [STATIC, ECHO] {
        assert_eq!(after.names[name], before.names[name], "{name}");
    }
    assert_eq!(sets(&after, STATIC), [(Family::V4, set(60, ["203.0.113.99"]))]);
    assert_eq!(after.names[ECHO].alias.as_deref(), Some(STATIC));
    assert_eq!(after.texts[APEX], ["the operator's"]);
}

async fn changes_are_made(own: &Primary) {
    let all = [add(WWW, "192.0.2.11"), add(WWW, "192.0.2.12"), add(WWW, "2001:db8::11"), set_text("lease 1")];
    assert_eq!(update(own, [], all).await.unwrap(), Outcome::Applied);
    let contents = read(own).await;
    let v6 = (Family::V6, set(30, ["2001:db8::11"]));
    assert_eq!(sets(&contents, WWW), [(Family::V4, set(30, ["192.0.2.11", "192.0.2.12"])), v6.clone()]);
    assert_eq!(contents.texts[LEASE], ["lease 1"]);

    let less = [remove(WWW, "192.0.2.12"), remove(WWW, "192.0.2.99")];
    assert_eq!(update(own, [], less).await.unwrap(), Outcome::Applied);
    assert_eq!(sets(&read(own).await, WWW), [(Family::V4, set(30, ["192.0.2.11"])), v6]);
}

/// The zone holds, and holds again afterwards: A 192.0.2.11, AAAA 2001:db8::11, and the text "lease 1".
async fn prerequisites_decide(own: &Primary) {
    let is_there = [
        text_is("lease 1"),
        addresses_are(Family::V4, ["192.0.2.11"]),
        addresses_are(Family::V6, ["2001:db8::11"]),
    ];
    let held = update(own, is_there.clone(), [set_text("lease 2")]).await.unwrap();
    assert_eq!(held, Outcome::Applied);
    assert_eq!(read(own).await.texts[LEASE], ["lease 2"]);

    let no_text = Prerequisite::NoText { name: LEASE.into() };
    let violated = [
        text_is("lease 1"),
        no_text.clone(),
        addresses_are(Family::V4, []),
        addresses_are(Family::V6, []),
        addresses_are(Family::V4, ["192.0.2.12"]),
        addresses_are(Family::V4, ["192.0.2.11", "192.0.2.12"]),
        addresses_are(Family::V6, ["2001:db8::12"]),
    ];
    for prerequisite in violated {
        let outcome = update(own, [prerequisite.clone()], [set_text("lease 3")]).await.unwrap();
        assert_eq!(outcome, Outcome::NotAsExpected, "{prerequisite:?}");
        let both = [text_is("lease 2"), prerequisite.clone()];
        let outcome = update(own, both, [set_text("lease 3")]).await.unwrap();
        assert_eq!(outcome, Outcome::NotAsExpected, "one holds, and not {prerequisite:?}");
    }
    assert_eq!(read(own).await.texts[LEASE], ["lease 2"], "an update that was not made changes nothing");

    let gone =
        [Change::RemoveText { name: LEASE.into() }, remove(WWW, "192.0.2.11"), remove(WWW, "2001:db8::11")];
    assert_eq!(update(own, [text_is("lease 2")], gone).await.unwrap(), Outcome::Applied);
    let contents = read(own).await;
    assert_eq!((sets(&contents, WWW), contents.texts[LEASE].len()), (vec![], 0));

    // Now that nothing is there, not even the names.
    for prerequisite in is_there {
        let outcome = update(own, [prerequisite.clone()], [set_text("lease 4")]).await.unwrap();
        assert_eq!(outcome, Outcome::NotAsExpected, "{prerequisite:?}");
    }
    let nothing = [no_text, addresses_are(Family::V4, []), addresses_are(Family::V6, [])];
    let again = [add(WWW, "192.0.2.11"), add(WWW, "2001:db8::11"), set_text("lease 1")];
    assert_eq!(update(own, nothing, again).await.unwrap(), Outcome::Applied);
    assert_eq!(read(own).await.texts[LEASE], ["lease 1"]);
}

async fn texts_of_any_length(own: &Primary) {
    let long = "a \"quoted\" \\ and long text; ".repeat(20);
    assert_eq!(update(own, [], [set_text(&long)]).await.unwrap(), Outcome::Applied);
    assert_eq!(read(own).await.texts[LEASE], [long.as_str()]);
    let held = update(own, [text_is(&long)], [set_text("lease 1")]).await.unwrap();
    assert_eq!(held, Outcome::Applied);
    assert_eq!(read(own).await.texts[LEASE], ["lease 1"]);
}

/// Whatever the primary says to it: that is why updates are read back.
async fn an_alias_stays(own: &Primary, differences: &Differences) {
    assert_said(update(own, [], [add(ECHO, "192.0.2.11")]).await, differences.alias);
    let contents = read(own).await;
    assert_eq!(contents.names[ECHO].alias.as_deref(), Some(STATIC));
    assert_eq!(sets(&contents, ECHO), []);
}

/// More than are in flight at a time.
async fn many_names_at_once(own: &Primary) {
    let names: Vec<Arc<str>> = (0..100).map(|number| format!("n{number}.www.example.test").into()).collect();
    let contents = own.read(&names, &names, LONG).await.unwrap();
    assert_eq!((contents.names.len(), contents.texts.len()), (100, 100));
    assert!(contents.names.values().all(|found| found.sets.is_empty() && found.alias.is_none()));
}

async fn others_records_are_refused(own: &Primary, differences: &Differences) {
    for change in [
        remove(STATIC, "203.0.113.99"),
        add(STATIC, "192.0.2.11"),
        add(APEX, "192.0.2.11"),
        Change::RemoveText { name: APEX.into() },
        Change::RemoveText { name: STATIC.into() },
    ] {
        let before = read(own).await;
        let outcome = update(own, [], [change.clone()]).await;
        assert!(outcome.as_ref().err().is_none_or(UpdateError::is_refusal), "{outcome:?}");
        assert_said(outcome, differences.forbidden);
        assert_eq!(read(own).await, before, "{change:?}");
    }
    let outside = update(own, [], [add("www.example.org", "192.0.2.11")]).await;
    assert!(outside.as_ref().err().is_none_or(UpdateError::is_refusal), "{outside:?}");
    assert_said(outside, differences.outside);

    let other = primary(own.address(), "example.org", &usher_key());
    assert_said(update(&other, [], [add("www.example.org", "192.0.2.11")]).await, differences.other_zone);
    let unread = other.serial(LONG).await.unwrap_err().to_string();
    assert!(unread.contains("REFUSED") && unread.contains("primary for the zone example.org"), "{unread}");
}

async fn keys_are_told_apart(address: SocketAddr, differences: &Differences) {
    let unknown = key("no-such-key", OTHER_SECRET);
    for (keys, name, expected) in [
        (key("usher-key", OTHER_SECRET), "usher-key", differences.wrong_secret),
        (unknown.clone(), "no-such-key", differences.unknown_key),
        (unknown.clone() + &key("usher-key", OTHER_SECRET), "usher-key", differences.wrong_secret),
    ] {
        let wrong = primary(address, APEX, &keys);
        let unread = wrong.serial(LONG).await.unwrap_err();
        let unchanged = update(&wrong, [], [set_text("not by us")]).await.unwrap_err();
        for error in [unread, unchanged] {
            let message = error.to_string();
            let question = format!("does the key \"{name}\" have the same name, algorithm");
            assert!(message.contains(expected) && message.contains(&question), "{message}");
        }
        assert_eq!(wrong.key_taken(), None);
    }

    let other = primary(address, APEX, &key("other-key", OTHER_SECRET));
    assert_said(update(&other, [], [set_text("not by us")]).await, differences.no_grant);

    let both = primary(address, APEX, &(unknown + &usher_key()));
    // Nor was what a server accepted and left out.
    assert_eq!(read(&both).await.texts[LEASE], ["lease 1"]);
    assert_eq!(update(&both, [text_is("lease 1")], [set_text("lease 1")]).await.unwrap(), Outcome::Applied);
    assert_eq!(both.key_taken(), Some(1));
}

async fn clocks_are_compared(address: SocketAddr, differences: &Differences) {
    fn now() -> u64 {
        SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
    }
    for (clock, off) in
        [((|| now() + 1_000) as fn() -> u64, 1_000), ((|| now() - 1_000) as fn() -> u64, -1_000)]
    {
        let late = primary(address, APEX, &usher_key()).with_clock(clock);
        let outcome = update(&late, [], [set_text("not at this time")]).await;
        assert!(!outcome.as_ref().is_err_and(UpdateError::is_refusal), "{outcome:?}");
        if let Err(UpdateError::Time { here, there, .. }) = outcome {
            let ahead = here.cast_signed() - there.unwrap().cast_signed();
            assert!((ahead - off).abs() <= 5, "{ahead:?}");
        }
        assert_said(outcome, differences.wrong_time);
    }
}

/// `dist/dns/named.conf` as it stands, but for the paths.
async fn bind(zone: &str) -> NameServer {
    bind_with(zone, None).await
}

/// The same with a clock that is off by so many seconds.
async fn bind_with(zone: &str, clock: Option<&str>) -> NameServer {
    let place = Place::new();
    let (zone_file, key_file) = (place.path().join("zone"), place.path().join("usher.key"));
    place.write("zone", zone);
    write_secret(&key_file, &usher_key());
    let config = include_str!("../../dist/dns/named.conf")
        .replace("/var/lib/bind/example.test.zone", &zone_file.to_string_lossy())
        .replace("/etc/bind/usher.key", &key_file.to_string_lossy());
    name_server::bind_with_clock(place, &(config + &key("other-key", OTHER_SECRET)), clock).await
}

#[tokio::test]
async fn bind_is_a_primary() {
    if !can_run("named", "bind9") {
        return;
    }
    let server = bind(ZONE).await;
    let differences = Differences {
        forbidden: "(REFUSED): its update-policy or ACL does not allow the key \"usher-key\"",
        no_grant: "(REFUSED): its update-policy or ACL does not allow the key \"other-key\"",
        outside: "(NOTZONE): is it primary for the zone example.test",
        other_zone: "(NOTAUTH): is it primary for the zone example.org?",
        alias: "Applied",
        wrong_secret: "(BADSIG)",
        unknown_key: "(BADKEY)",
        wrong_time: "(BADTIME): this host's clock says ",
    };
    behaves(&server, &differences).await;
}

/// `dist/dns/knot.conf` as it stands, but for folder and secret.
#[tokio::test]
async fn knot_is_a_primary() {
    if !can_run("knotd", "knot") {
        return;
    }
    let place = Place::new();
    place.write("example.test.zone", ZONE);
    let other =
        format!("key:\n  - id: other-key\n    algorithm: hmac-sha256\n    secret: \"{OTHER_SECRET}\"\n");
    let config = include_str!("../../dist/dns/knot.conf")
        .replace("/var/lib/knot", &place.path().to_string_lossy())
        .replace("SECRET", SECRET);
    let server = name_server::knot(place, &(other + &config)).await;
    let differences = Differences {
        forbidden: "(BADKEY): does the key \"usher-key\"",
        no_grant: "(BADKEY): does the key \"other-key\"",
        outside: "(BADKEY)",
        other_zone: "NOTAUTH without a signature",
        alias: "Applied",
        wrong_secret: "(BADSIG)",
        unknown_key: "(BADKEY)",
        wrong_time: "(BADTIME): this host's clock says ",
    };
    behaves(&server, &differences).await;
}

/// `dist/dns/pdns.conf` and its policy as they stand, but for the path.
#[tokio::test]
async fn powerdns_is_a_primary() {
    if !can_run("pdns_server", "pdns-server") {
        return;
    }
    let place = Place::new();
    place.write("zone", ZONE);
    place.write("policy.lua", include_str!("../../dist/dns/usher-update-policy.lua"));
    let policy = place.path().join("policy.lua");
    let config = include_str!("../../dist/dns/pdns.conf")
        .replace("/etc/powerdns/usher-update-policy.lua", &policy.to_string_lossy());
    let setup: [&[&str]; 3] = [
        &["load-zone", APEX, "zone"],
        &["import-tsig-key", "usher-key", "hmac-sha256", SECRET],
        &["import-tsig-key", "other-key", "hmac-sha256", OTHER_SECRET],
    ];
    let server = name_server::powerdns(place, &config, &setup).await;
    let differences = Differences {
        forbidden: "Applied",
        no_grant: "Applied",
        outside: "(NOTZONE)",
        other_zone: "(NOTAUTH): is it primary for the zone example.org?",
        alias: "(REFUSED)",
        wrong_secret: "without a signature",
        unknown_key: "without a signature",
        wrong_time: "without a signature",
    };
    behaves(&server, &differences).await;
}

#[tokio::test]
async fn a_primary_that_says_nothing_or_is_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let own = primary(address, APEX, &usher_key());
    let error = own.serial(SHORT).await.unwrap_err();
    assert_eq!(error.to_string(), format!("no answer from {address} within 300ms"));

    let closing = std::thread::spawn(move || {
        // The connection that was given up comes first.
        drop(listener.accept().unwrap());
        let (mut stream, _) = listener.accept().unwrap();
        // All that was sent, so that closing it is not a reset.
        let read = stream.read(&mut [0; 4096]).unwrap();
        assert!(read > 2);
    });
    let error = own.update(&Update::default(), LONG).await.unwrap_err();
    closing.join().unwrap();
    let UpdateError::Io { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.to_string(), "it closed the connection");

    // Nobody listens on such a port, and none of the other tests' servers comes by it.
    let nobody = primary("127.0.0.1:1".parse().unwrap(), APEX, &usher_key());
    let error = nobody.serial(LONG).await.unwrap_err();
    let UpdateError::Io { source, .. } = &error else { panic!("{error}") };
    assert_eq!(error.to_string(), "cannot talk to 127.0.0.1:1 over TCP");
    assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn names_that_are_none() {
    let address = "127.0.0.1:53".parse().unwrap();
    assert!(matches!(Primary::new(address, "a..b", keys(&usher_key())), Err(UpdateError::Name(_))));
    let own = primary(address, APEX, &usher_key());
    let error = own.read(&["a..b".into()], &[], SHORT).await.unwrap_err();
    assert_eq!(error.to_string(), "\"a..b\" is not a DNS name");
}

/// As many as BIND lets a set have by default (`max-records-per-type`).
const MOST: usize = 100;

#[tokio::test]
async fn one_record_more_than_a_set_may_have() {
    if !can_run("named", "bind9") {
        return;
    }
    let others: String = (0..MOST - 1).map(|host| format!("www 60 IN A 203.0.113.{host}\n")).collect();
    let server = bind(&(ZONE.to_owned() + &others)).await;
    let own = primary(server.address(), APEX, &usher_key());
    assert_eq!(update(&own, [], [add(WWW, "192.0.2.11")]).await.unwrap(), Outcome::Applied);
    let full = read(&own).await;
    assert_eq!(full.names[WWW].sets[&Family::V4].addresses.len(), MOST);
    let refused = update(&own, [], [add(WWW, "192.0.2.12"), set_text("lease 1")]).await;
    assert!(refused.as_ref().is_err_and(UpdateError::is_refusal), "{refused:?}");
    assert_said(refused, "max-records-per-type");
    assert_eq!(read(&own).await, full);
    // As soon as there is room.
    let room = [remove(WWW, "203.0.113.0"), add(WWW, "192.0.2.12"), set_text("lease 1")];
    assert_eq!(update(&own, [], room).await.unwrap(), Outcome::Applied);
    assert_eq!(read(&own).await.names[WWW].sets[&Family::V4].addresses.len(), MOST);
}

/// Something between that takes TCP connections only, and holds back every answer.
struct Relay {
    address: SocketAddr,
    delay: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    async fn to(server: SocketAddr) -> Relay {
        let listener = tokio::net::TcpListener::bind(name_server::free_address()).await.unwrap();
        let (address, delay) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
        let waits = delay.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(there) = TcpStream::connect(server).await else { continue };
                tokio::spawn(relay(client, there, waits.clone()));
            }
        });
        Relay { address, delay, task }
    }

    /// Answers take so many milliseconds more from now on.
    fn hold_back(&self, delay: u64) {
        self.delay.store(delay, Ordering::Relaxed);
    }
}

async fn relay(client: TcpStream, server: TcpStream, delay: Arc<AtomicU64>) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let questions = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
        tokio::time::sleep(Duration::from_millis(delay.load(Ordering::Relaxed))).await;
        if to_client.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    questions.abort();
}

/// An update whose answer comes too late was made all the same: that is why a zone is read before it is changed again.
#[tokio::test]
async fn a_slow_primary_is_named_and_helps_itself() {
    if !can_run("named", "bind9") {
        return;
    }
    let server = bind(ZONE).await;
    let relay = Relay::to(server.address()).await;
    let slow = primary(relay.address, APEX, &usher_key());
    relay.hold_back(3_000);
    let late = format!("no answer from {} within 300ms", relay.address);
    assert_eq!(slow.serial(SHORT).await.unwrap_err().to_string(), late);
    let write = Update { prerequisites: vec![], changes: vec![add(WWW, "192.0.2.11"), set_text("lease 1")] };
    assert_eq!(slow.update(&write, SHORT).await.unwrap_err().to_string(), late);
    assert_eq!(read(&slow).await.texts[LEASE], ["lease 1"], "as slow as it is");
    relay.hold_back(0);
    assert_eq!(update(&slow, [text_is("lease 1")], [set_text("lease 2")]).await.unwrap(), Outcome::Applied);
    assert_eq!(read(&slow).await.texts[LEASE], ["lease 2"]);
}

/// Where datagrams are refused, and where they are lost.
#[tokio::test]
async fn a_primary_that_takes_tcp_only() {
    if !can_run("named", "bind9") {
        return;
    }
    let server = bind(ZONE).await;
    let relay = Relay::to(server.address()).await;
    let own = primary(relay.address, APEX, &usher_key());
    assert_eq!(update(&own, [], [add(WWW, "192.0.2.11")]).await.unwrap(), Outcome::Applied);
    assert_eq!(sets(&read(&own).await, WWW), [(Family::V4, set(30, ["192.0.2.11"]))]);
    for loses in [false, true] {
        let hole = loses.then(|| UdpSocket::bind(relay.address).unwrap());
        look_up(relay.address, Way::ANY, WWW, "A", SHORT).await.unwrap_err();
        let found = look_up_over_tcp(relay.address, WWW, "A", LONG).await.unwrap();
        assert_eq!(found.records, ["192.0.2.11"]);
        drop(hole);
    }
}

/// The primary's clock, not this host's.
#[tokio::test]
async fn a_primary_whose_clock_is_an_hour_off() {
    if !can_run("named", "bind9") || !can_run("faketime", "faketime") {
        return;
    }
    for (offset, way) in [("+3600", "behind"), ("-3600", "ahead of")] {
        let server = bind_with(ZONE, Some(offset)).await;
        let own = primary(server.address(), APEX, &usher_key());
        let error = own.serial(LONG).await.unwrap_err();
        let UpdateError::Time { here, there: Some(there), .. } = error else { panic!("{error}") };
        assert!((3_595..=3_605).contains(&here.abs_diff(there)), "{here} {there}");
        let said = error.to_string();
        assert!(
            said.contains("(BADTIME)") && said.contains(&format!(" s {way} its, which says 20")),
            "{said}"
        );
    }
}
