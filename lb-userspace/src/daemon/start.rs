//! From a checked configuration to a loaded and attached program.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, ensure};
use lb_common::{Features, Hop, defence::MAX_SOURCES, nat, program};
use nix::net::if_::if_nametoindex;
use tracing::{info, warn};

use super::{
    admin::Administration,
    basis::Basis,
    deny::{self, Deny},
};
use crate::{
    config::{Config, Forward, Node, Service, XdpMode},
    core::{
        deny::DenyList,
        ids::Family,
        image::Image,
        numbers::{Numbers, Room},
        plan::{self, Planner, Tables},
    },
    dataplane::{Attached, AttachedMode, Dataplane, Left, PinError, Pins, Sizes},
    net::{
        facts::{HostFacts, Interface},
        sysctl,
    },
    secret::Secret,
};

/// What the loop begins with.
pub(super) struct Started {
    pub(super) config: Arc<Config>,
    pub(super) path: PathBuf,
    pub(super) planner: Planner,
    pub(super) dataplane: Dataplane,
    /// What its maps hold already.
    pub(super) applied: Image,
    pub(super) attached: Vec<Attached>,
    pub(super) host: HostFacts,
    pub(super) deny: Deny,
    pub(super) administration: Administration,
    /// `None` without a file for it; then there are no peers either.
    pub(super) secret: Option<Secret>,
}

/// What is in the files that a configuration names and a start needs.
pub(crate) struct NamedFiles {
    secret: Option<Secret>,
    denied: DenyList,
}

impl NamedFiles {
    /// # Errors
    /// When one cannot be read, or is not what it should be.
    pub(crate) fn read(config: &Config) -> anyhow::Result<NamedFiles> {
        let secret = Secret::read(config.node.secret_file.as_deref())?;
        Ok(NamedFiles { secret, denied: deny::read(config.defence.as_ref())? })
    }
}

/// Loads the program and attaches it, in the place of the one that an earlier daemon has left, if there is one. On an error
/// that one goes on, but on interfaces that were taken over before it.
pub(super) fn start(basis: Basis, files: NamedFiles, path: &Path) -> anyhow::Result<Started> {
    let Basis { config, host, administration } = basis;
    let config = Arc::new(config);
    let pins = open_pins(&config.node)?;
    let left = pins.as_ref().map(Left::find).transpose()?.flatten();
    let numbers = match &left {
        Some(left) => Numbers::of_image(&config, left.room(), left.image()).context(
            "the data path that runs has no room; `usher detach` removes it, which ends all connections",
        )?,
        None => Numbers::new(&config)?,
    };
    let known = left.as_ref().map(|left| left.settings().hash_key);
    let NamedFiles { secret, denied } = files;
    let hash_key = match (secret.as_ref().map(Secret::hash_key), known) {
        (Some(key), known) => {
            if known.is_some_and(|known| known != key) {
                warn!("the secret is another one than before: connections that are open may break");
            }
            key
        }
        (None, Some(known)) => known,
        (None, None) => Secret::random().hash_key(),
    };
    let applied = left.as_ref().map(|left| left.image().clone()).unwrap_or_default();
    // What the programs that run can do, too: services that are gone from the configuration are still there.
    let features = plan::features(&config) | deny::features_for(&denied) | applied.features();
    let mut dataplane = load(&config, pins, left, features, numbers.room())?;
    // Before it is attached: nobody who is denied gets through at the start.
    let deny = Deny::begin(denied, &mut dataplane)?;
    let attached = attach(&mut dataplane, &config.node, &host)?;
    tell_of_sysctls(&config);
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    let planner = Planner::new(numbers, hash_key, cpus, tables(&dataplane));
    let path = path.to_owned();
    Ok(Started { config, path, planner, dataplane, applied, attached, host, deny, administration, secret })
}

/// The directory in which the data path outlives this process; `None` where there can be none.
fn open_pins(node: &Node) -> Result<Option<Pins>, PinError> {
    match Pins::open(&node.pin_dir) {
        Ok(pins) => Ok(Some(pins)),
        Err(error @ (PinError::NotBpffs(_) | PinError::NoDirectory { .. })) => {
            let error = &error as &dyn std::error::Error;
            warn!(error, "packets flow only as long as this process lives: a restart ends all connections");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Loads the programs, over the maps that are there or new ones.
fn load(
    config: &Config,
    pins: Option<Pins>,
    left: Option<Left>,
    features: Features,
    room: Room,
) -> anyhow::Result<Dataplane> {
    let wanted = Tables::of_config(config);
    let flows = config.flows.max;
    let rate_limit = features.has(Features::RATE_LIMIT);
    let sizes = Sizes {
        nat_table: wanted.nat,
        affinity_buckets: wanted.affinity_buckets,
        sources: if rate_limit { MAX_SOURCES as u32 } else { 1 },
        ..Sizes::new(flows, config.flows.fragments, false, room.keys, room.pools, room.backends)
    };
    let goes_on = left.is_some();
    let dataplane = match pins {
        Some(pins) => Dataplane::load_pinned(pins, left, sizes, features)?,
        None => Dataplane::load(sizes, features)?,
    };
    let instructions = dataplane.verified_instructions(program::USHER)?;
    info!(instructions, flows, "the kernel accepted the program");
    if goes_on {
        info!("the data path that runs is taken over, with its connections");
        for setting in larger_or_smaller(&sizes, &dataplane.sizes()) {
            warn!(
                "{setting} stays as it was at the first start; `usher detach` ends that, and all connections"
            );
        }
    }
    Ok(dataplane)
}

/// The settings that want other sizes than the tables have.
fn larger_or_smaller(wanted: &Sizes, have: &Sizes) -> Vec<&'static str> {
    let nat = wanted.nat_table != nat::NONE && wanted.nat_table != have.nat_table;
    let affinity = wanted.affinity_buckets > 1 && wanted.affinity_buckets != have.affinity_buckets;
    let settings = [
        (nat || wanted.flow_table != have.flow_table, "[flows] max"),
        (wanted.fragments != have.fragments, "[flows] fragments"),
        (affinity, "[flows] affinity"),
    ];
    settings.into_iter().filter(|(differs, _)| *differs).map(|(_, setting)| setting).collect()
}

fn tables(dataplane: &Dataplane) -> Tables {
    let Sizes { flow_table: flows, nat_table: nat, affinity_buckets, .. } = dataplane.sizes();
    Tables { flows, nat, affinity_buckets }
}

fn attach(dataplane: &mut Dataplane, node: &Node, host: &HostFacts) -> anyhow::Result<Vec<Attached>> {
    for name in &node.interfaces {
        expect_index(name, if_nametoindex(name.as_str()).unwrap_or(0))?;
    }
    let link = |name: &String| host.interfaces.iter().map(|have| &have.link).find(|link| link.name == *name);
    let mode_of = |name: &String| match link(name).is_some_and(|link| link.xdp_generic) {
        true => AttachedMode::Generic,
        false => AttachedMode::Native,
    };
    // An interface that was made anew has no program, whatever pin is left of the one before it.
    let pinned = dataplane.pinned_on(&node.interfaces)?;
    let has_program = |name: &String| link(name).is_some_and(|link| link.xdp_program.is_some());
    let is_left = |name: &String| pinned.contains(name) && has_program(name);
    let (left, new): (Vec<String>, Vec<String>) = node.interfaces.iter().cloned().partition(is_left);
    // All have the same; it cannot change while a program is there.
    let mode = left.first().map_or(node.xdp_mode, |name| mode_of(name).into());
    if !matches!(node.xdp_mode, XdpMode::Auto) && mode != node.xdp_mode {
        warn!(
            "[node] xdp_mode stays as it was at the first start; `usher detach` ends that, and all connections"
        );
    }
    // First: where one refuses, the earlier daemon's program goes on everywhere.
    let mut attached = dataplane.attach(&new, mode)?;
    let taken = dataplane.take_over(&left)?;
    // The pin was that of an interface which is gone, and the program is somebody else's.
    let others: Vec<String> = left.into_iter().filter(|name| !taken.contains(name)).collect();
    attached.extend(dataplane.attach(&others, mode)?);
    dataplane.forget_others(&node.interfaces)?;
    attached.extend(taken.into_iter().map(|interface| Attached {
        mode: mode_of(&interface),
        interface,
        why_not_native: String::new(),
    }));
    attached.sort_by_key(|one| node.interfaces.iter().position(|name| *name == one.interface));
    for Attached { interface, mode, .. } in &attached {
        let have = host.interfaces.iter().find(|have| have.link.name == *interface);
        let driver = have.and_then(Interface::driver).unwrap_or_default();
        info!(interface, mode = mode.as_str(), driver, "XDP attached");
    }
    if let Some(why) = attached.iter().map(|one| &one.why_not_native).find(|why| !why.is_empty()) {
        warn!(why, "all interfaces run in generic mode, which is several times slower");
    }
    Ok(attached)
}

/// Refuses an interface whose number next hops have no room for.
pub(super) fn expect_index(name: &str, index: u32) -> anyhow::Result<()> {
    ensure!(
        index <= Hop::MAX_INTERFACE,
        "interface {name} has index {index}; the data path takes indexes up to {}: make it anew in a \
         network namespace of its own, or restart the host",
        Hop::MAX_INTERFACE
    );
    Ok(())
}

/// Packets whose next hop is not known are left to the kernel, which forwards them only if it may.
fn tell_of_sysctls(config: &Config) {
    for (sysctl, why) in sysctls_against_forwarding(config, |key| sysctl::read(key).ok()) {
        info!(sysctl, value = 0, "{why}; 1 lets the kernel send them on");
    }
}

/// The settings that keep the kernel from it; those that cannot be read are left out.
fn sysctls_against_forwarding(
    config: &Config,
    read: impl Fn(&str) -> Option<String>,
) -> Vec<(String, &'static str)> {
    const V4: &str = "IPv4 packets whose next hop is not known are dropped";
    const V4_LOCAL: &str = "IPv4 packets whose next hop is not known are dropped as martians";
    const V6: &str = "IPv6 packets whose next hop is not known are dropped";
    let is_off = |key: &str| read(key).is_some_and(|value| value.trim() == "0");
    let nat = config.services.iter().filter(|service| service.forward == Forward::Nat);
    let families: BTreeSet<Family> = nat.flat_map(Service::families).collect();
    let mut found = Vec::new();
    if families.contains(&Family::V4) {
        // Either of the two `accept_local` is enough.
        let martians = is_off("net/ipv4/conf/all/accept_local");
        for interface in &config.node.interfaces {
            let of = |setting| format!("net/ipv4/conf/{interface}/{setting}");
            let (forwarding, accept_local) = (of("forwarding"), of("accept_local"));
            if is_off(&forwarding) {
                found.push((forwarding, V4));
            }
            if martians && is_off(&accept_local) {
                found.push((accept_local, V4_LOCAL));
            }
        }
    }
    // The stack's own forwarding of IPv6 is one switch for all interfaces.
    let all = "net/ipv6/conf/all/forwarding";
    if families.contains(&Family::V6) && is_off(all) {
        found.push((all.to_owned(), V6));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
version = 1
[node]
name = "node1"
interfaces = ["front", "back"]
addresses = ["192.0.2.11", "2001:db8:1::11"]
[nat]
source = ["192.0.2.11", "2001:db8:1::11"]
[[service]]
name = "web"
protocol = "tcp"
port = 80
backend = [{ name = "b1", address = ["203.0.113.21", "2001:db8:2::21"] }]
"#;

    fn keys(file: &str, values: &[(&str, &str)]) -> Vec<String> {
        let config = Config::parse(file, Path::new("usher.toml")).unwrap();
        let read = |key: &str| {
            let value = values.iter().find(|(have, _)| *have == key).map_or("0", |(_, value)| value);
            Some(value.to_owned())
        };
        sysctls_against_forwarding(&config, read).into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn settings_of_both_families_that_keep_the_kernel_from_forwarding() {
        assert_eq!(
            keys(FILE, &[("net/ipv4/conf/back/forwarding", "1")]),
            [
                "net/ipv4/conf/front/forwarding",
                "net/ipv4/conf/front/accept_local",
                "net/ipv4/conf/back/accept_local",
                "net/ipv6/conf/all/forwarding"
            ]
        );
        let enough = [
            ("net/ipv4/conf/front/forwarding", "1"),
            ("net/ipv4/conf/back/forwarding", "1"),
            ("net/ipv4/conf/all/accept_local", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ];
        assert_eq!(keys(FILE, &enough), [""; 0]);
        let (before_nat, rest) = FILE.split_once("[nat]").unwrap();
        let (_, services) = rest.split_once("[[service]]").unwrap();
        let dsr = format!("{before_nat}[[service]]\nforward = \"dsr-l2\"{services}");
        assert_eq!(keys(&dsr, &[]), [""; 0], "its packets are never left to the kernel");
    }
}
