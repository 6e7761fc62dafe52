//! More Maglev tables than the process may have open files. Needs root.
//!
//! A test file of its own: the limit is the whole process's.

use std::sync::Arc;

use lb_common::{Forward, Reason, SLOTS, Service, ServiceKey};
use lb_userspace::{config::Protocol, core::image::Image, dataplane::Query};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use usher_tests::{kernel::KernelPath, run::DataPath, world};

const POOLS: u32 = 600;

/// Enough for a batch of tables and what a process has open anyway.
const OPEN_FILES: u64 = 320;

#[test]
fn more_tables_than_open_files() {
    let Some(mut path) = KernelPath::load().unwrap() else { return };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, hard).unwrap();

    let vip = world::TCP4.vip();
    let service = |number: u32| {
        let key = ServiceKey::new(vip.into(), number as u16, world::TCP4.protocol());
        (key, Service::new(number, Forward::Nat, 1))
    };
    // Without a backend in any slot: enough to tell a table from none.
    let table: Arc<[u16]> = vec![0; SLOTS].into();
    let image = Image {
        settings: Some(Box::new(world::settings())),
        services: (1..=POOLS + 1).map(service).collect(),
        tables: (1..=POOLS).map(|number| (number, table.clone())).collect(),
        ..Image::default()
    };
    path.configure(&image).unwrap();

    let mut reason = |pool: u32| {
        let from = "198.51.100.7:40001".parse().unwrap();
        let query = Query { from, to: (vip, pool as u16).into(), protocol: Protocol::Tcp };
        Reason::from_number(path.dataplane().explain(&query).unwrap().reason).unwrap()
    };
    for pool in [1, 256, 257, POOLS] {
        assert_eq!(reason(pool), Reason::NoBackend, "pool {pool} has a table");
    }
    assert_eq!(reason(POOLS + 1), Reason::NotReady, "it has none");
}
