use std::net::IpAddr;

use proptest::{collection::vec, prelude::*};

use super::*;

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|text| text.parse().expect("a rule")).collect()
}

/// What a map holds after changes.
#[derive(Default)]
struct TestMap(BTreeMap<Prefix, bool>);

impl TestMap {
    fn tell(&mut self, changes: Vec<Change>) {
        for Change { prefix, denied } in changes {
            match denied {
                Some(denied) => drop(self.0.insert(prefix, denied)),
                None => assert!(self.0.remove(&prefix).is_some(), "{prefix} was not there"),
            }
        }
    }

    fn denies(&self, client: &str) -> bool {
        let client = Prefix::of(client.parse::<IpAddr>().expect("an address"));
        // As the kernel does: it knows no families.
        let mut holders = (0..=128).rev().map(|length| client.cut(length));
        holders.find_map(|prefix| self.0.get(&prefix)).copied().unwrap_or(false)
    }
}

fn list(file: &[&str], configuration: &[&str]) -> (DenyList, TestMap) {
    let list = DenyList::new(&rules(file), &rules(configuration)).expect("room");
    let mut map = TestMap::default();
    map.tell(list.all());
    (list, map)
}

#[test]
fn f62_commands_have_the_last_word_and_removing_them_restores_what_was() {
    let (mut list, mut map) = list(&["198.51.100.0/24", "2001:db8::/32"], &["!198.51.100.7"]);
    let before = list.clone();
    assert!(map.denies("198.51.100.8") && !map.denies("198.51.100.7") && map.denies("2001:db8::1"));
    let added = rules(&["198.51.100.7", "!198.51.100.0/24", "203.0.113.7", "2001:db8::/32"]);
    let (changes, changed) = list.add(&added).unwrap();
    assert_eq!((changes.len(), changed), (3, 4), "2001:db8::/32 was denied already");
    map.tell(changes);
    assert!(map.denies("198.51.100.7") && !map.denies("198.51.100.8") && map.denies("203.0.113.7"));
    assert_eq!(list.add(&added), Ok((vec![], 0)));
    assert_eq!([Source::Configuration, Source::File, Source::Command].map(|of| list.count(of)), [1, 2, 4]);

    map.tell(list.remove(&added).unwrap().0);
    assert_eq!(list, before);
    assert!(map.denies("198.51.100.8") && !map.denies("198.51.100.7") && !map.denies("203.0.113.7"));
}

#[test]
fn f62_the_configuration_has_the_last_word_over_its_file() {
    let (list, map) = list(&["198.51.100.7"], &["!198.51.100.7"]);
    assert!(!map.denies("198.51.100.7"));
    assert_eq!((list.count(Source::File), list.count(Source::Configuration)), (0, 1));
}

#[test]
fn f62_ipv6_prefixes_deny_no_ipv4_client() {
    let (mut list, mut map) = list(&["::/0"], &[]);
    assert!(map.denies("2001:db8::1") && map.denies("::1") && !map.denies("198.51.100.7"));
    assert_eq!(list.holding(Prefix::of("198.51.100.7".parse().unwrap())).count(), 0);
    map.tell(list.add(&rules(&["0.0.0.0/0"])).unwrap().0);
    assert!(map.denies("198.51.100.7"));
    map.tell(list.remove(&rules(&["0.0.0.0/0"])).unwrap().0);
    assert!(!map.denies("198.51.100.7") && map.denies("2001:db8::1"));
}

#[test]
fn f62_what_cannot_be_removed_says_why_and_what_to_do() {
    let (mut list, _) = list(&["198.51.100.0/24"], &["!198.51.100.7"]);
    list.add(&rules(&["203.0.113.7", "2001:db8:1::/48"])).unwrap();
    let before = list.clone();
    let cases = [
        (
            "198.51.100.0/24",
            "198.51.100.0/24 is of the file, not of a command; take it out there for the next start, and until \
             then `usher deny add '!198.51.100.0/24'` has the last word",
        ),
        (
            "198.51.100.7",
            "!198.51.100.7/32 is of the configuration, not of a command; take it out there for the next start, \
             and until then `usher deny add '198.51.100.7/32'` has the last word",
        ),
        ("!203.0.113.7", "!203.0.113.7/32 was not added, but 203.0.113.7/32 was; did you mean that?"),
        (
            "198.51.100.9",
            "198.51.100.9/32 was not added; it is within 198.51.100.0/24 (file); `usher deny add \
             '!198.51.100.9/32'` says the contrary of it alone",
        ),
        ("203.0.113.0/24", "203.0.113.0/24 was not added; within it there is 203.0.113.7/32 (command)"),
        ("2001:db8::/32", "2001:db8::/32 was not added; within it there is 2001:db8:1::/48 (command)"),
        ("192.0.2.1", "192.0.2.1/32 was not added; `usher deny list --source command` shows what was"),
    ];
    for (text, message) in cases {
        let error = list.remove(&rules(&["203.0.113.7", text])).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(list, before, "a refused request changes nothing");
    }
}

#[test]
fn f62_a_full_list_takes_what_needs_no_room_and_nothing_else() {
    let network = |number: u32| Rule { prefix: Prefix::of(IpAddr::from(number.to_be_bytes())), denied: true };
    let file: Vec<Rule> = (0..MAX_DENIED as u32).map(network).collect();
    let mut list = DenyList::new(&file, &[]).unwrap();
    let added = rules(&["2001:db8::/32", "2001:db8::/32", "2001:db8:1::/48", "0.0.0.0"]);
    let error = list.add(&added).unwrap_err();
    assert_eq!(error.to_string(), "the deny list has room for 1000000 prefixes; 2 more would be 1000002");
    assert_eq!(list.count(Source::Command), 0);
    assert_eq!(list.add(&rules(&["!0.0.0.0"])).unwrap().1, 1);
    assert_eq!(
        DenyList::new(&file, &rules(&["2001:db8::/32"])),
        Err(AddError(1, 1_000_001)),
        "the configuration's rules count too"
    );
}

#[test]
fn pages_of_the_list_leave_nothing_out() {
    let (list, _) = list(&["::/0", "2001:db8::/32", "0.0.0.0/0", "192.0.2.0/24", "192.0.2.0/25"], &[]);
    let (mut seen, mut last) = (Vec::new(), None);
    while let Some((prefix, _)) = list.after(last).next() {
        seen.push(prefix.to_string());
        last = Some(prefix);
    }
    assert_eq!(seen, ["::/0", "0.0.0.0/0", "192.0.2.0/24", "192.0.2.0/25", "2001:db8::/32"]);
}

proptest! {
    /// Whatever is added and removed, the map decides as the list's longest prefix does.
    #[test]
    fn f62_the_map_is_told_all_changes(
        lasting in vec((0_u8..8, 24_u8..=32, any::<bool>()), 0..6),
        commands in vec((any::<bool>(), 0_u8..8, 24_u8..=32, any::<bool>()), 0..30),
    ) {
        let rule = |(host, length, denied): (u8, u8, bool)| {
            let client = Prefix::of(IpAddr::from([192, 0, 2, host]));
            Rule { prefix: client.cut(MAPPED_BITS + length), denied }
        };
        let lasting: Vec<_> = lasting.into_iter().map(rule).collect();
        let mut list = DenyList::new(&lasting, &[]).unwrap();
        let mut map = TestMap::default();
        map.tell(list.all());
        for (add, host, length, denied) in commands {
            let rule = [rule((host, length, denied))];
            if add {
                map.tell(list.add(&rule).unwrap().0);
            } else if let Ok((changes, _)) = list.remove(&rule) {
                map.tell(changes);
            }
            for host in 0..8 {
                let client = format!("192.0.2.{host}");
                let network = Prefix::of(client.parse().unwrap());
                let deciding = list.holding(network).find_map(|(prefix, said)| said.rules(prefix).last());
                prop_assert_eq!(map.denies(&client), deciding.is_some_and(|(rule, _)| rule.denied));
            }
        }
    }
}

#[test]
fn f62_other_rules_of_file_and_configuration_leave_commands_alone() {
    let (mut first, mut map) = list(&["192.0.2.0/24", "203.0.113.0/24"], &["!192.0.2.1"]);
    let (changes, _) = first.add(&rules(&["198.51.100.0/24", "!203.0.113.0/24"])).expect("room");
    map.tell(changes);
    let (second, changes) = first.successor(&rules(&["203.0.113.0/24", "2001:db8::/32"]), &[]).expect("room");
    // Of the network that a command allows nothing changes.
    let said: Vec<_> = changes.iter().map(|change| (change.prefix.to_string(), change.denied)).collect();
    let expected = [("192.0.2.0/24", None), ("192.0.2.1/32", None), ("2001:db8::/32", Some(true))];
    assert_eq!(said, expected.map(|(prefix, denied)| (prefix.to_owned(), denied)));
    map.tell(changes);
    let mut other = TestMap::default();
    other.tell(second.all());
    assert_eq!(map.0, other.0);
    let counts = [Source::Configuration, Source::File, Source::Command].map(|source| second.count(source));
    assert_eq!(counts, [0, 2, 2]);
}
