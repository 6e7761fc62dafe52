//! Asking a peer which pools it serves: its `_serves` TXT record.
//!
//! For services that cannot be probed by a connection (plain UDP), and for what a peer knows of itself.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, BorrowedFd},
    str::FromStr,
    time::Duration,
};

use domain::{
    base::{
        Message, MessageBuilder, Name,
        iana::{Rcode, Rtype},
        message_builder::PushError,
    },
    rdata::Txt,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, UdpSocket},
    time::timeout,
};

use super::{MAX_UDP, tcp::frame};
use crate::core::{
    ids::PoolId,
    zone::{SERVES_LABEL, parse_serves},
};

/// Why a peer's answer is missing.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nothing (that belongs to the question) came in time.
    #[error("no answer from {address} within {limit:?}")]
    Timeout {
        /// Who was asked.
        address: SocketAddr,
        /// How long.
        limit: Duration,
    },
    /// The peer's host refused, or there is no way to it.
    #[error("cannot ask {address}")]
    Io {
        /// Who was asked.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The zone's name is no DNS name.
    #[error("\"{0}\" is not a zone's name")]
    Zone(String),
    /// The name or the type is none of DNS.
    #[error("\"{0}\" is no question")]
    Question(String),
    /// The peer answered, but not with its health: it serves another zone, for example.
    #[error("{address} does not serve the zone (its answer: {rcode})")]
    Refused {
        /// Who was asked.
        address: SocketAddr,
        /// Its response code.
        rcode: String,
    },
    /// The answer is not DNS, or is cut even over TCP.
    #[error("{0} answered what is no whole DNS message")]
    Malformed(SocketAddr),
}

/// Asks the DNS server at `address` which pools its node serves.
///
/// Over UDP, and again over TCP when the answer does not fit; `limit` is for both together.
pub async fn ask_serves(
    address: SocketAddr,
    zone: &str,
    limit: Duration,
) -> Result<BTreeMap<PoolId, bool>, AskError> {
    let query = query(zone)?;
    match timeout(limit, exchange(address, &|_| Ok(()), &query)).await {
        Ok(answer) => read(address, &answer?),
        Err(_) => Err(AskError::Timeout { address, limit }),
    }
}

/// A query with a random id; the kernel picks a random port.
fn query(zone: &str) -> Result<Message<Vec<u8>>, AskError> {
    let bad_name = || AskError::Zone(zone.to_owned());
    let name = Name::<Vec<u8>>::from_str(&format!("{SERVES_LABEL}.{zone}")).map_err(|_| bad_name())?;
    build_query(&name, Rtype::TXT, false).map_err(|_| bad_name())
}

pub(super) fn build_query(
    name: &Name<Vec<u8>>,
    rtype: Rtype,
    recurse: bool,
) -> Result<Message<Vec<u8>>, PushError> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(rand::random());
    builder.header_mut().set_rd(recurse);
    let mut builder = builder.question();
    builder.push((name, rtype))?;
    let mut builder = builder.additional();
    builder.opt(|opt| {
        opt.set_udp_payload_size(MAX_UDP);
        Ok(())
    })?;
    Ok(builder.into_message())
}

/// What is done with each socket before it sends.
pub(super) type Opened<'a> = &'a (dyn Fn(BorrowedFd<'_>) -> io::Result<()> + Sync);

/// Over UDP, and again over TCP when the answer does not fit.
pub(super) async fn exchange(
    address: SocketAddr,
    opened: Opened<'_>,
    query: &Message<Vec<u8>>,
) -> Result<Message<Vec<u8>>, AskError> {
    let failed = |source| AskError::Io { address, source };
    let answer = exchange_udp(address, opened, query).await.map_err(failed)?;
    if !answer.header().tc() {
        return Ok(answer);
    }
    let octets = exchange_tcp(address, opened, query).await.map_err(failed)?;
    match Message::from_octets(octets) {
        Ok(answer) if answer.is_answer(query) && !answer.header().tc() => Ok(answer),
        _ => Err(AskError::Malformed(address)),
    }
}

/// Waits for the answer to this very question; what is not it may come from anybody and is ignored.
async fn exchange_udp(
    address: SocketAddr,
    opened: Opened<'_>,
    query: &Message<Vec<u8>>,
) -> io::Result<Message<Vec<u8>>> {
    let any: SocketAddr =
        if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    opened(socket.as_fd())?;
    // Connected: only datagrams from the peer arrive, and its host's "port unreachable" is seen.
    socket.connect(address).await?;
    socket.send(query.as_slice()).await?;
    let mut buffer = vec![0; usize::from(MAX_UDP)];
    loop {
        let len = socket.recv(&mut buffer).await?;
        match Message::from_octets(buffer[..len].to_vec()) {
            Ok(answer) if answer.is_answer(query) => return Ok(answer),
            _ => tracing::trace!(%address, "ignored a datagram that is not the answer"),
        }
    }
}

async fn exchange_tcp(
    address: SocketAddr,
    opened: Opened<'_>,
    query: &Message<Vec<u8>>,
) -> io::Result<Vec<u8>> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    opened(socket.as_fd())?;
    let mut stream = socket.connect(address).await?;
    stream.write_all(&frame(query.as_slice())?).await?;
    let len = stream.read_u16().await?;
    let mut octets = vec![0; usize::from(len)];
    stream.read_exact(&mut octets).await?;
    Ok(octets)
}

/// The pools in an answer; strings that this version does not know are skipped.
fn read(address: SocketAddr, answer: &Message<Vec<u8>>) -> Result<BTreeMap<PoolId, bool>, AskError> {
    if answer.header().rcode() != Rcode::NOERROR || !answer.header().aa() {
        return Err(AskError::Refused { address, rcode: answer.header().rcode().to_string() });
    }
    let malformed = |_| AskError::Malformed(address);
    let mut pools = BTreeMap::new();
    for record in answer.answer().map_err(malformed)?.limit_to_in::<Txt<_>>() {
        let record = record.map_err(malformed)?;
        let strings = record.data().iter().filter_map(|octets| std::str::from_utf8(octets).ok());
        pools.extend(strings.filter_map(parse_serves));
    }
    Ok(pools)
}

#[cfg(test)]
mod tests;
