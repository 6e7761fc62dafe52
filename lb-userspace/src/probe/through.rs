//! Checks that go through the data path: aimed at a service's address, in the way of clients' packets. A backend that
//! lacks the address, or does not unpack tunnel packets, fails them.

use std::{
    fmt, io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    pin::pin,
    time::Duration,
};

use lb_common::check_path::{Refusal, Way};
use nix::{
    getsockopt_impl, sockopt_impl,
    sys::socket::{getsockopt, setsockopt, sockopt::TcpMaxSeg},
};
use tokio::time::sleep;

use super::{Endpoints, Finding, Limit, TlsClient, find, tcp};
use crate::{
    config::{CheckKind, Forward},
    core::check::Code,
    dataplane::Ways,
};

sockopt_impl!(
    /// The number by which BPF programs know a socket.
    SocketCookie,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_COOKIE,
    u64
);

/// Segments that fit into any tunnel over any link that takes 1,280 bytes.
const TUNNEL_SEGMENT: u32 = 1_160;

/// For how long a refusal by ICMP tells of the checks after it: hosts send few of them, one per second say.
const REFUSAL_TELLS: Duration = Duration::from_secs(10);

/// IP protocol number of UDP.
const UDP: u32 = 17;

/// A backend's ways through the data path: one to each of the service's addresses.
pub struct Through {
    /// Tells the data path of sockets.
    ways: Ways,
    /// How the service's packets reach the backend.
    forward: Forward,
    /// At least one. Checks go to one after the other, and stay with one that fails: else a backend that lacks one of
    /// several would never fail often enough in a row.
    aims: Vec<Way>,
    next: usize,
    /// When the last check passed, of [`Ways::now`].
    passed: u64,
}

impl fmt::Debug for Through {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Through").field("aims", &self.aims).finish_non_exhaustive()
    }
}

impl Through {
    /// `None` when there is no way.
    pub fn new(ways: Ways, forward: Forward, aims: Vec<Way>) -> Option<Through> {
        if aims.is_empty() {
            return None;
        }
        let passed = ways.now();
        Some(Through { ways, forward, aims, next: 0, passed })
    }

    fn way(&self) -> &Way {
        &self.aims[self.next]
    }

    /// The service's address that is checked.
    fn vip(&self) -> IpAddr {
        self.way().vip.into()
    }

    /// A check is over.
    pub(super) fn ended(&mut self, is_ok: bool) {
        if is_ok {
            self.next = (self.next + 1) % self.aims.len();
            self.passed = self.ways.now();
        }
    }

    /// Makes a socket that has sent nothing yet take the way.
    pub(super) fn open(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let cookie = getsockopt(&socket, SocketCookie)?;
        self.ways.open(cookie, self.way()).map_err(io::Error::other)
    }

    /// The same for one of TCP.
    pub(super) fn open_tcp(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        if self.forward.is_tunnel() {
            setsockopt(&socket, TcpMaxSeg, &TUNNEL_SEGMENT)?;
        }
        self.open(socket)
    }

    /// Whether the tunnel's packets were refused lately.
    fn refused(&self, backend: IpAddr) -> bool {
        let since = self.passed.max(self.ways.now().saturating_sub(REFUSAL_TELLS.as_nanos() as u64));
        let gue = self.way().gue_port;
        let of_tunnel = |refusal: &Refusal| match self.forward {
            Forward::DsrGue => refusal.protocol == UDP && refusal.port == gue,
            Forward::Nat | Forward::DsrL2 | Forward::DsrIpip => refusal.protocol != UDP,
        };
        self.ways.refused_since(backend, since).is_some_and(|refusal| of_tunnel(&refusal))
    }
}

/// Runs a check through the data path. When nothing comes back, the finding says what the backend lacks, if it answers
/// at its own address: that is asked in the second half of the time.
pub(super) async fn check(
    through: &Through,
    kind: &CheckKind,
    endpoints: &Endpoints<'_>,
    tls: &mut TlsClient,
    limit: Limit,
) -> Result<Finding, Finding> {
    let mut check = pin!(find(kind, endpoints, tls, limit));
    let (result, answers) = tokio::select! {
        result = &mut check => return result,
        () = sleep(limit.timeout / 2) => tokio::join!(check, answers(kind, endpoints, limit)),
    };
    result.map_err(|failure| {
        if !is_silence(failure.code, kind) {
            return failure;
        }
        let backend = endpoints.target.ip();
        let (forward, vip) = (through.forward, through.vip());
        let detail = match (through.refused(backend), answers) {
            (true, _) => format!("does not unpack {forward}: {backend} refuses such packets by ICMP"),
            (false, true) if forward.is_tunnel() => {
                format!("lacks {vip}, or does not unpack {forward}: {backend} itself answers")
            }
            (false, true) => format!("lacks {vip}: {backend} itself answers"),
            (false, false) => return failure,
        };
        Finding { detail, ..failure }
    })
}

/// Whether nothing at all came back.
fn is_silence(code: Code, kind: &CheckKind) -> bool {
    match code {
        Code::L4Tout => true,
        Code::L7Tout => matches!(kind, CheckKind::Udp { .. } | CheckKind::Dns { .. }),
        _ => false,
    }
}

/// Whether the backend answers at its own address; under TCP it may also refuse.
async fn answers(kind: &CheckKind, endpoints: &Endpoints<'_>, limit: Limit) -> bool {
    let own = Endpoints { through: None, source_port: None, ..*endpoints };
    match kind {
        CheckKind::Udp { .. } | CheckKind::Dns { .. } => {
            Box::pin(find(kind, &own, &mut TlsClient::default(), limit)).await.is_ok()
        }
        _ => tcp::answers(&own, limit).await,
    }
}

impl Endpoints<'_> {
    /// Makes a socket that has sent nothing yet take the check's way.
    pub(super) fn open(&self, socket: &impl AsFd) -> io::Result<()> {
        self.through.map_or(Ok(()), |through| through.open(socket.as_fd()))
    }

    /// The same for one of TCP.
    pub(super) fn open_tcp(&self, socket: &impl AsFd) -> io::Result<()> {
        self.through.map_or(Ok(()), |through| through.open_tcp(socket.as_fd()))
    }
}
