//! DNS over TCP (RFC 7766): frames of a two-octet length and a message.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Transport,
    server::{ERROR_PAUSE, Server},
};

/// Connections at once, on all addresses together; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 512;

/// A connection that has not sent a whole query (or taken an answer) for so long is closed.
const IDLE: Duration = Duration::from_secs(10);

/// The same while more than half of the connections are in use.
const IDLE_WHEN_BUSY: Duration = Duration::from_secs(2);

/// However busy, a connection makes room for another after this long.
const LIFETIME: Duration = Duration::from_secs(120);

/// What all listeners share: one permit per connection.
pub(super) fn slots() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MAX_CONNECTIONS))
}

/// Accepts connections for ever; they end with it.
pub(super) async fn serve(listener: TcpListener, server: Server, slots: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve_connection(stream, server.clone(), Arc::clone(&slots), slot));
            }
            Err(error) => {
                tracing::warn!(%error, "DNS cannot accept a connection");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection(
    mut stream: TcpStream,
    server: Server,
    slots: Arc<Semaphore>,
    _slot: OwnedSemaphorePermit,
) {
    let end = Instant::now() + LIFETIME;
    let talk = async {
        stream.set_nodelay(true)?;
        while exchange(&mut stream, &server, idle_limit(&slots)).await? {}
        io::Result::Ok(())
    };
    if let Ok(Err(error)) = timeout_at(end, talk).await {
        tracing::trace!(%error, "DNS connection ended");
    }
}

fn idle_limit(slots: &Semaphore) -> Duration {
    if slots.available_permits() < MAX_CONNECTIONS / 2 { IDLE_WHEN_BUSY } else { IDLE }
}

/// One query and its answer; `false` when the client has closed or sent what is no query.
///
/// A client may send more queries without waiting; they are answered in their order.
async fn exchange(stream: &mut TcpStream, server: &Server, idle: Duration) -> io::Result<bool> {
    let query = within(idle, read_frame(stream)).await?;
    let Some(reply) = server.reply(&query, Transport::Tcp) else { return Ok(false) };
    within(idle, stream.write_all(&frame(&reply.octets)?)).await?;
    Ok(true)
}

/// What [`frame`] made.
pub(super) async fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let len = stream.read_u16().await?;
    let mut message = vec![0; usize::from(len)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Length and message in one piece, so that they leave in one segment.
pub(super) fn frame(message: &[u8]) -> io::Result<Vec<u8>> {
    let len = u16::try_from(message.len()).map_err(io::Error::other)?;
    Ok([&len.to_be_bytes(), message].concat())
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await?
}
