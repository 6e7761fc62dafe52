//! Asking any DNS server for records: a backend that is checked.

use std::{net::SocketAddr, str::FromStr, time::Duration};

use domain::{
    base::{
        Message, Name, ParsedName,
        iana::{Rcode, Rtype},
    },
    rdata::AllRecordData,
};
use tokio::time::timeout;

use super::{
    AskError,
    ask::{Way, build_query, exchange, exchange_over_tcp},
};

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its response code: `NOERROR`, `SERVFAIL`.
    pub rcode: String,
    /// Whether that is NOERROR.
    pub is_noerror: bool,
    /// The data of the records of the type that was asked for, as zone files have it.
    pub records: Vec<String>,
}

/// Asks the server at `address` for the records of a type (`A`, `SOA`) that a name has; over UDP, and again over TCP when the
/// answer does not fit. `limit` is for both together.
///
/// # Errors
/// When no answer came, or none that is DNS.
pub async fn look_up(
    address: SocketAddr,
    way: Way<'_>,
    name: &str,
    record: &str,
    limit: Duration,
) -> Result<Found, AskError> {
    let (query, wanted) = query(name, record)?;
    let answer = timeout(limit, exchange(address, way, &query));
    let answer = answer.await.map_err(|_| AskError::Timeout { address, limit })??;
    read(&answer, wanted).map_err(|_| AskError::Malformed(address))
}

/// The same over TCP alone: what a server has that gives no answer over UDP.
///
/// # Errors
/// As [`look_up`].
pub async fn look_up_over_tcp(
    address: SocketAddr,
    name: &str,
    record: &str,
    limit: Duration,
) -> Result<Found, AskError> {
    let (query, wanted) = query(name, record)?;
    let answer = timeout(limit, exchange_over_tcp(address, Way::ANY, &query));
    let answer = answer.await.map_err(|_| AskError::Timeout { address, limit })??;
    read(&answer, wanted).map_err(|_| AskError::Malformed(address))
}

fn query(name: &str, record: &str) -> Result<(Message<Vec<u8>>, Rtype), AskError> {
    let bad = || AskError::Question(format!("{name} {record}"));
    let wanted = Rtype::from_str(record).map_err(|_| bad())?;
    let name = Name::<Vec<u8>>::from_str(name).map_err(|_| bad())?;
    Ok((build_query(&name, wanted, true).map_err(|_| bad())?, wanted))
}

fn read(answer: &Message<Vec<u8>>, wanted: Rtype) -> Result<Found, domain::base::wire::ParseError> {
    let rcode = answer.header().rcode();
    let mut records = Vec::new();
    for record in answer.answer()?.limit_to::<AllRecordData<&[u8], ParsedName<&[u8]>>>() {
        let record = record?;
        if record.rtype() == wanted {
            records.push(record.data().to_string());
        }
    }
    Ok(Found { rcode: rcode.to_string(), is_noerror: rcode == Rcode::NOERROR, records })
}
