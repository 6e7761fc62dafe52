//! Why a primary's records were not read or changed.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, UNIX_EPOCH},
};

use domain::tsig::ValidationError;
use humantime::format_rfc3339_seconds;

use super::KeysError;

/// 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

/// Why a primary's records were not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// There is nothing to sign with.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Nobody to ask.
    #[error("no primary of the zone {0} is configured")]
    NoPrimary(String),
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
    #[error("{address} does not take signatures of this time (BADTIME): {}; set the clocks with NTP", clocks(*here, *there))]
    Time {
        /// Who was asked.
        address: SocketAddr,
        /// This host's clock, in seconds since 1970.
        here: u64,
        /// The primary's, if that tells its time.
        there: Option<u64>,
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
        "{0} failed (SERVFAIL): its log says why; is the zone loaded, can it write the zone's journal, and has a name \
         as many addresses as it lets one have (BIND: max-records-per-type, 100 by default)?"
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

impl UpdateError {
    /// What it is, in a word that is the same for all of its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            UpdateError::Keys(_) => "key-file",
            UpdateError::NoPrimary(_) => "no-primary",
            UpdateError::Name(_) => "name",
            UpdateError::TooLong(_) => "too-long",
            UpdateError::Timeout { .. } => "timeout",
            UpdateError::Io { .. } => "unreachable",
            UpdateError::Key { .. } => "key",
            UpdateError::Time { .. } => "clock",
            UpdateError::Refused { .. } => "refused",
            UpdateError::NotAuth { .. } | UpdateError::NotAuthoritative { .. } => "not-authoritative",
            UpdateError::NotZone { .. } => "not-in-zone",
            UpdateError::ServFail(_) => "servfail",
            UpdateError::FormErr(_) => "formerr",
            UpdateError::NotImp(_) => "notimp",
            UpdateError::Rcode { .. } => "other-code",
            UpdateError::Unsigned { .. } => "unsigned",
            UpdateError::Forged { .. } => "forged",
            UpdateError::Malformed(_) => "malformed",
        }
    }

    /// Whether an update was not made for what was asked for, and nothing is changed; another one may be made.
    ///
    /// Not so if it says something about the server, the way to it, the clocks, or the zone as a whole. Of a key that the
    /// primary took to read: Knot says that it does not know it, where no ACL allows it to make the change.
    pub fn is_refusal(&self) -> bool {
        match self {
            UpdateError::Name(_)
            | UpdateError::TooLong(_)
            | UpdateError::Refused { .. }
            | UpdateError::NotZone { .. }
            | UpdateError::ServFail(_)
            | UpdateError::FormErr(_)
            | UpdateError::Rcode { .. } => true,
            UpdateError::Key { code, .. } => *code == "BADKEY",
            UpdateError::Keys(_)
            | UpdateError::NoPrimary(_)
            | UpdateError::Timeout { .. }
            | UpdateError::Io { .. }
            | UpdateError::Time { .. }
            | UpdateError::NotAuth { .. }
            | UpdateError::NotImp(_)
            | UpdateError::NotAuthoritative { .. }
            | UpdateError::Unsigned { .. }
            | UpdateError::Forged { .. }
            | UpdateError::Malformed(_) => false,
        }
    }
}

/// What the primary was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// To say what it has.
    Reading,
    /// To change it.
    Updating,
}

fn clocks(here: u64, there: Option<u64>) -> String {
    let Some(there) = there else { return format!("this host's clock says {}, its differs", time(here)) };
    let way = if here >= there { "ahead of" } else { "behind" };
    format!(
        "this host's clock says {}, {} s {way} its, which says {}",
        time(here),
        here.abs_diff(there),
        time(there)
    )
}

fn time(seconds: u64) -> String {
    // Later years than the format has are none that a clock was meant to show.
    let shown = UNIX_EPOCH.checked_add(Duration::from_secs(seconds.min(LAST_SECOND))).unwrap_or(UNIX_EPOCH);
    format_rfc3339_seconds(shown).to_string()
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
