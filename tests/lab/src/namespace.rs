//! Work inside a host's network namespace, by threads of this process.

use std::{
    fs::File,
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    ifaddrs::getifaddrs,
    sched::{CloneFlags, setns},
    sys::socket::{
        AddressFamily, LinkAddr, SockFlag, SockType, SockaddrLike as _, SockaddrStorage, bind, connect,
        socket,
    },
};

use crate::host::Host;

/// Runs `body` on a thread of its own in the namespace of `host`. Sockets that it opens stay there.
///
/// # Errors
/// When there is no such namespace, and those of `body`.
pub fn inside<T: Send>(host: Host, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = Path::new("/run/netns").join(host.namespace());
    let namespace = File::open(&path).with_context(|| format!("{}", path.display()))?;
    let enter_and_run = move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {host}"))?;
        body()
    };
    thread::scope(|scope| scope.spawn(enter_and_run).join())
        .map_err(|_| anyhow!("a thread on {host} panicked"))?
}

/// An interface of the namespace that the thread is in: its index and MAC address.
pub(crate) fn link(name: &str) -> Result<LinkAddr> {
    let all = getifaddrs().context("interfaces")?;
    let is_link = |address: &SockaddrStorage| address.family() == Some(AddressFamily::Packet);
    let mut links = all.filter(|one| one.interface_name == name).filter_map(|one| one.address);
    let found = links.find(is_link).and_then(|address| address.as_link_addr().copied());
    found.with_context(|| format!("there is no interface {name}"))
}

/// A connection from `from` (port 0: any) to `to`. `limit` holds for connecting, and from then on for
/// every write and read.
pub(crate) fn connect_from(from: SocketAddr, to: SocketAddr, limit: Duration) -> Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket: OwnedFd =
        socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).context("cannot make a socket")?;
    let stream = TcpStream::from(socket);
    // The one for writes also limits connect(2).
    stream.set_write_timeout(Some(limit)).context("timeout")?;
    stream.set_read_timeout(Some(limit)).context("timeout")?;
    bind(stream.as_raw_fd(), &SockaddrStorage::from(from)).with_context(|| format!("cannot use {from}"))?;
    connect(stream.as_raw_fd(), &SockaddrStorage::from(to))
        .with_context(|| format!("{from} cannot connect to {to}"))?;
    stream.set_nodelay(true).context("nodelay")?;
    Ok(stream)
}
