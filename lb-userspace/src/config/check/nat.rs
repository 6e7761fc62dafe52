//! `[nat]`: source addresses and the port range.

use std::ops::RangeInclusive;

use lb_common::MAX_NAT_SOURCES;

use super::reader::{Field, Reader, Seen};
use crate::{
    config::{
        Nat, Reply,
        file::{self, Value},
        key::Key,
    },
    core::ids::Family,
};

const PORTS: RangeInclusive<u16> = 1_024..=32_767;
/// The NAT records number their ports from here.
const FIRST: u32 = 1_024;
/// One set of NAT records serves this many neighbouring ports.
const GROUP: u32 = 8;

pub(super) fn nat(reader: &mut Reader<'_>, root: &Key, section: Value<file::Nat>) -> Nat {
    let mut nat = Nat { source: Vec::new(), ports: PORTS, reply: Reply::LastHop };
    let Some(section) = reader.optional(root, "nat", section) else { return nat };
    let (key, section) = (section.key, section.value);
    let mut seen = Seen::default();
    for field in reader.list(&key, "source", section.source, String::clone).unwrap_or_default() {
        let Some(address) = reader.address(&field) else { continue };
        if !reader.unique(&mut seen, &field, address) {
            continue;
        }
        let family = Family::of(address);
        if nat.source.iter().filter(|have| Family::of(**have) == family).count() == MAX_NAT_SOURCES {
            let what = format!("is one IP{family} address more than {MAX_NAT_SOURCES}");
            reader.refuse(&field.key, what, format!("keep {MAX_NAT_SOURCES} per family"));
        } else {
            nat.source.push(address);
        }
    }
    if let Some(ports) = reader.optional(&key, "ports", section.ports) {
        nat.ports = self::ports(reader, &ports).unwrap_or(nat.ports);
    }
    if let Some(reply) = reader.optional(&key, "reply", section.reply) {
        let ways = [("last-hop", Reply::LastHop), ("route", Reply::Route)];
        nat.reply = reader.choice(&reply, &ways).unwrap_or(nat.reply);
    }
    nat
}

fn ports(
    reader: &mut Reader<'_>,
    Field { key, value: text, .. }: &Field<String>,
) -> Option<RangeInclusive<u16>> {
    let bounds = text.split_once('-').and_then(|(first, last)| {
        Some((first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?))
    });
    let Some((first, last)) = bounds else {
        let mend = "write the first and the last port, up to 65535, such as \"1024-32767\"";
        reader.refuse(key, format!("\"{text}\" is not a range of ports"), mend);
        return None;
    };
    if first > last {
        let what = format!("\"{text}\" begins with the greater port");
        reader.refuse(key, what, format!("write \"{last}-{first}\""));
        return None;
    }
    let mend = nearest(first.into(), last.into());
    if u32::from(first) < FIRST {
        let what = format!("\"{text}\" has ports below {FIRST}, which belong to the host's own servers");
        reader.refuse(key, what, mend);
        return None;
    }
    if !u32::from(first).is_multiple_of(GROUP) || !(u32::from(last) + 1).is_multiple_of(GROUP) {
        let what = format!("\"{text}\" is not a whole number of groups of {GROUP} ports");
        reader.refuse(key, what, mend);
        return None;
    }
    if u32::from(last) + 1 - u32::from(first) < 2 * GROUP {
        let mend = format!("use {} or more: each flow chooses between two groups of {GROUP}", 2 * GROUP);
        reader.refuse(key, format!("\"{text}\" are {GROUP} ports only"), mend);
        return None;
    }
    Some(first..=last)
}

/// The largest good range inside, or the smallest one around if there is none inside.
fn nearest(first: u32, last: u32) -> String {
    let inner_first = first.max(FIRST).next_multiple_of(GROUP);
    let inner_end = (last + 1) / GROUP * GROUP;
    if inner_first < inner_end {
        return format!("use \"{inner_first}-{}\"", inner_end - 1);
    }
    let outer_first = first.max(FIRST) / GROUP * GROUP;
    let outer_end = (last + 1).max(FIRST + 1).next_multiple_of(GROUP);
    format!("use \"{outer_first}-{}\"", outer_end - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_range_is_always_a_good_one() {
        for (first, last) in
            [(1, 80), (1_000, 2_000), (1_025, 1_026), (1_031, 1_032), (65_530, 65_535), (0, 65_535)]
        {
            let text = nearest(first, last);
            let (first, last) =
                text.trim_start_matches("use \"").trim_end_matches('"').split_once('-').unwrap();
            let (first, last) = (first.parse::<u32>().unwrap(), last.parse::<u16>().unwrap());
            assert!(first >= FIRST && first.is_multiple_of(GROUP), "{text}");
            assert!(u32::from(last) > first && (u32::from(last) + 1).is_multiple_of(GROUP), "{text}");
        }
    }
}
