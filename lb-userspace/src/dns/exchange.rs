//! What nodes tell each other: a question for a name that is in no zone, signed with the cluster's key (TSIG, RFC 8945),
//! and an answer that is signed likewise. Others are told that there is no such name.

use std::{collections::HashMap, fmt, net::SocketAddr, str::FromStr as _, sync::Arc, time::Duration};

use domain::{
    base::{
        Message, MessageBuilder, Name, StaticCompressor, ToName,
        iana::{Opcode, Rcode, Rtype},
        message_builder::{AdditionalBuilder, AnswerBuilder, PushError},
    },
    rdata::{Txt, rfc1035::TxtBuilder, tsig::Time48},
    tsig::{Algorithm, ClientTransaction, Key, KeyName, ServerTransaction, ValidationError},
};
use tokio::{sync::watch, time::timeout};

use super::{
    MAX_UDP,
    answer::{Reply, Transport},
    ask::{AskError, Way, exchange},
    tsig::{self, TsigError},
};
use crate::{core::exchange::PeerWord, unix_time::unix_seconds};

/// Label, under the zone, of the name that peers ask for. No zone has it.
const LABEL: &str = "_exchange";

/// By how much clocks may differ, in seconds (RFC 8945 section 10).
const FUDGE: u64 = 300;

/// The keys with which nodes of a cluster sign what they tell each other: one, or two while one takes the other's place.
#[derive(Clone)]
pub struct PeerKeys {
    /// Signs this node's questions.
    own: Arc<Key>,
    /// Those in which questions may be signed; the answer is signed likewise.
    believed: Arc<HashMap<(KeyName, Algorithm), Arc<Key>>>,
}

/// Never shows a key.
impl fmt::Debug for PeerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerKeys(secret)")
    }
}

impl PeerKeys {
    /// The keys of these secret bytes, each with what tells it apart: the one in use, and another that is believed, too.
    pub fn new(own: (u32, [u8; 32]), other: Option<(u32, [u8; 32])>) -> PeerKeys {
        let own = key(own);
        let all = [own.clone()].into_iter().chain(other.map(key));
        let believed = all.map(|key| ((key.name().clone(), key.algorithm()), key)).collect();
        PeerKeys { own, believed: Arc::new(believed) }
    }
}

fn key((id, secret): (u32, [u8; 32])) -> Arc<Key> {
    let name = KeyName::from_str(&format!("usher-peer-{id:08x}")).expect("the name is a label");
    let key = Key::new(Algorithm::Sha256, &secret, name, None, None);
    Arc::new(key.expect("the lengths are the algorithm's own"))
}

/// This node's side of it.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The cluster's keys.
    pub keys: PeerKeys,
    /// What this node says, as it changes.
    pub word: watch::Receiver<Arc<PeerWord>>,
}

fn now() -> Time48 {
    Time48::from_u64(unix_seconds())
}

fn name(zone: &str) -> Result<Name<Vec<u8>>, AskError> {
    Name::from_str(&format!("{LABEL}.{zone}")).map_err(|_| AskError::Zone(zone.to_owned()))
}

/// Asks the DNS server at `address` what its node says of itself.
///
/// Over UDP, and again over TCP when the answer does not fit; `limit` is for both together.
///
/// # Errors
/// No answer, or none that a node of this cluster has signed.
pub async fn ask_peer(
    address: SocketAddr,
    keys: &PeerKeys,
    zone: &str,
    limit: Duration,
) -> Result<PeerWord, AskError> {
    let (query, transaction) = query(&name(zone)?, keys).map_err(|_| AskError::Zone(zone.to_owned()))?;
    let mut answer = match timeout(limit, exchange(address, Way::ANY, &query)).await {
        Ok(answer) => answer?,
        Err(_) => return Err(AskError::Timeout { address, limit }),
    };
    let rcode = answer.header().rcode();
    match tsig::error_in(&answer) {
        Some(TsigError::Key(why)) => return Err(AskError::Key { address, why: why.to_owned() }),
        Some(TsigError::Time(there)) => {
            let seconds = there.map_or(FUDGE, |there| there.abs_diff(unix_seconds()));
            return Err(AskError::Clocks { address, seconds });
        }
        None => {}
    }
    transaction.answer(&mut answer, now()).map_err(|why| unsigned(address, rcode, &why))?;
    if rcode != Rcode::NOERROR {
        return Err(AskError::Refused { address, rcode: rcode.to_string() });
    }
    read(&answer).ok_or(AskError::Malformed(address))
}

type Transaction = ClientTransaction<Arc<Key>>;

/// A query with a random id; the kernel picks a random port.
fn query(name: &Name<Vec<u8>>, keys: &PeerKeys) -> Result<(Message<Vec<u8>>, Transaction), PushError> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(rand::random());
    let mut builder = builder.question();
    builder.push((name, Rtype::TXT))?;
    let mut builder = builder.additional();
    builder.opt(|opt| {
        opt.set_udp_payload_size(MAX_UDP);
        Ok(())
    })?;
    let transaction = ClientTransaction::request(Arc::clone(&keys.own), &mut builder, now())?;
    Ok((builder.into_message(), transaction))
}

fn unsigned(address: SocketAddr, rcode: Rcode, why: &ValidationError) -> AskError {
    match *why {
        // Another version, another zone, or no usher at all.
        ValidationError::ServerUnsigned => AskError::Refused { address, rcode: rcode.to_string() },
        ValidationError::BadTime => AskError::Clocks { address, seconds: FUDGE },
        _ => AskError::Key { address, why: why.to_string() },
    }
}

fn read(answer: &Message<Vec<u8>>) -> Option<PeerWord> {
    let mut texts = Vec::new();
    for record in answer.answer().ok()?.limit_to_in::<Txt<_>>() {
        let record = record.ok()?;
        texts.extend(
            record.data().iter().filter_map(|octets| std::str::from_utf8(octets).ok().map(str::to_owned)),
        );
    }
    Some(PeerWord::parse(texts.iter().map(String::as_str)))
}

impl Exchange {
    /// Answers a peer's question. `None`: the query is another one, or nobody has signed it.
    pub(super) fn reply(&self, query: &[u8], zone: &str, transport: Transport) -> Option<Reply> {
        let message = Message::from_octets(query).ok()?;
        let header = message.header();
        // An answer to an answer would be answered in turn, without end: anybody can send one that seems to come from a peer.
        if header.qr() || header.opcode() != Opcode::QUERY {
            return None;
        }
        let question = message.sole_question().ok()?;
        if !is_ours(question.qname(), zone) || question.qtype() != Rtype::TXT {
            return None;
        }
        let mut message = Message::from_octets(query.to_vec()).ok()?;
        match ServerTransaction::request(&*self.keys.believed, &mut message, now()) {
            Ok(None) => None,
            Ok(Some(transaction)) => self.answer(&message, transaction, transport).ok(),
            Err(error) => {
                let target = StaticCompressor::new(Vec::new());
                let builder = MessageBuilder::from_target(target).ok()?;
                let builder = error.build_message(&message, builder).ok()?;
                Some(finish(builder, false))
            }
        }
    }

    fn answer(
        &self,
        message: &Message<Vec<u8>>,
        transaction: ServerTransaction<Arc<Key>>,
        transport: Transport,
    ) -> Result<Reply, PushError> {
        let word = Arc::clone(&self.word.borrow());
        let mut answer = start(message)?;
        let mut txt = TxtBuilder::<Vec<u8>>::new();
        for text in word.strings() {
            // The longest service's name leaves room for more than this says of it.
            txt.append_slice(text.as_bytes()).map_err(|_| PushError::ShortBuf)?;
            txt.close_charstr();
        }
        let data = txt.finish().map_err(|_| PushError::ShortBuf)?;
        answer.push((message.sole_question().map_err(|_| PushError::ShortBuf)?.qname(), 0, data))?;
        let mut signed = answer.additional();
        transaction.clone().answer(&mut signed, now())?;
        let too_long = transport == Transport::Udp && signed.as_slice().len() > usize::from(MAX_UDP);
        if !too_long {
            return Ok(finish(signed, false));
        }
        let mut cut = start(message)?;
        cut.header_mut().set_tc(true);
        let mut signed = cut.additional();
        transaction.answer(&mut signed, now())?;
        Ok(finish(signed, true))
    }
}

type Answer = AnswerBuilder<StaticCompressor<Vec<u8>>>;

fn start(message: &Message<Vec<u8>>) -> Result<Answer, PushError> {
    let Ok(builder) = MessageBuilder::from_target(StaticCompressor::new(Vec::new()));
    let mut answer = builder.start_answer(message, Rcode::NOERROR)?;
    answer.header_mut().set_aa(true);
    Ok(answer)
}

fn finish(builder: AdditionalBuilder<StaticCompressor<Vec<u8>>>, truncated: bool) -> Reply {
    let rcode = builder.header().rcode().to_int().into();
    Reply { octets: builder.finish().into_target(), rcode, truncated }
}

fn is_ours(asked: &impl ToName, zone: &str) -> bool {
    name(zone).is_ok_and(|own| own.name_eq(asked))
}

#[cfg(test)]
mod tests;
