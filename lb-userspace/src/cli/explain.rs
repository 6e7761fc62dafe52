//! `usher explain`: what the program in the kernel would do with a flow.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    str::FromStr,
};

use clap::{Args, CommandFactory, error::ErrorKind};
use thiserror::Error;

use super::{
    Cli, advise, print,
    text::{Cell, table},
};
use crate::{
    api::Client,
    config::Protocol,
    explain::{ExplainQuery, Explanation, FlowState},
};

/// Ask the data path what it would do with a flow
///
/// Runs the loaded XDP program in the kernel on a packet of that flow, in a mode that changes nothing,
/// and shows the service, the slot of its table, the backend, whether the flow is known or new, the next
/// hop and what would become of the packet.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  usher explain --from 198.51.100.7:40001 --to 192.0.2.11:80
  usher explain --from 198.51.100.7:40001 --to 192.0.2.11:53/udp
  usher explain --from '[2001:db8::7]:40001' --to '[2001:db8:1::11]:80/tcp'

A flow may be forwarded, passed (left to the node's own network stack) or dropped; each is an \
answer, so the exit code is 0.")]
pub(super) struct ExplainCommand {
    /// The client's address and port
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = endpoint)]
    from: SocketAddr,
    /// The address and port the client connects to; the protocol is tcp (the default) or udp
    #[arg(long, value_name = "ADDRESS:PORT[/PROTOCOL]")]
    to: Destination,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ExplainCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let query = ExplainQuery { from: self.from, to: self.to.address, protocol: self.to.protocol };
        if let Err(mistake) = query.check() {
            // A mistake of the command line like any other: usage and exit code 2.
            Cli::command().error(ErrorKind::ValueValidation, mistake).exit();
        }
        let explanation = client.explain(&query).await.map_err(advise)?;
        if self.json {
            return print(&format!("{}\n", serde_json::to_string_pretty(&explanation)?));
        }
        print(&render(&query, &explanation))
    }
}

/// The answer as a short page.
fn render(query: &ExplainQuery, explanation: &Explanation) -> String {
    let mut rows = Vec::new();
    let mut line = |name: &str, value: String| rows.push(vec![Cell::text(name), Cell::text(value)]);
    line("verdict", format!("{} ({})", explanation.verdict, explanation.reason));
    line("service", explanation.service.clone().unwrap_or_else(|| "none".to_owned()));
    if let Some(flow) = flow(explanation.flow) {
        line("flow", flow.to_owned());
    }
    if let Some(slot) = explanation.slot {
        line("slot", slot.to_string());
    }
    if let Some(backend) = &explanation.backend {
        line("backend", format!("{} at {}", backend.name, SocketAddr::new(backend.address, backend.port)));
    }
    if let Some(hop) = &explanation.next_hop {
        let gateway = hop.gateway.map(|gateway| format!(", router {gateway}")).unwrap_or_default();
        line("next hop", format!("{} on {}{gateway}", hop.mac, hop.interface));
    }
    format!("{} -> {}/{}\n{}", query.from, query.to, query.protocol, table(&rows, false))
}

fn flow(state: FlowState) -> Option<&'static str> {
    match state {
        FlowState::Known => Some("known: it stays with the backend it has"),
        FlowState::New => Some("new: the table's slot decides"),
        FlowState::None => None,
    }
}

/// Where a flow goes: `192.0.2.11:80/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Destination {
    address: SocketAddr,
    protocol: Protocol,
}

impl FromStr for Destination {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let (address, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((address, "tcp")) => (address, Protocol::Tcp),
            Some((address, "udp")) => (address, Protocol::Udp),
            Some((_, other)) => return Err(EndpointError::Protocol(other.to_owned())),
        };
        Ok(Destination { address: endpoint(address)?, protocol })
    }
}

/// Reads `192.0.2.11:80` or `[2001:db8::1]:80`.
fn endpoint(text: &str) -> Result<SocketAddr, EndpointError> {
    if text.parse::<IpAddr>().is_ok() {
        let bracketed = if text.contains(':') { format!("[{text}]") } else { text.to_owned() };
        return Err(EndpointError::NoPort(bracketed));
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| EndpointError::NotAnAddress(text.to_owned()))?;
    if let Ok(address) = host.parse::<Ipv6Addr>() {
        return Err(EndpointError::NoBrackets(address, port.to_owned()));
    }
    let address = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse::<IpAddr>().ok(),
    };
    let address = address.ok_or_else(|| EndpointError::NotAnAddress(host.to_owned()))?;
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(SocketAddr::new(address, port)),
        _ => Err(EndpointError::Port(port.to_owned())),
    }
}

/// Why a text names no end of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
enum EndpointError {
    #[error("a port is missing; write {0}:80")]
    NoPort(String),
    #[error("an IPv6 address before a port stands in brackets; write [{0}]:{1}")]
    NoBrackets(Ipv6Addr, String),
    #[error("`{0}` is not an IP address; names are not looked up")]
    NotAnAddress(String),
    #[error("`{0}` is not a port; ports are 1 to 65535")]
    Port(String),
    #[error("`{0}` is not a protocol; write /tcp or /udp")]
    Protocol(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        explain::{ChosenBackend, Verdict},
        status::NextHop,
    };

    #[test]
    fn destinations() {
        let cases = [
            ("192.0.2.11:80", Ok(("192.0.2.11:80", Protocol::Tcp))),
            ("192.0.2.11:80/tcp", Ok(("192.0.2.11:80", Protocol::Tcp))),
            ("192.0.2.11:53/udp", Ok(("192.0.2.11:53", Protocol::Udp))),
            ("[2001:db8::1]:80", Ok(("[2001:db8::1]:80", Protocol::Tcp))),
            ("[2001:db8::1]:80/udp", Ok(("[2001:db8::1]:80", Protocol::Udp))),
            ("192.0.2.11:80/sctp", Err("`sctp` is not a protocol; write /tcp or /udp")),
            ("192.0.2.11:80/", Err("`` is not a protocol; write /tcp or /udp")),
            ("192.0.2.11", Err("a port is missing; write 192.0.2.11:80")),
            ("192.0.2.11/udp", Err("a port is missing; write 192.0.2.11:80")),
            ("2001:db8::1", Err("a port is missing; write [2001:db8::1]:80")),
            (
                "2001:db8:0:0:0:0:0:1:80",
                Err("an IPv6 address before a port stands in brackets; write [2001:db8::1]:80"),
            ),
            ("192.0.2.11:0", Err("`0` is not a port; ports are 1 to 65535")),
            ("192.0.2.11:65536", Err("`65536` is not a port; ports are 1 to 65535")),
            ("192.0.2.11:", Err("`` is not a port; ports are 1 to 65535")),
            ("www.example.test:80", Err("`www.example.test` is not an IP address; names are not looked up")),
            ("[192.0.2.11]:80", Err("`[192.0.2.11]` is not an IP address; names are not looked up")),
            ("192.0.2.256:80", Err("`192.0.2.256` is not an IP address; names are not looked up")),
            ("", Err("`` is not an IP address; names are not looked up")),
        ];
        for (text, expected) in cases {
            let expected = expected
                .map(|(address, protocol)| Destination {
                    address: address.parse().expect("socket address"),
                    protocol,
                })
                .map_err(str::to_owned);
            assert_eq!(text.parse::<Destination>().map_err(|error| error.to_string()), expected, "{text}");
        }
    }

    #[test]
    fn clients_have_no_protocol() {
        assert_eq!(endpoint("198.51.100.7:40001"), Ok("198.51.100.7:40001".parse().expect("socket address")));
        assert_eq!(endpoint("198.51.100.7:40001/tcp"), Err(EndpointError::Port("40001/tcp".to_owned())));
    }

    #[test]
    fn forwarded_flow_is_shown_whole() {
        let query = ExplainQuery {
            from: "198.51.100.7:40001".parse().expect("socket address"),
            to: "192.0.2.11:80".parse().expect("socket address"),
            protocol: Protocol::Tcp,
        };
        let explanation = Explanation {
            service: Some("web".to_owned()),
            slot: Some(4711),
            backend: Some(ChosenBackend {
                name: "backend1".to_owned(),
                address: "203.0.113.21".parse().expect("address"),
                port: 8080,
            }),
            flow: FlowState::New,
            next_hop: Some(NextHop {
                interface: "back".to_owned(),
                mac: "02:00:5e:10:00:01".to_owned(),
                gateway: Some("203.0.113.1".parse().expect("address")),
            }),
            verdict: Verdict::Forward,
            reason: "forwarded".to_owned(),
        };
        let page = "\
198.51.100.7:40001 -> 192.0.2.11:80/tcp
  verdict   forward (forwarded)
  service   web
  flow      new: the table's slot decides
  slot      4711
  backend   backend1 at 203.0.113.21:8080
  next hop  02:00:5e:10:00:01 on back, router 203.0.113.1
";
        assert_eq!(render(&query, &explanation), page);
    }

    #[test]
    fn foreign_flow_names_no_backend() {
        let query = ExplainQuery {
            from: "[2001:db8::7]:40001".parse().expect("socket address"),
            to: "[2001:db8:1::11]:22".parse().expect("socket address"),
            protocol: Protocol::Tcp,
        };
        let explanation = Explanation {
            service: None,
            slot: None,
            backend: None,
            flow: FlowState::None,
            next_hop: None,
            verdict: Verdict::Pass,
            reason: "not-ours".to_owned(),
        };
        let page = "\
[2001:db8::7]:40001 -> [2001:db8:1::11]:22/tcp
  verdict  pass (not-ours)
  service  none
";
        assert_eq!(render(&query, &explanation), page);
    }
}
