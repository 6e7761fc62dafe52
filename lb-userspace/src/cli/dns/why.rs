//! `usher dns why`: who publishes each address of a name, who sees it, and what the servers answer now.

use std::{fmt::Write as _, net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::{Context as _, anyhow};
use clap::Args;
use futures_util::future::join_all;
use serde::Serialize;

use super::servers::Server;
use crate::{
    api::Client,
    cli::{
        advise, print,
        status_page::short_ttl,
        text::{age, printable},
    },
    config::Require,
    dns::{AskError, Found, Way, look_up, look_up_over_tcp},
    status::{Dns, DnsAddress, DnsName, Publisher, Sighting},
};

/// How long each server may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Show why a name has the addresses that it has
///
/// For each address: whether this node's answers name it, since when and why; for how long caches may still hold it; which
/// node sees its node; how it stands in zones on other servers. Then what every authoritative server answers now: the nodes,
/// and of zones on other servers the primary and all that their NS records name, with the zone's serial there.
#[derive(Debug, Args)]
pub(super) struct Why {
    /// The name: `www.example.test`
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// All that is known about a name.
#[derive(Debug, Serialize)]
struct Known {
    name: DnsName,
    ttl_s: u64,
    sights: Vec<Sighting>,
    publishers: Vec<Publisher>,
    answers: Vec<Answer>,
}

/// What one server answers now.
#[derive(Debug, Serialize)]
struct Answer {
    /// A node, the primary of a zone, or another server of it.
    server: String,
    address: SocketAddr,
    /// Of the zone that nodes publish in, as the server has it: a secondary that lags has another one than the primary.
    serial: Option<u32>,
    /// Addresses, or what went wrong.
    answer: Result<Vec<String>, String>,
    /// It gives answers over TCP, and none over UDP, by which resolvers ask.
    tcp_only: bool,
}

impl Why {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let status = client.status().await.map_err(advise)?;
        let dns = status.dns.context("this node has no [dns] section")?;
        let wanted = self.name.strip_suffix('.').unwrap_or(&self.name).to_ascii_lowercase();
        let known = Known::gather(dns, &wanted).await?;
        match self.json {
            true => print(&(serde_json::to_string_pretty(&known)? + "\n")),
            false => print(&known.text()),
        }
    }
}

impl Known {
    async fn gather(dns: Dns, wanted: &str) -> anyhow::Result<Known> {
        let names: Vec<_> = dns.names.iter().map(|name| name.name.clone()).collect();
        let found = dns.names.into_iter().find(|name| name.name == wanted);
        let name = found.ok_or_else(|| {
            anyhow!("no service is published as `{wanted}`; there is: {}", names.join(", "))
        })?;
        let mut publishers = dns.publishers;
        for publisher in &mut publishers {
            publisher.addresses.retain(|address| address.name == wanted);
        }
        publishers.retain(|publisher| !publisher.addresses.is_empty());
        let servers = Server::all(&dns.servers, &publishers, PATIENCE).await;
        // At the same time: each that is dead takes three seconds.
        let answers = join_all(servers.into_iter().map(|server| Answer::of(server, wanted))).await;
        Ok(Known { name, ttl_s: dns.ttl_s, sights: dns.sights, publishers, answers })
    }

    fn text(&self) -> String {
        let enough = match self.name.require {
            Require::All => "",
            Require::Any => ": any of its services is enough",
        };
        let mut out = format!("{}{enough}\n", printable(&self.name.name));
        // Writing to a String cannot fail.
        if let Some(why) = short_ttl(&self.name) {
            let _ = writeln!(out, "  {why}");
        }
        for address in &self.name.addresses {
            self.address(address, &mut out);
        }
        for publisher in &self.publishers {
            let zone = format!("zone {} at {}", printable(&publisher.zone), publisher.primary);
            if let Some(failing) = &publisher.failing {
                let _ = writeln!(
                    out,
                    "{zone}: FAILING for {}: {}",
                    age(failing.since_ms),
                    printable(&failing.why)
                );
            }
            for trouble in &publisher.troubles {
                let _ = writeln!(out, "{zone}: {}", printable(trouble));
            }
            if let Some(change) = &publisher.last_change {
                let made = change
                    .not_made
                    .as_ref()
                    .map_or_else(|| "made".to_owned(), |why| format!("not made: {}", printable(why)));
                let _ = writeln!(
                    out,
                    "{zone}: last change, {} ago: {}; {made}",
                    age(change.ago_ms),
                    printable(&change.what)
                );
            }
        }
        out += "answers now\n";
        for Answer { server, address, serial, answer, tcp_only } in &self.answers {
            let answer = match answer {
                Ok(addresses) if addresses.is_empty() => "no address".to_owned(),
                Ok(addresses) => addresses.join(" "),
                Err(why) => printable(why).to_string(),
            };
            let over = if *tcp_only { " (over TCP only; resolvers ask over UDP first)" } else { "" };
            let serial = serial.map_or_else(String::new, |serial| format!(", serial {serial}"));
            let _ = writeln!(out, "  {} {address}{serial}: {answer}{over}", printable(server));
        }
        out
    }

    fn address(&self, address: &DnsAddress, out: &mut String) {
        let shown = if address.published { "named by this node" } else { "not named by this node" };
        let since = age(address.since_ms);
        let _ = writeln!(
            out,
            "  {} of {}: {shown} for {since} ({})",
            address.address,
            printable(&address.node),
            printable(&address.why)
        );
        let left = (self.ttl_s * 1_000).saturating_sub(address.since_ms);
        if !address.published && left > 0 {
            let _ = writeln!(out, "    caches may hold it for {} more", age(left));
        }
        for sighting in self.sights.iter().filter(|one| one.address == address.address) {
            let _ = writeln!(out, "    {}: {}", printable(&sighting.by), sighting.sight);
        }
        for publisher in &self.publishers {
            for one in publisher.addresses.iter().filter(|one| one.address == address.address) {
                let lease = one.lease_age_ms.map_or_else(
                    || "no lease".to_owned(),
                    |ago| format!("its record changed {} ago", age(ago + publisher.read_ago_ms.unwrap_or(0))),
                );
                let _ = writeln!(
                    out,
                    "    zone {}: {}; {lease}",
                    printable(&publisher.zone),
                    printable(&one.state)
                );
            }
        }
    }
}

impl Answer {
    /// The addresses of both families, as the server has them.
    async fn of(server: Server, name: &str) -> Answer {
        let serial = server.serial(PATIENCE).await;
        let Server { label, address, .. } = server;
        let mut this = Answer { server: label, address, serial, answer: Ok(Vec::new()), tcp_only: false };
        let mut addresses = Vec::new();
        for record in ["A", "AAAA"] {
            match this.ask(name, record).await {
                Ok(found) if found.is_noerror => addresses.extend(found.records),
                Ok(found) => return Answer { answer: Err(found.rcode), ..this },
                Err(error) => {
                    return Answer { answer: Err(format!("{:#}", anyhow::Error::new(error))), ..this };
                }
            }
        }
        addresses.sort();
        Answer { answer: Ok(addresses), ..this }
    }

    async fn ask(&mut self, name: &str, record: &str) -> Result<Found, AskError> {
        let mut over_udp = look_up(self.address, Way::ANY, name, record, PATIENCE).await;
        if over_udp.is_err() {
            // One datagram may be lost anywhere.
            over_udp = look_up(self.address, Way::ANY, name, record, PATIENCE).await;
        }
        let Err(error) = over_udp else { return over_udp };
        // What went wrong over UDP says more about a server that does not answer at all.
        let found = look_up_over_tcp(self.address, name, record, PATIENCE).await.map_err(|_| error)?;
        self.tcp_only = true;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Status;

    #[test]
    fn all_that_is_known_is_said_of_each_address() {
        let status: Status = serde_json::from_str(include_str!("../../../tests/api/status.json")).unwrap();
        let dns = status.dns.unwrap();
        let known = Known {
            name: dns.names[0].clone(),
            ttl_s: dns.ttl_s,
            sights: dns.sights,
            publishers: dns.publishers,
            answers: vec![
                Answer {
                    server: "node1".to_owned(),
                    address: "192.0.2.11:53".parse().unwrap(),
                    serial: None,
                    answer: Ok(vec!["192.0.2.11".to_owned()]),
                    tcp_only: false,
                },
                Answer {
                    server: "node2".to_owned(),
                    address: "192.0.2.12:53".parse().unwrap(),
                    serial: None,
                    answer: Err("no answer from 192.0.2.12:53 within 1s".to_owned()),
                    tcp_only: false,
                },
                Answer {
                    server: "primary of example.test".to_owned(),
                    address: "192.0.2.53:53".parse().unwrap(),
                    serial: Some(12),
                    answer: Ok(vec!["192.0.2.11".to_owned()]),
                    tcp_only: true,
                },
            ],
        };
        let expected = "\
www.example.test
  TTL 5 s, since 192.0.2.12 of node2 seems to serve soon
  192.0.2.11 of node1: named by this node for 6 min (can serve)
    zone example.test: published; its record changed 8.2 s ago
  192.0.2.12 of node2: not named by this node for 12 s (web/v4 down: L4TOUT)
    caches may hold it for 18 s more
    node1: silent
    zone example.test: removed-by node1; its record changed 1 min 2 s ago
  2001:db8:1::11 of node1: named by this node for 5.0 s (no node can serve)
zone example.test at 192.0.2.53:53: FAILING for 12 s: no answer from 192.0.2.53:53 within 2 s
zone example.test at 192.0.2.53:53: www.example.test has addresses of others: 203.0.113.9; remove them, or set share_rrset = true if they are wanted
zone example.test at 192.0.2.53:53: last change, 7.0 s ago: wrote this node's records at www.example.test; made
answers now
  node1 192.0.2.11:53: 192.0.2.11
  node2 192.0.2.12:53: no answer from 192.0.2.12:53 within 1s
  primary of example.test 192.0.2.53:53, serial 12: 192.0.2.11 (over TCP only; resolvers ask over UDP first)
";
        assert_eq!(known.text(), expected);
    }
}
