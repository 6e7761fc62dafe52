//! Attaching the program to interfaces that can and cannot run it natively. Needs root.

#![allow(clippy::unwrap_used)] // Clippy takes helper functions here for ordinary code.

use std::{env, process::Command};

use lb_common::Features;
use lb_userspace::{
    config::XdpMode,
    dataplane::{AttachedMode, Dataplane, DataplaneError, Sizes},
};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};

/// A veth pair runs XDP in the driver; a bridge has no native XDP.
const NATIVE: &str = "usher-veth";
const NOT_NATIVE: &str = "usher-bridge";

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The mode in which an interface has a program, as the kernel shows it; empty without one.
fn kernel_mode(interface: &str) -> &'static str {
    let shown = ip(&format!("-details link show {interface}"));
    match () {
        () if shown.contains("xdpgeneric") => "generic",
        () if shown.contains("prog/xdp") => "native",
        () => "",
    }
}

/// A loaded program in a network namespace of this thread's own, with the two interfaces.
fn dataplane() -> Option<Dataplane> {
    if !geteuid().is_root() {
        assert!(env::var_os("USHER_NO_SKIP").is_none(), "attaching a BPF program needs root");
        println!("skipped: attaching a BPF program needs root");
        return None;
    }
    unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
    ip(&format!("link add {NATIVE} type veth peer name usher-peer"));
    ip(&format!("link add {NOT_NATIVE} type bridge"));
    Some(
        Dataplane::load(Sizes::new(1_000, 1_000, false, 1, 1, 1), Features::DSR_L2)
            .expect("the kernel accepts the program"),
    )
}

fn names(interfaces: &[&str]) -> Vec<String> {
    interfaces.iter().map(ToString::to_string).collect()
}

#[test]
fn all_interfaces_of_a_node_run_in_one_mode() {
    let Some(mut dataplane) = dataplane() else { return };
    // The other way round the interface that cannot is the first: nothing has to be detached.
    let attached = dataplane.attach(&names(&[NATIVE, NOT_NATIVE]), XdpMode::Auto).unwrap();
    for (attached, interface) in attached.iter().zip([NATIVE, NOT_NATIVE]) {
        assert_eq!((&*attached.interface, attached.mode), (interface, AttachedMode::Generic));
        assert_eq!(kernel_mode(interface), "generic");
        let why = &attached.why_not_native;
        assert!(why.starts_with("no native XDP on usher-bridge: "), "{why}");
    }
}

#[test]
fn interfaces_that_all_can_run_natively() {
    let Some(mut dataplane) = dataplane() else { return };
    let attached = dataplane.attach(&names(&[NATIVE, "usher-peer"]), XdpMode::Auto).unwrap();
    assert!(attached.iter().all(|one| one.mode == AttachedMode::Native && one.why_not_native.is_empty()));
    assert_eq!([kernel_mode(NATIVE), kernel_mode("usher-peer")], ["native"; 2]);
}

#[test]
fn native_or_not_at_all() {
    let Some(mut dataplane) = dataplane() else { return };
    let error = dataplane.attach(&names(&[NATIVE, NOT_NATIVE]), XdpMode::Native).unwrap_err();
    assert!(matches!(error, DataplaneError::Attach { interface, .. } if interface == NOT_NATIVE));
    assert_eq!(kernel_mode(NATIVE), "", "all or none");
}

#[test]
fn another_program_is_never_displaced() {
    let Some(mut first) = dataplane() else { return };
    first.attach(&names(&[NATIVE]), XdpMode::Auto).unwrap();
    let mut second = Dataplane::load(Sizes::new(1_000, 1_000, false, 1, 1, 1), Features::DSR_L2).unwrap();
    let error = second.attach(&names(&["usher-peer", NATIVE]), XdpMode::Auto).unwrap_err();
    assert!(matches!(error, DataplaneError::Occupied { interface } if interface == NATIVE));
    assert_eq!([kernel_mode(NATIVE), kernel_mode("usher-peer")], ["native", ""]);
}
