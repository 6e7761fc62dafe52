//! Signed messages over one TCP connection (RFC 8945, RFC 7766).

use std::{io, net::SocketAddr};

use domain::{
    base::{Message, iana::Rcode},
    rdata::tsig::Time48,
    tsig::{ClientTransaction, Key, ValidationError},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::{UpdateError, message::Unsigned};
use crate::dns::{
    tcp::{frame, read_frame},
    tsig::{self, TsigError},
};

/// Messages that are sent before their answers are read: all of them fit into any socket's buffer, so that neither side
/// waits for the other to read first.
const IN_FLIGHT: usize = 32;

/// The time of day in seconds since 1970, for signatures.
pub(super) type Clock = fn() -> u64;

/// Who is talked to, and with which key.
pub(super) struct Peer<'a> {
    pub(super) address: SocketAddr,
    pub(super) key: &'a Key,
    pub(super) clock: Clock,
}

/// Why there is no answer that can be believed.
pub(super) enum Failure {
    /// The key is not taken, with this TSIG error: another one may be.
    Key(&'static str),
    /// The answer is not signed.
    Unsigned(Rcode),
    /// Another key would not help.
    Other(UpdateError),
}

impl From<UpdateError> for Failure {
    fn from(error: UpdateError) -> Failure {
        Failure::Other(error)
    }
}

/// A message that was sent, until its answer is there.
struct Sent<'a> {
    id: u16,
    transaction: ClientTransaction<&'a Key>,
    answer: Option<Message<Vec<u8>>>,
}

impl Peer<'_> {
    /// Sends the messages and gives their answers in the same order, their signatures verified and removed.
    pub(super) async fn converse(&self, messages: Vec<Unsigned>) -> Result<Vec<Message<Vec<u8>>>, Failure> {
        let io = |source| UpdateError::Io { address: self.address, source };
        let mut stream = TcpStream::connect(self.address).await.map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        let mut answers = Vec::with_capacity(messages.len());
        let mut messages = messages.into_iter();
        while !messages.as_slice().is_empty() {
            answers.extend(self.exchange(&mut stream, messages.by_ref().take(IN_FLIGHT)).await?);
        }
        Ok(answers)
    }

    async fn exchange(
        &self,
        stream: &mut TcpStream,
        messages: impl Iterator<Item = Unsigned>,
    ) -> Result<Vec<Message<Vec<u8>>>, Failure> {
        let io = |source| UpdateError::Io { address: self.address, source };
        // Neighbours, so that no two are the same; who could guess them cannot sign.
        let (first, mut sent, mut octets) = (rand::random::<u16>(), Vec::new(), Vec::new());
        for (message, id) in messages.zip((0..=u16::MAX).map(|count| first.wrapping_add(count))) {
            let (one, signed) = self.sign(message, id)?;
            octets.extend(frame(&signed).map_err(io)?);
            sent.push(one);
        }
        stream.write_all(&octets).await.map_err(io)?;
        // Servers may answer in any order.
        while sent.iter().any(|one| one.answer.is_none()) {
            let answer = read_frame(stream).await.map_err(|error| io(explained(error)))?;
            self.take(&mut sent, answer)?;
        }
        Ok(sent.into_iter().filter_map(|one| one.answer).collect())
    }

    /// Signs at this moment's time: a signature that is sent again is refused where replays are watched for.
    fn sign(&self, mut message: Unsigned, id: u16) -> Result<(Sent<'_>, Vec<u8>), UpdateError> {
        message.header_mut().set_id(id);
        let transaction = ClientTransaction::request(self.key, &mut message, self.now())
            .map_err(|_| UpdateError::TooLong(self.address))?;
        Ok((Sent { id, transaction, answer: None }, message.finish()))
    }

    /// Gives an answer to the message that it answers.
    fn take(&self, sent: &mut [Sent<'_>], octets: Vec<u8>) -> Result<(), Failure> {
        let malformed = || UpdateError::Malformed(self.address);
        let mut answer = Message::from_octets(octets).map_err(|_| malformed())?;
        let (id, is_answer) = (answer.header().id(), answer.header().qr());
        let waits = |one: &&mut Sent<'_>| one.id == id && one.answer.is_none();
        let waiting = sent.iter_mut().find(waits).filter(|_| is_answer).ok_or_else(malformed)?;
        self.verify(&waiting.transaction, &mut answer)?;
        waiting.answer = Some(answer);
        Ok(())
    }

    fn verify(
        &self,
        transaction: &ClientTransaction<&Key>,
        answer: &mut Message<Vec<u8>>,
    ) -> Result<(), Failure> {
        if let Some(error) = tsig::error_in(answer) {
            return Err(match error {
                TsigError::Key(code) => Failure::Key(code),
                TsigError::Time(there) => {
                    UpdateError::Time { address: self.address, here: self.now().into(), there }.into()
                }
            });
        }
        let rcode = answer.header().rcode();
        transaction.answer(answer, self.now()).map_err(|error| match error {
            ValidationError::ServerUnsigned => Failure::Unsigned(rcode),
            ValidationError::FormErr => UpdateError::Malformed(self.address).into(),
            source => UpdateError::Forged { address: self.address, source }.into(),
        })
    }

    fn now(&self) -> Time48 {
        // The library panics above 48 bits.
        Time48::from_u64((self.clock)().min((1 << 48) - 1))
    }
}

/// A server that closes in place of an answer.
fn explained(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "it closed the connection"),
        _ => error,
    }
}
