//! What the server counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use super::{Reply, Transport};

/// Counters of one server, since its start.
#[derive(Debug, Default)]
pub struct Counters {
    udp: AtomicU64,
    tcp: AtomicU64,
    ignored: AtomicU64,
    truncated: AtomicU64,
    noerror: AtomicU64,
    formerr: AtomicU64,
    servfail: AtomicU64,
    nxdomain: AtomicU64,
    notimp: AtomicU64,
    refused: AtomicU64,
    badvers: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct CounterValues {
    /// Messages that came by UDP.
    pub udp: u64,
    /// Messages that came by TCP.
    pub tcp: u64,
    /// Messages, of both, that got no answer: answers themselves, or shorter than a header.
    pub ignored: u64,
    /// Answers that did not fit (TC).
    pub truncated: u64,
    /// Answers with this response code, NODATA included.
    pub noerror: u64,
    /// The query could not be read.
    pub formerr: u64,
    /// The zone could not be written.
    pub servfail: u64,
    /// The name does not exist.
    pub nxdomain: u64,
    /// Not a query (update, notify, …).
    pub notimp: u64,
    /// Outside the zone, another class than IN, or a zone transfer.
    pub refused: u64,
    /// An EDNS version above 0.
    pub badvers: u64,
}

impl Counters {
    /// The present values.
    pub fn values(&self) -> CounterValues {
        CounterValues {
            udp: self.udp.load(Relaxed),
            tcp: self.tcp.load(Relaxed),
            ignored: self.ignored.load(Relaxed),
            truncated: self.truncated.load(Relaxed),
            noerror: self.noerror.load(Relaxed),
            formerr: self.formerr.load(Relaxed),
            servfail: self.servfail.load(Relaxed),
            nxdomain: self.nxdomain.load(Relaxed),
            notimp: self.notimp.load(Relaxed),
            refused: self.refused.load(Relaxed),
            badvers: self.badvers.load(Relaxed),
        }
    }

    /// Counts one message and what was answered.
    pub(super) fn count(&self, transport: Transport, reply: Option<&Reply>) {
        let came_by = match transport {
            Transport::Udp => &self.udp,
            Transport::Tcp => &self.tcp,
        };
        add_one(came_by);
        let Some(reply) = reply else { return add_one(&self.ignored) };
        if reply.truncated {
            add_one(&self.truncated);
        }
        add_one(match reply.rcode {
            0 => &self.noerror,
            1 => &self.formerr,
            3 => &self.nxdomain,
            4 => &self.notimp,
            5 => &self.refused,
            16 => &self.badvers,
            _ => &self.servfail,
        });
    }
}

fn add_one(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
