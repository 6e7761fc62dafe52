//! Kernel settings that a backend needs otherwise than they are.

use std::net::IpAddr;

use super::Settings;

/// `arp_ignore` for all interfaces: 1, answer only for addresses of the interface that was asked (kernel
/// documentation, networking/ip-sysctl).
pub const ARP_IGNORE: &str = "net/ipv4/conf/all/arp_ignore";

/// `arp_announce` for all interfaces: 2, never put a VIP into a question of our own.
pub const ARP_ANNOUNCE: &str = "net/ipv4/conf/all/arp_announce";

/// Values of `arp_ignore` with which no VIP on `lo` is answered for: 3 to 7 answer for it, 2 and 8 are
/// stricter than 1.
pub const IGNORING: [u32; 3] = [1, 2, 8];

/// The value of `arp_announce` with which a VIP is never announced.
pub const NOT_ANNOUNCING: u32 = 2;

/// `rp_filter`: no check, or a check that knows no interface. Strict is 1.
pub const STRICT: u32 = 1;
const LOOSE: &str = "2";

/// The setting of `rp_filter` of an interface.
pub fn rp_filter(interface: &str) -> String {
    format!("net/ipv4/conf/{interface}/rp_filter")
}

/// The changes, as path below `/proc/sys` and value; `read` tells what a setting is without us.
///
/// The kernel takes the larger of the values for `all` and for the interface. So one change for `all` keeps
/// every interface from telling of VIPs, and a loose `rp_filter` (2) of the interface is stronger than a
/// strict one (1) for `all`.
pub fn sysctls(settings: &Settings, read: impl Fn(&str) -> Option<String>) -> Vec<(String, &'static str)> {
    if !settings.vips.iter().any(IpAddr::is_ipv4) {
        return Vec::new();
    }
    let value = |key: &str| read(key).and_then(|text| text.parse::<u32>().ok());
    let mut wanted = Vec::new();
    if value(ARP_IGNORE).is_some_and(|value| !IGNORING.contains(&value)) {
        wanted.push((ARP_IGNORE.to_owned(), "1"));
    }
    if value(ARP_ANNOUNCE).is_some_and(|value| value < NOT_ANNOUNCING) {
        wanted.push((ARP_ANNOUNCE.to_owned(), "2"));
    }
    for interface in &settings.interfaces {
        let key = rp_filter(interface);
        if value(&key).max(value(&rp_filter("all"))) == Some(STRICT) {
            wanted.push((key, LOOSE));
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(vip: &str, values: &[(&str, &str)]) -> Vec<String> {
        let settings = Settings::new(["eth0".to_owned()], [vip.parse().unwrap()]);
        let read = |key: &str| {
            let found = values.iter().find(|(have, _)| key.ends_with(have));
            Some(found.map_or("0", |(_, value)| value).to_owned())
        };
        let change = |(key, value): (String, &str)| {
            format!("{} = {value}", key.strip_prefix("net/ipv4/conf/").unwrap())
        };
        sysctls(&settings, read).into_iter().map(change).collect()
    }

    #[test]
    fn a_plain_host_stops_telling_of_vips() {
        assert_eq!(wanted("192.0.2.11", &[]), ["all/arp_ignore = 1", "all/arp_announce = 2"]);
    }

    #[test]
    fn what_is_right_or_stricter_stays() {
        for ignore in ["1", "2", "8"] {
            let values = [("all/arp_ignore", ignore), ("all/arp_announce", "2"), ("eth0/rp_filter", "2")];
            assert_eq!(wanted("192.0.2.11", &values), [""; 0]);
        }
    }

    #[test]
    fn a_strict_check_of_sources_becomes_loose_wherever_it_is_set() {
        let right = [("all/arp_ignore", "1"), ("all/arp_announce", "2")];
        for strict in ["all/rp_filter", "eth0/rp_filter"] {
            let values = [&right[..], &[(strict, "1")]].concat();
            assert_eq!(wanted("192.0.2.11", &values), ["eth0/rp_filter = 2"]);
        }
        let values = [&right[..], &[("all/rp_filter", "1"), ("eth0/rp_filter", "2")]].concat();
        assert_eq!(wanted("192.0.2.11", &values), [""; 0], "the larger value counts");
    }

    #[test]
    fn ipv6_has_no_such_settings() {
        assert_eq!(wanted("2001:db8:1::11", &[("all/rp_filter", "1")]), [""; 0]);
    }
}
