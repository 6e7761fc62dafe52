//! From a checked configuration to a loaded and attached program.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use lb_common::program;
use tracing::{info, warn};

use super::secret;
use crate::{
    config::{Config, Node},
    core::plan::{self, Numbers, Planner},
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
}

/// Loads the program and attaches it. On an error everything is as before: what was attached is detached
/// when the data plane is dropped.
pub(super) fn start(config: Arc<Config>, path: &Path, host: HostFacts) -> anyhow::Result<Started> {
    let hash_key = secret::hash_key(config.node.secret_file.as_deref())?;
    let planner = Planner::new(Numbers::new(&config), hash_key);
    let backends = planner.numbers().backends().max().unwrap_or(0);
    let sizes = Sizes::new(config.flows.max, plan::uses_nat(&config), u32::from(backends));
    let mut dataplane = Dataplane::load(sizes)?;
    info!(
        instructions = dataplane.verified_instructions(program::USHER)?,
        flows = config.flows.max,
        "the kernel accepted the program"
    );
    let attached = attach(&mut dataplane, &config.node, &host)?;
    warn_of_sysctls(&config);
    Ok(Started { config, path: path.to_owned(), planner, dataplane, attached, host })
}

fn attach(dataplane: &mut Dataplane, node: &Node, host: &HostFacts) -> anyhow::Result<Vec<Attached>> {
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

/// Packets whose next hop usher does not know are left to the kernel, which forwards them only if it may.
fn warn_of_sysctls(config: &Config) {
    if !plan::uses_nat(config) {
        return;
    }
    for interface in &config.node.interfaces {
        for (key, why) in [
            ("forwarding", "packets without a known next hop are dropped"),
            ("accept_local", "packets without a known next hop are dropped as martians"),
        ] {
            let key = format!("net/ipv4/conf/{interface}/{key}");
            if let Ok(value) = sysctl::read(&key)
                && value.trim() == "0"
            {
                info!(sysctl = key.replace('/', "."), value = 0, "{why}; 1 lets the kernel send them on");
            }
        }
    }
}
