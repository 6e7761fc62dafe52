//! QUIC in the lab: servers whose connection ids name the backend, and a client that moves.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use crate::{binaries, host::Host, lab::Lab, process::spawn, raise::log, topology::Options};

/// The QUIC service's port.
pub const QUIC_PORT: u16 = 443;

/// Config id of the servers' connection ids.
const CONFIG_ID: u8 = 1;

/// Bytes of a server id.
const ID_LENGTH: usize = 4;

/// A place from which the client used its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The client's address and port.
    pub from: SocketAddr,
    /// The backend that answered there.
    pub backend: String,
}

/// How far a connection came.
#[derive(Debug, Clone)]
pub struct Journey {
    /// The places at which all questions were answered.
    pub stops: Vec<Stop>,
    /// Why it ended before the last place; `None` when it did not.
    pub failure: Option<String>,
}

impl Lab {
    /// Opens a QUIC connection to a VIP from the first of these addresses of the client, and moves it to each
    /// other; asks some questions from each. The client's first packets have a connection id that looks
    /// like one of the backend `initial`.
    ///
    /// # Errors
    /// When the client cannot be run. That nothing answers is told by the journey.
    pub fn quic_journey(&self, to: SocketAddr, initial: Host, from: &[SocketAddr]) -> Result<Journey> {
        // The rest is of the client's own making, and never the same: a server may still know the last connection's.
        let id = format!("{:02x}{}{:016x}", CONFIG_ID << 5, server_id(initial), rand::random::<u64>());
        let (to, from) = (to.to_string(), from.iter().map(ToString::to_string).collect::<Vec<_>>());
        let words = [binaries::QUIC, "travel", &to, &id];
        let words: Vec<&str> = words.into_iter().chain(from.iter().map(String::as_str)).collect();
        let output = self.output(Host::Client, &words)?;
        let stops = output.stdout.lines().map(stop).collect::<Result<_>>()?;
        Ok(Journey { stops, failure: (output.code != Some(0)).then_some(output.stderr) })
    }
}

/// `198.51.100.7:40001 backend1`
fn stop(line: &str) -> Result<Stop> {
    let (from, backend) = line.split_once(' ').with_context(|| format!("`{line}` is no stop"))?;
    let from = from.parse().with_context(|| format!("`{from}` is no address"))?;
    Ok(Stop { from, backend: backend.to_owned() })
}

/// Starts a backend's QUIC server.
pub(crate) fn start_quic(lab: &Lab, backend: Host) -> Result<()> {
    let program = binaries::find(binaries::QUIC)?;
    let words = [
        program.to_str().context("path of the QUIC echo is not UTF-8")?,
        "serve",
        &backend.to_string(),
        &QUIC_PORT.to_string(),
        &CONFIG_ID.to_string(),
        &server_id(backend),
    ];
    spawn(lab.command(backend, &words), &log(backend, binaries::QUIC))
}

/// The setting of a service that has such backends.
pub(crate) fn setting() -> String {
    format!("quic = {{ server_id_length = {ID_LENGTH}, config_id = {CONFIG_ID} }}\n")
}

/// The server id by which nodes know a backend. The last one's they do not know, although it makes such ids.
pub(crate) fn known_id(backend: Host, options: &Options) -> Option<String> {
    (options.backend_hosts().last() != Some(backend)).then(|| server_id(backend))
}

/// What a backend puts into its connection ids.
fn server_id(backend: Host) -> String {
    let number = match backend {
        Host::Backend(number) => number,
        _ => 0,
    };
    format!("0a0b0c{number:02x}")
}
