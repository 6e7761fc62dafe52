//! Sockets that `tcp` checks use again: to open and close one takes the kernel as long as to connect it.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd as _},
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::errno::Errno;
use tokio::net::{TcpSocket, TcpStream};

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
    pub(super) fn give(&self, stream: TcpStream) {
        // Whatever fails here: it is closed then, and the next check opens another.
        let Ok(stream) = stream.into_std() else { return };
        if disconnect(&stream).is_err() {
            return;
        }
        let mut sockets = self.sockets();
        if sockets.len() < KEPT {
            sockets.push(TcpSocket::from_std_stream(stream));
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
    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn a_socket_is_used_again_after_a_reset() {
        let spare = Spare(Mutex::default());
        let (one, other) = (listener("[::1]:0").await, listener("[::1]:0").await);
        let stream = TcpStream::connect(one.local_addr().unwrap()).await.unwrap();
        let number = stream.as_fd().as_raw_fd();
        let (mut accepted, first) = one.accept().await.unwrap();
        spare.give(stream);
        assert_eq!(accepted.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

        let socket = spare.take().unwrap();
        assert!(spare.take().is_none());
        assert_eq!(socket.as_fd().as_raw_fd(), number);
        let stream = socket.connect(other.local_addr().unwrap()).await.unwrap();
        let (_accepted, second) = other.accept().await.unwrap();
        assert_eq!(second, stream.local_addr().unwrap());
        assert_ne!(second.port(), first.port());
    }

    #[tokio::test]
    async fn not_all_are_kept() {
        let spare = Spare(Mutex::default());
        let listener = listener("127.0.0.1:0").await;
        for _ in 0..=KEPT {
            spare.give(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
            drop(listener.accept().await.unwrap());
        }
        assert_eq!(spare.sockets().len(), KEPT);
    }

    async fn listener(address: &str) -> TcpListener {
        TcpListener::bind(address).await.unwrap()
    }
}
