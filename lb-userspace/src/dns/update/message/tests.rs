use domain::{
    base::{ParsedName, RecordSection, iana::Rcode},
    rdata::AllRecordData,
};

use super::*;

const ZONE: &str = "example.test";

fn built(update: &Update) -> Message<Vec<u8>> {
    let zone = name(ZONE).unwrap();
    super::update(&zone, update).unwrap().into_message()
}

/// Each record as zone files have it, with TTL and class (`*` is ANY); one without data ends after its type.
fn shown(records: RecordSection<'_, Vec<u8>>) -> Vec<String> {
    records
        .map(|record| {
            let record = record.unwrap();
            let start = format!(
                "{} {} {} {}",
                record.owner(),
                record.ttl().as_secs(),
                record.class(),
                record.rtype()
            );
            if record.rdlen() == 0 {
                return start;
            }
            let record = record.into_record::<AllRecordData<&[u8], ParsedName<&[u8]>>>().unwrap().unwrap();
            format!("{start} {}", record.data())
        })
        .collect()
}

#[test]
fn an_update_names_its_zone() {
    let message = built(&Update::default());
    assert_eq!(message.header().opcode(), Opcode::UPDATE);
    assert!(!message.header().qr() && !message.header().rd());
    let zone = message.zone().next().unwrap().unwrap();
    assert_eq!((zone.qname().to_string(), zone.qtype(), zone.qclass()), (ZONE.into(), Rtype::SOA, Class::IN));
    assert_eq!(message.header_counts().qdcount(), 1);
}

#[test]
fn prerequisites_are_sets_of_the_zones_class_or_none() {
    let www: std::sync::Arc<str> = "www.example.test".into();
    let lease: std::sync::Arc<str> = "_usher-node1.www.example.test".into();
    let both = ["192.0.2.11", "192.0.2.12"].map(|address| address.parse().unwrap());
    let message = built(&Update {
        prerequisites: vec![
            Prerequisite::TextIs { name: lease.clone(), text: "v=1 node=node1".to_owned() },
            Prerequisite::NoText { name: lease },
            Prerequisite::AddressesAre { name: www.clone(), family: Family::V4, addresses: both.into() },
            Prerequisite::AddressesAre { name: www.clone(), family: Family::V4, addresses: [].into() },
            Prerequisite::AddressesAre { name: www, family: Family::V6, addresses: [].into() },
        ],
        changes: Vec::new(),
    });
    assert_eq!(
        shown(message.prerequisite().unwrap()),
        [
            "_usher-node1.www.example.test 0 IN TXT \"v=1 node=node1\"",
            "_usher-node1.www.example.test 0 NONE TXT",
            "www.example.test 0 IN A 192.0.2.11",
            "www.example.test 0 IN A 192.0.2.12",
            "www.example.test 0 NONE A",
            "www.example.test 0 NONE AAAA",
        ]
    );
    assert_eq!(message.header_counts().nscount(), 0);
}

#[test]
fn changes_add_to_a_set_take_from_it_or_replace_it() {
    let www: std::sync::Arc<str> = "www.example.test".into();
    let lease: std::sync::Arc<str> = "_usher-node1.www.example.test".into();
    let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.11".parse().unwrap(), "2001:db8::11".parse().unwrap());
    let message = built(&Update {
        prerequisites: Vec::new(),
        changes: vec![
            Change::SetText { name: lease.clone(), text: "new".to_owned(), ttl: 5 },
            Change::RemoveText { name: lease },
            Change::AddAddress { name: www.clone(), address: v4, ttl: 30 },
            Change::AddAddress { name: www.clone(), address: v6, ttl: 30 },
            Change::RemoveAddress { name: www.clone(), address: v4 },
            Change::RemoveAddress { name: www, address: v6 },
        ],
    });
    assert_eq!(
        shown(message.update().unwrap()),
        [
            "_usher-node1.www.example.test 0 * TXT",
            "_usher-node1.www.example.test 5 IN TXT \"new\"",
            "_usher-node1.www.example.test 0 * TXT",
            "www.example.test 30 IN A 192.0.2.11",
            "www.example.test 30 IN AAAA 2001:db8::11",
            "www.example.test 0 NONE A 192.0.2.11",
            "www.example.test 0 NONE AAAA 2001:db8::11",
        ]
    );
}

#[test]
fn a_long_text_is_one_record_of_several_strings() {
    let text = "x".repeat(255) + "y";
    let change = Change::SetText { name: "_usher-node1.www.example.test".into(), text: text.clone(), ttl: 5 };
    let message = built(&Update { prerequisites: Vec::new(), changes: vec![change] });
    let records: Vec<_> = message.update().unwrap().limit_to_in::<Txt<_>>().map(Result::unwrap).collect();
    assert_eq!(records.len(), 1);
    let lengths: Vec<_> = records[0].data().iter().map(<[u8]>::len).collect();
    assert_eq!(lengths, [255, 1]);
    assert_eq!(records[0].data().text::<Vec<u8>>(), text.as_bytes());
}

#[test]
fn what_is_no_name_or_too_much_is_refused() {
    let zone = name(ZONE).unwrap();
    let of = |name: &str| Change::RemoveText { name: name.into() };
    let bad = Update { prerequisites: Vec::new(), changes: vec![of("a..example.test")] };
    assert!(matches!(super::update(&zone, &bad), Err(Unfit::Name(name)) if name == "a..example.test"));
    let long = Update { prerequisites: Vec::new(), changes: vec![of("www.example.test"); 3000] };
    assert!(matches!(super::update(&zone, &long), Err(Unfit::TooLong)));
}

#[test]
fn only_records_of_the_name_itself_count() {
    let (www, other) = (name("www.example.test").unwrap(), name("other.example.test").unwrap());
    let mut answer = MessageBuilder::new_vec().answer();
    answer.header_mut().set_rcode(Rcode::NOERROR);
    answer.push((&www, Class::IN, Ttl::from_secs(30), Cname::new(&other))).unwrap();
    answer.push((&other, Class::IN, Ttl::from_secs(30), A::from_octets(192, 0, 2, 11))).unwrap();
    answer.push((&other, Class::IN, Ttl::from_secs(20), A::from_octets(192, 0, 2, 12))).unwrap();
    let answer = answer.into_message();
    assert_eq!(alias(&answer, &www).unwrap().as_deref(), Some("other.example.test"));
    assert_eq!(addresses(&answer, &www, Family::V4).unwrap(), None);
    let upper = name("OTHER.example.test").unwrap();
    let set = addresses(&answer, &upper, Family::V4).unwrap().unwrap();
    assert_eq!((set.ttl, set.addresses.len()), (20, 2));
    assert_eq!(addresses(&answer, &other, Family::V6).unwrap(), None);
}

#[test]
fn the_strings_of_each_text_are_joined() {
    let lease = name("_usher-node1.www.example.test").unwrap();
    let mut answer = MessageBuilder::new_vec().answer();
    for text in ["z".repeat(300).into_bytes(), vec![b'a', 0xff]] {
        let text = Txt::<Vec<u8>>::build_from_slice(&text).unwrap();
        answer.push((&lease, Class::IN, Ttl::from_secs(5), text)).unwrap();
    }
    let found = texts(&answer.into_message(), &lease).unwrap();
    assert_eq!(found, ["a\u{fffd}".to_owned(), "z".repeat(300)]);
}
