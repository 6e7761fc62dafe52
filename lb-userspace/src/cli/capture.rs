//! `usher capture`: packets before and after, into a file that tcpdump and Wireshark read.

use std::{
    fs::File,
    io::{self, ErrorKind, IsTerminal, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, ensure};
use clap::Args;
use ipnet::IpNet;

use super::advise;
use crate::{
    api::{Client, Stream},
    capture::{CaptureQuery, INTERFACES, pcapng::Tally},
};

/// Capture packets before and after the data path treated them
///
/// Writes pcapng with two interfaces: `before` has each packet as it came in, `after` as it was in the end,
/// dropped and passed ones too. A comment at each packet names reason, service, backend and interfaces.
///
/// The daemon puts a capturing program in place of the running one, and the ordinary one back when the
/// capture ends, however it ends. No packet and no flow is lost by that. While it runs, every packet costs
/// more. One capture can run at a time.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  usher capture -w usher.pcapng                 until Ctrl-C
  usher capture --service web --count 100 | tcpdump -nr -
  usher capture --client 198.51.100.0/24 -w - | tshark -r - -V
  usher capture --reason nat_full --snaplen 96 -w refused.pcapng

The reasons are those under `packets` in `usher status --json`.")]
pub(super) struct CaptureCommand {
    /// Packets of this service only
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// Packets of these clients only: an address or a network, as source or as the final destination
    #[arg(long, value_name = "PREFIX", value_parser = network)]
    client: Option<IpNet>,
    /// Packets of flows to the backends of this name only
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// Packets that end with this reason only
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// End after this many packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Write this many bytes of each packet at most
    #[arg(long, value_name = "BYTES", default_value_t = MOST_BYTES, value_parser = clap::value_parser!(u32).range(14..=i64::from(MOST_BYTES)))]
    snaplen: u32,
    /// Where to write; `-` is stdout, if that is no terminal
    #[arg(short = 'w', long = "write", value_name = "FILE", default_value = "-")]
    write: PathBuf,
}

/// A whole frame at an MTU of 9,000.
const MOST_BYTES: u32 = lb_common::capture::MOST_BYTES as u32;

impl CaptureCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let mut file = open(&self.write)?;
        let query = CaptureQuery {
            service: self.service,
            backend: self.backend,
            client: self.client,
            reason: self.reason,
            count: self.count,
            snaplen: self.snaplen,
        };
        let stream = client.capture(&query).await.map_err(advise)?;
        let Tally { packets, dropped } = copy(stream, &mut file).await?;
        eprintln!("{} packets captured, {dropped} lost", packets / INTERFACES.len() as u64);
        Ok(ExitCode::SUCCESS)
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network
        .map(|network| network.trunc())
        .map_err(|_| format!("`{text}` is no network; write 198.51.100.7 or 198.51.100.0/24"))
}

fn open(path: &Path) -> anyhow::Result<Box<dyn Write>> {
    if path != Path::new("-") {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        return Ok(Box::new(file));
    }
    ensure!(
        !io::stdout().is_terminal(),
        "packets are no text for a terminal; write them to a file (-w FILE), or pipe them into `tcpdump -nr -`"
    );
    Ok(Box::new(io::stdout()))
}

/// Copies whole blocks until the stream ends, the user has enough, or the reader has.
async fn copy(mut stream: Stream, file: &mut dyn Write) -> anyhow::Result<Tally> {
    let (mut tally, mut rest) = (Tally::default(), Vec::new());
    let enough = tokio::signal::ctrl_c();
    tokio::pin!(enough);
    loop {
        let piece = tokio::select! {
            piece = stream.next() => piece?,
            _ = &mut enough => None,
        };
        let Some(piece) = piece else { return Ok(tally) };
        rest.extend_from_slice(&piece);
        let blocks = tally.take_blocks(&mut rest);
        match file.write_all(&blocks).and_then(|()| file.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(tally),
            written => written.context("cannot write the packets")?,
        }
    }
}
