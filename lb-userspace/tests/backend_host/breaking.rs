//! `usher backend check` finds each broken setting, and only that.

use nix::sys::signal::Signal;

use crate::{
    host::{BASE, Host, VIP_V4, VIP_V6, until},
    net_lab::privileged,
};

const IPIP: &[&str] = &["--forward", "dsr-ipip"];

/// Every setting that can be broken by a value, with what finds it.
const SYSCTLS: &[(&str, &str, &str)] = &[
    ("net/ipv4/conf/all/arp_ignore", "0", "arp_ignore"),
    ("net/ipv4/conf/eth0/arp_ignore", "3", "arp_ignore"),
    ("net/ipv4/conf/all/arp_announce", "0", "arp_announce"),
    ("net/ipv4/conf/eth0/rp_filter", "1", "rp_filter"),
    ("net/ipv4/conf/all/rp_filter", "1", "rp_filter"),
];

#[test]
fn check_finds_each_broken_setting_and_nothing_else() {
    if !privileged() {
        return;
    }
    let host = Host::new();
    let running = host.run(IPIP);
    assert_eq!(host.wrong(&[]), [""; 0], "as the running one was told");
    assert_eq!(host.wrong(&[BASE, IPIP].concat()), [""; 0], "as the arguments say");

    for (key, bad, kind) in SYSCTLS {
        let before = host.set(key, bad);
        assert_eq!(host.wrong(&[]), [*kind], "{key} = {bad}");
        host.set(key, &before);
    }
    for (vip, prefix) in [(VIP_V4, 32), (VIP_V6, 128)] {
        host.namespace.ip(&format!("address del {vip}/{prefix} dev lo"));
        assert_eq!(host.wrong(&[]), ["vip_missing"], "{vip}");
        host.namespace.ip(&format!("address add {vip}/{prefix} dev eth0"));
        assert_eq!(host.wrong(&[]), ["vip_answered"], "{vip}");
        host.namespace.ip(&format!("address del {vip}/{prefix} dev eth0"));
        host.namespace.ip(&format!("address add {vip}/{prefix} dev lo"));
    }
    host.neighbour.ip("link set eth0 down");
    assert_eq!(host.wrong(&[]), ["interface_down"]);
    host.neighbour.ip("link set eth0 up");
    until("the link is back", || host.wrong(&[]).is_empty().then_some(()));

    let listen = |listen: &str| host.wrong(&[BASE, IPIP, &["--listen", listen]].concat());
    assert_eq!(listen("tcp/80"), ["not_listening"; 2], "on both VIPs");
    let tcp = host.namespace.inside(|| std::net::TcpListener::bind("0.0.0.0:80").unwrap());
    assert_eq!(listen("tcp/80"), ["not_listening"], "on the IPv6 one");
    let udp = host.namespace.inside(|| std::net::UdpSocket::bind("[::]:7").unwrap());
    assert_eq!(listen("udp/7"), [""; 0], "[::] has both families");
    drop((tcp, udp));

    let missing = ["--interface", "eth7", "--vip", VIP_V4, "--address", "203.0.113.99"];
    let found = host.wrong(&[&missing[..], IPIP].concat());
    assert_eq!(found, ["interface_missing", "address_missing"]);

    running.end(Signal::SIGKILL);
    assert_eq!(host.wrong(&[]), ["no_program"], "it went with its process; the rest stays");
}

#[test]
fn check_finds_a_host_without_ipv6() {
    if !privileged() {
        return;
    }
    let host = Host::new();
    host.set("net/ipv6/conf/lo/disable_ipv6", "1");
    let arguments = ["--interface", "eth0", "--vip", VIP_V6];
    assert_eq!(host.wrong(&arguments), ["vip_missing", "ipv6_disabled"]);
    let refused = host.usher("run", &arguments);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("IPv6 is switched off on lo"), "{said}");
}

/// The program of another run is named, not displaced, and not taken for the own one.
#[test]
fn a_foreign_program_is_named_and_stays() {
    if !privileged() {
        return;
    }
    let host = Host::new();
    let running = host.run(IPIP);
    let arguments = [BASE, IPIP].concat();
    let before = host.snapshot();
    let refused = host.usher_elsewhere("run", &arguments);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("eth0 has an XDP program of another `usher backend run`"), "{said}");
    let checked = host.usher_elsewhere("check", &[&arguments[..], &["--json"]].concat());
    assert!(String::from_utf8_lossy(&checked.stdout).contains("foreign_program"));
    assert_eq!(host.snapshot(), before);

    let second = host.usher("run", &arguments);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("runs already"), "{said}");
    assert_eq!(running.end(Signal::SIGINT), Some(0));
}

/// Why `arp_ignore` is there: without it the host answers for the VIP. IPv6 needs no setting.
#[test]
fn nobody_is_told_of_the_vips() {
    if !privileged() {
        return;
    }
    let host = Host::new();
    for vip in [VIP_V4, VIP_V6] {
        let prefix = if vip.contains(':') { 128 } else { 32 };
        host.neighbour.ip(&format!("route add {vip}/{prefix} dev eth0"));
    }
    let answered = |vip: &str| {
        host.neighbour.ip("neighbour flush dev eth0 nud all");
        host.neighbour.inside(|| {
            let socket =
                std::net::UdpSocket::bind(if vip.contains(':') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
            socket.send_to(b"?", (vip, 9)).unwrap();
        });
        until("the neighbour is known or not", || {
            let shown = host.neighbour.ip(&format!("neighbour show to {vip} dev eth0"));
            if shown.contains("FAILED") {
                Some(false)
            } else if shown.contains("lladdr") {
                Some(true)
            } else {
                None
            }
        })
    };
    // A host that has the VIPs without more.
    host.namespace.ip(&format!("address add {VIP_V4}/32 dev lo"));
    host.namespace.ip(&format!("address add {VIP_V6}/128 dev lo nodad"));
    assert!(answered(VIP_V4), "so the check below can fail");
    let running = host.run(&[]);
    assert!(!answered(VIP_V4));
    assert!(!answered(VIP_V6));
    running.end(Signal::SIGTERM);
    assert!(answered(VIP_V4), "the VIP was there before, and so it stays");
}
