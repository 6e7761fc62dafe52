use domain::{
    base::{
        Question,
        iana::{Opcode, Rcode},
    },
    rdata::AllRecordData,
};
use proptest::prelude::*;

use super::*;
use crate::{
    config::{AllDown, Config},
    core::{
        peers::PeerState,
        publish::{
            PeerStates, SelfState,
            fixture::{all, config, peer, peer_states},
            publication,
        },
    },
};

fn zone_of(config: &Config, own: SelfState) -> Zone {
    let states = all(PeerState::Serves);
    let peers: PeerStates =
        config.peers.iter().flat_map(|peer| peer_states(config, &peer.name, &states)).collect();
    Zone::new(config, config.dns.as_ref().unwrap(), &publication(config, &all(own), &peers), 7)
}

fn zone() -> Zone {
    zone_of(&config(AllDown::All), SelfState::Serves)
}

/// A zone whose `www` has `count` addresses, this node's and the peers'.
fn large_zone(count: u8) -> Zone {
    let mut config = config(AllDown::All);
    config.peers = (1..count).map(|n| peer(&format!("peer{n}"), &[&format!("198.51.100.{n}")])).collect();
    zone_of(&config, SelfState::Serves)
}

/// A query in the making; [`Query::new`] is what `dig` sends with `+noedns`.
#[derive(Clone)]
struct Query {
    name: &'static str,
    rtype: Rtype,
    class: Class,
    edns: Option<(u16, u8, bool)>,
}

impl Query {
    fn new(name: &'static str, rtype: Rtype) -> Query {
        Query { name, rtype, class: Class::IN, edns: None }
    }

    fn edns(self, size: u16) -> Query {
        Query { edns: Some((size, 0, false)), ..self }
    }

    fn octets(&self) -> Vec<u8> {
        let mut builder = MessageBuilder::new_vec();
        builder.header_mut().set_id(0x1234);
        builder.header_mut().set_rd(true);
        let mut builder = builder.question();
        builder
            .push(Question::new(Name::<Vec<u8>>::from_str(self.name).unwrap(), self.rtype, self.class))
            .unwrap();
        let mut builder = builder.additional();
        if let Some((size, version, dnssec_ok)) = self.edns {
            builder
                .opt(|opt| {
                    opt.set_udp_payload_size(size);
                    opt.set_version(version);
                    opt.set_dnssec_ok(dnssec_ok);
                    Ok(())
                })
                .unwrap();
        }
        builder.finish()
    }
}

fn ask(zone: &Zone, query: &Query) -> Reply {
    answer(&query.octets(), zone, Transport::Udp, &Rotation::default()).unwrap()
}

/// A reply as text, one record a line: section, owner, TTL, type and data.
fn text(reply: &Reply) -> Vec<String> {
    let message = Message::from_octets(reply.octets.as_slice()).unwrap();
    let (_, answer, authority, additional) = message.sections().unwrap();
    [("answer", answer), ("authority", authority), ("additional", additional)]
        .into_iter()
        .flat_map(|(section, records)| {
            records.map(move |record| {
                let record = record.unwrap();
                let data = record.to_any_record::<AllRecordData<_, _>>().unwrap();
                let (ttl, rtype) = (record.ttl().as_secs(), record.rtype());
                format!("{section} {} {ttl} {rtype} {}", record.owner(), data.data())
            })
        })
        .filter(|line| !line.contains(" OPT "))
        .collect()
}

fn header(reply: &Reply) -> domain::base::Header {
    Message::from_octets(reply.octets.as_slice()).unwrap().header()
}

const SOA_LINE: &str =
    "authority example.test 5 SOA node1.example.test. hostmaster.example.test. 7 3600 600 86400 5";

#[test]
fn addresses_by_family() {
    let reply = ask(&zone(), &Query::new("www.example.test", Rtype::A));
    assert_eq!(
        text(&reply),
        [
            "answer www.example.test 30 A 192.0.2.11",
            "answer www.example.test 30 A 192.0.2.12",
            "answer www.example.test 30 A 192.0.2.13",
        ]
    );
    let header = header(&reply);
    assert!(header.qr() && header.aa() && header.rd() && !header.ra() && !header.tc() && !header.ad());
    assert_eq!(header.id(), 0x1234);
    let reply = ask(&zone(), &Query::new("www.example.test", Rtype::AAAA));
    assert_eq!(
        text(&reply),
        ["answer www.example.test 30 AAAA 2001:db8:1::11", "answer www.example.test 30 AAAA 2001:db8:1::12",]
    );
}

#[test]
fn addresses_take_turns_for_each_name_and_family() {
    let (zone, rotation) = (zone(), Rotation::default());
    let first = |rtype| {
        let query = Query::new("www.example.test", rtype).octets();
        text(&answer(&query, &zone, Transport::Udp, &rotation).unwrap()).remove(0)
    };
    let firsts: Vec<(String, String)> = (0..6).map(|_| (first(Rtype::A), first(Rtype::AAAA))).collect();
    for (turn, (v4, v6)) in firsts.iter().enumerate() {
        assert!(v4.ends_with(&format!(".{}", 11 + turn % 3)), "{turn}: {v4}");
        assert!(v6.ends_with(&format!("::{}", 11 + turn % 2)), "{turn}: {v6}");
    }
}

#[test]
fn soa_and_name_servers_of_the_zone() {
    assert_eq!(
        text(&ask(&zone(), &Query::new("example.test", Rtype::SOA))),
        ["answer example.test 5 SOA node1.example.test. hostmaster.example.test. 7 3600 600 86400 5"]
    );
    assert_eq!(
        text(&ask(&zone(), &Query::new("example.test", Rtype::NS))),
        [
            "answer example.test 300 NS node1.example.test.",
            "answer example.test 300 NS node2.example.test.",
            "answer example.test 300 NS node3.example.test.",
            "additional node1.example.test 300 A 192.0.2.11",
            "additional node1.example.test 300 AAAA 2001:db8:1::11",
            "additional node2.example.test 300 A 192.0.2.12",
            "additional node2.example.test 300 AAAA 2001:db8:1::12",
            "additional node3.example.test 300 A 192.0.2.13",
        ]
    );
}

#[test]
fn what_exists_without_such_records_is_nodata() {
    for (name, rtype) in [
        ("www.example.test", Rtype::MX),
        ("www.example.test", Rtype::NS),
        ("www.example.test", Rtype::SOA),
        ("www.example.test", Rtype::TXT),
        ("node3.example.test", Rtype::AAAA),
        ("example.test", Rtype::A),
        ("udp.example.test", Rtype::A),
        ("udp.example.test", Rtype::ANY),
    ] {
        let reply = ask(&zone(), &Query::new(name, rtype));
        assert_eq!(text(&reply), [SOA_LINE], "{name} {rtype}");
        assert_eq!(header(&reply).rcode(), Rcode::NOERROR);
        assert!(header(&reply).aa());
    }
}

#[test]
fn what_does_not_exist_is_nxdomain() {
    for name in ["nothing.example.test", "a.www.example.test", "www\\.example.test.example.test"] {
        let reply = ask(&zone(), &Query::new(name, Rtype::A));
        assert_eq!(text(&reply), [SOA_LINE], "{name}");
        assert_eq!(header(&reply).rcode(), Rcode::NXDOMAIN);
        assert!(header(&reply).aa());
    }
}

#[test]
fn what_is_not_ours_is_refused() {
    let chaos = Query { class: Class::CH, ..Query::new("version.bind", Rtype::TXT) };
    let other_class = Query { class: Class::ANY, ..Query::new("www.example.test", Rtype::A) };
    for query in [
        Query::new("www.example.org", Rtype::A),
        Query::new(".", Rtype::NS),
        Query::new("xexample.test", Rtype::A),
        Query::new("x\\.example.test", Rtype::A),
        Query::new("example.test", Rtype::AXFR),
        Query::new("example.test", Rtype::IXFR),
        chaos,
        other_class,
    ] {
        let reply = ask(&zone(), &query);
        assert_eq!(header(&reply).rcode(), Rcode::REFUSED, "{}", query.name);
        assert!(!header(&reply).aa());
        assert_eq!(text(&reply), [""; 0]);
    }
}

#[test]
fn any_is_answered_with_little() {
    for name in ["example.test", "www.example.test"] {
        let reply = ask(&zone(), &Query::new(name, Rtype::ANY));
        assert_eq!(text(&reply), [format!("answer {name} 3600 HINFO \"RFC8482\" \"\"")]);
    }
}

#[test]
fn the_question_keeps_its_spelling() {
    let reply = ask(&zone(), &Query::new("wWw.ExAmPlE.tEsT", Rtype::A));
    assert!(text(&reply)[0].starts_with("answer wWw.ExAmPlE.tEsT 30 A"), "{:?}", text(&reply));
    let mut query = Query::new("wWw.ExAmPlE.tEsT", Rtype::A).octets();
    query[2] |= 0x80;
    let question = 12..query.len();
    assert_eq!(reply.octets[question.clone()], query[question]);
}

#[test]
fn names_are_compressed() {
    let reply = ask(&zone(), &Query::new("www.example.test", Rtype::A));
    // Header, question (18 + 4), three records of a pointer (2), type, class, TTL, length (10) and address (4).
    assert_eq!(reply.octets.len(), 12 + 22 + 3 * 16);
}

/// Size and DO bit of the OPT record, if there is one.
fn opt_of(reply: &Reply) -> Option<(u16, bool)> {
    let message = Message::from_octets(reply.octets.as_slice()).unwrap();
    message.opt().map(|opt| (opt.udp_payload_size(), opt.dnssec_ok()))
}

#[test]
fn edns_is_answered_when_it_is_asked() {
    let plain = ask(&zone(), &Query::new("www.example.test", Rtype::A));
    assert!(opt_of(&plain).is_none());
    for dnssec_ok in [false, true] {
        let query = Query { edns: Some((4096, 0, dnssec_ok)), ..Query::new("www.example.test", Rtype::A) };
        let reply = ask(&zone(), &query);
        assert_eq!(opt_of(&reply), Some((1232, dnssec_ok)));
    }
    let refused = ask(&zone(), &Query::new("www.example.org", Rtype::A).edns(1232));
    assert!(opt_of(&refused).is_some());
}

#[test]
fn an_unknown_edns_version_is_badvers() {
    let query = Query { edns: Some((1232, 1, false)), ..Query::new("www.example.test", Rtype::A) };
    let reply = ask(&zone(), &query);
    assert_eq!(reply.rcode, 16);
    let message = Message::from_octets(reply.octets.as_slice()).unwrap();
    assert_eq!(message.opt_rcode(), OptRcode::BADVERS);
    assert_eq!(message.opt().unwrap().version(), 0);
    assert_eq!(text(&reply), [""; 0]);
}

#[test]
fn an_answer_never_exceeds_its_limit_and_says_when_it_is_cut() {
    let zone = large_zone(120);
    let www = Query::new("www.example.test", Rtype::A);
    // Header 12, question 22, OPT 11, 16 for each address.
    for (query, limit, records) in [
        (www.clone(), 512, 29),
        (www.clone().edns(0), 512, 29),
        (www.clone().edns(512), 512, 29),
        (www.clone().edns(12 + 22 + 11 + 16 * 40), 685, 40),
        (www.clone().edns(12 + 22 + 11 + 16 * 40 - 1), 684, 39),
        (www.clone().edns(1232), 1232, 74),
        (www.clone().edns(4096), 1232, 74),
    ] {
        let reply = ask(&zone, &query);
        assert!(reply.truncated && header(&reply).tc());
        assert!(reply.octets.len() <= limit, "{} octets, limit {limit}", reply.octets.len());
        assert_eq!(text(&reply).len(), records, "limit {limit}");
        assert_eq!(opt_of(&reply).is_some(), query.edns.is_some(), "OPT is never cut");
    }
    let reply = answer(&www.octets(), &zone, Transport::Tcp, &Rotation::default()).unwrap();
    assert!(!reply.truncated && !header(&reply).tc());
    assert_eq!(text(&reply).len(), 120);
}

#[test]
fn an_answer_that_just_fits_is_whole() {
    let reply = ask(&large_zone(29), &Query::new("www.example.test", Rtype::A));
    assert_eq!((reply.octets.len(), reply.truncated), (12 + 22 + 29 * 16, false));
    let exact = 12 + 22 + 11 + 40 * 16;
    let reply = ask(&large_zone(40), &Query::new("www.example.test", Rtype::A).edns(exact));
    assert_eq!((reply.octets.len(), reply.truncated), (usize::from(exact), false));
}

#[test]
fn missing_glue_is_no_truncation() {
    // 21 name servers of one address each: 21 NS records fit into 512 octets, their addresses do not.
    let reply = ask(&large_zone(21), &Query::new("example.test", Rtype::NS));
    let lines = text(&reply);
    assert_eq!(lines.iter().filter(|line| line.starts_with("answer")).count(), 21);
    assert!(lines.len() < 42 && !reply.truncated, "{} records", lines.len());
}

#[test]
fn other_opcodes_are_not_implemented() {
    for opcode in [Opcode::IQUERY, Opcode::STATUS, Opcode::NOTIFY, Opcode::UPDATE] {
        let mut query = Query::new("example.test", Rtype::SOA).octets();
        query[2] = (query[2] & 0x87) | (opcode.to_int() << 3);
        let reply = answer(&query, &zone(), Transport::Udp, &Rotation::default()).unwrap();
        assert_eq!((header(&reply).rcode(), header(&reply).opcode()), (Rcode::NOTIMP, opcode));
        assert_eq!(header(&reply).id(), 0x1234);
    }
}

#[test]
fn malformed_queries_are_formerr() {
    let good = Query::new("www.example.test", Rtype::A).octets();
    let with_opt = Query::new("www.example.test", Rtype::A).edns(1232).octets();
    let change = |octets: &[u8], at: usize, value: u8| {
        let mut octets = octets.to_vec();
        octets[at] = value;
        octets
    };
    let opt = with_opt[good.len()..].to_vec();
    let twice = change(&[with_opt.as_slice(), &opt].concat(), 11, 2);
    let not_root = {
        let mut opt = opt.clone();
        opt.splice(0..1, [1, b'x', 0]);
        change(&[good.as_slice(), &opt].concat(), 11, 1)
    };
    let opt_as_answer = change(&change(&with_opt, 11, 0), 7, 1);
    for (what, query) in [
        ("header only", good[..12].to_vec()),
        ("no question", change(&good[..12], 5, 0)),
        ("two questions", change(&[good.as_slice(), &good[12..]].concat(), 5, 2)),
        ("cut in the name", good[..20].to_vec()),
        ("cut before the class", good[..good.len() - 2].to_vec()),
        ("a pointer to itself", change(&change(&good, 12, 0xc0), 13, 12)),
        ("a missing record", change(&good, 11, 1)),
        ("a cut OPT", with_opt[..with_opt.len() - 1].to_vec()),
        ("an option longer than the OPT", change(&with_opt, with_opt.len() - 1, 1)),
        ("two OPT records", twice),
        ("an OPT record with a name", not_root),
        ("an OPT record among the answers", opt_as_answer),
    ] {
        let reply = answer(&query, &zone(), Transport::Udp, &Rotation::default()).unwrap();
        assert_eq!(header(&reply).rcode(), Rcode::FORMERR, "{what}");
        assert_eq!(header(&reply).id(), 0x1234, "{what}");
        assert_eq!(text(&reply), [""; 0], "{what}");
    }
}

#[test]
fn answers_and_scraps_are_ignored() {
    let mut response = Query::new("www.example.test", Rtype::A).octets();
    response[2] |= 0x80;
    let scrap = Query::new("www.example.test", Rtype::A).octets()[..11].to_vec();
    for message in [response, scrap, Vec::new()] {
        assert_eq!(answer(&message, &zone(), Transport::Udp, &Rotation::default()), None);
    }
}

#[test]
fn a_name_that_dns_cannot_write_is_servfail() {
    let mut config = config(AllDown::All);
    config.node.name = "x".repeat(64).into();
    let reply = ask(&zone_of(&config, SelfState::Serves), &Query::new("example.test", Rtype::SOA));
    assert_eq!(header(&reply).rcode(), Rcode::SERVFAIL);
}

#[test]
fn a_policy_of_none_answers_nodata() {
    let mut config = config(AllDown::None);
    config.peers.clear();
    let zone = zone_of(&config, SelfState::NoBackend);
    assert_eq!(text(&ask(&zone, &Query::new("www.example.test", Rtype::A))), [SOA_LINE]);
}

/// What must hold for every message whatever: no crash, and an answer that is well-formed and short enough.
fn check_any(query: &[u8], transport: Transport) -> Result<(), TestCaseError> {
    let Some(reply) = answer(query, &large_zone(60), transport, &Rotation::default()) else {
        prop_assert!(query.len() < 12 || query[2] & 0x80 != 0, "every query is answered");
        return Ok(());
    };
    prop_assert_eq!(&reply.octets[..2], &query[..2]);
    prop_assert!(reply.octets[2] & 0x80 != 0);
    if transport == Transport::Udp {
        prop_assert!(reply.octets.len() <= usize::from(MAX_UDP));
    }
    let message = Message::from_octets(reply.octets.as_slice()).unwrap();
    prop_assert_eq!(message.header().tc(), reply.truncated);
    for item in &message {
        let (record, _) = item.unwrap();
        record.to_any_record::<AllRecordData<_, _>>().unwrap();
    }
    prop_assert_eq!(message.opt_rcode().to_int(), reply.rcode);
    Ok(())
}

fn transport() -> impl Strategy<Value = Transport> {
    prop::sample::select(vec![Transport::Udp, Transport::Tcp])
}

fn valid_query() -> impl Strategy<Value = Vec<u8>> {
    let names =
        ["www.example.test", "example.test", "_exchange.example.test", "udp.example.test", "a.b", "."];
    let types =
        [Rtype::A, Rtype::AAAA, Rtype::NS, Rtype::SOA, Rtype::TXT, Rtype::ANY, Rtype::OPT, Rtype::AXFR];
    let edns = prop::option::of((any::<u16>(), 0..3u8, any::<bool>()));
    (prop::sample::select(names.to_vec()), prop::sample::select(types.to_vec()), edns)
        .prop_map(|(name, rtype, edns)| Query { edns, ..Query::new(name, rtype) }.octets())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_message_crashes_it(query in prop::collection::vec(any::<u8>(), 0..600), transport in transport()) {
        check_any(&query, transport)?;
    }

    #[test]
    fn no_mutilated_query_crashes_it(
        mut query in valid_query(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        keep in any::<prop::sample::Index>(),
        cut in any::<bool>(),
        tail in prop::collection::vec(any::<u8>(), 0..20),
        transport in transport(),
    ) {
        for (at, value) in edits {
            let at = at.index(query.len());
            query[at] = value;
        }
        if cut {
            query.truncate(keep.index(query.len()));
        }
        query.extend(tail);
        check_any(&query, transport)?;
    }

    /// A client with a size of its own gets no more than that, unless it is below 512.
    #[test]
    fn the_clients_size_is_respected(size in any::<u16>(), count in 1..150u8) {
        let reply = ask(&large_zone(count), &Query::new("www.example.test", Rtype::A).edns(size));
        prop_assert!(reply.octets.len() <= usize::from(size.clamp(512, 1232)));
        prop_assert_eq!(reply.truncated, text(&reply).len() < usize::from(count));
    }
}
