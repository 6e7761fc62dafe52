//! The programs that take checks along the data path: loading, attaching, which sockets they serve.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData, MapError},
    programs::{
        SchedClassifier, TcAttachType,
        tc::{SchedClassifierLink, qdisc_add_clsact, qdisc_detach_program},
    },
    util::KernelVersion,
};
use lb_common::{
    Address,
    check_path::{IN, OUT, Refusal, Way, map},
};
use nix::{
    net::if_::if_nametoindex,
    time::{ClockId, clock_gettime},
};

use super::{DataplaneError, tables::Pod};

/// The object, aligned as the ELF parser wants it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/usher-check"));

/// Both programs, and where they run. Answers first: none may come before they are known.
const PROGRAMS: [(&str, TcAttachType); 2] = [(IN, TcAttachType::Ingress), (OUT, TcAttachType::Egress)];

/// The loaded programs. Dropping this detaches and unloads them: without a daemon there are no checks.
pub struct CheckPath {
    ebpf: Ebpf,
    /// By the number of the interface, which an interface that is made anew has another of.
    links: BTreeMap<u32, Vec<SchedClassifierLink>>,
    ways: Ways,
}

/// The first version of Linux that has TCX.
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);

impl CheckPath {
    /// Loads the object. It is attached nowhere.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn load() -> Result<CheckPath, DataplaneError> {
        let mut ebpf = Ebpf::load(OBJECT).map_err(DataplaneError::Load)?;
        for (name, _) in PROGRAMS {
            let program = program(&mut ebpf, name)?;
            program.load().map_err(|source| DataplaneError::Program { name, source })?;
        }
        let ways = Ways { ways: take(&mut ebpf, map::WAYS)?, refusals: take(&mut ebpf, map::REFUSALS)? };
        Ok(CheckPath { ebpf, links: BTreeMap::new(), ways })
    }

    /// Has the programs on these interfaces and no others; those that do not exist are left out.
    ///
    /// # Errors
    /// When one of them cannot have the programs; the others have them.
    pub fn follow(&mut self, interfaces: &[String]) -> Result<(), DataplaneError> {
        let index = |name: &String| Some((if_nametoindex(name.as_str()).ok()?, name.clone()));
        let wanted: BTreeMap<u32, String> = interfaces.iter().filter_map(index).collect();
        self.links.retain(|index, _| wanted.contains_key(index));
        let mut result = Ok(());
        for (index, name) in wanted {
            if !self.links.contains_key(&index) {
                match attach(&mut self.ebpf, &name) {
                    Ok(links) => drop(self.links.insert(index, links)),
                    Err(error) => result = Err(error),
                }
            }
        }
        result
    }

    /// What makes sockets take this way.
    pub fn ways(&self) -> Ways {
        self.ways.clone()
    }
}

/// Tells the programs which sockets to serve, and what became of packets; any number of tasks may.
#[derive(Clone)]
pub struct Ways {
    ways: Shared<u64, Way>,
    refusals: Shared<Pod<Address>, Refusal>,
}

type Shared<K, V> = Arc<Mutex<HashMap<MapData, K, Pod<V>>>>;

impl Ways {
    /// From now on the socket with this cookie (SO_COOKIE) sends this way.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open(&self, cookie: u64, way: &Way) -> Result<(), DataplaneError> {
        let error = |source| DataplaneError::Map { what: "set an element", map: map::WAYS, source };
        lock(&self.ways).insert(cookie, Pod(*way), 0).map_err(error)
    }

    /// From now on it is noted when a packet to this backend is refused by an ICMP error.
    ///
    /// # Errors
    /// When there are too many backends.
    pub fn watch(&self, backend: IpAddr) -> Result<(), DataplaneError> {
        let error = |source| DataplaneError::Map { what: "set an element", map: map::REFUSALS, source };
        lock(&self.refusals).insert(Pod(backend.into()), Pod(Refusal::default()), 0).map_err(error)
    }

    /// The last such error, if it came at `since` (of [`Ways::now`]) or later.
    pub fn refused_since(&self, backend: IpAddr, since: u64) -> Option<Refusal> {
        let Pod(refusal) = lock(&self.refusals).get(&Pod(backend.into()), 0).ok()?;
        Some(refusal).filter(|refusal| refusal.at >= since)
    }

    /// The time as the programs have it, in nanoseconds.
    pub fn now(&self) -> u64 {
        // It exists on every Linux.
        clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| Duration::from(now).as_nanos() as u64)
    }
}

/// A map's elements are independent of each other: a panic leaves none half-written.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take<K: aya::Pod, V>(ebpf: &mut Ebpf, name: &'static str) -> Result<Shared<K, V>, DataplaneError>
where
    Pod<V>: aya::Pod,
    HashMap<MapData, K, Pod<V>>: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(DataplaneError::Missing { kind: "map", name })?;
    let map = map.try_into().map_err(|source| DataplaneError::Map { what: "use", map: name, source })?;
    Ok(Arc::new(Mutex::new(map)))
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, DataplaneError> {
    let missing = DataplaneError::Missing { kind: "program", name };
    let program = ebpf.program_mut(name).ok_or(missing)?;
    program.try_into().map_err(|source| DataplaneError::Program { name, source })
}

fn attach(ebpf: &mut Ebpf, interface: &str) -> Result<Vec<SchedClassifierLink>, DataplaneError> {
    if KernelVersion::current().is_ok_and(|version| version < TCX) {
        prepare_qdisc(interface);
    }
    let mut links = Vec::new();
    for (name, at) in PROGRAMS {
        let error = |source| DataplaneError::AttachCheck { interface: interface.to_owned(), source };
        let program = program(ebpf, name)?;
        let link = program.attach(interface, at).map_err(error)?;
        links.push(program.take_link(link).map_err(error)?);
    }
    Ok(links)
}

/// Before TCX programs are filters of a queueing discipline, which outlive their process: those of a daemon that was
/// killed are removed. What fails here, fails again and is told when the program is attached.
fn prepare_qdisc(interface: &str) {
    let _ = qdisc_add_clsact(interface);
    for (name, at) in PROGRAMS {
        let _ = qdisc_detach_program(interface, at, name);
    }
}
