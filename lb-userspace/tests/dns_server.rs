//! The embedded DNS server on real sockets, asked by a real `dig`.
//!
//! Without `dig` the tests say so and pass; with `USHER_NO_SKIP=1` they fail.

// Helpers outside #[test] functions fail by panicking too.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    process::Command,
    sync::Arc,
    time::Duration,
};

use lb_userspace::{
    config::{
        Aim, AllDown, Backend, Check, CheckKind, Config, Dns, FlowOptions, Flows, Forward, Nat, NoBackend,
        Node, NodeAddress, OnStop, Passive, Peer, PeerCheck, Protocol, Reply, Require, Service, Timing,
        Tunnel, XdpMode,
    },
    core::{
        ids::{Family, PoolId},
        peers::{PeerId, PeerState},
        publish::{PeerStates, SelfState, publication},
        zone::Zone,
    },
    dns::{self, Counters},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
    sync::{oneshot, watch},
    task::JoinHandle,
};

/// A running server on 127.0.0.1 and ::1.
struct Server {
    runtime: Runtime,
    v4: SocketAddr,
    v6: SocketAddr,
    zone: watch::Sender<Arc<Zone>>,
    counters: Arc<Counters>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    fn start(zone: Zone) -> Server {
        Server::start_on(["127.0.0.1:0", "[::1]:0"], zone)
    }

    fn start_on(listen: [&str; 2], zone: Zone) -> Server {
        let runtime = Runtime::new().unwrap();
        let listen = listen.map(|address| address.parse().unwrap());
        let sockets = runtime.block_on(async { dns::bind(&listen, &[]) }).unwrap();
        let (v4, v6) = (sockets.local_addrs()[0], sockets.local_addrs()[1]);
        let counters = sockets.counters();
        let (zone, receiver) = watch::channel(Arc::new(zone));
        let (stop, stopped) = oneshot::channel();
        let task = runtime.spawn(sockets.serve(receiver, None, async {
            let _ = stopped.await;
        }));
        Server { runtime, v4, v6, zone, counters, stop, task }
    }

    fn dig(&self, arguments: &str) -> Dig {
        Dig::run(self.v4, arguments)
    }
}

/// What `dig` printed.
#[derive(Debug)]
struct Dig {
    output: String,
}

impl Dig {
    fn run(server: SocketAddr, arguments: &str) -> Dig {
        let output = Command::new("dig")
            .arg(format!("@{}", server.ip()))
            .args(["-p", &server.port().to_string(), "+tries=1", "+timeout=5", "+norecurse"])
            .args(arguments.split_whitespace())
            .output()
            .unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        assert!(!output.to_lowercase().contains("warning") && !output.contains("malformed"), "{output}");
        Dig { output }
    }

    fn status(&self) -> &str {
        let Some((_, rest)) = self.output.split_once("status: ") else {
            panic!("no answer:\n{}", self.output)
        };
        rest.split(',').next().unwrap()
    }

    fn has_flag(&self, flag: &str) -> bool {
        let (_, rest) = self.output.split_once(";; flags:").unwrap();
        rest.split(';').next().unwrap().split_whitespace().any(|word| word == flag)
    }

    fn is_over_tcp(&self) -> bool {
        self.output.contains("(TCP)")
    }

    /// The records of a section (`ANSWER`, `AUTHORITY`, `ADDITIONAL`), blanks made single.
    fn section(&self, name: &str) -> Vec<String> {
        let Some((_, rest)) = self.output.split_once(&format!(";; {name} SECTION:\n")) else {
            return Vec::new();
        };
        let records = rest.lines().take_while(|line| !line.is_empty() && !line.starts_with(';'));
        records.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    fn answers(&self) -> Vec<String> {
        self.section("ANSWER")
    }
}

/// Whether the test cannot run here.
fn skipped() -> bool {
    if Command::new("dig").arg("-v").output().is_ok() {
        return false;
    }
    assert!(std::env::var_os("USHER_NO_SKIP").is_none(), "dig is missing (Debian: bind9-dnsutils)");
    eprintln!("skipped: dig is missing (Debian: bind9-dnsutils)");
    true
}

const SOA: &str = "SOA node1.example.test. hostmaster.example.test. 2024 3600 600 86400 5";

#[test]
fn addresses_change_their_order() {
    if skipped() {
        return;
    }
    let server = Server::start(zone(&config(1), SelfState::Serves));
    let orders: Vec<Vec<String>> = (0..4).map(|_| server.dig("www.example.test A").answers()).collect();
    let there = ["www.example.test. 30 IN A 192.0.2.11", "www.example.test. 30 IN A 198.51.100.1"];
    let back = [there[1], there[0]];
    assert_eq!(orders, [there, back, there, back]);
}

#[test]
fn it_answers_with_authority_over_both_families_and_transports() {
    if skipped() {
        return;
    }
    let server = Server::start(zone(&config(1), SelfState::Serves));
    for address in [server.v4, server.v6] {
        for tcp in [false, true] {
            let dig =
                Dig::run(address, &format!("www.example.test AAAA {}", if tcp { "+tcp" } else { "+notcp" }));
            assert_eq!(dig.answers(), ["www.example.test. 30 IN AAAA 2001:db8:1::11"]);
            assert_eq!(dig.status(), "NOERROR");
            assert!(dig.has_flag("aa") && !dig.has_flag("ra") && !dig.has_flag("tc"), "{dig:?}");
            assert_eq!(dig.is_over_tcp(), tcp);
        }
    }
    let counted = server.counters.values();
    assert_eq!((counted.udp, counted.tcp, counted.noerror), (2, 2, 4));
}

#[test]
fn the_zone_introduces_itself() {
    if skipped() {
        return;
    }
    let server = Server::start(zone(&config(1), SelfState::Serves));
    assert_eq!(server.dig("example.test SOA").answers(), [format!("example.test. 5 IN {SOA}")]);
    let ns = server.dig("example.test NS");
    assert_eq!(
        ns.answers(),
        ["example.test. 300 IN NS node1.example.test.", "example.test. 300 IN NS peer1.example.test."]
    );
    assert_eq!(
        ns.section("ADDITIONAL"),
        [
            "node1.example.test. 300 IN A 192.0.2.11",
            "node1.example.test. 300 IN AAAA 2001:db8:1::11",
            "peer1.example.test. 300 IN A 198.51.100.1",
        ]
    );
}

#[test]
fn negative_answers() {
    if skipped() {
        return;
    }
    let server = Server::start(zone(&config(1), SelfState::Serves));
    let authority = [format!("example.test. 5 IN {SOA}")];
    for (question, status) in [("www.example.test MX", "NOERROR"), ("nothing.example.test A", "NXDOMAIN")] {
        let dig = server.dig(question);
        assert_eq!(dig.status(), status, "{question}");
        assert_eq!(dig.answers(), [""; 0]);
        assert_eq!(dig.section("AUTHORITY"), authority);
        assert!(dig.has_flag("aa"));
    }
    for question in ["www.example.org A", ". NS", "version.bind TXT CH"] {
        let dig = server.dig(question);
        assert_eq!(dig.status(), "REFUSED", "{question}");
        assert!(!dig.has_flag("aa"));
    }
    assert!(server.dig("example.test AXFR").output.contains("Transfer failed"));
    assert_eq!(server.dig("example.test SOA +opcode=NOTIFY").status(), "NOTIMP");
    let counted = server.counters.values();
    assert_eq!((counted.noerror, counted.nxdomain, counted.refused, counted.notimp), (1, 1, 4, 1));
}

#[test]
fn a_long_answer_is_cut_and_asked_again_over_tcp() {
    if skipped() {
        return;
    }
    let server = Server::start(zone(&config(59), SelfState::Serves));
    let cut = server.dig("www.example.test A +bufsize=512 +ignore");
    assert!(cut.has_flag("tc") && !cut.is_over_tcp(), "{cut:?}");
    assert!(!cut.answers().is_empty() && cut.answers().len() < 60);

    let retried = server.dig("www.example.test A +bufsize=512");
    assert!(retried.is_over_tcp() && !retried.has_flag("tc"), "{retried:?}");
    assert_eq!(retried.answers().len(), 60);

    let roomy = server.dig("www.example.test A +bufsize=1232");
    assert!(!roomy.is_over_tcp() && !roomy.has_flag("tc"));
    assert_eq!(roomy.answers().len(), 60);
    assert_eq!(server.counters.values().truncated, 2);
}

#[test]
fn edns() {
    if skipped() {
        return;
    }
    let server = Server::start(zone(&config(1), SelfState::Serves));
    let plain = server.dig("www.example.test A +noedns");
    assert!(plain.answers().len() == 2 && !plain.output.contains("OPT PSEUDOSECTION"), "{plain:?}");
    let extended = server.dig("www.example.test A +edns=0 +dnssec +cookie +ednsopt=65001:c0ffee");
    assert_eq!(extended.answers().len(), 2);
    assert!(extended.output.contains("; EDNS: version: 0, flags: do; udp: 1232"), "{extended:?}");
    let future = server.dig("www.example.test A +edns=1 +noednsnegotiation");
    assert_eq!(future.status(), "BADVERS");
    assert_eq!(future.answers(), [""; 0]);
    assert_eq!(server.counters.values().badvers, 1);
}

#[test]
fn upper_case_is_echoed() {
    if skipped() {
        return;
    }
    let server = Server::start(zone(&config(1), SelfState::Serves));
    let dig = server.dig("wWw.ExAmPlE.tEsT AAAA");
    assert_eq!(dig.answers(), ["wWw.ExAmPlE.tEsT. 30 IN AAAA 2001:db8:1::11"]);
    assert!(dig.output.contains(";wWw.ExAmPlE.tEsT."), "{dig:?}");
}

#[test]
fn a_new_zone_is_served_at_once() {
    if skipped() {
        return;
    }
    let config = config(1);
    let server = Server::start(zone(&config, SelfState::Serves));
    assert_eq!(server.dig("www.example.test A").answers().len(), 2);
    server.zone.send_replace(Arc::new(zone(&config, SelfState::NoBackend)));
    assert_eq!(server.dig("www.example.test A").answers(), ["www.example.test. 30 IN A 198.51.100.1"]);
    assert_eq!(server.dig("www.example.test AAAA +tcp").answers(), [""; 0]);
}

#[test]
fn an_address_is_held_until_the_end_and_free_after_it() {
    // An address of its own: another test's connection, or another run of this test, could take the port.
    let [.., high, low] = std::process::id().to_be_bytes();
    let own = format!("127.53.{high}.{low}:0");
    let server = Server::start_on([&own, "[::1]:0"], zone(&config(0), SelfState::Serves));
    let runtime = &server.runtime;
    let refused = runtime.block_on(async { dns::bind(&[server.v4], &[]) }).unwrap_err().to_string();
    let expected = format!("DNS cannot listen on {} (TCP): another program has it", server.v4);
    assert!(refused.starts_with(&expected), "{refused}");
    server.stop.send(()).unwrap();
    runtime.block_on(server.task).unwrap();
    runtime.block_on(async { dns::bind(&[server.v4], &[]) }).unwrap();
}

#[test]
fn an_address_that_cannot_be_listened_on_is_explained() {
    let runtime = Runtime::new().unwrap();
    let bind = |address: &str| {
        let address = address.parse().unwrap();
        runtime.block_on(async { dns::bind(&[address], &[]) }).unwrap_err().to_string()
    };
    let foreign = bind("192.0.2.99:53");
    assert!(
        foreign.contains("192.0.2.99:53") && foreign.contains("no interface has 192.0.2.99"),
        "{foreign}"
    );
    let wildcard = bind("[::]:53");
    assert!(wildcard.contains("[::]:53") && wildcard.contains("one by one"), "{wildcard}");
}

/// A query for `www.example.test A`, written by hand: id, one question.
fn query(id: u8) -> Vec<u8> {
    let header = [0, id, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    [&header[..], b"\x03www\x07example\x04test\x00\x00\x01\x00\x01"].concat()
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

async fn read_id(stream: &mut TcpStream) -> u8 {
    let len = stream.read_u16().await.unwrap();
    let mut message = vec![0; usize::from(len)];
    stream.read_exact(&mut message).await.unwrap();
    message[1]
}

#[test]
fn a_connection_takes_queries_in_a_row_and_in_pieces() {
    let server = Server::start(zone(&config(1), SelfState::Serves));
    server.runtime.block_on(async {
        let mut stream = TcpStream::connect(server.v4).await.unwrap();
        let queries: Vec<u8> = (1..=100).flat_map(|id| framed(&query(id))).collect();
        stream.write_all(&queries).await.unwrap();
        for id in 1..=100 {
            assert_eq!(read_id(&mut stream).await, id);
        }
        stream.set_nodelay(true).unwrap();
        for byte in framed(&query(101)) {
            stream.write_all(&[byte]).await.unwrap();
        }
        assert_eq!(read_id(&mut stream).await, 101);
    });
}

#[test]
fn a_connection_that_sends_no_query_is_closed() {
    let server = Server::start(zone(&config(1), SelfState::Serves));
    server.runtime.block_on(async {
        let mut response = query(1);
        response[2] = 0x80;
        for nonsense in [framed(&response), framed(b""), framed(b"short")] {
            let mut stream = TcpStream::connect(server.v4).await.unwrap();
            stream.write_all(&nonsense).await.unwrap();
            assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0, "end of the stream");
        }
    });
    assert_eq!(server.counters.values().ignored, 3);
}

#[test]
fn idle_connections_do_not_keep_others_out() {
    let server = Server::start(zone(&config(1), SelfState::Serves));
    server.runtime.block_on(async {
        // More than the server holds at once: the last ones wait until idle ones are closed.
        let mut idle = Vec::new();
        for _ in 0..600 {
            idle.push(TcpStream::connect(server.v4).await.unwrap());
        }
        let mut stream = TcpStream::connect(server.v4).await.unwrap();
        stream.write_all(&framed(&query(7))).await.unwrap();
        assert_eq!(read_id(&mut stream).await, 7);
    });
}

/// One service, `www`, on this node (both families) and on `peers` more with one IPv4 address each.
fn config(peers: u8) -> Config {
    let timing = Timing {
        interval: Duration::from_secs(1),
        fast_interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
        jitter: 0.1,
    };
    let addresses = vec![same("192.0.2.11"), same("2001:db8:1::11")];
    Config {
        nat: Nat { source: Vec::new(), ports: 1024..=32767, reply: Reply::LastHop },
        tunnel: Tunnel { source: vec![], gue_port: 6_080 },
        flows: Flows {
            max: 1000,
            tcp_timeout: Duration::from_secs(60),
            udp_timeout: Duration::from_secs(60),
            closing_timeout: Duration::from_secs(60),
            fragments: 1000,
            affinity: 1000,
            new_per_second: 0,
        },
        defence: None,
        dns: Some(Dns {
            listen: Vec::new(),
            zone: "example.test".into(),
            ttl: Duration::from_secs(30),
            ttl_in_doubt: Duration::from_secs(5),
            negative_ttl: Duration::from_secs(5),
            contact: "hostmaster.example.test".into(),
            all_down: AllDown::All,
            publish: Vec::new(),
        }),
        peer_check: PeerCheck { timing, restart_grace: Duration::from_secs(60), peer_probe_rate: 50 },
        peers: (1..=peers).map(peer).collect(),
        services: vec![Service {
            name: "web".into(),
            dns_name: Some("www.example.test".into()),
            require: Require::All,
            protocol: Protocol::Tcp,
            port: 80,
            addresses: addresses.iter().map(|address| address.address).collect(),
            forward: Forward::Nat,
            flows: FlowOptions::new(Duration::from_secs(60)),
            withdraw_below: 0,
            panic_below: 0,
            slow_start: None,
            all_down: NoBackend::Reset,
            check: Check {
                kind: CheckKind::Tcp.into(),
                port: None,
                aim: Aim::Address,
                source: Vec::new(),
                passive: Passive::Off,
                timing,
            },
            backends: vec![Backend {
                name: "backend1".into(),
                addresses: vec!["203.0.113.21".parse().unwrap(), "2001:db8:2::21".parse().unwrap()],
                port: 80,
                weight: 1,
                backup: false,
                quic_server_id: None,
            }],
        }],
        node: Node {
            name: "node1".into(),
            interfaces: Vec::new(),
            xdp_mode: XdpMode::Auto,
            addresses,
            socket: "/run/usher/usher.sock".into(),
            secret_file: None,
            state_file: "/var/lib/usher/state.json".into(),
            pin_dir: "/sys/fs/bpf/usher".into(),
            on_stop: OnStop::Keep,
            reload_on_change: false,
            icmp_rate: 1_000,
            metrics_listen: vec![],
        },
    }
}

fn peer(n: u8) -> Peer {
    Peer { name: format!("peer{n}").into(), addresses: vec![same(&format!("198.51.100.{n}"))], dns_port: 53 }
}

fn same(address: &str) -> NodeAddress {
    let address: IpAddr = address.parse().unwrap();
    NodeAddress { address, publish: address, check_address: address }
}

/// The zone while this node is as given and every peer serves.
fn zone(config: &Config, own: SelfState) -> Zone {
    let pools = Family::ALL.map(|family| PoolId { service: "web".into(), family });
    let own = BTreeMap::from(pools.clone().map(|pool| (pool, own)));
    let serves = |peer: &Peer| {
        let [pool, _] = pools.clone();
        (PeerId { peer: Arc::clone(&peer.name), address: peer.addresses[0].address, pool }, PeerState::Serves)
    };
    let peers: PeerStates = config.peers.iter().map(serves).collect();
    Zone::new(config, config.dns.as_ref().unwrap(), &publication(config, &own, &peers), 2024)
}
