//! Sockets that `tcp` checks use again: to open and close one takes the kernel as long as to connect it.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd as _},
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::errno::Errno;
use tokio::net::TcpSocket;

/// Sockets of one family that are connected to nothing.
pub(super) struct Spare(Mutex<Vec<TcpSocket>>);

/// So many of each family are kept. A check holds one for as long as its target takes to answer, so ten thousand a second with
/// answers after 5 ms use 50.
const KEPT: usize = 64;

static V4: Spare = Spare(Mutex::new(Vec::new()));
static V6: Spare = Spare(Mutex::new(Vec::new()));

impl Spare {
    /// Those that reach this target.
    pub(super) fn of(target: SocketAddr) -> &'static Spare {
        match target {
            SocketAddr::V4(_) => &V4,
            SocketAddr::V6(_) => &V6,
        }
    }

    /// One of them. It has the options that it was given away with, and is bound to nothing.
    pub(super) fn take(&self) -> Option<TcpSocket> {
        self.sockets().pop()
    }

    /// Resets a connection, as closing it would have done, and keeps its socket, if there is need of it. It must not have been
    /// bound.
    pub(super) fn give(&self, socket: TcpSocket) {
        if disconnect(&socket).is_err() {
            // It is closed then, and the next check opens another.
            return;
        }
        let mut sockets = self.sockets();
        if sockets.len() < KEPT {
            sockets.push(socket);
        }
    }

    fn sockets(&self) -> MutexGuard<'_, Vec<TcpSocket>> {
        // Nothing can panic half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a socket what it was before it was connected; the other end gets a reset (connect(2), `AF_UNSPEC`).
fn disconnect(socket: &impl AsFd) -> io::Result<()> {
    let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let length = size_of_val(&nowhere) as libc::socklen_t;
    // SAFETY: the address has that length and outlives the call.
    let result = unsafe { libc::connect(socket.as_fd().as_raw_fd(), &nowhere, length) };
    Ok(Errno::result(result).map(drop)?)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn a_socket_is_used_again_after_a_reset() {
        let spare = Spare(Mutex::default());
        let (one, other) = (listener("[::1]:0").await, listener("[::1]:0").await);
        let socket = connected(&one);
        let number = socket.as_raw_fd();
        let (mut accepted, _) = one.accept().await.unwrap();
        spare.give(socket);
        assert_eq!(accepted.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

        let socket = spare.take().unwrap();
        assert!(spare.take().is_none());
        assert_eq!(socket.as_raw_fd(), number);
        let stream = socket.connect(other.local_addr().unwrap()).await.unwrap();
        let (_accepted, from) = other.accept().await.unwrap();
        assert_eq!(from, stream.local_addr().unwrap());
    }

    #[tokio::test]
    async fn not_all_are_kept() {
        let spare = Spare(Mutex::default());
        let listener = listener("127.0.0.1:0").await;
        for _ in 0..=KEPT {
            spare.give(connected(&listener));
            drop(listener.accept().await.unwrap());
        }
        assert_eq!(spare.sockets().len(), KEPT);
    }

    async fn listener(address: &str) -> TcpListener {
        TcpListener::bind(address).await.unwrap()
    }

    fn connected(listener: &TcpListener) -> TcpSocket {
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        TcpSocket::from_std_stream(stream)
    }
}
