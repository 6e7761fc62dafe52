//! B25: as many services and backends as there may be, and many more of them than the process may have open
//! files. Needs root.
//!
//! A test file of its own: the limit is the whole process's.

#![allow(clippy::unwrap_used)] // Clippy takes helper functions here for ordinary code.

use std::{collections::BTreeSet, net::Ipv4Addr};

use lb_common::{
    Address, Backend, Forward, MAX_BACKENDS, MAX_SERVICES, SLOTS, Service, ServiceKey, service::place_bits,
};
use lb_userspace::{core::image::Image, dataplane::Sizes};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use usher_tests::{
    kernel::{KernelPath, SIZES},
    oracle,
    packet::NatPorts,
    run::{DataPath, Ran},
    world::{self, FRONT, Flow, TCP4, hop},
};

const SERVICES: u32 = MAX_SERVICES as u32 - 1;
const BACKENDS: u16 = (MAX_BACKENDS - 1) as u16;

/// Enough for a batch of tables and what a process has open anyway.
const OPEN_FILES: u64 = 320;

/// The service of a backend: one after the other, and again from the first.
fn service_of(backend: u16) -> u32 {
    1 + (u32::from(backend) - 1) % SERVICES
}

fn backends_of(service: u32) -> Vec<u16> {
    (service as u16..=BACKENDS).step_by(SERVICES as usize).collect()
}

/// 10.0.0.0/8 has room for all.
fn address(backend: u16) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + u32::from(backend))
}

fn image() -> Image {
    let service = |number: u32| {
        let key = ServiceKey::new(TCP4.vip().into(), number as u16, TCP4.protocol());
        (key, Service::new(number, Forward::Nat, world::TCP_IDLE))
    };
    let backend = |number: u16| {
        let backend = Backend {
            address: Address::from(std::net::IpAddr::from(address(number))),
            // Out of the interface that packets come in on.
            hop: hop(2),
            service: service_of(number),
            port: world::BACKEND_PORT.to_be_bytes(),
            idle: world::TCP_IDLE,
            flags: Backend::UP | Backend::ACCEPTS,
            ..Backend::default()
        };
        (number, backend)
    };
    let table = |number: u32| {
        let backends = backends_of(number);
        let mut slots = backends.repeat(SLOTS.div_ceil(backends.len()));
        slots.truncate(SLOTS);
        (number, slots.into())
    };
    Image {
        settings: Some(Box::new(world::settings())),
        services: (1..=SERVICES).map(service).collect(),
        backends: (1..=BACKENDS).map(backend).collect(),
        tables: (1..=SERVICES).map(table).collect(),
        ..Image::default()
    }
}

/// The backend that a new flow to a service is sent to by the program.
fn reached(path: &mut KernelPath, service: u32, client_port: u16) -> u16 {
    let client = (TCP4.client(0), client_port).into();
    let flow = Flow { client, service: (TCP4.vip(), service as u16).into(), ..TCP4.flow(0) };
    let (ran, frame) = path.run(&flow.opens().bytes(&NatPorts::new())).unwrap();
    assert_eq!(ran, Ran::Tx, "a packet to service {service}");
    let [_, to] = oracle::ends(&frame).unwrap();
    let number = (1..=BACKENDS).find(|number| to == address(*number));
    number.unwrap_or_else(|| panic!("a packet to service {service} went to {to}"))
}

#[test]
fn b25_the_most_services_and_backends_are_loaded_and_reached() {
    assert_eq!((SERVICES, BACKENDS), (4_095, 65_535));
    assert_eq!(hop(2).interface(), FRONT);
    let sizes = Sizes {
        services: SERVICES + 1,
        service_bits: place_bits(SERVICES),
        backends: u32::from(BACKENDS) + 1,
        ..SIZES
    };
    let Some(mut path) = KernelPath::with(sizes).unwrap() else { return };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, hard).unwrap();
    path.configure(&image()).unwrap();

    // At both ends, and where one batch of tables ends.
    for service in [1, 2, 256, 257, SERVICES - 1, SERVICES] {
        let backends = backends_of(service);
        for client_port in 1_024..1_040 {
            let backend = reached(&mut path, service, client_port);
            assert!(backends.contains(&backend), "service {service} leads to backend {backend}");
        }
    }
    let service = service_of(BACKENDS);
    let found: BTreeSet<_> = (2_000..2_400).map(|port| reached(&mut path, service, port)).collect();
    assert_eq!(found, BTreeSet::from_iter(backends_of(service)));
    let sent = path.sent(BACKENDS).unwrap();
    assert!(sent.packets > 0 && sent.begun > 0, "the last backend is counted: {sent:?}");
}
