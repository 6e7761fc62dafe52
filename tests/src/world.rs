//! Who is who in the scenarios: addresses, interfaces, what is configured.

use std::{
    array, fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use lb_common::{
    Address, Backend, Features, Forward, HashKey, Hop, MAX_NAT_SOURCES, Mac, SLOTS, Service, ServiceKey,
    Settings, Shape, chunk::SETS, hash::KEY_BYTES,
};
use lb_userspace::core::image::Image;

use crate::packet::{Endpoint, Packet, Port, Transport, flag};

/// The interface on which every frame comes in: BPF_PROG_TEST_RUN uses lo.
pub const FRONT: u32 = 1;
/// The interface towards backend 1, reached by a redirect.
pub const BACK: u32 = 7;

/// The router in front of the clients.
pub const ROUTER: Mac = [2, 0, 0, 0, 0, 1];
/// The node on its front interface.
pub const NODE_FRONT: Mac = [2, 0, 0, 0, 0, 2];
/// The node on its back interface.
pub const NODE_BACK: Mac = [2, 0, 0, 0, 0, 3];

/// Size of the flow table: small, because it is searched for changes at every step.
pub const FLOW_TABLE: Shape = Shape::small(256);
/// Size of the table of NAT records: some chunks.
pub const NAT_TABLE: Shape = Shape::of(126, SETS);
/// Size of the table of clients' backends.
pub const AFFINITY_BUCKETS: u32 = 16;
/// What is configured.
pub const FEATURES: Features = Features(u64::MAX).without(Features::CAPTURE);
/// First fragments that are remembered.
pub const FRAGMENTS: u32 = 1_024;
/// Highest service number.
pub const SERVICES: u32 = 7;
/// Highest backend number.
pub const BACKENDS: u32 = 15;

/// The free bits of the networks from which tunnelled packets come: 198.51.100.240/28, 2001:db8:200::f0/124.
pub const TUNNEL_HOSTS: [[u8; 4]; 2] = [[0, 0, 0, 15], [0, 0, 0, 15]];
/// The port of GUE tunnels.
pub const GUE_PORT: u16 = 6_080;

/// Idle limits, in ticks.
pub const TCP_IDLE: u16 = 1_000;
/// As above.
pub const UDP_IDLE: u16 = 100;
/// As above.
pub const CLOSING_IDLE: u16 = 30;

/// The service's port.
pub const PORT: u16 = 80;
/// The port on which backends listen under NAT.
pub const BACKEND_PORT: u16 = 8_080;

/// Address family and protocol: most scenarios hold for all four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// IPv6.
    pub v6: bool,
    /// UDP.
    pub udp: bool,
}

/// TCP over IPv4.
pub const TCP4: Case = Case { v6: false, udp: false };
/// TCP over IPv6.
pub const TCP6: Case = Case { v6: true, udp: false };
/// UDP over IPv4.
pub const UDP4: Case = Case { v6: false, udp: true };
/// UDP over IPv6.
pub const UDP6: Case = Case { v6: true, udp: true };

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.udp { "UDP" } else { "TCP" })?;
        f.write_str(if self.v6 { " over IPv6" } else { " over IPv4" })
    }
}

impl Case {
    /// IP protocol number.
    pub fn protocol(self) -> u8 {
        if self.udp { 17 } else { 6 }
    }

    /// For how many ticks an open flow may be idle.
    pub fn idle(self) -> u16 {
        if self.udp { UDP_IDLE } else { TCP_IDLE }
    }

    /// The VIP.
    pub fn vip(self) -> IpAddr {
        self.address([192, 0, 2, 11], 1)
    }

    /// Another VIP of the same node.
    pub fn other_vip(self) -> IpAddr {
        self.address([192, 0, 2, 12], 1)
    }

    /// The node's NAT address.
    pub fn nat(self) -> IpAddr {
        self.address([203, 0, 113, 11], 2)
    }

    /// The first address of the network from which tunnelled packets come.
    pub fn tunnel(self) -> IpAddr {
        self.address([198, 51, 100, 240], 0x200)
    }

    /// Another NAT address of the node.
    pub fn other_nat(self) -> IpAddr {
        self.address([203, 0, 113, 12], 2)
    }

    /// The address of a backend.
    pub fn backend(self, number: u16) -> IpAddr {
        self.address([203, 0, 113, 20 + number as u8], 2)
    }

    /// The `neighbour`th client's address.
    pub fn client(self, neighbour: u8) -> IpAddr {
        self.address([198, 51, 100, 7 + neighbour], 0x100)
    }

    /// An IPv4 address, or the IPv6 address of a subnet that ends alike.
    fn address(self, v4: [u8; 4], subnet: u16) -> IpAddr {
        if self.v6 {
            Ipv6Addr::new(0x2001, 0xdb8, subnet, 0, 0, 0, 0, u16::from(v4[3])).into()
        } else {
            Ipv4Addr::from(v4).into()
        }
    }

    /// The first client's flow to the service, as the scenario's flow with this index.
    pub fn flow(self, index: usize) -> Flow {
        let client = SocketAddr::new(self.client(0), 40_001);
        Flow { case: self, index, client, service: SocketAddr::new(self.vip(), PORT), nat: self.nat() }
    }
}

/// A flow between a client and the service, and the packets of it.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// Family and protocol.
    pub case: Case,
    /// Names the flow's NAT port: a flow that gets a new port is a new one here.
    pub index: usize,
    /// The client.
    pub client: SocketAddr,
    /// The service.
    pub service: SocketAddr,
    /// The node's address towards the backends, under NAT.
    pub nat: IpAddr,
}

impl Flow {
    /// The client's first packet: a SYN, or a datagram.
    pub fn opens(&self) -> Packet {
        self.from_client(flag::SYN, b"")
    }

    /// Another packet of the client, with data.
    pub fn goes_on(&self) -> Packet {
        self.from_client(flag::ACK, b"GET / HTTP/1.0\r\n\r\n")
    }

    /// The client's last packet: FIN.
    pub fn ends(&self) -> Packet {
        self.from_client(flag::FIN | flag::ACK, b"")
    }

    /// The client breaks off.
    pub fn resets(&self) -> Packet {
        self.from_client(flag::RST, b"")
    }

    /// A packet of the client with these flags, which UDP has not. UDP never goes empty.
    pub fn from_client(&self, flags: u8, payload: &[u8]) -> Packet {
        self.packet(self.client.into(), self.service.into(), flags, payload)
    }

    /// The backend's first answer: SYN|ACK, or a datagram.
    pub fn accepted_by(&self, backend: u16) -> Packet {
        self.from_backend(backend, flag::SYN | flag::ACK, b"")
    }

    /// The backend answers with data.
    pub fn answered_by(&self, backend: u16) -> Packet {
        self.from_backend(backend, flag::PSH | flag::ACK, b"HTTP/1.0 200 OK\r\n\r\nodd")
    }

    /// A packet of a backend under NAT.
    pub fn from_backend(&self, backend: u16, flags: u8, payload: &[u8]) -> Packet {
        let from = SocketAddr::new(self.case.backend(backend), BACKEND_PORT);
        self.packet(from.into(), self.nat_end(), flags, payload)
    }

    /// What a client's packet is on its way to a backend under NAT.
    pub fn translated(&self, packet: &Packet, backend: u16) -> Packet {
        let to = SocketAddr::new(self.case.backend(backend), BACKEND_PORT);
        let packet = Packet { from: self.nat_end(), to: to.into(), hops: packet.hops - 1, ..packet.clone() };
        addressed(packet, hop(backend))
    }

    /// What a backend's packet is on its way to the client.
    pub fn translated_back(&self, packet: &Packet) -> Packet {
        Packet {
            from: self.service.into(),
            to: self.client.into(),
            hops: packet.hops - 1,
            mac_to: ROUTER,
            mac_from: NODE_FRONT,
            ..packet.clone()
        }
    }

    fn nat_end(&self) -> Endpoint {
        Endpoint { address: self.nat, port: Port::Nat(self.index) }
    }

    fn packet(&self, from: Endpoint, to: Endpoint, flags: u8, payload: &[u8]) -> Packet {
        let transport = if self.case.udp {
            Transport::Udp { checksum: true }
        } else {
            Transport::Tcp { flags, sequence: 0x1234_5678 }
        };
        let payload = if self.case.udp && payload.is_empty() { b"datagram" } else { payload }.to_vec();
        let (mac_to, mac_from, hops) = (NODE_FRONT, ROUTER, 64);
        let (ip, padding, tags) = Default::default();
        Packet { mac_to, mac_from, from, to, hops, transport, payload, ip, padding, tags }
    }
}

/// The way to a backend: backend 1 is behind the back interface, the others are at the front.
pub fn hop(backend: u16) -> Hop {
    let mac = [2, 0, 0, 0, 1, backend as u8];
    if backend == 1 { Hop::new(BACK, mac, NODE_BACK) } else { Hop::new(FRONT, mac, NODE_FRONT) }
}

/// The packet in a frame that takes this hop.
pub fn addressed(packet: Packet, hop: Hop) -> Packet {
    Packet { mac_to: hop.mac(), mac_from: hop.node_mac(), ..packet }
}

/// What is configured when a scenario begins.
#[derive(Debug, Clone)]
pub struct World {
    /// The content of the maps.
    pub image: Image,
}

impl World {
    /// Settings, but no service.
    pub fn empty() -> World {
        let settings = Some(Box::new(settings()));
        World { image: Image { settings, ..Image::default() } }
    }

    /// Service 1, forwarded by NAT or directly, and its backends 1 and 2. Every flow goes to backend 1.
    pub fn service(case: Case, forward: Forward) -> World {
        World::empty()
            .with_service(case, SocketAddr::new(case.vip(), PORT), 1, forward)
            .with_backend(case, 1, 1)
            .with_backend(case, 2, 1)
            .with_slots(1, 1)
    }

    /// Another way in for the service `number`.
    pub fn with_service(mut self, case: Case, at: SocketAddr, number: u32, forward: Forward) -> World {
        let key = ServiceKey::new(Address::from(at.ip()), at.port(), case.protocol());
        let idle = case.idle();
        self.image.services.insert(key, Service::new(number, forward, idle));
        for address in [at.ip(), case.nat()] {
            self.image.services.insert(ServiceKey::any(address.into()), Service::MARK);
        }
        self
    }

    /// Makes the VIP known for ICMP.
    pub fn with_vip(mut self, case: Case) -> World {
        let key = ServiceKey::new(Address::from(case.vip()), 0, if case.v6 { 58 } else { 1 });
        self.image.services.insert(key, Service::MARK);
        self
    }

    /// A backend of a service.
    pub fn with_backend(mut self, case: Case, number: u16, service: u32) -> World {
        let backend = Backend {
            address: Address::from(case.backend(number)),
            hop: hop(number),
            service,
            port: BACKEND_PORT.to_be_bytes(),
            mtu: 0,
            idle: case.idle(),
            flags: Backend::UP | Backend::ACCEPTS,
            zero: [0; 5],
        };
        self.image.backends.insert(number, backend);
        self
    }

    /// A Maglev table for a service, all slots of which lead to one backend.
    pub fn with_slots(mut self, service: u32, backend: u16) -> World {
        set_slots(&mut self.image, service, backend);
        self
    }

    /// Any other change.
    pub fn with(mut self, change: impl FnOnce(&mut Image)) -> World {
        change(&mut self.image);
        self
    }
}

/// Leads all slots of a service to one backend.
pub fn set_slots(image: &mut Image, service: u32, backend: u16) {
    image.tables.insert(service, vec![backend; SLOTS].into());
}

/// A backend to change.
///
/// # Panics
/// When the image has no such backend.
pub fn backend(image: &mut Image, number: u16) -> &mut Backend {
    image.backends.get_mut(&number).expect("a backend of this number")
}

/// A change of every service.
pub fn each_service(image: &mut Image, change: impl Fn(&mut Service)) {
    image.services.values_mut().for_each(change);
}

/// The settings to change.
///
/// # Panics
/// When the image has none.
pub fn settings_of(image: &mut Image) -> &mut Settings {
    image.settings.as_mut().expect("settings")
}

/// NAT source addresses as the settings hold them.
pub fn nat_sources(addresses: &[IpAddr]) -> [Address; MAX_NAT_SOURCES] {
    array::from_fn(|index| addresses.get(index).map_or(Address::NONE, |&address| address.into()))
}

/// Gives each NAT source address this many groups of eight ports.
pub fn set_nat_groups(settings: &mut Settings, groups: u16) {
    let count =
        |sources: [Address; MAX_NAT_SOURCES]| sources.iter().filter(|one| **one != Address::NONE).count();
    settings.nat_groups = groups;
    settings.nat_groups_of_all = settings.nat_sources.map(|sources| groups * count(sources) as u16);
}

/// The settings of all scenarios.
pub fn settings() -> Settings {
    Settings {
        hash_key: hash_key(1),
        nat_sources: [TCP4, TCP6].map(|case| nat_sources(&[case.nat()])),
        tunnel_source: [TCP4.tunnel(), TCP6.tunnel()].map(Address::from),
        tunnel_hosts: TUNNEL_HOSTS,
        longest_idle: TCP_IDLE,
        flow_table: FLOW_TABLE,
        nat_table: NAT_TABLE,
        nat_port_first: 1_024,
        // Ports 1024 to 32767.
        nat_groups: 3_968,
        nat_groups_of_all: [3_968; 2],
        new_per_tick: u32::MAX,
        affinity_buckets: AFFINITY_BUCKETS,
        closing_idle: CLOSING_IDLE,
        icmp_limit: 1_000_000,
        gue_port: GUE_PORT,
        reply_by_route: 0,
        reply_mtu: 0,
        zero: 0,
        zeros: [0; 2],
    }
}

/// A key made of a seed: always the same, so that a failure can be repeated.
pub fn hash_key(seed: u64) -> HashKey {
    use rand::{RngCore as _, SeedableRng as _};
    let mut bytes = [0; KEY_BYTES];
    rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    HashKey::from_bytes(&bytes)
}
