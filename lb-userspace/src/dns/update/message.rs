//! Questions and updates as messages, and answers as data; neither signed nor sent here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    str::FromStr,
};

use domain::{
    base::{
        Message, MessageBuilder, Name, Ttl,
        iana::{Class, Opcode, Rtype},
        message_builder::{AdditionalBuilder, PushError, RecordSectionBuilder},
        rdata::{ComposeRecordData, LongRecordData, UnknownRecordData},
        wire::ParseError,
    },
    rdata::{A, Aaaa, Cname, Soa, Txt, rfc1035::TxtAppendError},
};

use crate::core::{
    ids::Family,
    records::{AddressSet, Change, Prerequisite, Update},
};

/// A message that only lacks its signature.
pub(super) type Unsigned = AdditionalBuilder<Vec<u8>>;

/// A name in wire format.
pub(super) type WireName = Name<Vec<u8>>;

/// Why a message cannot be built.
#[derive(Debug)]
pub(super) enum Unfit {
    /// Not a DNS name.
    Name(String),
    /// More than a message holds.
    TooLong,
}

impl From<PushError> for Unfit {
    fn from(_: PushError) -> Unfit {
        Unfit::TooLong
    }
}

impl From<TxtAppendError> for Unfit {
    fn from(_: TxtAppendError) -> Unfit {
        Unfit::TooLong
    }
}

impl From<LongRecordData> for Unfit {
    fn from(_: LongRecordData) -> Unfit {
        Unfit::TooLong
    }
}

/// A name, written as the core writes it.
pub(super) fn name(name: &str) -> Result<WireName, Unfit> {
    WireName::from_str(name).map_err(|_| Unfit::Name(name.to_owned()))
}

/// Asks for the records of a type that a name has.
pub(super) fn question(name: &WireName, rtype: Rtype) -> Result<Unsigned, Unfit> {
    let mut builder = start().question();
    builder.push((name, rtype))?;
    Ok(builder.additional())
}

/// RFC 2136 section 2: the zone where a query has its question, prerequisites for answers, changes for authority.
pub(super) fn update(zone: &WireName, update: &Update) -> Result<Unsigned, Unfit> {
    let mut builder = start();
    builder.header_mut().set_opcode(Opcode::UPDATE);
    let mut zones = builder.question();
    zones.push((zone, Rtype::SOA))?;
    let mut prerequisites = Section(zones.answer());
    update.prerequisites.iter().try_for_each(|one| prerequisites.require(one))?;
    let mut changes = Section(prerequisites.0.authority());
    update.changes.iter().try_for_each(|one| changes.change(one))?;
    Ok(changes.0.additional())
}

fn start() -> MessageBuilder<Vec<u8>> {
    let mut builder = MessageBuilder::new_vec();
    // The builder refuses a message that reaches its limit, not only one that exceeds it.
    builder.set_push_limit(usize::from(u16::MAX) + 1);
    builder
}

/// The section of an update that is being written.
struct Section<B>(B);

impl<B: RecordSectionBuilder<Vec<u8>>> Section<B> {
    /// RFC 2136 section 2.4.
    fn require(&mut self, prerequisite: &Prerequisite) -> Result<(), Unfit> {
        match prerequisite {
            Prerequisite::TextIs { name, text } => self.text(name, Class::IN, 0, text),
            Prerequisite::NoText { name } => self.whole_set(name, Class::NONE, Rtype::TXT),
            Prerequisite::AddressesAre { name, family, addresses } if addresses.is_empty() => {
                self.whole_set(name, Class::NONE, address_type(*family))
            }
            Prerequisite::AddressesAre { name, addresses, .. } => {
                addresses.iter().try_for_each(|&address| self.address(name, Class::IN, 0, address))
            }
        }
    }

    /// RFC 2136 section 2.5.
    fn change(&mut self, change: &Change) -> Result<(), Unfit> {
        match change {
            Change::SetText { name, text, ttl } => {
                self.whole_set(name, Class::ANY, Rtype::TXT)?;
                self.text(name, Class::IN, *ttl, text)
            }
            Change::RemoveText { name } => self.whole_set(name, Class::ANY, Rtype::TXT),
            Change::AddAddress { name, address, ttl } => self.address(name, Class::IN, *ttl, *address),
            Change::RemoveAddress { name, address } => self.address(name, Class::NONE, 0, *address),
        }
    }

    /// All records of a type, whatever they are: the record has no data.
    fn whole_set(&mut self, name: &str, class: Class, rtype: Rtype) -> Result<(), Unfit> {
        self.push(name, class, 0, UnknownRecordData::from_octets(rtype, [])?)
    }

    /// One record; its strings have 255 bytes, but for the last.
    fn text(&mut self, name: &str, class: Class, ttl: u32, text: &str) -> Result<(), Unfit> {
        self.push(name, class, ttl, Txt::<Vec<u8>>::build_from_slice(text.as_bytes())?)
    }

    fn address(&mut self, name: &str, class: Class, ttl: u32, address: IpAddr) -> Result<(), Unfit> {
        match address {
            IpAddr::V4(address) => self.push(name, class, ttl, A::new(address)),
            IpAddr::V6(address) => self.push(name, class, ttl, Aaaa::new(address)),
        }
    }

    fn push(
        &mut self,
        name: &str,
        class: Class,
        ttl: u32,
        data: impl ComposeRecordData,
    ) -> Result<(), Unfit> {
        Ok(self.0.push((self::name(name)?, class, Ttl::from_secs(ttl), data))?)
    }
}

pub(super) fn address_type(family: Family) -> Rtype {
    match family {
        Family::V4 => Rtype::A,
        Family::V6 => Rtype::AAAA,
    }
}

/// The addresses of a family that an answer has for a name.
pub(super) fn addresses(
    answer: &Message<Vec<u8>>,
    name: &WireName,
    family: Family,
) -> Result<Option<AddressSet>, ParseError> {
    // An alias in the same zone brings its target's records along.
    let mut found = BTreeMap::new();
    match family {
        Family::V4 => {
            for record in answer.answer()?.limit_to_in::<A>() {
                let record = record?;
                if record.owner() == name {
                    found.insert(IpAddr::V4(record.data().addr()), record.ttl());
                }
            }
        }
        Family::V6 => {
            for record in answer.answer()?.limit_to_in::<Aaaa>() {
                let record = record?;
                if record.owner() == name {
                    found.insert(IpAddr::V6(record.data().addr()), record.ttl());
                }
            }
        }
    }
    let ttl = found.values().min().map(|ttl| ttl.as_secs());
    Ok(ttl.map(|ttl| AddressSet { ttl, addresses: found.into_keys().collect::<BTreeSet<_>>() }))
}

/// What a name is an alias of.
pub(super) fn alias(answer: &Message<Vec<u8>>, name: &WireName) -> Result<Option<String>, ParseError> {
    for record in answer.answer()?.limit_to_in::<Cname<_>>() {
        let record = record?;
        if record.owner() == name {
            return Ok(Some(record.data().cname().to_string().to_ascii_lowercase()));
        }
    }
    Ok(None)
}

/// The TXT records that an answer has for a name, each one's strings joined. Bytes that are no UTF-8 are replaced: they
/// are of no record of ours.
pub(super) fn texts(answer: &Message<Vec<u8>>, name: &WireName) -> Result<Vec<String>, ParseError> {
    let mut texts = Vec::new();
    for record in answer.answer()?.limit_to_in::<Txt<_>>() {
        let record = record?;
        if record.owner() == name {
            texts.push(String::from_utf8_lossy(&record.data().text::<Vec<u8>>()).into_owned());
        }
    }
    texts.sort_unstable();
    Ok(texts)
}

/// The serial number of a zone in an answer, if it has the zone's SOA record.
pub(super) fn serial(answer: &Message<Vec<u8>>, zone: &WireName) -> Result<Option<u32>, ParseError> {
    for record in answer.answer()?.limit_to_in::<Soa<_>>() {
        let record = record?;
        if record.owner() == zone {
            return Ok(Some(record.data().serial().into_int()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
