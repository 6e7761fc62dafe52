//! Why a primary's records were not read or changed.

use std::{io, net::SocketAddr, time::Duration};

use domain::tsig::ValidationError;

/// Why a primary's records were not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// What should be a name is none.
    #[error("\"{0}\" is not a DNS name")]
    Name(String),
    /// More than a DNS message holds.
    #[error("too much for one message to {0}: at most 65,535 octets; change fewer records at a time")]
    TooLong(SocketAddr),
    /// No answer came in time; an update may have been made or not.
    #[error("no answer from {address} within {limit:?}")]
    Timeout {
        /// Who was asked.
        address: SocketAddr,
        /// How long.
        limit: Duration,
    },
    /// The primary's host refused, the connection broke, or there is no way to it.
    #[error("cannot talk to {address} over TCP")]
    Io {
        /// Who was asked.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// It does not know the key, or the signature is not what it makes of it. The last one of the keys.
    ///
    /// Knot says the same of a key that it knows, where no ACL allows it to do that.
    #[error(
        "{address} does not take the key \"{key}\" ({code}): does the key \"{key}\" have the same name, \
         algorithm ({algorithm}) and secret there, and does an ACL allow it to do this?"
    )]
    Key {
        /// Who was asked.
        address: SocketAddr,
        /// The key's name.
        key: String,
        /// The key's algorithm.
        algorithm: String,
        /// `BADKEY`, `BADSIG`, `BADTRUNC`.
        code: &'static str,
    },
    /// The clocks differ by more than a signature allows.
    #[error("{address} does not take signatures of this time (BADTIME): {}; set the clocks with NTP", clocks(*ahead))]
    Time {
        /// Who was asked.
        address: SocketAddr,
        /// By how many seconds this host's clock is ahead of the primary's, if that tells its time.
        ahead: Option<i64>,
    },
    /// It does not let this key do that.
    #[error("{address} refuses (REFUSED): {}", allows(*doing, key, zone))]
    Refused {
        /// Who was asked.
        address: SocketAddr,
        /// What was asked for.
        doing: Doing,
        /// The key's name.
        key: String,
        /// The zone's name.
        zone: String,
    },
    /// It does not serve the zone.
    #[error("{address} says that it is not authoritative (NOTAUTH): is it primary for the zone {zone}?")]
    NotAuth {
        /// Who was asked.
        address: SocketAddr,
        /// The zone's name.
        zone: String,
    },
    /// A name is not in the zone.
    #[error(
        "{address} says that a name is not in the zone (NOTZONE): is it primary for the zone {zone}, and are all \
         names in it?"
    )]
    NotZone {
        /// Who was asked.
        address: SocketAddr,
        /// The zone's name.
        zone: String,
    },
    /// It cannot at the moment.
    #[error(
        "{0} failed (SERVFAIL): its log says why; is the zone loaded, and can it write the zone's journal?"
    )]
    ServFail(SocketAddr),
    /// It does not understand.
    #[error("{0} does not understand the message (FORMERR)")]
    FormErr(SocketAddr),
    /// It knows no updates.
    #[error("{0} does not do that (NOTIMP): are dynamic updates (RFC 2136) switched on there?")]
    NotImp(SocketAddr),
    /// Another response code.
    #[error("{address} answers {rcode}")]
    Rcode {
        /// Who was asked.
        address: SocketAddr,
        /// Its response code.
        rcode: String,
    },
    /// It knows of the name from elsewhere, or delegates it to others.
    #[error(
        "{address} answers for {name} without authority: is it primary for the zone {zone}, and the name not delegated?"
    )]
    NotAuthoritative {
        /// Who was asked.
        address: SocketAddr,
        /// The name.
        name: String,
        /// The zone's name.
        zone: String,
    },
    /// Anybody can have sent it, so that it says nothing. Some servers answer so to a key that they do not take
    /// (PowerDNS), or for a zone that they do not serve (Knot).
    #[error(
        "{address} answers {rcode} without a signature: does the key \"{key}\" have the same name, algorithm and secret \
         there, and is it primary for the zone {zone}?"
    )]
    Unsigned {
        /// Who was asked.
        address: SocketAddr,
        /// The answer's response code.
        rcode: String,
        /// The key's name.
        key: String,
        /// The zone's name.
        zone: String,
    },
    /// It is not from the primary, or was changed on its way.
    #[error(
        "an answer from {address} is not signed as it should be; is something between that changes messages?"
    )]
    Forged {
        /// Who was asked.
        address: SocketAddr,
        /// What is wrong with the signature.
        source: ValidationError,
    },
    /// It is not DNS, or answers another question.
    #[error("{0} answered what is no DNS message that was asked for")]
    Malformed(SocketAddr),
}

/// What the primary was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// To say what it has.
    Reading,
    /// To change it.
    Updating,
}

fn clocks(ahead: Option<i64>) -> String {
    match ahead {
        Some(ahead) if ahead >= 0 => format!("this host's clock is {ahead} s ahead of its"),
        Some(ahead) => format!("this host's clock is {} s behind its", ahead.unsigned_abs()),
        None => "this host's clock and its differ".to_owned(),
    }
}

fn allows(doing: Doing, key: &str, zone: &str) -> String {
    match doing {
        Doing::Reading => {
            format!("it does not let the key \"{key}\" read, or is not primary for the zone {zone}")
        }
        Doing::Updating => format!(
            "its update-policy or ACL does not allow the key \"{key}\" to make these changes in the zone {zone}"
        ),
    }
}
