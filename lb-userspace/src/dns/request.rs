//! Reading a query: what is asked, and how large the answer may be.

use domain::{
    base::{
        Message, ParsedName, Question,
        iana::{Opcode, OptRcode, Rtype},
        message::RecordSection,
        opt::{Opt, OptRecord},
    },
    dep::octseq::Octets,
};

/// The question, its name still in the client's spelling.
pub(super) type ClientQuestion<'a> = Question<ParsedName<&'a [u8]>>;

/// A query, as far as it could be read.
pub(super) struct Request<'a> {
    /// Present when the message has exactly one question that can be read.
    pub(super) question: Option<ClientQuestion<'a>>,
    /// Present when the client speaks EDNS (RFC 6891).
    pub(super) edns: Option<Edns>,
    /// An answer other than the zone's is due.
    pub(super) error: Option<OptRcode>,
}

/// What the client's OPT record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edns {
    /// The largest UDP message that the client takes.
    pub(super) udp_size: u16,
    /// The DO bit, copied into the answer (RFC 3225).
    pub(super) dnssec_ok: bool,
    version: u8,
}

/// The message could not be read.
struct Malformed;

/// Reads a query.
pub(super) fn read<'a>(message: &'a Message<&'a [u8]>) -> Request<'a> {
    if message.header().opcode() != Opcode::QUERY {
        // Other operations use the sections in their own way; only EDNS is common to all.
        let edns = read_edns(message).unwrap_or(None);
        return Request { question: None, edns, error: Some(OptRcode::NOTIMP) };
    }
    let question = message.sole_question().ok();
    let (edns, error) = match read_edns(message) {
        _ if question.is_none() => (None, Some(OptRcode::FORMERR)),
        Ok(Some(edns)) if edns.version > 0 => (Some(edns), Some(OptRcode::BADVERS)),
        Ok(edns) => (edns, None),
        Err(Malformed) => (None, Some(OptRcode::FORMERR)),
    };
    Request { question, edns, error }
}

/// Reads every record, so that a broken message is found, and returns the OPT record's content.
fn read_edns(message: &Message<&[u8]>) -> Result<Option<Edns>, Malformed> {
    let (_, answer, authority, additional) = message.sections().map_err(|_| Malformed)?;
    skip_ordinary(answer)?;
    skip_ordinary(authority)?;
    let mut edns = None;
    for record in additional {
        let record = record.map_err(|_| Malformed)?;
        if record.rtype() != Rtype::OPT {
            continue;
        }
        // One OPT record, owned by the root (RFC 6891 section 6.1.1).
        if edns.is_some() || !record.owner().is_root() {
            return Err(Malformed);
        }
        let opt = record.to_record::<Opt<_>>().ok().flatten().map(OptRecord::from).ok_or(Malformed)?;
        edns = Some(Edns {
            udp_size: opt.udp_payload_size(),
            dnssec_ok: opt.dnssec_ok(),
            version: opt.version(),
        });
    }
    Ok(edns)
}

fn skip_ordinary<Octs: Octets + ?Sized>(section: RecordSection<'_, Octs>) -> Result<(), Malformed> {
    for record in section {
        if record.map_err(|_| Malformed)?.rtype() == Rtype::OPT {
            return Err(Malformed);
        }
    }
    Ok(())
}
