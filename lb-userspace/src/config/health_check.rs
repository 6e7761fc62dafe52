//! How backends and peers are checked.

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};

use hyper::header::HeaderName;

use crate::core::ids::Family;

/// How a service's backends are checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// What is done; many backends have the same.
    pub kind: Arc<CheckKind>,
    /// Another port than the backend's.
    pub port: Option<u16>,
    /// What it is aimed at.
    pub aim: Aim,
    /// Addresses of this node that it leaves from, at most one per family; the kernel's choice where there is none.
    pub source: Vec<IpAddr>,
    /// What becomes of a backend that answers none of those who open connections.
    pub passive: Passive,
    /// When, how long, how often.
    pub timing: Timing,
}

/// What becomes of a backend that answers none of those who open connections. Seen of TCP services under NAT only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passive {
    /// Nobody looks.
    Off,
    /// It is checked at once.
    Check,
    /// And that counts as a failed check.
    Fail,
}

impl Check {
    /// The address that a check of `target` leaves from, if that is said.
    pub fn source(&self, target: IpAddr) -> Option<IpAddr> {
        self.source.iter().copied().find(|&source| Family::of(source) == Family::of(target))
    }
}

/// What a check is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// The service's addresses, in the way that clients' packets go to the backend.
    Vip,
    /// The backend's address.
    Address,
}

/// The kinds of check.
#[derive(Debug, Clone, PartialEq)]
pub enum CheckKind {
    /// A TCP connection is accepted.
    Tcp,
    /// A request is answered as expected.
    Http(Box<Http>),
    /// A TLS handshake succeeds.
    Tls(Tls),
    /// A command ends with exit code 0.
    Exec {
        /// The program, an absolute path, and its arguments.
        command: Vec<String>,
    },
    /// A DNS server has records of a type for a name.
    Dns {
        /// The name.
        query: String,
        /// The type: `A`, `SOA`.
        record: &'static str,
        /// What one of the records contains; any will do when absent.
        expect: Option<String>,
    },
    /// An agent says how the backend is, in HAProxy's words.
    Agent,
    /// A gRPC server says by grpc.health.v1 that it serves.
    Grpc {
        /// The service that is asked for; the whole server when empty.
        service: String,
        /// Over TLS; `None` in plain text.
        tls: Option<Tls>,
    },
    /// A datagram is answered.
    Udp {
        /// What is sent.
        send: String,
        /// What the answer contains; any answer when absent.
        expect: Option<String>,
    },
}

impl CheckKind {
    /// Whether the data path can take such checks to the service's address: an agent is another server, and a command does
    /// what it likes.
    pub fn may_aim_at_vip(&self) -> bool {
        !matches!(self, CheckKind::Agent | CheckKind::Exec { .. })
    }
}

/// A request, and the answer that is expected.
#[derive(Debug, Clone, PartialEq)]
pub struct Http {
    /// `GET`, `HEAD`.
    pub method: &'static str,
    /// Starts with `/`.
    pub path: String,
    /// The `Host` header; the backend's address and port when absent.
    pub host: Option<String>,
    /// Other headers of the request; values that a header can have.
    pub headers: Vec<(HeaderName, String)>,
    /// Accepted status codes.
    pub expect: Vec<RangeInclusive<u16>>,
    /// What headers of the answer contain.
    pub expect_header: Vec<(HeaderName, String)>,
    /// What its body contains.
    pub expect_body: Option<String>,
    /// Over TLS; `None` in plain text.
    pub tls: Option<Tls>,
}

impl Default for Http {
    fn default() -> Http {
        Http {
            method: "GET",
            path: "/".to_owned(),
            host: None,
            headers: Vec::new(),
            expect: vec![200..=399],
            expect_header: Vec::new(),
            expect_body: None,
            tls: None,
        }
    }
}

/// What is expected of a backend's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The name that is asked for (SNI) and that the certificate must be for; the backend's address when absent.
    pub server_name: Option<String>,
    /// Issuers that are trusted, PEM; the host's own when absent.
    pub ca_file: Option<PathBuf>,
    /// Whether issuer, name and dates matter at all.
    pub verify: bool,
}

/// Rhythm and limits of a check.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// From one check's start to the next one's.
    pub interval: Duration,
    /// The same while results contradict the state; at most `interval`.
    pub fast_interval: Duration,
    /// A check without result by then has failed; at most `interval`.
    pub timeout: Duration,
    /// Successes in a row that make it up; at least 1.
    pub rise: u32,
    /// Failures in a row that make it down; at least 1.
    pub fall: u32,
    /// Each interval is varied by up to this share of it, either way; 0.0 to 0.5.
    pub jitter: f32,
}
