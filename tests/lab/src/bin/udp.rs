//! UDP for the lab: the backends' echo, and a client that asks it.
//!
//! `usher-lab-udp echo NAME ADDRESS…` answers on port 7 of each address with `NAME ` and the payload.
//! `usher-lab-udp ask TO:PORT PAYLOAD [FROM:PORT]` prints the answer, or fails after a second.

use std::{
    env,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

const ECHO_PORT: u16 = 7;

/// How long an answer may take; the lab's own paths take less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["echo", name, addresses @ ..] if !addresses.is_empty() => echo(name, addresses),
        ["ask", to, payload] => ask(to, payload, None),
        ["ask", to, payload, from] => ask(to, payload, Some(from)),
        _ => bail!("usage: usher-lab-udp echo NAME ADDRESS… | ask TO:PORT PAYLOAD [FROM:PORT]"),
    }
}

/// One socket per address: the answer leaves from the address that was asked, which is what direct
/// server return needs.
fn echo(name: &str, addresses: &[&str]) -> Result<()> {
    let sockets: Vec<UdpSocket> = addresses
        .iter()
        .map(|address| {
            let address: IpAddr = address.parse().with_context(|| format!("address `{address}`"))?;
            let socket = SocketAddr::new(address, ECHO_PORT);
            UdpSocket::bind(socket).with_context(|| format!("cannot listen on {socket}"))
        })
        .collect::<Result<_>>()?;
    thread::scope(|scope| {
        for socket in &sockets {
            scope.spawn(move || answer(name, socket));
        }
    });
    Ok(())
}

fn answer(name: &str, socket: &UdpSocket) {
    let mut buffer = [0; 65536];
    loop {
        // An error here is the ICMP answer to an earlier packet of ours: the client is gone.
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let mut reply = format!("{name} ").into_bytes();
        reply.extend_from_slice(&buffer[..length]);
        let _ = socket.send_to(&reply, client);
    }
}

fn ask(to: &str, payload: &str, from: Option<&str>) -> Result<()> {
    let to = to.to_socket_addrs().with_context(|| format!("`{to}`"))?.next().context("no address")?;
    let from: SocketAddr = match from {
        Some(from) => from.parse().with_context(|| format!("`{from}` is not ADDRESS:PORT"))?,
        None if to.is_ipv4() => (Ipv4Addr::UNSPECIFIED, 0).into(),
        None => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(from).with_context(|| format!("cannot send from {from}"))?;
    socket.connect(to).with_context(|| format!("cannot send to {to}"))?;
    socket.set_read_timeout(Some(PATIENCE)).context("timeout")?;
    socket.send(payload.as_bytes()).with_context(|| format!("cannot send to {to}"))?;
    let mut buffer = [0; 65536];
    let length = socket.recv(&mut buffer).with_context(|| format!("no answer from {to}"))?;
    println!("{}", String::from_utf8_lossy(&buffer[..length]));
    Ok(())
}
