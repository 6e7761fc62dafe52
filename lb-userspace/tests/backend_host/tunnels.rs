//! Real packets through every tunnel, in every combination of families, to real servers on the VIPs.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{
    host::{HOST_V4, HOST_V6, Host, VIP_V4, VIP_V6},
    net_lab::privileged,
    sender::{Sender, Wrap},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// More than fits any window or queue at once.
const UPLOAD: usize = 3_000_000;

const TUNNELS: &[&str] = &["--forward", "dsr-ipip", "--forward", "dsr-gue"];

/// A7: what the nodes send arrives: 4in4, 6in4, 4in6, 6in6, by IP in IP and by GUE.
#[test]
fn a7_packets_through_every_tunnel_reach_the_servers() {
    if !privileged() {
        return;
    }
    for mode in ["native", "generic"] {
        let host = Host::new();
        let running = host.run(
            &[TUNNELS, &["--xdp-mode", mode, "--allow", "203.0.113.0/24", "--allow", "2001:db8:2::/64"]]
                .concat(),
        );
        serve(&host);
        for (outer, wrap) in
            [HOST_V4, HOST_V6].into_iter().flat_map(|outer| [(outer, Wrap::Ipip), (outer, Wrap::Gue)])
        {
            let outer: IpAddr = outer.parse().unwrap();
            let _sender = Sender::start(&host.neighbour, &[VIP_V4, VIP_V6], outer, wrap);
            for vip in [VIP_V4, VIP_V6] {
                let vip: IpAddr = vip.parse().unwrap();
                let case = format!("{mode}: {vip} in {wrap:?} to {outer}");
                let (echoed, sum) = host.neighbour.inside(|| (ask(vip), upload(vip)));
                assert_eq!(echoed, "UDP of the VIP: hello", "{case}");
                assert_eq!(sum, pattern().map(u64::from).sum::<u64>(), "{case}");
            }
        }
        let shown = host.status().unwrap();
        for counter in ["ipip", "gue"] {
            // Four uploads each, in segments that fit an MTU of 1,400.
            let count = shown["packets"][counter].as_u64().unwrap();
            assert!(count > 4 * (UPLOAD / 1_400) as u64, "{mode}: {counter} {count}");
        }
        assert_eq!(shown["packets"]["not_allowed"], 0);
        assert_eq!(running.end(Signal::SIGTERM), Some(0));
    }
}

/// A tunnel packet from elsewhere than allowed is not unpacked, and is counted.
#[test]
fn packets_from_elsewhere_stay_wrapped() {
    if !privileged() {
        return;
    }
    let host = Host::new();
    let _running = host.run(&[TUNNELS, &["--allow", "198.51.100.0/24"]].concat());
    serve(&host);
    let _sender = Sender::start(&host.neighbour, &[VIP_V4], HOST_V4.parse().unwrap(), Wrap::Gue);
    host.neighbour.inside(|| {
        let socket = UdpSocket::bind("203.0.113.1:0").unwrap();
        socket.send_to(b"hello", (VIP_V4, 7)).unwrap();
    });
    crate::host::until("the packet is counted", || {
        let shown = host.status().unwrap();
        assert_eq!(shown["packets"]["gue"], 0);
        (shown["packets"]["not_allowed"] != 0).then_some(())
    });
}

/// A UDP echo and a TCP server that answers with the sum of what it was sent, on both VIPs.
fn serve(host: &Host) {
    for vip in [VIP_V4, VIP_V6] {
        let vip: IpAddr = vip.parse().unwrap();
        let (udp, tcp) = host
            .namespace
            .inside(|| (UdpSocket::bind((vip, 7)).unwrap(), TcpListener::bind((vip, 80)).unwrap()));
        thread::spawn(move || {
            let mut buffer = [0; 2_000];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                let answer = [b"UDP of the VIP: ", &buffer[..length]].concat();
                let _ = udp.send_to(&answer, from);
            }
        });
        thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).unwrap();
                let sum: u64 = bytes.iter().copied().map(u64::from).sum();
                stream.write_all(&sum.to_be_bytes()).unwrap();
            }
        });
    }
}

fn pattern() -> impl Iterator<Item = u8> {
    (0..UPLOAD).map(|index| (index % 251) as u8)
}

fn ask(vip: IpAddr) -> String {
    let from: SocketAddr = if vip.is_ipv4() { "203.0.113.1:0" } else { "[2001:db8:2::1]:0" }.parse().unwrap();
    let socket = UdpSocket::bind(from).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"hello", (vip, 7)).unwrap();
    let mut answer = [0; 100];
    let (length, from) = socket.recv_from(&mut answer).unwrap();
    assert_eq!(from, SocketAddr::new(vip, 7), "the backend answers as the VIP");
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

fn upload(vip: IpAddr) -> u64 {
    let mut stream = TcpStream::connect_timeout(&(vip, 80).into(), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&pattern().collect::<Vec<_>>()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut sum = [0; 8];
    stream.read_exact(&mut sum).unwrap();
    u64::from_be_bytes(sum)
}
