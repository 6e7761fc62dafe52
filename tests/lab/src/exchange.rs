//! One connection of the client to the web service, and what it asks there.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{
    host::Host,
    lab::Lab,
    namespace::connect_from,
    topology::{Family, client_addresses},
};

/// How long an answer may take. TCP doubles its pause with each loss in a row: what a flood of 20 s swallowed from its
/// beginning on (0.2, 0.6, 1.4, 3, 6.2 and 12.6 s) is sent again after 25 s, and after 51 s if that is lost, too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The web service's port.
const WEB: u16 = 80;

/// A connection, as client and nodes see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The client's address and port.
    pub from: SocketAddr,
    /// The VIP and the service's port.
    pub to: SocketAddr,
    /// The node that has this VIP.
    pub node: u8,
    /// The backend that gave the first answer.
    pub backend: String,
}

/// From where a connection goes (port 0: any) to where, and to which node that is.
pub(crate) type Way = (SocketAddr, SocketAddr, u8);

/// The way of connection `number`.
pub(crate) fn plan(lab: &Lab, number: usize) -> Result<Way> {
    let family = Family::ALL[number % 2];
    let nodes = usize::from(lab.options().nodes);
    let node = 1 + u8::try_from(number / 2 % nodes).context("node")?;
    let sources = client_addresses();
    let from = sources[number / 2 / nodes % sources.len()].of(family);
    let to = lab.address(Host::Node(node))?.of(family);
    Ok((SocketAddr::new(from, 0), SocketAddr::new(to, WEB), node))
}

/// A connection and how far it got.
pub(crate) struct Exchange {
    pub(crate) connection: Connection,
    number: usize,
    requests: u64,
    reader: BufReader<TcpStream>,
}

impl Exchange {
    pub(crate) fn open(number: usize, &(from, to, node): &Way) -> Result<Exchange> {
        let stream = connect_from(from, to, PATIENCE)?;
        let from = stream.local_addr().context("own address")?;
        let connection = Connection { from, to, node, backend: String::new() };
        let mut stream = Exchange { connection, number, requests: 0, reader: BufReader::new(stream) };
        let first = stream.ask().and_then(|()| stream.answer());
        let (backend, _) = first.map_err(|error| anyhow!("{}", stream.tell(&error)))?;
        stream.connection.backend = backend;
        Ok(stream)
    }

    fn path(&self) -> String {
        format!("/numbered/{}/{}", self.number, self.requests)
    }

    pub(crate) fn ask(&mut self) -> Result<()> {
        self.requests += 1;
        let request = format!("GET {} HTTP/1.1\r\nHost: lab\r\n\r\n", self.path());
        self.reader.get_mut().write_all(request.as_bytes()).context("request")
    }

    pub(crate) fn expect_answer(&mut self) -> Result<()> {
        let (backend, path) = self.answer()?;
        let first = &self.connection.backend;
        ensure!(backend == *first, "{backend} answered, and {first} before");
        ensure!(path == self.path(), "asked for {}, got {path}", self.path());
        Ok(())
    }

    /// The backend that answered, and what it was asked for.
    fn answer(&mut self) -> Result<(String, String)> {
        let status = self.line()?;
        ensure!(status.starts_with("HTTP/1.1 200"), "answer {status:?}");
        let mut length = None;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse::<usize>().ok();
            }
        }
        let mut body = vec![0; length.context("no content-length")?];
        self.reader.read_exact(&mut body).context("body")?;
        let body = String::from_utf8_lossy(&body);
        let (backend, path) = body.trim_end().split_once(' ').with_context(|| format!("body {body:?}"))?;
        Ok((backend.to_owned(), path.to_owned()))
    }

    /// The next line of the head.
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let length = self.reader.read_line(&mut line).context("no answer")?;
        ensure!(length > 0, "the connection was closed");
        Ok(line.trim_end().to_owned())
    }

    pub(crate) fn tell(&self, error: &anyhow::Error) -> String {
        let Connection { from, to, backend, .. } = &self.connection;
        format!("{from} -> {to} ({backend}), request {}: {error:#}", self.requests)
    }
}
