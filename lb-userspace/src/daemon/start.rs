//! From a checked configuration to a loaded and attached program.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::ensure;
use lb_common::{Features, Hop, defence::MAX_SOURCES, program};
use nix::net::if_::if_nametoindex;
use tracing::{info, warn};

use super::{deny, secret};
use crate::{
    config::{Config, Forward, Node, Service},
    core::{
        deny::DenyList,
        ids::Family,
        numbers::Numbers,
        plan::{self, Planner},
    },
    dataplane::{Attached, Dataplane, Sizes},
    net::{
        facts::{HostFacts, Interface},
        sysctl,
    },
};

/// What the loop begins with.
pub(super) struct Started {
    pub(super) config: Arc<Config>,
    pub(super) path: PathBuf,
    pub(super) planner: Planner,
    pub(super) dataplane: Dataplane,
    pub(super) attached: Vec<Attached>,
    pub(super) host: HostFacts,
    pub(super) deny: DenyList,
}

/// Loads the program and attaches it. On an error everything is as before: what was attached is detached
/// when the data plane is dropped.
pub(super) fn start(config: Arc<Config>, path: &Path, host: HostFacts) -> anyhow::Result<Started> {
    let hash_key = secret::hash_key(config.node.secret_file.as_deref())?;
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    let planner = Planner::new(Numbers::new(&config)?, hash_key, cpus);
    let deny = deny::read(config.defence.as_ref())?;
    let room = planner.numbers().room();
    let features = plan::features(&config);
    let nat = features.has(Features::NAT);
    let (flows, fragments) = (config.flows.max, config.flows.fragments);
    let if_wanted = |feature, size: usize| if features.has(feature) { size as u32 } else { 1 };
    let sizes = Sizes {
        affinity_buckets: plan::affinity_buckets(&config),
        sources: if_wanted(Features::RATE_LIMIT, MAX_SOURCES),
        ..Sizes::new(flows, fragments, nat, room.keys, room.pools, room.backends)
    };
    let mut dataplane = Dataplane::load(sizes, features)?;
    info!(
        instructions = dataplane.verified_instructions(program::USHER)?,
        flows, "the kernel accepted the program"
    );
    let attached = attach(&mut dataplane, &config.node, &host)?;
    tell_of_sysctls(&config);
    Ok(Started { config, path: path.to_owned(), planner, dataplane, attached, host, deny })
}

fn attach(dataplane: &mut Dataplane, node: &Node, host: &HostFacts) -> anyhow::Result<Vec<Attached>> {
    for name in &node.interfaces {
        let index = if_nametoindex(name.as_str()).unwrap_or(0);
        ensure!(
            index <= Hop::MAX_INTERFACE,
            "interface {name} has index {index}; the data path takes indexes up to {}: make it anew in a \
             network namespace of its own, or restart the host",
            Hop::MAX_INTERFACE
        );
    }
    let attached = dataplane.attach(&node.interfaces, node.xdp_mode)?;
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
