//! A capture under way: from the data path's ring to the pcapng blocks that the API hands on.

use std::{
    collections::BTreeMap,
    error::Error,
    future::pending,
    io, mem,
    time::{SystemTime, UNIX_EPOCH},
};

use lb_common::{Reason, capture::Filter};
use tokio::{
    io::{
        Interest,
        unix::{AsyncFd, AsyncFdReadyGuard},
    },
    sync::mpsc,
    task::JoinHandle,
};
use tracing::{info, warn};

use super::{names, state::State};
use crate::{
    api::Refusal,
    capture::{
        CaptureQuery, INTERFACES,
        pcapng::{self, Direction},
    },
    config::Service,
    core::{ids::Family, plan},
    dataplane::{Capture, Captured},
};

/// Pieces of the file that may wait for whoever asked.
const QUEUE: usize = 16;

/// Blocks that are gathered to a piece.
const PIECE: usize = 64 << 10;

/// What the data path has to look for.
///
/// # Errors
/// When the question names what is not there.
pub(super) fn filter(state: &State, query: &CaptureQuery) -> Result<Filter, Refusal> {
    let services = names::services(&state.config, query.service.as_deref())?;
    names::check_member(&state.config, &services, query.backend.as_deref())?;
    let numbers = state.planner.numbers();
    let pools = || services.iter().flat_map(|service| plan::families(service));
    let mut filter = Filter::all(query.snaplen);
    if query.service.is_some() {
        filter = filter.of_services(pools().map(|(_, pool)| numbers.pool(&pool)));
    }
    if let Some(name) = &query.backend {
        let ids =
            pools().flat_map(|(service, pool)| plan::members(&state.config, service, pool).map(|one| one.id));
        filter = filter.of_backends(ids.filter(|id| *id.backend == **name).map(|id| numbers.backend(&id)));
    }
    if let Some(label) = &query.reason {
        filter = filter.with_reason(names::reason(label)?);
    }
    if let Some(network) = &query.client {
        let family = Family::of(network.addr());
        let before = if family == Family::V4 { 96 } else { 0 };
        filter = filter.of_clients(network.addr().into(), before + u32::from(network.prefix_len()));
    }
    Ok(filter)
}

/// What numbers mean, for the comments of packets.
pub(super) struct Names {
    services: BTreeMap<u32, String>,
    backends: BTreeMap<u16, String>,
    interfaces: BTreeMap<u32, String>,
}

impl Names {
    pub(super) fn new(state: &State, interfaces: BTreeMap<u32, String>) -> Names {
        let numbers = state.planner.numbers();
        let pools = || state.config.services.iter().flat_map(|service: &Service| plan::families(service));
        let services = pools().map(|(_, pool)| (numbers.pool(&pool), pool.to_string()));
        let ids =
            pools().flat_map(|(service, pool)| plan::members(&state.config, service, pool).map(|one| one.id));
        let backends = ids.map(|id| (numbers.backend(&id), id.backend.to_string()));
        Names { services: services.collect(), backends: backends.collect(), interfaces }
    }

    /// `nat, service web/v4, backend backend1, front to back`.
    fn comment(&self, captured: &Captured) -> String {
        let head = &captured.head;
        let reason = Reason::from_number(head.reason).map_or("unknown", Reason::label);
        let mut comment = reason.to_owned();
        if let Some(service) = self.services.get(&head.service) {
            comment += &format!(", service {service}");
        }
        if let Some(backend) = self.backends.get(&head.backend) {
            comment += &format!(", backend {backend}");
        }
        if let Some(ingress) = self.interfaces.get(&head.ingress) {
            comment += &format!(", from {ingress}");
        }
        if let Some(egress) = self.interfaces.get(&head.egress) {
            comment += &format!(" to {egress}");
        }
        comment
    }
}

/// A running capture's end of the stream; dropping the other end ends it.
pub(super) struct Running {
    capture: AsyncFd<Capture>,
    names: Names,
    left: Option<u64>,
    seen: u64,
    /// What to add to the data path's clock, which counts from the machine's start.
    started_ns: u64,
    sink: mpsc::Sender<Vec<u8>>,
}

impl Running {
    /// The capture, and where its file comes out piece by piece.
    ///
    /// # Errors
    /// When the ring cannot be waited for.
    pub(super) fn new(
        capture: Capture,
        names: Names,
        count: Option<u64>,
    ) -> io::Result<(Running, mpsc::Receiver<Vec<u8>>)> {
        let (sink, stream) = mpsc::channel(QUEUE);
        // SAFETY: a capture has the same descriptor, and keeps it open, as long as it lives.
        let capture = unsafe { AsyncFd::register_with_interest(capture, Interest::READABLE) };
        let capture = capture.map_err(|error| error.into_parts().1)?;
        Ok((Running { capture, names, left: count, seen: 0, started_ns: machine_start(), sink }, stream))
    }

    /// Hands packets on until there were enough of them, or nobody listens any more.
    ///
    /// # Errors
    /// When the ring cannot be waited for.
    pub(super) async fn run(mut self, snaplen: u32) -> io::Result<()> {
        let mut piece = [
            pcapng::section(concat!("usher ", env!("CARGO_PKG_VERSION"))),
            pcapng::interface(INTERFACES[0], "packets as they came in", snaplen),
            pcapng::interface(INTERFACES[1], "packets as they were in the end", snaplen),
        ]
        .concat();
        loop {
            self.gather(&mut piece);
            if self.left == Some(0) {
                piece.extend(self.statistics());
                self.log();
                // Nobody may be there to take it.
                drop(self.sink.send(piece).await);
                return Ok(());
            }
            if !piece.is_empty() {
                if self.sink.send(mem::take(&mut piece)).await.is_err() {
                    self.log();
                    return Ok(());
                }
                continue;
            }
            tokio::select! {
                () = self.sink.closed() => {
                    self.log();
                    return Ok(());
                }
                ready = self.capture.readable() => ready.map(|mut guard: AsyncFdReadyGuard<_>| guard.clear_ready())?,
            }
        }
    }

    /// Moves packets from the ring to the piece, until that is full or there are enough.
    fn gather(&mut self, piece: &mut Vec<u8>) {
        let Running { capture, names, left, seen, started_ns, .. } = self;
        while piece.len() < PIECE && *left != Some(0) {
            let blocks = |captured: Captured| blocks(&captured, names, *started_ns, *seen);
            let Some(blocks) = capture.get_mut().next(blocks) else { break };
            piece.extend(blocks);
            *seen += 1;
            *left = left.map(|left| left - 1);
        }
    }

    fn log(&self) {
        info!(packets = self.seen, lost = self.lost(), "the capture ends");
    }

    fn lost(&self) -> u64 {
        self.capture.get_ref().lost().unwrap_or(0)
    }

    fn statistics(&self) -> Vec<u8> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        (0..2).flat_map(|interface| pcapng::statistics(interface, now, self.seen, self.lost())).collect()
    }
}

/// Waits until the capture under way ends; for ever when there is none. Takes it away then. Cancelling loses
/// nothing.
pub(super) async fn end_of(capturing: &mut Option<JoinHandle<io::Result<()>>>) {
    let Some(running) = capturing else { return pending().await };
    match running.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(error = &error as &dyn Error, "the capture broke off"),
        Err(error) => warn!(error = &error as &dyn Error, "the capture broke off"),
    }
    *capturing = None;
}

/// A packet as both interfaces saw it.
fn blocks(captured: &Captured, names: &Names, started_ns: u64, id: u64) -> Vec<u8> {
    let head = &captured.head;
    let comment = names.comment(captured);
    let packet = |interface: usize, time_ns, length, data, direction| {
        let comment = format!("{}: {comment}", INTERFACES[interface]);
        let interface = interface as u32;
        let action = u64::from(head.action);
        let time_ns = started_ns + time_ns;
        pcapng::packet(&pcapng::Packet {
            interface,
            time_ns,
            length,
            data,
            comment: &comment,
            direction,
            id,
            action,
        })
    };
    let before = packet(0, head.arrived_ns, head.before, captured.before, Direction::In);
    let after = packet(1, head.left_ns, head.after, captured.after, Direction::Out);
    [before, after].concat()
}

/// When the machine started, in nanoseconds since 1970, as far as the two clocks can be read at once.
fn machine_start() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let monotonic = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    let since = monotonic.map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64);
    now.saturating_sub(since)
}
