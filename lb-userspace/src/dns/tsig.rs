//! What servers say of a signature (TSIG, RFC 8945).

use domain::{
    base::{Message, iana::TsigRcode},
    rdata::Tsig,
};

/// A server does not take a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TsigError {
    /// It has not this key: the mnemonic.
    Key(&'static str),
    /// Its clock differs; what it shows, in seconds since 1970, if it says.
    Time(Option<u64>),
}

/// What an answer says of our signature. Such answers are not signed, or (BADTIME) so that the library gets another
/// signature: it takes the time in the answer for eight octets, and there are six. So this is looked for first.
pub(super) fn error_in(answer: &Message<Vec<u8>>) -> Option<TsigError> {
    let record = answer.get_last_additional::<Tsig<_, _>>()?;
    match record.data().error() {
        code @ (TsigRcode::BADKEY | TsigRcode::BADSIG | TsigRcode::BADTRUNC) => {
            Some(TsigError::Key(code.to_mnemonic_str().unwrap_or("TSIG error")))
        }
        TsigRcode::BADTIME => Some(TsigError::Time(record.data().other_time().map(u64::from))),
        _ => None,
    }
}
