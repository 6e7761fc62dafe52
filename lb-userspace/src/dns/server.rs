//! The sockets: opening them, and the loop that answers over UDP.

use std::{
    fmt, io,
    net::SocketAddr,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{SockType, SockaddrStorage, getsockname, getsockopt, sockopt};
use tokio::{
    net::{TcpListener, TcpSocket, UdpSocket},
    sync::watch,
    task::JoinSet,
};

use super::{Counters, Exchange, Reply, Rotation, Transport, answer, tcp};
use crate::core::zone::Zone;

/// Pause after an error of a socket, so that a lasting one does not spin.
pub(super) const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Largest query taken over UDP, in octets. Queries need some 100; a longer one is cut and so malformed.
const MAX_QUERY: usize = 4096;

/// How often a free port is looked for that is free for UDP and TCP both, when the configuration says 0.
const PORT_ATTEMPTS: usize = 16;

/// Which socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// The UDP socket.
    Udp,
    /// The TCP listener.
    Tcp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Udp => "UDP",
            Protocol::Tcp => "TCP",
        })
    }
}

/// Why a DNS socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// An answer to a query that came to a wildcard socket would leave from whatever address the kernel picks.
    #[error(
        "DNS cannot listen on {0}: answers must leave from the address that was asked; \
         name this node's addresses one by one in dns.listen"
    )]
    Wildcard(SocketAddr),
    /// The kernel refused.
    #[error("DNS cannot listen on {address} ({protocol}): {}", advice(.source, .address))]
    Socket {
        /// The configured address.
        address: SocketAddr,
        /// Which of its two sockets.
        protocol: Protocol,
        /// What the kernel said.
        source: io::Error,
    },
}

fn advice(error: &io::Error, address: &SocketAddr) -> String {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another program has it (a resolver, another DNS server?); \
             `ss -lnptu 'sport = :{port}'` names it: stop it, or choose other addresses in dns.listen"
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!("no interface has {}: add it to one, or correct dns.listen", address.ip())
        }
        io::ErrorKind::PermissionDenied => format!(
            "port {port} is below 1024: run as root or with CAP_NET_BIND_SERVICE, or choose another port"
        ),
        _ => "the kernel refused".to_owned(),
    }
}

/// The server's open sockets, not yet answering.
#[derive(Debug)]
pub struct Sockets {
    pairs: Vec<Pair>,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct Pair {
    udp: UdpSocket,
    tcp: TcpListener,
    address: SocketAddr,
}

/// Opens a UDP and a TCP socket on each address, or takes those of `before` that are open there. Needs a tokio runtime.
///
/// Queries that come before [`Sockets::serve`] wait in the kernel. Wildcard addresses are refused.
///
/// # Errors
/// An address cannot be listened on.
pub fn bind(listen: &[SocketAddr], before: &[OwnedFd]) -> Result<Sockets, BindError> {
    let pairs = listen.iter().map(|&address| bind_pair(address, before)).collect::<Result<_, _>>()?;
    Ok(Sockets { pairs, counters: Arc::default() })
}

fn bind_pair(address: SocketAddr, before: &[OwnedFd]) -> Result<Pair, BindError> {
    if address.ip().is_unspecified() {
        return Err(BindError::Wildcard(address));
    }
    if let Some(pair) = take_pair(address, before) {
        return Ok(pair);
    }
    let attempts = if address.port() == 0 { PORT_ATTEMPTS } else { 1 };
    let mut result = try_bind_pair(address);
    for _ in 1..attempts {
        if result.is_ok() {
            break;
        }
        result = try_bind_pair(address);
    }
    result
}

fn try_bind_pair(address: SocketAddr) -> Result<Pair, BindError> {
    let failed = |protocol| move |source| BindError::Socket { address, protocol, source };
    let tcp = bind_tcp(address).map_err(failed(Protocol::Tcp))?;
    let address = tcp.local_addr().map_err(failed(Protocol::Tcp))?;
    let udp = bind_udp(address).map_err(failed(Protocol::Udp))?;
    Ok(Pair { udp, tcp, address })
}

/// Both sockets that are open on an address already; they are left alone where one is missing or does not work.
fn take_pair(address: SocketAddr, before: &[OwnedFd]) -> Option<Pair> {
    let find = |kind| before.iter().find(|socket| is_at(socket, address, kind))?.try_clone().ok();
    let udp = std::net::UdpSocket::from(find(SockType::Datagram)?);
    let tcp = std::net::TcpListener::from(find(SockType::Stream)?);
    udp.set_nonblocking(true).ok()?;
    tcp.set_nonblocking(true).ok()?;
    Some(Pair { udp: UdpSocket::from_std(udp).ok()?, tcp: TcpListener::from_std(tcp).ok()?, address })
}

fn is_at(socket: &OwnedFd, address: SocketAddr, kind: SockType) -> bool {
    let own = getsockname::<SockaddrStorage>(socket.as_raw_fd());
    let is_there = own.is_ok_and(|own| own == SockaddrStorage::from(address));
    is_there && getsockopt(socket, sockopt::SockType).is_ok_and(|have| have == kind)
}

/// SO_REUSEADDR, so that a restart does not wait for old connections to leave TIME_WAIT.
fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

/// No SO_REUSEADDR: for UDP it would let two servers share the port, and one of them starve.
fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

impl Sockets {
    /// Where the server listens, in the order of `listen`; shows the port that the kernel chose for port 0.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.pairs.iter().map(|pair| pair.address).collect()
    }

    /// All of them, for whoever keeps them open over a restart.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.pairs.iter().flat_map(|pair| [pair.udp.as_fd(), pair.tcp.as_fd()]).collect()
    }

    /// The counters; they stay valid while the server runs and after.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Answers from the newest zone, and peers by `exchange`, until `shutdown` completes; then all sockets and connections
    /// are closed.
    pub async fn serve(
        self,
        zone: watch::Receiver<Arc<Zone>>,
        exchange: Option<Exchange>,
        shutdown: impl Future<Output = ()>,
    ) {
        let mut tasks = JoinSet::new();
        let server = Server { zone, exchange, rotation: Arc::default(), counters: self.counters };
        let slots = tcp::slots();
        for pair in self.pairs {
            tracing::info!(address = %pair.address, "DNS answers");
            tasks.spawn(serve_udp(pair.udp, server.clone()));
            tasks.spawn(tcp::serve(pair.tcp, server.clone(), Arc::clone(&slots)));
        }
        tokio::select! {
            () = shutdown => tasks.shutdown().await,
            // The tasks have no end of their own: this is a panic. A silent socket would be worse.
            Some(Err(ended)) = tasks.join_next() => std::panic::resume_unwind(ended.into_panic()),
        }
    }
}

/// What every socket's task shares.
#[derive(Debug, Clone)]
pub(super) struct Server {
    zone: watch::Receiver<Arc<Zone>>,
    exchange: Option<Exchange>,
    rotation: Arc<Rotation>,
    counters: Arc<Counters>,
}

impl Server {
    pub(super) fn reply(&self, query: &[u8], transport: Transport) -> Option<Reply> {
        let zone = Arc::clone(&self.zone.borrow());
        let of_peer = |exchange: &Exchange| exchange.reply(query, zone.origin(), transport);
        let reply = self
            .exchange
            .as_ref()
            .and_then(of_peer)
            .or_else(|| answer(query, &zone, transport, &self.rotation));
        self.counters.count(transport, reply.as_ref());
        reply
    }
}

async fn serve_udp(socket: UdpSocket, server: Server) {
    let mut query = vec![0; MAX_QUERY];
    loop {
        let (len, client) = match socket.recv_from(&mut query).await {
            Ok(received) => received,
            Err(error) => {
                tracing::warn!(%error, "DNS cannot receive");
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        // Port 0 takes no answer.
        if client.port() == 0 {
            continue;
        }
        if let Some(reply) = server.reply(&query[..len], Transport::Udp) {
            // Full send buffer or no route: the client asks again. Waiting would make others wait.
            if let Err(error) = socket.try_send_to(&reply.octets, client) {
                tracing::debug!(%client, %error, "DNS answer not sent");
            }
        }
    }
}
