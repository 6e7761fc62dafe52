//! A status as OpenMetrics text, which Prometheus and most others read. docs/metrics.md lists what is in it.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::{
    core::{admin::Admin, health::Health},
    status::{AttachedMode, Backend, Dns, Peer, Publisher, Service, State, Status},
};

/// What the text is in an answer over HTTP.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All figures of a status: every name begins with `usher_`.
///
/// # Errors
/// None that are known: writing into a text does not fail.
pub fn text(status: Status) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("usher");
    registry.register_collector(Box::new(Figures(status)));
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(page)
}

#[derive(Debug)]
struct Figures(Status);

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let status = &self.0;
        node(&mut page, status)?;
        data_path(&mut page, status)?;
        services(&mut page, &status.services)?;
        backends(&mut page, &status.services)?;
        peers(&mut page, &status.peers)?;
        let Some(dns) = &status.dns else { return Ok(()) };
        self::dns(&mut page, dns)?;
        publishers(&mut page, &dns.publishers)
    }
}

fn node(page: &mut Page<'_>, status: &Status) -> fmt::Result {
    let build = [("version", status.version.clone()), ("node", status.node.clone())];
    page.gauges("build_info", "Version and name of the node; always 1", None, [(build, 1.0)])?;
    let uptime = seconds(status.started_ago_ms);
    page.gauge("uptime", "Since the daemon started", Some(&Unit::Seconds), uptime)?;
    let drained = flag(status.drained.is_some());
    page.gauge("node_drained", "1 while an administrator wants the node out of DNS", None, drained)?;
    let attached = status.interfaces.iter().map(|interface| {
        ([("interface", interface.name.clone())], flag(interface.xdp_mode != AttachedMode::None))
    });
    page.gauges("interface_attached", "1 while the XDP program is on the interface", None, attached)?;
    page.counter("checks", "Checks of backends and peers that have begun", status.checks.begun)?;
    let late = status.checks.worst_late_ms / 1_000.0;
    let help = "How much later than due the latest check of the last minute began";
    page.gauge("check_late", help, Some(&Unit::Seconds), late)?;
    let memory = &status.memory;
    let memory = [
        ("flow_table", memory.flow_table),
        ("nat", memory.nat),
        ("maglev", memory.maglev),
        ("other", memory.other),
        ("daemon", memory.daemon),
    ];
    let memory = memory.map(|(part, bytes)| ([("part", part.to_owned())], bytes as f64));
    page.gauges("memory", "Of the data path's maps, and of the daemon", Some(&Unit::Bytes), memory)
}

fn data_path(page: &mut Page<'_>, status: &Status) -> fmt::Result {
    let by_reason = |packets: &BTreeMap<String, u64>| {
        let all = packets.iter().map(|(reason, count)| ([("reason", reason.clone())], *count));
        all.collect::<Vec<_>>()
    };
    page.counters("packets", "Packets by what was decided", None, by_reason(&status.packets))?;
    page.counters(
        "drops",
        "Those of them that went nowhere: dropped, or answered by a reset or an ICMP error",
        None,
        by_reason(&status.drops),
    )?;
    let table = &status.flow_table;
    page.gauge("flow_table_capacity", "Flows that the flow table can hold", None, table.capacity as f64)?;
    let states = [("new", table.new), ("proven", table.proven), ("closing", table.closing)];
    let states = states.map(|(state, count)| ([("state", state.to_owned())], count as f64));
    page.gauges("flow_table_flows", "Flows that it holds", None, states)?;
    let short = status.nat_shortages.iter().map(|short| {
        let labels = [("service", short.service.clone()), ("family", short.family.to_string())];
        (labels, short.refused as f64)
    });
    page.gauges(
        "nat_short_refused",
        "Packets refused since NAT ports ran out, while they are short",
        None,
        short,
    )
}

fn services(page: &mut Page<'_>, services: &[Service]) -> fmt::Result {
    let flows = services.iter().map(|service| ([("service", service.name.clone())], service.flows as f64));
    page.gauges("service_flows", "Flows in the flow table", None, flows)?;
    // Most reasons never happen to most services, and there may be a thousand of these.
    let packets = services.iter().flat_map(|service| {
        let seen = service.packets.iter().filter(|(_, count)| **count > 0);
        seen.map(|(reason, count)| ([("service", service.name.clone()), ("reason", reason.clone())], *count))
    });
    page.counters(
        "service_packets",
        "Packets by what was decided, without reasons that never occurred",
        None,
        packets,
    )
}

fn backends(page: &mut Page<'_>, services: &[Service]) -> fmt::Result {
    let all =
        || services.iter().flat_map(|service| service.backends.iter().map(move |backend| (service, backend)));
    let of = |figure: fn(&Backend) -> Option<f64>| {
        all().filter_map(move |(service, backend)| Some((labels(service, backend), figure(backend)?)))
    };
    let count = |figure: fn(&Backend) -> u64| {
        all().map(move |(service, backend)| (labels(service, backend), figure(backend)))
    };
    let is_up = |backend: &Backend| {
        let measured = backend.health == State::Up;
        Some(flag(backend.forced_health.map_or(measured, |forced| forced == Health::Up)))
    };
    page.gauges("backend_up", "1 while it counts as up", None, of(is_up))?;
    let is_ready = |backend: &Backend| Some(flag(backend.admin == Admin::Ready));
    page.gauges("backend_ready", "0 while it is drained or in maintenance", None, of(is_ready))?;
    let has_hop = |backend: &Backend| Some(flag(backend.next_hop.is_some()));
    page.gauges("backend_next_hop_known", "0 while packets for it cannot leave", None, of(has_hop))?;
    page.gauges("backend_weight", "Its weight", None, of(|backend| Some(backend.weight.into())))?;
    let help = "Slots of the Maglev table, of 65,537, that name it";
    page.gauges("backend_slots", help, None, of(|backend| Some(backend.slots.into())))?;
    page.gauges("backend_flows", "Flows in the flow table", None, of(|backend| Some(backend.flows as f64)))?;
    let took = |backend: &Backend| Some(backend.last_check.as_ref()?.duration_ms / 1_000.0);
    page.gauges("backend_check_duration", "How long the last check took", Some(&Unit::Seconds), of(took))?;
    page.counters(
        "backend_flows_begun",
        "Flows that have begun",
        None,
        count(|backend| backend.flows_begun),
    )?;
    page.counters("backend_packets", "Packets sent to it", None, count(|backend| backend.packets))?;
    page.counters("backend_sent", "IP packets sent to it", Some(&Unit::Bytes), count(|backend| backend.bytes))
}

fn labels(service: &Service, backend: &Backend) -> [(&'static str, String); 3] {
    let family = backend.family.to_string();
    [("service", service.name.clone()), ("family", family), ("backend", backend.name.clone())]
}

fn peers(page: &mut Page<'_>, peers: &[Peer]) -> fmt::Result {
    let named = |peer: &Peer| [("peer", peer.name.clone())];
    let answers = peers.iter().filter_map(|peer| Some((named(peer), flag(peer.answers?))));
    page.gauges("peer_answers", "1 while the peer's daemon answers", None, answers)?;
    let drift = peers.iter().map(|peer| (named(peer), flag(peer.drift.is_some())));
    page.gauges("peer_drift", "1 while its configuration or secret differs where it must not", None, drift)?;
    let serves = peers.iter().flat_map(|peer| {
        peer.pools.iter().map(|pool| {
            let family = pool.family.to_string();
            let labels = [("peer", peer.name.clone()), ("service", pool.service.clone()), ("family", family)];
            (labels, flag(pool.state == State::Up))
        })
    });
    page.gauges("peer_serves", "1 while it can serve, as seen from here", None, serves)
}

fn dns(page: &mut Page<'_>, dns: &Dns) -> fmt::Result {
    page.counter("dns_queries", "Queries that the embedded DNS server has answered", dns.queries)?;
    page.gauge("dns_serial", "The zone's serial number", None, dns.serial.into())?;
    let named = |name: &str| [("name", name.to_owned())];
    let ttl = dns.names.iter().map(|name| (named(&name.name), name.ttl_s as f64));
    page.gauges("dns_ttl", "TTL that the name's addresses have now", Some(&Unit::Seconds), ttl)?;
    let down = dns.names.iter().map(|name| (named(&name.name), flag(name.policy_in_force.is_some())));
    page.gauges("dns_all_down", "1 while no node can serve the name, and all_down decides", None, down)?;
    let published = dns.names.iter().flat_map(|name| {
        name.addresses.iter().map(|at| {
            let labels =
                [("name", name.name.clone()), ("node", at.node.clone()), ("address", at.address.to_string())];
            (labels, flag(at.published))
        })
    });
    page.gauges("dns_published", "1 while this node's answers hold the address", None, published)
}

fn publishers(page: &mut Page<'_>, publishers: &[Publisher]) -> fmt::Result {
    let named = |publisher: &Publisher| [("zone", publisher.zone.clone())];
    let of = |figure: fn(&Publisher) -> Option<f64>| {
        publishers.iter().filter_map(move |publisher| Some((named(publisher), figure(publisher)?)))
    };
    let failing = |publisher: &Publisher| Some(flag(publisher.failing.is_some()));
    page.gauges("publisher_failing", "1 while the zone cannot be read or written", None, of(failing))?;
    let errors = publishers.iter().filter_map(|publisher| {
        let kind = publisher.failing.as_ref()?.kind.clone();
        Some(([("zone", publisher.zone.clone()), ("kind", kind)], 1.0))
    });
    page.gauges("publisher_error", "What kind of error that is, while it fails; always 1", None, errors)?;
    let seconds = Some(&Unit::Seconds);
    let retry = |publisher: &Publisher| Some(self::seconds(publisher.failing.as_ref()?.again_in_ms));
    page.gauges("publisher_retry", "Until it is tried again, while it fails", seconds, of(retry))?;
    let lag = |publisher: &Publisher| publisher.read_ago_ms.map(self::seconds);
    page.gauges("publisher_lag", "Since the zone was last read", seconds, of(lag))?;
    let troubles = |publisher: &Publisher| Some(publisher.troubles.len() as f64);
    page.gauges("publisher_troubles", "What keeps addresses out of the zone, or in it", None, of(troubles))?;
    let addresses = publishers.iter().flat_map(|publisher| {
        publisher.addresses.iter().map(|at| {
            let labels = [
                ("zone", publisher.zone.clone()),
                ("name", at.name.clone()),
                ("node", at.node.clone()),
                ("address", at.address.to_string()),
            ];
            (labels, flag(at.state == "published"))
        })
    });
    page.gauges("publisher_published", "1 while the zone, as last read, holds the address", None, addresses)
}

/// The text as it grows, one family of figures after the other.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: f64) -> fmt::Result {
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        figures: impl IntoIterator<Item = ([(&'static str, String); N], f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        let mut figures = figures.into_iter();
        figures.try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        figures: impl IntoIterator<Item = ([(&'static str, String); N], u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        let mut figures = figures.into_iter();
        figures.try_for_each(|(labels, value)| {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }
}

fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}
