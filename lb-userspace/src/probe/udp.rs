//! `udp`: a datagram is answered, as expected if that is said.

use std::{io, net::SocketAddr};

use tokio::net::UdpSocket;

use super::{Endpoints, Finding, Limit, contains, io_detail, shown, tcp};
use crate::core::check::Code;

/// The longest datagram.
const MAX_ANSWER: usize = 64 * 1024;

/// What is sent, and what should come back.
pub(super) struct Request<'a> {
    pub(super) send: &'a str,
    /// What the answer contains; any answer when absent.
    pub(super) expect: Option<&'a str>,
}

/// Sends one datagram and waits for one.
pub(super) async fn check(
    endpoints: &Endpoints<'_>,
    request: &Request<'_>,
    limit: Limit,
) -> Result<Finding, Finding> {
    let socket = open(endpoints)
        .await
        .map_err(|error| Finding::new(Code::Sockerr, format!("{} here", io_detail(&error))))?;
    let mut answer = vec![0; MAX_ANSWER];
    let exchange = async {
        socket.send(request.send.as_bytes()).await?;
        socket.recv(&mut answer).await
    };
    // A closed port is said by ICMP, and by the kernel as an error of this socket.
    let length = limit.or(Code::L7Tout, exchange).await?.map_err(|error| tcp::connect_finding(&error))?;
    judge(&answer[..length], request.expect)
}

/// A socket of this check only: a late answer to one before finds nobody.
async fn open(endpoints: &Endpoints<'_>) -> io::Result<UdpSocket> {
    let local = SocketAddr::new(endpoints.local_address(), endpoints.source_port.unwrap_or(0));
    let socket = UdpSocket::bind(local).await?;
    endpoints.open(&socket)?;
    socket.connect(endpoints.target).await?;
    Ok(socket)
}

fn judge(answer: &[u8], expect: Option<&str>) -> Result<Finding, Finding> {
    let bytes = answer.len();
    match expect {
        Some(expect) if !contains(answer, expect) => {
            let (came, wanted) = (shown(answer), shown(expect.as_bytes()));
            Err(Finding::new(Code::L7Rsp, format!("{came} ({bytes} bytes) does not contain {wanted}")))
        }
        _ => Ok(Finding::new(Code::L7Ok, format!("{bytes} bytes"))),
    }
}
