//! How a service's flows are treated.

use std::time::Duration;

use lb_common::{Tokens, quic::MAX_SERVER_ID};

use super::{
    DAY, IDLE,
    reader::{Field, Reader},
};
use crate::config::{
    FlowOptions, HashInput, OnBackendDown, Protocol, Quic, RateLimit,
    file::{self, Value},
    key::Key,
};

/// The settings of a service that are about its flows.
pub(super) struct Written {
    pub(super) idle_timeout: Value<String>,
    pub(super) on_backend_down: Value<String>,
    pub(super) drain_timeout: Value<String>,
    pub(super) on_drain_end: Value<String>,
    pub(super) hash: Value<String>,
    pub(super) affinity: Value<String>,
    pub(super) rate_limit: Value<file::RateLimit>,
    pub(super) quic: Value<file::Quic>,
}

pub(super) fn options(
    reader: &mut Reader<'_>,
    service: &Key,
    written: Written,
    protocol: Option<Protocol>,
    usual: Duration,
) -> FlowOptions {
    let mut options = FlowOptions::new(usual);
    options.idle_timeout = reader.duration_or(service, "idle_timeout", written.idle_timeout, usual, IDLE);
    options.on_backend_down =
        connections(reader, service, "on_backend_down", written.on_backend_down, protocol);
    if let Some(field) = reader.optional(service, "drain_timeout", written.drain_timeout) {
        options.drain_timeout = reader.duration(&field, Duration::from_secs(1)..=DAY);
    }
    options.on_drain_end = connections(reader, service, "on_drain_end", written.on_drain_end, protocol);
    if let Some(field) = reader.optional(service, "hash", written.hash) {
        let inputs = [("flow", HashInput::Flow), ("client", HashInput::Client)];
        options.hash = reader.choice(&field, &inputs).unwrap_or(options.hash);
    }
    if let Some(field) = reader.optional(service, "affinity", written.affinity) {
        options.affinity = reader.duration(&field, IDLE);
    }
    options.rate_limit = rate_limit(reader, service, written.rate_limit);
    options.quic = quic(reader, service, written.quic, protocol);
    options
}

/// What becomes of connections whose backend is down for some reason.
fn connections(
    reader: &mut Reader<'_>,
    service: &Key,
    name: &str,
    written: Value<String>,
    protocol: Option<Protocol>,
) -> OnBackendDown {
    let Some(field) = reader.optional(service, name, written) else { return OnBackendDown::Keep };
    let ways = [("keep", OnBackendDown::Keep), ("reset", OnBackendDown::Reset)];
    let way = reader.choice(&field, &ways);
    if protocol == Some(Protocol::Udp) && reader.sound(&field.key) {
        let mend = "remove it: a UDP flow goes to another backend at once";
        reader.refuse(&field.key, "means nothing to a UDP service", mend);
    }
    way.unwrap_or(OnBackendDown::Keep)
}

fn rate_limit(reader: &mut Reader<'_>, service: &Key, written: Value<file::RateLimit>) -> Option<RateLimit> {
    let Field { key, value: limit, .. } = reader.optional(service, "rate_limit", written)?;
    let most = i64::from(Tokens::MAX_BURST);
    let mend = format!("use 1 to {most}");
    let per_source = reader
        .required(&key, "per_source", limit.per_source)
        .and_then(|field| reader.whole::<u32>(&field, 1..=most, &mend))?;
    let burst = match reader.optional(&key, "burst", limit.burst) {
        Some(field) => reader.whole(&field, 1..=most, &mend)?,
        None => (2 * per_source).min(Tokens::MAX_BURST),
    };
    Some(RateLimit { per_source, burst })
}

fn quic(
    reader: &mut Reader<'_>,
    service: &Key,
    written: Value<file::Quic>,
    protocol: Option<Protocol>,
) -> Option<Quic> {
    let Field { key, value: quic, .. } = reader.optional(service, "quic", written)?;
    if protocol == Some(Protocol::Tcp) {
        reader.refuse(&key, "means nothing to a TCP service", "set protocol = \"udp\", or remove it");
    }
    let longest = MAX_SERVER_ID as i64;
    let server_id_length = reader
        .required(&key, "server_id_length", quic.server_id_length)
        .and_then(|field| reader.whole(&field, 1..=longest, &format!("use 1 to {longest} bytes")))?;
    let config_id = match reader.optional(&key, "config_id", quic.config_id) {
        Some(field) => reader.whole(&field, 0..=6, "use 0 to 6; 7 is for connection ids that name nobody")?,
        None => 0,
    };
    Some(Quic { server_id_length, config_id })
}

/// A server id of the length that the service says.
pub(super) fn server_id(
    reader: &mut Reader<'_>,
    backend: &Key,
    written: Value<String>,
    quic: Option<Quic>,
) -> Option<[u8; 8]> {
    let field = reader.optional(backend, "quic_server_id", written)?;
    let Some(Quic { server_id_length, .. }) = quic else {
        let mend = "add quic = { server_id_length = … } to the service, or remove it";
        reader.refuse(&field.key, "means nothing without the service's quic", mend);
        return None;
    };
    let mut id = [0; MAX_SERVER_ID];
    let text = field.value.as_bytes();
    let digits = text.len() == 2 * usize::from(server_id_length) && text.iter().all(u8::is_ascii_hexdigit);
    if !digits {
        let what = format!("\"{}\" is not a server id of {server_id_length} bytes", field.value);
        reader.refuse(&field.key, what, format!("write {} hexadecimal digits", 2 * server_id_length));
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(field.value.as_bytes().chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0) as u8;
        *byte = (digit(pair[0]) << 4) | digit(pair[1]);
    }
    Some(id)
}
