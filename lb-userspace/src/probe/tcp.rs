//! `tcp`: a connection is accepted.

use std::{io, net::SocketAddr};

use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt::IpBindAddressNoPort},
};
use tokio::net::{TcpSocket, TcpStream};

use super::{Endpoints, Finding, Limit, handshake::shake_hands, io_detail, is_local, spare::Spare};
use crate::core::check::Code;

/// Connects and hangs up.
pub(super) async fn check(endpoints: &Endpoints<'_>, limit: Limit) -> Result<Finding, Finding> {
    let spare = endpoints.is_plain().then(|| Spare::of(endpoints.target));
    let socket = spare.and_then(Spare::take).map_or_else(|| open_or_tell(endpoints), Ok)?;
    let (socket, took) = shake_hands(socket, endpoints.target, limit).await?;
    if let Some(spare) = spare {
        spare.give(socket);
    }
    Ok(Finding { took, ..Finding::new(Code::L4Ok, "") })
}

/// Connects; on failure the finding is L4CON, L4TOUT or SOCKERR.
///
/// Dropping the stream resets the connection (SO_LINGER 0). A proper close would leave TIME_WAIT on
/// this side for a minute: at 1,000 checks a second of one target the ports run out before that.
pub(super) async fn connect(endpoints: &Endpoints<'_>, limit: Limit) -> Result<TcpStream, Finding> {
    let socket = open_or_tell(endpoints)?;
    limit.or(Code::L4Tout, socket.connect(endpoints.target)).await?.map_err(|error| connect_finding(&error))
}

fn open_or_tell(endpoints: &Endpoints<'_>) -> Result<TcpSocket, Finding> {
    open(endpoints).map_err(|error| Finding::new(Code::Sockerr, format!("{} here", io_detail(&error))))
}

/// Whether there is any answer to a connection: it is accepted, or refused.
pub(super) async fn answers(endpoints: &Endpoints<'_>, limit: Limit) -> bool {
    let Ok(socket) = open(endpoints) else { return false };
    match limit.or(Code::L4Tout, socket.connect(endpoints.target)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
        Err(_) => false,
    }
}

fn open(endpoints: &Endpoints<'_>) -> io::Result<TcpSocket> {
    let socket = match endpoints.target {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_zero_linger()?;
    endpoints.open_tcp(&socket)?;
    match (endpoints.source, endpoints.source_port) {
        (None, None) => {}
        (_, Some(port)) => {
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::new(endpoints.local_address(), port))?;
        }
        (Some(source), None) => {
            // Else bind takes a port for itself, whatever the target: 28,000 checks at once in all.
            setsockopt(&socket, IpBindAddressNoPort, &true)?;
            socket.bind(SocketAddr::new(source, 0))?;
        }
    }
    Ok(socket)
}

/// What the error of a connected socket tells.
pub(super) fn connect_finding(error: &io::Error) -> Finding {
    let code = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ETIMEDOUT) => Code::L4Tout,
        _ if is_local(error) => Code::Sockerr,
        _ => Code::L4Con,
    };
    Finding::new(code, io_detail(error))
}
