//! The kernel, and its settings, without which what is configured cannot work.

use super::HostFacts;
use crate::{
    config::{Config, Forward, Reply, findings::Findings, key::Key},
    core::ids::Family,
};

pub(super) fn check(config: &Config, facts: &HostFacts, findings: &mut Findings) {
    features(facts, findings);
    if config.nat.reply == Reply::Route {
        forwarding(config, facts, findings);
    }
}

/// One finding for all that the kernel lacks: only another kernel mends it.
fn features(facts: &HostFacts, findings: &mut Findings) {
    let lacks = &facts.kernel.lacks;
    let Some(newest) = lacks.last() else { return };
    let missing: Vec<_> = lacks.iter().map(|lack| format!("{} (Linux {})", lack.what, lack.since)).collect();
    let (release, missing) = (&facts.kernel.release, missing.join(", "));
    findings.refuse(
        &Key::section("node"),
        format!("cannot run on this kernel, Linux {release}, which lacks {missing}"),
        format!("boot Linux {} or newer; usher is tested on 6.1 and 6.12", newest.since),
    );
}

/// The program's look-up (`bpf_fib_lookup`) gives no route for packets from an interface that may not
/// forward.
fn forwarding(config: &Config, facts: &HostFacts, findings: &mut Findings) {
    for family in Family::ALL {
        if !uses_nat(config, family) {
            continue;
        }
        for interface in &config.node.interfaces {
            let settings = facts.settings.get(interface).copied().unwrap_or_default();
            let (forwarding, tree) = match family {
                Family::V4 => (settings.forwarding_v4, "ipv4"),
                Family::V6 => (settings.forwarding_v6, "ipv6"),
            };
            if forwarding == Some(false) {
                let key = sysctl_name(tree, interface, "forwarding");
                let what =
                    format!("is \"route\", but {key} is 0: the kernel gives no route for answers there");
                let mend = format!("run `sysctl -w {key}=1`, or use reply = \"last-hop\"");
                findings.refuse(&Key::section("nat").child("reply"), what, mend);
            }
        }
    }
}

fn uses_nat(config: &Config, family: Family) -> bool {
    config
        .services
        .iter()
        .any(|service| service.forward == Forward::Nat && service.families().any(|offered| offered == family))
}

/// As sysctl(8) has it: a dot in the interface's name becomes a slash.
pub(super) fn sysctl_name(tree: &str, interface: &str, setting: &str) -> String {
    format!("net.{tree}.conf.{}.{setting}", interface.replace('.', "/"))
}
