//! How checks travel through the data path.

use std::net::IpAddr;

use lb_common::check_path::Way;

use super::{ids::Family, plan};
use crate::config::{Aim, Config, Forward, Service};

/// The source port of GUE packets: the first of the dynamic ones (RFC 6335 section 6).
const GUE_SOURCE: u16 = 0xc000;

/// Whether any backend is checked through the data path.
pub fn is_used(config: &Config) -> bool {
    config.services.iter().any(|service| service.check.aim == Aim::Vip)
}

/// A backend's ways, one to each of the service's addresses of the backend's own family: a check's socket has the
/// family of the backend's address, and what it sends has too. None unless checks are aimed there.
pub fn ways(config: &Config, service: &Service, family: Family, backend: IpAddr) -> Vec<Way> {
    if service.check.aim != Aim::Vip || Family::of(backend) != family {
        return Vec::new();
    }
    let vips = service.addresses.iter().filter(|&&vip| Family::of(vip) == family);
    let is_gue = service.forward == Forward::DsrGue;
    vips.map(|&vip| Way {
        vip: vip.into(),
        outer_source: plan::tunnel_source(config, family).0,
        gue_source: if is_gue { GUE_SOURCE.to_be_bytes() } else { [0; 2] },
        gue_port: if is_gue { config.tunnel.gue_port.to_be_bytes() } else { [0; 2] },
        tunnel: service.forward.is_tunnel().into(),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const FILE: &str = r#"
version = 1
[node]
name = "node1"
interfaces = ["eth0"]
addresses = ["192.0.2.11", "192.0.2.12", "2001:db8:1::11"]
[tunnel]
source = ["198.51.100.0/28", "2001:db8:9::/64"]
[[service]]
name = "web"
protocol = "tcp"
port = 80
forward = "dsr-gue"
backend = [{ name = "b1", address = "203.0.113.21" }]
"#;

    fn ways_in(text: &str, family: Family) -> Vec<Way> {
        let config = Config::parse(text, Path::new("usher.toml")).unwrap();
        assert_eq!(is_used(&config), config.services[0].check.aim == Aim::Vip);
        ways(&config, &config.services[0], family, "203.0.113.21".parse().unwrap())
    }

    #[test]
    fn a_backend_is_checked_at_every_address_of_its_own_family() {
        let ways = ways_in(FILE, Family::V4);
        let vips: Vec<IpAddr> = ways.iter().map(|way| way.vip.into()).collect();
        assert_eq!(vips, ["192.0.2.11", "192.0.2.12"].map(|vip| vip.parse::<IpAddr>().unwrap()));
        let first = ways[0];
        assert_eq!(IpAddr::from(first.outer_source).to_string(), "198.51.100.0");
        assert_eq!((first.tunnel, u16::from_be_bytes(first.gue_port)), (1, 6080));
        // It unpacks IPv6 as well, but no socket to an IPv4 address sends that.
        assert_eq!(ways_in(FILE, Family::V6), []);
    }

    #[test]
    fn nothing_leads_there_unless_checks_are_aimed_there() {
        let own = FILE.replace("port = 80\n", "port = 80\ncheck = { aim = \"address\" }\n");
        assert_eq!(ways_in(&own, Family::V4), []);
        let agent = FILE.replace("port = 80\n", "port = 80\ncheck = { kind = \"agent\", port = 9000 }\n");
        assert_eq!(ways_in(&agent, Family::V4), []);
        let link = FILE
            .replace("dsr-gue", "dsr-l2")
            .replace("[tunnel]\nsource = [\"198.51.100.0/28\", \"2001:db8:9::/64\"]\n", "");
        let first = ways_in(&link, Family::V4)[0];
        assert_eq!((first.tunnel, first.gue_port), (0, [0; 2]));
    }
}
