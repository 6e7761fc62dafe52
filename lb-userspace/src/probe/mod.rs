//! Runs checks of backends and peers. One file per kind; what the results mean is decided in `core`.

mod agent;
mod dns;
mod exec;
mod grpc;
mod handshake;
mod http;
mod runner;
mod spare;
mod tcp;
mod through;
mod tls;
mod udp;

use std::{
    convert::Infallible,
    fmt,
    future::pending,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use nix::errno::Errno;
use tokio::time::Instant;

pub use self::{
    runner::{Handle, Report, start, start_after},
    through::Through,
    tls::Client as TlsClient,
};
use crate::{
    config::CheckKind,
    core::{
        admin::Override,
        check::{CheckResult, Code},
    },
};

/// One check, ready to be run any number of times.
#[derive(Debug)]
pub struct Probe {
    /// What is done; many backends have the same.
    pub kind: Arc<CheckKind>,
    /// Where to connect, or to send to.
    pub target: SocketAddr,
    /// Local address and port; the kernel's choice when absent.
    pub source: Option<Source>,
    /// The way through the data path; the ordinary one when absent.
    pub through: Option<Box<Through>>,
    /// Limit of the whole check, from the connection to the end of the answer.
    pub timeout: Duration,
    /// What handshakes need; the first one makes it.
    pub tls: TlsClient,
}

impl Probe {
    /// A check that leaves from where the kernel likes.
    pub fn new(kind: impl Into<Arc<CheckKind>>, target: SocketAddr, timeout: Duration) -> Probe {
        let tls = TlsClient::default();
        Probe { kind: kind.into(), target, source: None, through: None, timeout, tls }
    }

    /// Runs the check. Every failure is a result, so there is no error.
    pub async fn run_once(&mut self) -> CheckResult {
        let start = Instant::now();
        let (source, source_port) = self.source.as_mut().map_or((None, None), |choose| choose.0());
        let (target, through) = (self.target, self.through.as_deref());
        let endpoints = Endpoints { target, source, source_port, through };
        let limit = Limit { deadline: start + self.timeout, timeout: self.timeout };
        let finding = match through {
            None => find(&self.kind, &endpoints, &mut self.tls, limit).await,
            Some(through) => {
                Box::pin(through::check(through, &self.kind, &endpoints, &mut self.tls, limit)).await
            }
        };
        if let Some(through) = &mut self.through {
            through.ended(finding.is_ok());
        }
        let Finding { code, detail, warning, advice, took } = finding.unwrap_or_else(|failure| failure);
        let duration = took.unwrap_or_else(|| start.elapsed());
        CheckResult { code, duration, detail, warning, advice }
    }
}

/// Runs a check of any kind.
async fn find(
    kind: &CheckKind,
    endpoints: &Endpoints<'_>,
    tls_client: &mut TlsClient,
    limit: Limit,
) -> Result<Finding, Finding> {
    // Boxes: each task has room for what is not in one, and there may be ten thousand.
    match kind {
        CheckKind::Tcp => tcp::check(endpoints, limit).await,
        CheckKind::Http(http) => match &http.tls {
            None => Box::pin(http::check(endpoints, http, limit)).await,
            Some(tls) => Box::pin(http::check_over_tls(endpoints, http, tls_client, tls, limit)).await,
        },
        CheckKind::Tls(tls) => Box::pin(tls::check(endpoints, tls_client, tls, limit)).await,
        CheckKind::Dns { query, record, expect } => {
            let request = dns::Request { query, record, expect: expect.as_deref() };
            Box::pin(dns::check(endpoints, &request, limit)).await
        }
        CheckKind::Agent => Box::pin(agent::check(endpoints, limit)).await,
        CheckKind::Grpc { service, tls: None } => Box::pin(grpc::check(endpoints, service, limit)).await,
        CheckKind::Grpc { service, tls: Some(tls) } => {
            Box::pin(grpc::check_over_tls(endpoints, service, tls_client, tls, limit)).await
        }
        CheckKind::Exec { command } => Box::pin(exec::check(endpoints, command, limit)).await,
        CheckKind::Udp { send, expect } => {
            let request = udp::Request { send, expect: expect.as_deref() };
            Box::pin(udp::check(endpoints, &request, limit)).await
        }
    }
}

/// Chooses the local end of each run: the host's addresses change, and peer probes steer with the port which backend answers.
pub struct Source(Box<dyn FnMut() -> (Option<IpAddr>, Option<u16>) + Send>);

impl Source {
    /// Always this address, and any port.
    pub fn address(address: IpAddr) -> Source {
        Source::new(move || (Some(address), None))
    }

    /// `choose` is called before each run; what is `None` in that run is left to the kernel.
    pub fn new(choose: impl FnMut() -> (Option<IpAddr>, Option<u16>) + Send + 'static) -> Source {
        Source(Box::new(choose))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// Both ends of one run's connection, and the way between.
struct Endpoints<'a> {
    target: SocketAddr,
    source: Option<IpAddr>,
    source_port: Option<u16>,
    through: Option<&'a Through>,
}

impl Endpoints<'_> {
    /// Whether the kernel chooses the local end and the way.
    fn is_plain(&self) -> bool {
        self.source.is_none() && self.source_port.is_none() && self.through.is_none()
    }

    /// The address to bind to.
    fn local_address(&self) -> IpAddr {
        let any = match self.target {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        self.source.unwrap_or(any)
    }
}

/// What ends a run that takes too long.
#[derive(Clone, Copy)]
struct Limit {
    deadline: Instant,
    /// For people.
    timeout: Duration,
}

impl Limit {
    /// The future's output, or `code` when the time is over first.
    async fn or<T>(self, code: Code, future: impl Future<Output = T>) -> Result<T, Finding> {
        tokio::time::timeout_at(self.deadline, future)
            .await
            .map_err(|_| Finding::new(code, format!("timeout after {:?}", self.timeout)))
    }
}

/// What a check comes to. Failures are passed on with `?`, hence `Result<Finding, Finding>`.
struct Finding {
    code: Code,
    detail: String,
    warning: Option<String>,
    advice: Option<Override>,
    /// How long it took, if that is known better than from when it was done.
    took: Option<Duration>,
}

impl Finding {
    fn new(code: Code, detail: impl Into<String>) -> Finding {
        Finding { code, detail: detail.into(), warning: None, advice: None, took: None }
    }
}

/// What an exchange over HTTP comes to. Its connection must be polled while the answer is awaited; why that ended, the answer
/// says.
async fn exchanged<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    let connection = async {
        connection.await;
        pending::<Infallible>().await
    };
    tokio::select! {
        result = exchange => result,
        never = connection => match never {},
    }
}

/// Bytes of a wrong answer, and of what was expected instead, that are shown.
const SHOWN: usize = 32;

/// Whether an answer contains what is expected; empty texts are everywhere.
fn contains(answer: &[u8], expect: &str) -> bool {
    expect.is_empty() || answer.windows(expect.len()).any(|part| part == expect.as_bytes())
}

/// The beginning of what came, in quotes and fit to be shown.
fn shown(bytes: &[u8]) -> String {
    let more = if bytes.len() > SHOWN { "…" } else { "" };
    format!("\"{}{more}\"", bytes[..bytes.len().min(SHOWN)].escape_ascii())
}

/// Tells what this host could not do from what the network answered. EACCES is the network's: ICMPv6 "administratively
/// prohibited", as firewalls answer (tab_unreach[] in net/ipv6/icmp.c).
pub fn is_local(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(
            Errno::EADDRNOTAVAIL
                | Errno::EADDRINUSE
                | Errno::EPERM
                | Errno::EINVAL
                | Errno::EAFNOSUPPORT
                | Errno::EAGAIN
                | Errno::EMFILE
                | Errno::ENFILE
                | Errno::ENOBUFS
                | Errno::ENOMEM
        )
    )
}

/// The system's words without Rust's `(os error 111)`.
fn io_detail(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_waits_takes_little_memory() {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
        let mut probe = Probe::new(CheckKind::Tcp, target, Duration::from_secs(1));
        let size = size_of_val(&probe.run_once());
        assert!(size <= 1_024, "{size} bytes, for each of ten thousand checks");
    }
}
