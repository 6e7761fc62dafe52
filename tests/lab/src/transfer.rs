//! Downloads and uploads of which every byte is compared, and in the middle of which something happens.

use std::{
    fs::File,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::{
    command::ip_batch,
    configs::{BIG, uploads},
    host::Host,
    lab::Lab,
    namespace::{connect_from, inside},
};

/// A transfer that moves no byte for so long has stalled.
pub const STALL: Duration = Duration::from_secs(5);

/// Bytes at a time.
const CHUNK: usize = 1 << 16;

impl Lab {
    /// Downloads a [`big file`](Lab::big_file) from a VIP, compares it, and runs `midway` when half of it
    /// is there.
    ///
    /// # Errors
    /// When a byte differs, when none comes for [`STALL`], and those of `midway`.
    pub fn download(
        &self,
        vip: SocketAddr,
        name: &str,
        midway: impl FnOnce() -> Result<()> + Send,
    ) -> Result<()> {
        let path = Path::new(BIG).join(name);
        inside(Host::Client, || {
            let mut reader = request(vip, "GET", &format!("/big/{name}"), 0)?;
            let expected = File::open(&path).with_context(|| format!("{}", path.display()))?;
            let size = expected.metadata().context("size")?.len();
            expect_status(&mut reader, "200", 0)?;
            compare(reader, expected, size, midway)
        })
    }

    /// Uploads a file to a VIP as `name`, compares what the backend has then, and runs `midway` when half
    /// of it is sent.
    ///
    /// # Errors
    /// When what arrived differs, when no byte moves for [`STALL`], and those of `midway`.
    pub fn upload(
        &self,
        vip: SocketAddr,
        file: &Path,
        name: &str,
        midway: impl FnOnce() -> Result<()> + Send,
    ) -> Result<()> {
        inside(Host::Client, || {
            let source = File::open(file).with_context(|| format!("{}", file.display()))?;
            let size = source.metadata().context("size")?.len();
            let mut reader = request(vip, "PUT", &format!("/upload/{name}"), size)?;
            give(reader.get_mut(), source, size, midway)?;
            expect_status(&mut reader, "201", size)
        })?;
        let arrived = self.uploaded(name)?;
        let (arrived, sent) = (File::open(arrived).context("upload")?, File::open(file).context("upload")?);
        let size = sent.metadata().context("size")?.len();
        ensure!(arrived.metadata().context("size")?.len() == size, "what arrived has another length");
        compare(BufReader::new(arrived), sent, size, || Ok(()))
    }

    /// Where the backend that took the upload `name` keeps it.
    ///
    /// # Errors
    /// When none has it.
    pub fn uploaded(&self, name: &str) -> Result<PathBuf> {
        let mut places = self.options().backend_hosts().map(|host| uploads(host).join("upload").join(name));
        places.find(|place| place.exists()).with_context(|| format!("no backend has {name}"))
    }

    /// Changes how long packets on a host's interface may be, as its administrator would.
    ///
    /// # Errors
    /// When there is no such host or interface.
    pub fn set_mtu(&self, host: Host, interface: &str, mtu: u16) -> Result<()> {
        ip_batch(Some(host), &[format!("link set {interface} mtu {mtu}")])
    }

    /// Lets a host forget how long packets to others may be.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn forget_path_mtu(&self, host: Host) -> Result<()> {
        for family in ["-4", "-6"] {
            self.run(host, &["ip", family, "route", "flush", "cache"])?;
        }
        Ok(())
    }
}

/// Sends a request's head from the client; the body and the answer are to follow.
fn request(vip: SocketAddr, method: &str, path: &str, length: u64) -> Result<BufReader<TcpStream>> {
    let any: SocketAddr = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().context("address")?;
    let mut stream = connect_from(any, vip, STALL)?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: lab\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).context("request")?;
    Ok(BufReader::with_capacity(CHUNK, stream))
}

/// Reads an answer's head.
fn expect_status(reader: &mut impl BufRead, status: &str, sent: u64) -> Result<()> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let length = reader.read_line(&mut head).map_err(|error| stalled(error, sent))?;
        ensure!(length > 0, "the connection was closed after {sent} bytes and {head:?}");
    }
    ensure!(head.starts_with(&format!("HTTP/1.1 {status} ")), "answer {head:?}");
    Ok(())
}

/// Reads `size` bytes and compares each with what it should be.
fn compare(
    mut reader: impl BufRead,
    mut expected: impl Read,
    size: u64,
    midway: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let mut midway = Some(midway);
    let mut wanted = vec![0; CHUNK];
    let mut done = 0;
    while done < size {
        let got = reader.fill_buf().map_err(|error| stalled(error, done))?;
        ensure!(!got.is_empty(), "ended after {done} of {size} bytes");
        let count = got.len().min(CHUNK);
        let wanted = &mut wanted[..count];
        expected.read_exact(wanted).with_context(|| format!("more than {size} bytes"))?;
        ensure!(got[..count] == *wanted, "a byte between {done} and {} differs", done + count as u64);
        reader.consume(count);
        done += count as u64;
        if done >= size / 2
            && let Some(midway) = midway.take()
        {
            midway()?;
        }
    }
    Ok(())
}

/// Sends `size` bytes.
fn give(
    stream: &mut TcpStream,
    mut source: impl Read,
    size: u64,
    midway: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let mut midway = Some(midway);
    let mut chunk = vec![0; CHUNK];
    let mut done = 0;
    while done < size {
        let count = source.read(&mut chunk).context("file")?;
        if count == 0 {
            bail!("the file has only {done} bytes");
        }
        stream.write_all(&chunk[..count]).map_err(|error| stalled(error, done))?;
        done += count as u64;
        if done >= size / 2
            && let Some(midway) = midway.take()
        {
            midway()?;
        }
    }
    Ok(())
}

fn stalled(error: std::io::Error, done: u64) -> anyhow::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            anyhow!("stalled: no byte moved for {STALL:?} after {done} bytes")
        }
        _ => anyhow!(error).context(format!("after {done} bytes")),
    }
}
