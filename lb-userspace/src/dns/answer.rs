//! From a query to its answer, without sockets.

use std::{
    collections::HashMap,
    net::IpAddr,
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use domain::{
    base::{
        CharStr, Message, MessageBuilder, Name, Serial, StaticCompressor, ToName, Ttl,
        iana::{Class, OptRcode, Rtype},
        message_builder::{AdditionalBuilder, AnswerBuilder, AuthorityBuilder, RecordSectionBuilder},
        rdata::ComposeRecordData,
    },
    rdata::{A, Aaaa, Hinfo, Ns, Soa},
};

use super::{
    MAX_UDP, MIN_UDP,
    request::{self, ClientQuestion, Edns, Request},
};
use crate::core::{
    ids::Family,
    zone::{INFRASTRUCTURE_TTL, Lookup, Records, Zone, escape_label},
};

/// Octets of an OPT record without options; kept free for it.
const OPT_LEN: usize = 11;

/// TTL of the synthesized answer to ANY, in seconds. Long: it never changes.
const ANY_TTL: u32 = 3600;

/// How a query came, which limits how long its answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// What the client announced, at least 512 and at most 1232 octets.
    Udp,
    /// 65,535 octets.
    Tcp,
}

/// An answer to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The message.
    pub octets: Vec<u8>,
    /// Its response code, the EDNS extension included (RFC 6891 section 6.1.3).
    pub rcode: u16,
    /// Whether records were left out (TC is set).
    pub truncated: bool,
}

/// Where the next answer of each name and family begins, so that its addresses take turns.
///
/// A counter of its own per name and family: with one for all, a client that always asks A and AAAA in turn
/// would always get the same order.
#[derive(Debug, Default)]
pub struct Rotation {
    /// Grows with the zone's names only; queries for other names never get here.
    next: Mutex<HashMap<(String, Family), usize>>,
}

impl Rotation {
    fn rotate(&self, name: &str, family: Family, addresses: &mut [IpAddr]) {
        if addresses.len() < 2 {
            return;
        }
        let mut counters = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let counter = counters.entry((name.to_owned(), family)).or_default();
        addresses.rotate_left(*counter % addresses.len());
        *counter = counter.wrapping_add(1);
    }
}

/// Answers one message; `None` when nothing must be sent: it is an answer itself, or too short for a header.
pub fn answer(query: &[u8], zone: &Zone, transport: Transport, rotation: &Rotation) -> Option<Reply> {
    let message = Message::from_octets(query).ok()?;
    if message.header().qr() {
        return None;
    }
    let request = request::read(&message);
    let limit = size_limit(transport, request.edns);
    Some(match (&request.question, request.error) {
        (Some(question), None) => {
            let content = decide(question, zone, rotation);
            // Only a zone with a name that is no DNS name fails; the configuration refuses those.
            compose(&message, &request, question, zone, &content, limit)
                .unwrap_or_else(|BadZone| error_reply(&message, &request, OptRcode::SERVFAIL))
        }
        (_, error) => error_reply(&message, &request, error.unwrap_or(OptRcode::FORMERR)),
    })
}

/// What an answer says.
enum Content {
    Error(OptRcode),
    NoSuchName,
    NoData,
    Addresses(Vec<IpAddr>, u32),
    Soa,
    NameServers,
    Any,
}

fn decide(question: &ClientQuestion<'_>, zone: &Zone, rotation: &Rotation) -> Content {
    // CHAOS (version.bind and the like) is refused too: who runs what is nobody's business.
    if question.qclass() != Class::IN || matches!(question.qtype(), Rtype::AXFR | Rtype::IXFR) {
        return Content::Error(OptRcode::REFUSED);
    }
    let name = zone_spelling(question.qname());
    let records = match zone.lookup(&name) {
        Lookup::Outside => return Content::Error(OptRcode::REFUSED),
        Lookup::Missing => return Content::NoSuchName,
        Lookup::Found(records) => records,
    };
    let apex = name == zone.origin();
    match question.qtype() {
        Rtype::A => addresses(&name, records, Family::V4, rotation),
        Rtype::AAAA => addresses(&name, records, Family::V6, rotation),
        Rtype::SOA if apex => Content::Soa,
        Rtype::NS if apex => Content::NameServers,
        Rtype::ANY if apex || !records.is_empty() => Content::Any,
        _ => Content::NoData,
    }
}

fn addresses(name: &str, records: &Records, family: Family, rotation: &Rotation) -> Content {
    let mut addresses = records.addresses(family);
    if addresses.is_empty() {
        return Content::NoData;
    }
    rotation.rotate(name, family, &mut addresses);
    Content::Addresses(addresses, records.ttl)
}

/// A queried name as [`Zone`] spells names.
fn zone_spelling(name: &impl ToName) -> String {
    let mut spelled = String::with_capacity(usize::from(name.compose_len()));
    for label in name.iter_labels().filter(|label| !label.is_root()) {
        if !spelled.is_empty() {
            spelled.push('.');
        }
        escape_label(label.as_slice(), &mut spelled);
    }
    spelled
}

fn size_limit(transport: Transport, edns: Option<Edns>) -> usize {
    let limit = match (transport, edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, None) => MIN_UDP,
        (Transport::Udp, Some(edns)) => edns.udp_size.clamp(MIN_UDP, MAX_UDP),
    };
    usize::from(limit)
}

type Target = StaticCompressor<Vec<u8>>;

/// The message cannot be built, whatever its size.
struct BadZone;

fn compose(
    message: &Message<&[u8]>,
    request: &Request<'_>,
    question: &ClientQuestion<'_>,
    zone: &Zone,
    content: &Content,
    limit: usize,
) -> Result<Reply, BadZone> {
    let rcode = match content {
        Content::Error(rcode) => return Ok(error_reply(message, request, *rcode)),
        Content::NoSuchName => OptRcode::NXDOMAIN,
        _ => OptRcode::NOERROR,
    };
    let mut section = start(message, request);
    let reserved = if request.edns.is_some() { OPT_LEN } else { 0 };
    // The builder refuses a message that reaches its limit, not only one that exceeds it.
    section.set_push_limit(limit - reserved + 1);
    section.header_mut().set_aa(true);

    let mut writer = Writer { zone, fits: true };
    let section = writer.answer_section(section, question, content)?;
    let section = writer.authority_section(section, content)?;
    let section = writer.additional_section(section, content)?;
    Ok(finish(section, request, rcode, !writer.fits))
}

/// Header, question and OPT record: an answer that says nothing about the zone.
fn error_reply(message: &Message<&[u8]>, request: &Request<'_>, rcode: OptRcode) -> Reply {
    finish(start(message, request).additional(), request, rcode, false)
}

fn start(message: &Message<&[u8]>, request: &Request<'_>) -> AnswerBuilder<Target> {
    let target = StaticCompressor::new(Vec::with_capacity(usize::from(MIN_UDP)));
    let Ok(mut builder) = MessageBuilder::from_target(target);
    let header = builder.header_mut();
    header.set_id(message.header().id());
    header.set_qr(true);
    header.set_opcode(message.header().opcode());
    header.set_rd(message.header().rd());
    let mut builder = builder.question();
    if let Some(question) = &request.question {
        // As the client spelled it: some hide random bits in upper and lower case. It always fits: a name
        // has at most 255 octets.
        let _ = builder.push(question);
    }
    builder.answer()
}

fn finish(
    mut builder: AdditionalBuilder<Target>,
    request: &Request<'_>,
    rcode: OptRcode,
    truncated: bool,
) -> Reply {
    builder.clear_push_limit();
    builder.header_mut().set_rcode(rcode.rcode());
    builder.header_mut().set_tc(truncated);
    if let Some(edns) = request.edns {
        // Never fails: its space was kept free, and the buffer grows.
        let _ = builder.opt(|opt| {
            opt.set_udp_payload_size(MAX_UDP);
            opt.set_dnssec_ok(edns.dnssec_ok);
            opt.set_rcode(rcode);
            Ok(())
        });
    }
    Reply { octets: builder.finish().into_target(), rcode: rcode.to_int(), truncated }
}

/// Writes the sections; once a record does not fit, `fits` is false and the rest is left out.
struct Writer<'z> {
    zone: &'z Zone,
    fits: bool,
}

impl Writer<'_> {
    fn answer_section(
        &mut self,
        mut section: AnswerBuilder<Target>,
        question: &ClientQuestion<'_>,
        content: &Content,
    ) -> Result<AuthorityBuilder<Target>, BadZone> {
        let owner = question.qname();
        match content {
            Content::Error(_) | Content::NoSuchName | Content::NoData => {}
            Content::Addresses(addresses, ttl) => {
                for &address in addresses {
                    self.push_address(&mut section, owner, *ttl, address);
                }
            }
            Content::Soa => self.push(&mut section, owner, self.zone.soa().minimum, soa(self.zone)?),
            Content::NameServers => {
                for server in self.zone.name_servers() {
                    self.push(&mut section, owner, INFRASTRUCTURE_TTL, Ns::new(name(server)?));
                }
            }
            // RFC 8482 section 4.2.
            Content::Any => {
                self.push(&mut section, owner, ANY_TTL, Hinfo::new(char_str("RFC8482")?, char_str("")?));
            }
        }
        Ok(section.authority())
    }

    /// The SOA record tells a cache how long to remember that there is nothing (RFC 2308).
    fn authority_section(
        &mut self,
        mut section: AuthorityBuilder<Target>,
        content: &Content,
    ) -> Result<AdditionalBuilder<Target>, BadZone> {
        if matches!(content, Content::NoSuchName | Content::NoData) {
            let ttl = self.zone.soa().minimum;
            self.push(&mut section, &name(self.zone.origin())?, ttl, soa(self.zone)?);
        }
        Ok(section.additional())
    }

    /// The name servers' addresses, as many as fit; they are a courtesy and never cause truncation.
    fn additional_section(
        &mut self,
        mut section: AdditionalBuilder<Target>,
        content: &Content,
    ) -> Result<AdditionalBuilder<Target>, BadZone> {
        if !matches!(content, Content::NameServers) {
            return Ok(section);
        }
        let mut courtesy = Writer { zone: self.zone, fits: self.fits };
        for server in self.zone.name_servers() {
            let Lookup::Found(records) = self.zone.lookup(server) else { continue };
            let owner = name(server)?;
            for address in Family::ALL.into_iter().flat_map(|family| records.addresses(family)) {
                courtesy.push_address(&mut section, &owner, records.ttl, address);
            }
        }
        Ok(section)
    }

    fn push_address(
        &mut self,
        section: &mut impl RecordSectionBuilder<Target>,
        owner: &impl ToName,
        ttl: u32,
        address: IpAddr,
    ) {
        match address {
            IpAddr::V4(address) => self.push(section, owner, ttl, A::new(address)),
            IpAddr::V6(address) => self.push(section, owner, ttl, Aaaa::new(address)),
        }
    }

    fn push(
        &mut self,
        section: &mut impl RecordSectionBuilder<Target>,
        owner: &impl ToName,
        ttl: u32,
        data: impl ComposeRecordData,
    ) {
        if self.fits {
            self.fits = section.push((owner, Ttl::from_secs(ttl), data)).is_ok();
        }
    }
}

fn soa(zone: &Zone) -> Result<Soa<Name<Vec<u8>>>, BadZone> {
    let soa = zone.soa();
    Ok(Soa::new(
        name(&soa.mname)?,
        name(&soa.rname)?,
        Serial(soa.serial),
        Ttl::from_secs(soa.refresh),
        Ttl::from_secs(soa.retry),
        Ttl::from_secs(soa.expire),
        Ttl::from_secs(soa.minimum),
    ))
}

fn name(name: &str) -> Result<Name<Vec<u8>>, BadZone> {
    Name::from_str(name).map_err(|_| BadZone)
}

fn char_str(text: &str) -> Result<CharStr<&[u8]>, BadZone> {
    CharStr::from_octets(text.as_bytes()).map_err(|_| BadZone)
}

#[cfg(test)]
mod tests;
