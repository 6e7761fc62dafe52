//! A backend host as it is at one moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt::ReuseAddr,
    },
};
use std::os::fd::AsRawFd as _;

use super::{Listen, Settings};
use crate::{
    dataplane::program_name,
    net::{
        NetError,
        facts::{Interface, Links},
        sysctl,
        vips::{DefaultRoute, Vips},
    },
};

/// What [`check`](super::check) judges.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// All interfaces with their addresses.
    pub interfaces: Vec<Interface>,
    /// Kernel settings by their path below `/proc/sys`; what cannot be read is missing.
    pub sysctls: BTreeMap<String, String>,
    /// The ways of most answers.
    pub default_routes: Vec<DefaultRoute>,
    /// Names of the XDP programs on interfaces, by id.
    pub programs: BTreeMap<u32, String>,
    /// What was asked for and does not listen.
    pub silent: BTreeSet<(Listen, IpAddr)>,
}

impl Host {
    /// Reads what concerns these settings.
    ///
    /// # Errors
    /// Any [`NetError`].
    pub async fn read(settings: &Settings) -> Result<Host, NetError> {
        let interfaces = Links::open()?.with_addresses().await?;
        let default_routes = Vips::open()?.default_routes().await?;
        let keys = interfaces.iter().map(|have| &*have.link.name).flat_map(keys).chain(keys("all"));
        let sysctls = keys.filter_map(|key| sysctl::read(&key).ok().map(|value| (key, value))).collect();
        let programs = interfaces.iter().filter_map(|have| have.link.xdp_program);
        let programs = programs.filter_map(|id| Some((id, program_name(id)?))).collect();
        let mut host = Host { interfaces, sysctls, default_routes, programs, silent: BTreeSet::new() };
        host.silent = host.silent(settings);
        Ok(host)
    }

    /// The interface with this name.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|have| have.link.name == name)
    }

    /// The interfaces that have an address.
    pub fn holders(&self, address: IpAddr) -> impl Iterator<Item = &Interface> {
        self.interfaces.iter().filter(move |have| have.addresses.contains(&address))
    }

    /// Addresses to which nodes may send outer packets, where none are configured: all but the VIPs, and
    /// those that no other host can send to.
    pub fn own_addresses(&self, vips: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let link_local = |address: &IpAddr| match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let all = self.interfaces.iter().flat_map(|have| have.addresses.iter().copied());
        all.filter(|address| !address.is_loopback() && !link_local(address) && !vips.contains(address))
            .collect()
    }

    /// What should listen on a VIP that is there, and does not.
    fn silent(&self, settings: &Settings) -> BTreeSet<(Listen, IpAddr)> {
        let vips = settings.vips.iter().copied().filter(|vip| self.holders(*vip).next().is_some());
        vips.flat_map(|vip| settings.listen.iter().map(move |listen| (*listen, vip)))
            .filter(|(listen, vip)| is_free(*listen, *vip))
            .collect()
    }
}

/// The settings of one interface, or of `all`, that matter.
fn keys(interface: &str) -> impl Iterator<Item = String> + use<> {
    let names = [
        "ipv4/conf/{}/arp_ignore",
        "ipv4/conf/{}/arp_announce",
        "ipv4/conf/{}/rp_filter",
        "ipv6/conf/{}/disable_ipv6",
    ];
    let interface = interface.to_owned();
    names.into_iter().map(move |name| format!("net/{}", name.replace("{}", &interface)))
}

/// Whether a socket of our own could have the port, so that nobody listens there. For TCP `SO_REUSEADDR` keeps
/// connections that have ended from being in the way; it is never listened on. A socket for both families
/// counts, and one for IPv6 alone does not, as for a client. What may not be tried (EACCES) is not known, and not
/// complained of.
fn is_free(listen: Listen, vip: IpAddr) -> bool {
    let family = if vip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = if listen.udp { SockType::Datagram } else { SockType::Stream };
    let Ok(socket) = socket(family, kind, SockFlag::SOCK_CLOEXEC, None) else { return false };
    if !listen.udp && setsockopt(&socket, ReuseAddr, &true).is_err() {
        return false;
    }
    let address = SockaddrStorage::from(SocketAddr::new(vip, listen.port));
    !matches!(bind(socket.as_raw_fd(), &address), Err(Errno::EADDRINUSE | Errno::EACCES))
}
