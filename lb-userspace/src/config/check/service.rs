//! `[[service]]` and its backends.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use toml::Spanned;

use super::{
    DAY,
    flows::{self, Written},
    health,
    reader::{Field, Reader, Seen},
};
use crate::config::{
    Backend, Flows, Forward, NoBackend, NodeAddress, Protocol, Quic, Require, Service,
    file::{self, AddressPerFamily, List, Value},
    key::Key,
    shape::{form, list},
};

pub(super) fn services(
    reader: &mut Reader<'_>,
    root: &Key,
    services: Vec<Spanned<file::Service>>,
    node: &[NodeAddress],
    flows: &Flows,
) -> Vec<Service> {
    if services.is_empty() {
        reader.refuse(
            &root.child("service"),
            "is missing: there is nothing to balance",
            format!("write {}", form("service")),
        );
    }
    let mut names = Seen::default();
    let mut required = Required::new();
    let services = services.into_iter().enumerate().filter_map(|(index, service)| {
        let field = reader.element(root, "service", index, service, |service| &service.name);
        service_of(reader, field, &mut names, &mut required, node, flows)
    });
    let mut services: Vec<Service> = services.collect();
    for service in &mut services {
        let written = service.dns_name.as_ref().and_then(|name| required.get(name));
        service.require = written.map_or(Require::All, |(require, _)| *require);
    }
    services
}

/// What DNS names require, and the service where that is written.
type Required = HashMap<Arc<str>, (Require, Key)>;

/// It belongs to the name, so one of its services is enough to write it in.
fn require(
    reader: &mut Reader<'_>,
    service: &Key,
    written: Value<String>,
    dns_name: Option<&Arc<str>>,
    required: &mut Required,
) {
    let Some(field) = reader.optional(service, "require", written) else { return };
    let Some(require) = reader.choice(&field, &[("all", Require::All), ("any", Require::Any)]) else {
        return;
    };
    let Some(name) = dns_name else {
        let mend = "add the dns_name that the services share, or remove it";
        return reader.refuse(&field.key, "needs a dns_name", mend);
    };
    let (known, by) = required.entry(name.clone()).or_insert_with(|| (require, service.clone()));
    if *known != require {
        let what = format!("is another one for {name} than in {by}");
        reader.refuse(&field.key, what, "write it in one of the name's services, or the same in all");
    }
}

/// `None` when a value is refused that other services are compared with.
fn service_of(
    reader: &mut Reader<'_>,
    Field { key, value: service, .. }: Field<file::Service>,
    names: &mut Seen<String>,
    required: &mut Required,
    node: &[NodeAddress],
    limits: &Flows,
) -> Option<Service> {
    let name = reader.required(&key, "name", service.name).and_then(|name| {
        reader.unique_name(names, &name, "service");
        reader.name(&name)
    });
    let dns_name = reader
        .optional(&key, "dns_name", service.dns_name)
        .and_then(|name| reader.dns_name(&name, "www.example.test"));
    require(reader, &key, service.require, dns_name.as_ref(), required);
    let protocol = reader
        .required(&key, "protocol", service.protocol)
        .and_then(|protocol| reader.choice(&protocol, &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)]));
    let port = reader.required(&key, "port", service.port).and_then(|port| reader.port(&port));
    let addresses = addresses(reader, &key, service.addresses, node);
    let forward = reader
        .optional(&key, "forward", service.forward)
        .map_or(Some(Forward::Nat), |forward| reader.choice(&forward, &Forward::ALL));
    let usual = if protocol == Some(Protocol::Udp) { limits.udp_timeout } else { limits.tcp_timeout };
    let written = Written {
        idle_timeout: service.idle_timeout,
        on_backend_down: service.on_backend_down,
        drain_timeout: service.drain_timeout,
        on_drain_end: service.on_drain_end,
        hash: service.hash,
        affinity: service.affinity,
        rate_limit: service.rate_limit,
        quic: service.quic,
    };
    let flows = flows::options(reader, &key, written, protocol, usual);
    if protocol == Some(Protocol::Udp) && service.check.is_none() {
        reader.warn(
            &key.child("check"),
            "is left at its default, a TCP connection to each backend's port, but the service is UDP",
            "let a datagram be answered: check = { kind = \"udp\", send = \"…\" }; or name a TCP port that tells of \
             the backend's health: check = { kind = \"tcp\", port = … }",
        );
    }
    let mut share = |name: &'static str, written, zero: &str| {
        reader.optional(&key, name, written).map_or(Some(0), |share| {
            let advice = format!("use a share in percent, such as 50; 0 for {zero}");
            reader.whole(&share, 0..=100, &advice)
        })
    };
    let withdraw_below = share("withdraw_below", service.withdraw_below, "when none is up");
    let panic_below = share("panic_below", service.panic_below, "never");
    let slow_start = reader
        .optional(&key, "slow_start", service.slow_start)
        .and_then(|field| reader.duration(&field, Duration::from_secs(1)..=DAY));
    let all_down = all_down(reader, &key, service.all_down);
    let check = health::check(reader, &key, service.check, forward, protocol);
    let backends = backends(reader, &key, service.backend, port, forward, flows.quic);
    Some(Service {
        name: name?,
        dns_name,
        require: Require::All,
        protocol: protocol?,
        port: port?,
        addresses,
        forward: forward?,
        flows,
        withdraw_below: withdraw_below?,
        panic_below: panic_below?,
        slow_start,
        all_down: all_down?,
        check,
        backends,
    })
}

fn all_down(reader: &mut Reader<'_>, service: &Key, written: Value<file::NoBackend>) -> Option<NoBackend> {
    let Some(field) = reader.optional(service, "all_down", written) else { return Some(NoBackend::Reset) };
    match &field.value {
        file::NoBackend::Word(word) => {
            let words = [("reset", NoBackend::Reset), ("drop", NoBackend::Drop)];
            reader.choice(&field.with(word.clone()), &words)
        }
        file::NoBackend::Fallback(fallback) => {
            let Some(name) = reader.optional(&field.key, "service", fallback.service.clone()) else {
                let mend = "name the service whose backends stand in, such as { service = \"sorry\" }";
                reader.refuse(&field.key.child("service"), "is missing", mend);
                return None;
            };
            reader.name(&name).map(NoBackend::Fallback)
        }
    }
}

/// The VIPs: all of the node's addresses, or those that the file picks from them.
fn addresses(
    reader: &mut Reader<'_>,
    service: &Key,
    list: List<String>,
    node: &[NodeAddress],
) -> Vec<IpAddr> {
    let Some(fields) = reader.list(service, "addresses", list, String::clone) else {
        return node.iter().map(|node| node.address).collect();
    };
    let mut seen = Seen::default();
    let mut addresses = Vec::new();
    for field in fields {
        let Some(address) = reader.address(&field) else { continue };
        if !reader.unique(&mut seen, &field, address) {
            continue;
        }
        if !node.iter().any(|node| node.address == address) && reader.sound(&field.key) {
            let mend = if node.is_empty() {
                "add it to [node] addresses".to_owned()
            } else {
                let own = self::list(node.iter().map(|node| node.address));
                format!("add it to [node] addresses, or use {own}")
            };
            reader.refuse(&field.key, "is not an address of this node", mend);
        }
        addresses.push(address);
    }
    addresses
}

fn backends(
    reader: &mut Reader<'_>,
    service: &Key,
    backends: Vec<Spanned<file::Backend>>,
    port: Option<u16>,
    forward: Option<Forward>,
    quic: Option<Quic>,
) -> Vec<Backend> {
    if backends.is_empty() {
        reader.refuse(&service.child("backend"), "is missing", format!("write {}", form("backend")));
    }
    let mut seen = SeenBackends::default();
    let mut checked = Vec::new();
    for (index, backend) in backends.into_iter().enumerate() {
        let field = reader.element(service, "backend", index, backend, |backend| &backend.name);
        let Some(backend) = backend_of(reader, field, &mut seen, port, forward, quic) else {
            continue;
        };
        checked.push(backend);
    }
    checked
}

/// What no two backends of a service have in common.
#[derive(Default)]
struct SeenBackends {
    names: Seen<String>,
    endpoints: Seen<(IpAddr, u16)>,
    server_ids: Seen<[u8; 8]>,
}

fn backend_of(
    reader: &mut Reader<'_>,
    Field { key, value: backend, .. }: Field<file::Backend>,
    seen: &mut SeenBackends,
    service_port: Option<u16>,
    forward: Option<Forward>,
    quic: Option<Quic>,
) -> Option<Backend> {
    let name = reader.required(&key, "name", backend.name).and_then(|name| {
        reader.unique_name(&mut seen.names, &name, "backend");
        reader.name(&name)
    });
    let addresses = backend_addresses(reader, &key, backend.address);
    let port = match reader.optional(&key, "port", backend.port) {
        Some(field) => {
            let port = reader.port(&field);
            if let (Some(port), Some(wanted), Some(forward)) = (port, service_port, forward)
                && forward.is_direct()
                && port != wanted
            {
                let what = format!(
                    "{port} differs from the service's port {wanted}, and {forward} cannot change ports"
                );
                reader.refuse(
                    &field.key,
                    what,
                    format!("remove it and let the backend listen on {wanted}, or use forward = \"nat\""),
                );
            }
            port
        }
        None => service_port,
    };
    let weight = reader
        .optional(&key, "weight", backend.weight)
        .map_or(Some(1), |weight| reader.whole(&weight, 0..=65_535, "use a share such as 1 or 100"));
    let backup = reader.optional(&key, "backup", backend.backup).is_some_and(|backup| backup.value);
    if let Some(port) = port {
        for field in &addresses {
            reader.unique(&mut seen.endpoints, field, (field.value, port));
        }
    }
    let addresses = addresses.into_iter().map(|field| field.value).collect();
    let place = backend.quic_server_id.as_ref().map(|id| Spanned::new(id.span(), ()));
    let quic_server_id = flows::server_id(reader, &key, backend.quic_server_id, quic);
    if let (Some(id), Some(place)) = (quic_server_id, place) {
        let field = reader.take(key.child("quic_server_id"), place);
        reader.unique(&mut seen.server_ids, &field, id);
    }
    Some(Backend { name: name?, addresses, port: port?, weight: weight?, backup, quic_server_id })
}

/// At most one address per family.
fn backend_addresses(
    reader: &mut Reader<'_>,
    backend: &Key,
    written: Value<AddressPerFamily>,
) -> Vec<Field<IpAddr>> {
    if written.is_none() {
        reader.refuse(&backend.child("address"), "is missing", format!("write {}", form("address")));
    }
    let mend = "write a [[service.backend]] of its own for it";
    reader.address_per_family(backend, "address", written, "this backend", mend)
}
