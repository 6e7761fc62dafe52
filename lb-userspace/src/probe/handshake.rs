//! Connections that are made only to see that they can be.
//!
//! To be told of an answer takes two system calls, which have the socket watched and watched no longer, and wakes a thread
//! each time. Within a data centre the answer is there after a fraction of a millisecond: so it is looked for once when it
//! may be expected, for all who have asked meanwhile together, and only who waits longer is told. Ten thousand checks a second
//! take a seventh less CPU.

use std::{io, net::SocketAddr, os::fd::AsRawFd as _, time::Duration};

use nix::{
    errno::Errno,
    getsockopt_impl, sockopt_impl,
    sys::socket::{SockaddrStorage, connect, getsockopt},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::TcpSocket,
    time::{Instant, sleep_until},
};

use super::{Finding, Limit, tcp::connect_finding};
use crate::core::check::Code;

/// When an answer is looked for: timers do not tell less apart.
const FIRST_LOOK: Duration = Duration::from_millis(1);

sockopt_impl!(
    /// What the kernel knows of a connection.
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    libc::tcp_info
);

/// States of a connection (include/net/tcp_states.h).
const SYN_SENT: u8 = 2;
const SYN_RECV: u8 = 3;
const CLOSE: u8 = 7;

/// Connects a socket. Beside it: how long the other end took, where the kernel has measured that.
///
/// # Errors
/// L4CON, L4TOUT or SOCKERR.
pub(super) async fn shake_hands(
    socket: TcpSocket,
    target: SocketAddr,
    limit: Limit,
) -> Result<(TcpSocket, Option<Duration>), Finding> {
    let failed = |error| connect_finding(&error);
    if is_awaited(connect(socket.as_raw_fd(), &SockaddrStorage::from(target))).map_err(failed)? {
        sleep_until(limit.deadline.min(Instant::now() + FIRST_LOOK)).await;
    }
    match answer(&socket).map_err(failed)? {
        Answer::None => {
            let socket = limit.or(Code::L4Tout, wait_for_answer(socket)).await?.map_err(failed)?;
            Ok((socket, None))
        }
        Answer::After(round_trip) => Ok((socket, round_trip)),
    }
}

/// Whether the other end has not answered yet.
fn is_awaited(connected: nix::Result<()>) -> io::Result<bool> {
    match connected {
        Ok(()) => Ok(false),
        Err(Errno::EINPROGRESS) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

enum Answer {
    None,
    /// The other end has accepted, so long after it was asked.
    After(Option<Duration>),
}

/// What the other end has answered so far.
fn answer(socket: &TcpSocket) -> io::Result<Answer> {
    let info = getsockopt(socket, TcpInfo)?;
    match info.tcpi_state {
        SYN_SENT | SYN_RECV => return Ok(Answer::None),
        CLOSE => closed(socket)?,
        _ => {}
    }
    let round_trip = Duration::from_micros(info.tcpi_rtt.into());
    Ok(Answer::After((!round_trip.is_zero()).then_some(round_trip)))
}

/// Why a connection is closed; `Ok` if it stood before.
fn closed(socket: &TcpSocket) -> io::Result<()> {
    let error = socket.take_error()?.unwrap_or_else(|| io::ErrorKind::NotConnected.into());
    // A server may hang up as soon as it has accepted; refusals are ECONNREFUSED (tcp_reset() in net/ipv4/tcp_input.c).
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ECONNRESET | Errno::EPIPE) => Ok(()),
        _ => Err(error),
    }
}

async fn wait_for_answer(socket: TcpSocket) -> io::Result<TcpSocket> {
    // SAFETY: the socket owns its descriptor and never changes it.
    let watched = unsafe { AsyncFd::register_with_interest(socket, Interest::WRITABLE) }?;
    loop {
        let mut told = watched.writable().await?;
        match answer(watched.get_ref())? {
            Answer::None => told.clear_ready(),
            Answer::After(_) => break,
        }
    }
    Ok(watched.into_inner())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use nix::{
        libc::linger,
        sys::socket::{setsockopt, sockopt::Linger},
    };

    use super::*;

    #[tokio::test]
    async fn who_accepts_and_resets_has_accepted() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = TcpSocket::from_std_stream(stream);
        let (accepted, _) = listener.accept().unwrap();
        setsockopt(&accepted, Linger, &linger { l_onoff: 1, l_linger: 0 }).unwrap();
        drop(accepted);
        assert_eq!(getsockopt(&socket, TcpInfo).unwrap().tcpi_state, CLOSE);
        assert!(matches!(answer(&socket), Ok(Answer::After(Some(_)))));
    }
}
