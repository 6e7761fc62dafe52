//! Addresses of this host as they are at the moment.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use tokio::net::TcpSocket;

/// The address from which the kernel would talk to another host; `None` when it has no way there. Nothing is sent.
pub fn kernels_choice(to: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Whether connections can leave from an address.
pub fn is_here(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Whether a TCP connection can leave from a port of an address: one that the kernel chose for another connection is not shared.
pub fn is_free(from: SocketAddr) -> bool {
    bound(from).is_ok()
}

fn bound(from: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if from.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(from)?;
    Ok(socket)
}
