//! Two netlink sockets: one for requests, one for notifications.
//!
//! They are apart because a flood of notifications overflows a socket, and an answer lost that way would
//! leave its request waiting.

use std::{io, time::Duration};

use futures_util::{
    StreamExt,
    stream::{BoxStream, Stream},
};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{
    Handle, MulticastGroup, new_connection, new_multicast_connection,
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_MULTIPART, NLM_F_REPLACE, NLM_F_REQUEST,
        NetlinkMessage, NetlinkPayload,
    },
};
use tokio::task::JoinHandle;

use super::sysctl::SysctlError;

/// Longest wait for an answer. The kernel answers in microseconds; a message that the library cannot decode
/// never arrives.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the host's network could not be read.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// No socket: a limit on open files, or a sandbox.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The kernel refused a request.
    #[error("the kernel refused to {request}")]
    Refused {
        /// What was asked: `look up the route to 192.0.2.1`.
        request: String,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// No answer within two seconds.
    #[error("no answer to the request to {request}")]
    Timeout {
        /// What was asked.
        request: String,
    },
    /// The socket was closed under the request.
    #[error("the netlink socket closed during the request to {request}")]
    Closed {
        /// What was asked.
        request: String,
    },
    /// A kernel setting could not be read.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

/// A socket for requests. Its task ends with it.
pub(super) struct Netlink {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Netlink {
    pub(super) fn open() -> Result<Self, NetError> {
        let (mut connection, handle, _) = new_connection().map_err(NetError::Open)?;
        // Without these the end of an answer and a closed socket look the same.
        connection.set_forward_done(true);
        connection.set_forward_ack(true);
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// A socket from which no answer ever comes, as when none can be decoded.
    #[cfg(test)]
    pub(super) fn mute() -> Result<Self, NetError> {
        let (connection, handle, _) = new_connection().map_err(NetError::Open)?;
        let unread = async move {
            let _open = connection;
            std::future::pending::<()>().await;
        };
        Ok(Self { handle, connection: tokio::spawn(unread) })
    }

    /// All entries of a kernel table.
    pub(super) async fn dump(
        &self,
        request: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetError> {
        self.request(request, message, NLM_F_DUMP).await
    }

    /// One entry.
    pub(super) async fn get(
        &self,
        request: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, NetError> {
        Ok(self.request(request, message, 0).await?.pop())
    }

    /// Creates an entry or touches the one that is there.
    pub(super) async fn put(&self, request: &str, message: RouteNetlinkMessage) -> Result<(), NetError> {
        self.request(request, message, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE).await?;
        Ok(())
    }

    /// Creates an entry that is not there yet.
    pub(super) async fn create(&self, request: &str, message: RouteNetlinkMessage) -> Result<(), NetError> {
        self.request(request, message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).await?;
        Ok(())
    }

    /// Removes an entry.
    pub(super) async fn delete(&self, request: &str, message: RouteNetlinkMessage) -> Result<(), NetError> {
        self.request(request, message, NLM_F_ACK).await?;
        Ok(())
    }

    async fn request(
        &self,
        request: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetError> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        let answers = self
            .handle
            .clone()
            .request(message)
            .map_err(|_closed| NetError::Closed { request: request.to_owned() })?;
        tokio::time::timeout(ANSWER_TIMEOUT, collect(request, answers))
            .await
            .map_err(|_elapsed| NetError::Timeout { request: request.to_owned() })?
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

async fn collect(
    request: &str,
    answers: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>>,
) -> Result<Vec<RouteNetlinkMessage>, NetError> {
    let mut answers = std::pin::pin!(answers);
    let mut found = Vec::new();
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => {
                found.push(message);
                if answer.header.flags & NLM_F_MULTIPART == 0 {
                    return Ok(found);
                }
            }
            NetlinkPayload::Done(_) => return Ok(found),
            NetlinkPayload::Error(error) if error.code.is_none() => return Ok(found),
            NetlinkPayload::Error(error) => {
                return Err(NetError::Refused { request: request.to_owned(), source: error.to_io() });
            }
            _ => {}
        }
    }
    Err(NetError::Closed { request: request.to_owned() })
}

/// Something changed in the kernel.
pub(super) enum Notification {
    /// An entry of one of the groups came, went or changed.
    Changed(RouteNetlinkMessage),
    /// The socket overflowed: any number of changes went unseen.
    Overflow,
}

/// A socket that hears of every change that may move a next hop.
pub(super) struct Notifications {
    messages: BoxStream<'static, Notification>,
    connection: JoinHandle<()>,
}

impl Notifications {
    pub(super) fn open() -> Result<Self, NetError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
            MulticastGroup::Nexthop,
        ];
        let (connection, _, messages) = new_multicast_connection(&groups).map_err(NetError::Open)?;
        let messages = messages.filter_map(async |(message, _)| match message.payload {
            NetlinkPayload::InnerMessage(message) => Some(Notification::Changed(message)),
            NetlinkPayload::Overrun(_) => Some(Notification::Overflow),
            _ => None,
        });
        Ok(Self { messages: messages.boxed(), connection: tokio::spawn(connection) })
    }

    /// The next change; `None` once the socket is closed. Cancelling loses nothing.
    pub(super) async fn next(&mut self) -> Option<Notification> {
        self.messages.next().await
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
