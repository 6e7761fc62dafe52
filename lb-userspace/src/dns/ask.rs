//! Questions to DNS servers: one question, one answer.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

use domain::base::{Message, MessageBuilder, Name, iana::Rtype, message_builder::PushError};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, UdpSocket},
};

use super::{
    MAX_UDP,
    tcp::{frame, read_frame},
};

/// Why an answer is missing.
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
    /// The peer answered, but not as a peer: it serves another zone, or is no usher, for example.
    #[error(
        "{address} does not answer as a peer (its answer: {rcode}): is it usher, of this version, with this zone?"
    )]
    Refused {
        /// Who was asked.
        address: SocketAddr,
        /// Its response code.
        rcode: String,
    },
    /// The peer has another key.
    #[error("{address} has another secret ({why}): give all nodes the same secret_file")]
    Key {
        /// Who was asked.
        address: SocketAddr,
        /// What was wrong with a signature.
        why: String,
    },
    /// What the peer signs is too old or too new.
    #[error("the clocks of {address} and of this host differ by {seconds} s or more: have both follow NTP")]
    Clocks {
        /// Who was asked.
        address: SocketAddr,
        /// By how much.
        seconds: u64,
    },
    /// The answer is not DNS, or is cut even over TCP.
    #[error("{0} answered what is no whole DNS message")]
    Malformed(SocketAddr),
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

/// How a question leaves this host.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    /// From this address; the kernel's choice when absent.
    pub local: Option<IpAddr>,
    /// What is done with each socket before it sends.
    pub opened: &'a (dyn Fn(BorrowedFd<'_>) -> io::Result<()> + Sync),
}

impl Way<'static> {
    /// As the kernel chooses.
    pub const ANY: Way<'static> = Way { local: None, opened: &|_| Ok(()) };
}

/// Over UDP, and again over TCP when the answer does not fit.
pub(super) async fn exchange(
    address: SocketAddr,
    way: Way<'_>,
    query: &Message<Vec<u8>>,
) -> Result<Message<Vec<u8>>, AskError> {
    let failed = |source| AskError::Io { address, source };
    let answer = exchange_udp(address, way, query).await.map_err(failed)?;
    if !answer.header().tc() {
        return Ok(answer);
    }
    exchange_over_tcp(address, way, query).await
}

/// Over TCP alone.
pub(super) async fn exchange_over_tcp(
    address: SocketAddr,
    way: Way<'_>,
    query: &Message<Vec<u8>>,
) -> Result<Message<Vec<u8>>, AskError> {
    let failed = |source| AskError::Io { address, source };
    let octets = exchange_tcp(address, way, query).await.map_err(failed)?;
    match Message::from_octets(octets) {
        Ok(answer) if answer.is_answer(query) && !answer.header().tc() => Ok(answer),
        _ => Err(AskError::Malformed(address)),
    }
}

/// Waits for the answer to this very question; what is not it may come from anybody and is ignored.
async fn exchange_udp(
    address: SocketAddr,
    way: Way<'_>,
    query: &Message<Vec<u8>>,
) -> io::Result<Message<Vec<u8>>> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((way.local.unwrap_or(any), 0)).await?;
    (way.opened)(socket.as_fd())?;
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

async fn exchange_tcp(address: SocketAddr, way: Way<'_>, query: &Message<Vec<u8>>) -> io::Result<Vec<u8>> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(local) = way.local {
        socket.bind((local, 0).into())?;
    }
    (way.opened)(socket.as_fd())?;
    let mut stream = socket.connect(address).await?;
    stream.write_all(&frame(query.as_slice())?).await?;
    read_frame(&mut stream).await
}
