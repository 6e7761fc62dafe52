//! The primary of a zone: what it holds, and changes to it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use domain::base::{
    Message,
    iana::{Opcode, Rcode, Rtype},
};
use tokio::time::timeout;

use super::{
    Doing, Keys, UpdateError,
    message::{self, Unfit, Unsigned, WireName},
    signed::{Clock, Failure, Peer},
};
use crate::{
    core::{
        ids::Family,
        records::{Addresses, Contents, Outcome, Update},
    },
    unix_time::unix_seconds,
};

/// Stands for "none was taken yet".
const NO_KEY: usize = usize::MAX;

/// Builds the messages of one attempt.
type Build<'a> = &'a (dyn Fn() -> Result<Vec<Unsigned>, Unfit> + Sync);

/// A zone on its primary server.
#[derive(Debug)]
pub struct Primary {
    address: SocketAddr,
    zone: Arc<str>,
    zone_name: WireName,
    keys: Arc<Keys>,
    clock: Clock,
    /// The place among the keys of the one that the primary took last.
    taken: AtomicUsize,
}

impl Primary {
    /// The primary of `zone` at `address`. Nothing is sent yet.
    ///
    /// # Errors
    /// When the zone's name is no DNS name.
    pub fn new(address: SocketAddr, zone: &str, keys: Arc<Keys>) -> Result<Primary, UpdateError> {
        let zone_name = message::name(zone).map_err(|_| UpdateError::Name(zone.to_owned()))?;
        let taken = AtomicUsize::new(NO_KEY);
        Ok(Primary { address, zone: zone.into(), zone_name, keys, clock: unix_seconds, taken })
    }

    /// The same with another clock (seconds since 1970): what a wrong one does.
    #[must_use]
    pub fn with_clock(mut self, clock: fn() -> u64) -> Primary {
        self.clock = clock;
        self
    }

    /// Who is talked to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The zone's name.
    pub fn zone(&self) -> &Arc<str> {
        &self.zone
    }

    /// The place, in [`Keys::names`], of the key that the primary took last; `None` before.
    pub fn key_taken(&self) -> Option<usize> {
        Some(self.taken.load(Ordering::Relaxed)).filter(|&taken| taken != NO_KEY)
    }

    /// The addresses of `names` and the TXT records of `texts` that the zone has at this moment; `limit` is for all
    /// together.
    ///
    /// # Errors
    /// When the primary does not answer them all, with authority and a signature.
    pub async fn read(
        &self,
        names: &[Arc<str>],
        texts: &[Arc<str>],
        limit: Duration,
    ) -> Result<Contents, UpdateError> {
        let (names, texts) = (self.wire_names(names)?, self.wire_names(texts)?);
        let mut questions = Vec::new();
        for (_, name) in &names {
            questions.extend(Family::ALL.map(|family| (name, message::address_type(family))));
        }
        questions.extend(texts.iter().map(|(_, name)| (name, Rtype::TXT)));
        let mut answers = self.ask(&questions, limit).await?.into_iter();
        let mut answer = || answers.next().ok_or(UpdateError::Malformed(self.address));
        let malformed = |_| UpdateError::Malformed(self.address);

        let mut contents = Contents::default();
        for (text, name) in &names {
            let mut addresses = Addresses::default();
            for family in Family::ALL {
                let answer = answer()?;
                if let Some(set) = message::addresses(&answer, name, family).map_err(malformed)? {
                    addresses.sets.insert(family, set);
                }
                addresses.alias = message::alias(&answer, name).map_err(malformed)?.or(addresses.alias);
            }
            contents.names.insert(Arc::clone(text), addresses);
        }
        for (text, name) in &texts {
            let found = message::texts(&answer()?, name).map_err(malformed)?;
            contents.texts.insert(Arc::clone(text), found);
        }
        Ok(contents)
    }

    /// The zone's serial number at this moment.
    ///
    /// # Errors
    /// As [`Primary::read`].
    pub async fn serial(&self, limit: Duration) -> Result<u32, UpdateError> {
        let answers = self.ask(&[(&self.zone_name, Rtype::SOA)], limit).await?;
        let serial = answers.first().map(|answer| message::serial(answer, &self.zone_name));
        match serial {
            Some(Ok(Some(serial))) => Ok(serial),
            // A name of a zone of the primary's, but no zone itself.
            Some(Ok(None)) => {
                Err(UpdateError::NotAuth { address: self.address, zone: self.zone.to_string() })
            }
            Some(Err(_)) | None => Err(UpdateError::Malformed(self.address)),
        }
    }

    /// Makes the changes if the prerequisites hold; the primary looks and changes in one step. Read back what became of
    /// them: see the module's text.
    ///
    /// # Errors
    /// When the primary does not say, signed, what became of it. After a timeout or an I/O error it may have been made
    /// or not.
    pub async fn update(&self, update: &Update, limit: Duration) -> Result<Outcome, UpdateError> {
        let build = || Ok(vec![message::update(&self.zone_name, update)?]);
        let (answers, key) = self.within(limit, self.converse(&build)).await?;
        let answer = answers.first().ok_or(UpdateError::Malformed(self.address))?;
        match answer.header().rcode() {
            _ if answer.header().opcode() != Opcode::UPDATE => Err(UpdateError::Malformed(self.address)),
            Rcode::NOERROR => Ok(Outcome::Applied),
            Rcode::NXRRSET | Rcode::YXRRSET | Rcode::NXDOMAIN | Rcode::YXDOMAIN => Ok(Outcome::NotAsExpected),
            rcode => Err(self.complaint(rcode, Doing::Updating, key)),
        }
    }

    /// One question each, in one conversation.
    async fn ask(
        &self,
        questions: &[(&WireName, Rtype)],
        limit: Duration,
    ) -> Result<Vec<Message<Vec<u8>>>, UpdateError> {
        let build = || questions.iter().map(|(name, rtype)| message::question(name, *rtype)).collect();
        let (answers, key) = self.within(limit, self.converse(&build)).await?;
        for (answer, (name, rtype)) in answers.iter().zip(questions) {
            match answer.header().rcode() {
                // NXDOMAIN is an answer: there is nothing.
                Rcode::NOERROR | Rcode::NXDOMAIN => (),
                rcode => return Err(self.complaint(rcode, Doing::Reading, key)),
            }
            let asked = answer.sole_question().ok();
            if !asked.is_some_and(|asked| asked.qname() == *name && asked.qtype() == *rtype) {
                return Err(UpdateError::Malformed(self.address));
            }
            if !answer.header().aa() {
                let (name, zone) = (name.to_string(), self.zone.to_string());
                return Err(UpdateError::NotAuthoritative { address: self.address, name, zone });
            }
        }
        Ok(answers)
    }

    /// Sends messages signed with the first key that the primary takes; its name comes with the answers.
    ///
    /// A message with a signature that is not taken has changed nothing, so that it may be sent again.
    async fn converse(&self, build: Build<'_>) -> Result<(Vec<Message<Vec<u8>>>, String), UpdateError> {
        let mut refused = UpdateError::Malformed(self.address);
        for (place, key) in self.keys.iter().enumerate() {
            let peer = Peer { address: self.address, key, clock: self.clock };
            let messages = build().map_err(|unfit| self.unfit(unfit))?;
            match peer.converse(messages).await {
                Ok(answers) => {
                    self.taken.store(place, Ordering::Relaxed);
                    return Ok((answers, key.name().to_string()));
                }
                Err(Failure::Other(error)) => return Err(error),
                Err(Failure::Key(code)) => {
                    let (key, algorithm) = (key.name().to_string(), key.algorithm().to_string());
                    refused = UpdateError::Key { address: self.address, key, algorithm, code };
                }
                Err(Failure::Unsigned(rcode)) => {
                    let (key, zone) = (key.name().to_string(), self.zone.to_string());
                    let error =
                        UpdateError::Unsigned { address: self.address, rcode: rcode.to_string(), key, zone };
                    // So says PowerDNS of a key that it does not take: one to a question, the other to an update.
                    if !matches!(rcode, Rcode::NOTAUTH | Rcode::REFUSED) {
                        return Err(error);
                    }
                    refused = error;
                }
            }
        }
        Err(refused)
    }

    async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, UpdateError>>,
    ) -> Result<T, UpdateError> {
        let late = |_| UpdateError::Timeout { address: self.address, limit };
        timeout(limit, work).await.map_err(late)?
    }

    fn wire_names(&self, names: &[Arc<str>]) -> Result<Vec<(Arc<str>, WireName)>, UpdateError> {
        let wire_name = |name: &Arc<str>| Ok((Arc::clone(name), message::name(name)?));
        names.iter().map(wire_name).collect::<Result<_, _>>().map_err(|unfit| self.unfit(unfit))
    }

    fn unfit(&self, unfit: Unfit) -> UpdateError {
        match unfit {
            Unfit::Name(name) => UpdateError::Name(name),
            Unfit::TooLong => UpdateError::TooLong(self.address),
        }
    }

    /// What a response code other than an answer says.
    fn complaint(&self, rcode: Rcode, doing: Doing, key: String) -> UpdateError {
        let (address, zone) = (self.address, self.zone.to_string());
        match rcode {
            Rcode::REFUSED => UpdateError::Refused { address, doing, key, zone },
            Rcode::NOTAUTH => UpdateError::NotAuth { address, zone },
            Rcode::NOTZONE => UpdateError::NotZone { address, zone },
            Rcode::SERVFAIL => UpdateError::ServFail(address),
            Rcode::FORMERR => UpdateError::FormErr(address),
            Rcode::NOTIMP => UpdateError::NotImp(address),
            rcode => UpdateError::Rcode { address, rcode: rcode.to_string() },
        }
    }
}
