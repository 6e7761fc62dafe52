use super::*;
use crate::{
    config::AllDown,
    core::{
        peers::PeerState,
        publish::{
            SelfState,
            fixture::{all, config, ip, peer_states},
            publication,
        },
    },
};

fn publication_of(config: &Config, own: SelfState) -> Publication {
    let peers = peer_states(config, "node2", &all(PeerState::Serves));
    publication(config, &all(own), &peers)
}

fn zone_of(config: &Config, own: SelfState) -> Zone {
    Zone::new(config, config.dns.as_ref().unwrap(), &publication_of(config, own), 7)
}

fn found<'a>(zone: &'a Zone, name: &str) -> &'a Records {
    match zone.lookup(name) {
        Lookup::Found(records) => records,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn the_zone_names_the_nodes_whatever_their_health() {
    let zone = zone_of(&config(AllDown::All), SelfState::NoBackend);
    let servers: Vec<&str> = zone.name_servers().iter().map(|name| &**name).collect();
    assert_eq!(servers, ["node1.example.test", "node2.example.test", "node3.example.test"]);
    assert_eq!(&*zone.soa().mname, "node1.example.test");
    assert_eq!(&*zone.soa().rname, "hostmaster.example.test");
    assert_eq!((zone.soa().serial, zone.soa().minimum), (7, 5));
    let node1 = found(&zone, "node1.example.test");
    assert_eq!(node1.addresses(Family::V4), [ip("192.0.2.11")], "the published address");
    assert_eq!(node1.addresses(Family::V6), [ip("2001:db8:1::11")]);
    assert_eq!(found(&zone, "node3.example.test").addresses(Family::V4), [ip("192.0.2.13")]);
}

#[test]
fn services_show_what_is_published() {
    let zone = zone_of(&config(AllDown::All), SelfState::NoBackend);
    let www = found(&zone, "www.example.test");
    assert_eq!(www.addresses(Family::V4), [ip("192.0.2.12")]);
    assert_eq!(www.addresses(Family::V6), [ip("2001:db8:1::12")]);
    assert_eq!(www.ttl, 30);
}

/// The one that is about to leave, or to come back.
#[test]
fn what_is_about_to_change_is_kept_for_a_shorter_time() {
    let config = config(AllDown::All);
    let dns = config.dns.as_ref().unwrap();
    let [serves, does_not] =
        [SelfState::Serves, SelfState::NoBackend].map(|own| publication_of(&config, own));
    for (now, soon, ttl) in
        [(&serves, &serves, 30), (&serves, &does_not, 5), (&does_not, &serves, 5), (&does_not, &does_not, 30)]
    {
        let zone = Zone::new(&config, dns, &now.clone().expecting(soon), 7);
        assert_eq!(found(&zone, "www.example.test").ttl, ttl);
        assert_eq!(found(&zone, "node1.example.test").ttl, 300, "whatever its health");
    }
    for (now, soon, said) in [
        (&serves, &does_not, "192.0.2.11 of node1 seems to stop serving ("),
        (&does_not, &serves, "192.0.2.11 of node1 seems to serve soon"),
    ] {
        let doubts = now.clone().expecting(soon).in_doubt["www.example.test"][0].to_string();
        assert!(doubts.starts_with(said), "{doubts}");
    }
    let after = zone_of(&config, SelfState::Serves);
    let doubtful = after.successor(&config, dns, &serves.clone().expecting(&does_not), 8).unwrap();
    assert_eq!(doubtful.soa().serial, 8);
}

#[test]
fn names_between_exist_and_are_empty() {
    let zone = zone_of(&config(AllDown::All), SelfState::Serves);
    assert!(found(&zone, "udp.example.test").is_empty());
    assert!(!found(&zone, "echo.udp.example.test").is_empty());
    assert_eq!(zone.lookup("other.udp.example.test"), Lookup::Missing);
    assert_eq!(zone.lookup("a.www.example.test"), Lookup::Missing);
    assert!(matches!(zone.lookup("example.test"), Lookup::Found(_)));
    for outside in ["test", "", "example.org", "notexample.test", "xample.test", "example.test.example"] {
        assert_eq!(zone.lookup(outside), Lookup::Outside, "{outside}");
    }
}

#[test]
fn a_service_may_have_the_zones_own_name() {
    let mut config = config(AllDown::All);
    config.services[2].dns_name = Some("example.test".into());
    let zone = zone_of(&config, SelfState::Serves);
    assert_eq!(found(&zone, "example.test").addresses(Family::V4), [ip("192.0.2.11"), ip("192.0.2.12")]);
}

#[test]
fn an_address_appears_once() {
    let mut config = config(AllDown::All);
    config.peers[0].addresses[0].publish = ip("192.0.2.11");
    let zone = zone_of(&config, SelfState::Serves);
    assert_eq!(found(&zone, "www.example.test").addresses(Family::V4), [ip("192.0.2.11")]);
}

#[test]
fn only_a_change_of_content_changes_the_serial() {
    let config = config(AllDown::All);
    let dns = config.dns.as_ref().unwrap();
    let zone = zone_of(&config, SelfState::Serves);
    assert_eq!(zone.successor(&config, dns, &publication_of(&config, SelfState::Serves), 1000), None);
    let next = zone.successor(&config, dns, &publication_of(&config, SelfState::NoBackend), 1000).unwrap();
    assert_eq!(next.soa().serial, 1000);
    let same_second =
        next.successor(&config, dns, &publication_of(&config, SelfState::Serves), 1000).unwrap();
    assert_eq!(same_second.soa().serial, 1001);
}

#[test]
fn serials_always_grow() {
    assert_eq!(next_serial(5, 9), 9);
    assert_eq!(next_serial(9, 9), 10);
    assert_eq!(next_serial(10, 9), 11, "the clock went back");
    assert_eq!(next_serial(u32::MAX, 3), 3, "3 follows 2^32 - 1");
    assert_eq!(next_serial(u32::MAX, u32::MAX), 0);
    assert_eq!(next_serial(0, 0x8000_0000), 1, "half the circle is no order");
}

#[test]
fn labels_cannot_imitate_names() {
    let spelled = |label: &[u8]| {
        let mut out = String::new();
        escape_label(label, &mut out);
        out
    };
    assert_eq!(spelled(b"WwW-1_"), "www-1_");
    assert_eq!(spelled(b"a.example.test"), "a\\046example\\046test");
    assert_eq!(spelled(b"a\\046"), "a\\092046");
    assert_eq!(spelled(&[0, 255, b' ']), "\\000\\255\\032");
}
