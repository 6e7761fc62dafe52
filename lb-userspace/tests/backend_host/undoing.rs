//! Whatever ends it, everything is as before; and what was there before stays.

use nix::sys::signal::Signal;

use crate::{
    host::{BASE, Host, VIP_V4, VIP_V6},
    net_lab::privileged,
};

const GUE: &[&str] = &["--forward", "dsr-gue"];

/// A host whose settings all have to change.
fn host() -> Host {
    let host = Host::new();
    host.set("net/ipv4/conf/all/rp_filter", "1");
    host
}

#[test]
fn every_way_to_stop_undoes_everything() {
    if !privileged() {
        return;
    }
    let host = host();
    let before = host.snapshot();

    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let running = host.run(GUE);
        let during = host.snapshot();
        for change in [
            "inet 192.0.2.11/32 scope global lo",
            "inet6 2001:db8:1::11/128 scope global nodad deprecated",
            "xdp",
            "conf/all/arp_ignore = 1",
            "conf/all/arp_announce = 2",
            "conf/eth0/rp_filter = 2",
        ] {
            assert!(during.contains(change), "{change}: {during}");
        }
        assert_eq!(running.end(signal), Some(0));
        assert_eq!(host.snapshot(), before, "{signal}");
    }

    let running = host.run(GUE);
    let stopped = host.usher("stop", &[]);
    assert_eq!(String::from_utf8_lossy(&stopped.stdout), "stopped; the host is as it was\n");
    assert_eq!(running.wait(), Some(0));
    assert_eq!(host.snapshot(), before);
    assert_eq!(String::from_utf8_lossy(&host.usher("clean", &[]).stdout), "nothing to undo\n");
}

#[test]
fn a_crash_is_undone_by_stop_and_by_the_next_run() {
    if !privileged() {
        return;
    }
    let host = host();
    let before = host.snapshot();

    host.run(GUE).end(Signal::SIGKILL);
    assert_ne!(host.snapshot(), before);
    let status = host.usher("status", &[]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("does not run"));
    let stopped = host.usher("stop", &[]);
    assert_eq!(String::from_utf8_lossy(&stopped.stdout), "what an earlier run had left is undone\n");
    assert_eq!(host.snapshot(), before);

    // The next run takes over what it still wants and undoes the rest: here another VIP.
    host.run(&[GUE, &["--vip", "192.0.2.12"]].concat()).end(Signal::SIGKILL);
    assert!(host.snapshot().contains("192.0.2.12"));
    let running = host.run(GUE);
    assert!(!host.snapshot().contains("192.0.2.12"));
    assert!(host.wrong(&[]).is_empty());
    assert_eq!(running.end(Signal::SIGTERM), Some(0));
    assert_eq!(host.snapshot(), before);
}

#[test]
fn what_was_there_before_stays() {
    if !privileged() {
        return;
    }
    let host = Host::new();
    host.namespace.ip(&format!("address add {VIP_V4}/32 dev lo"));
    host.namespace.ip("link add backend0 type bridge");
    host.set("net/ipv4/conf/all/arp_ignore", "2");
    host.set("net/ipv4/conf/all/arp_announce", "2");
    let before = host.snapshot();
    let running = host.run(&[]);
    let during = host.snapshot();
    assert!(during.contains("arp_ignore = 2") && during.contains(VIP_V6), "{during}");
    // What somebody changes meanwhile is his.
    host.set("net/ipv4/conf/all/arp_ignore", "8");
    assert_eq!(running.end(Signal::SIGTERM), Some(0));
    assert_eq!(host.snapshot(), before.replace("all/arp_ignore = 2", "all/arp_ignore = 8"));
}

/// A refused start changes nothing.
#[test]
fn a_start_that_fails_leaves_nothing() {
    if !privileged() {
        return;
    }
    let host = host();
    host.namespace.ip("link add br0 type bridge");
    let before = host.snapshot();
    for (arguments, complaint) in [
        (&["--xdp-mode", "native", "--forward", "dsr-ipip", "--interface", "br0"][..], "cannot attach"),
        (&["--interface", "eth7"], "eth7 is no interface of this host"),
    ] {
        let refused = host.usher("run", &[BASE, arguments].concat());
        assert_eq!(refused.status.code(), Some(1));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(complaint), "{said}");
        assert_eq!(host.snapshot(), before);
    }
    host.namespace.ip(&format!("address add {VIP_V4}/32 dev eth0"));
    let refused = host.usher("run", BASE);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("192.0.2.11 is on eth0, which answers ARP for it"), "{said}");
}
