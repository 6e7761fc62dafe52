//! What a node says of itself: the part of `usher status --json` that labs look at.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// A node's status; the fields are those of the document.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "the document itself is described where usher defines it")]
pub struct Status {
    pub node: String,
    pub interfaces: Vec<Interface>,
    pub services: Vec<Service>,
    pub dns: Option<Dns>,
}

/// An interface and how the program is attached to it.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "as above")]
pub struct Interface {
    pub name: String,
    pub xdp_mode: String,
}

/// A service and its backends.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "as above")]
pub struct Service {
    pub name: String,
    pub backends: Vec<Backend>,
}

/// A backend in one family.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "as above")]
pub struct Backend {
    pub name: String,
    pub address: IpAddr,
    pub health: String,
    pub flows: u64,
    pub packets: u64,
    pub last_check: Option<LastCheck>,
}

/// The newest finished check of a backend.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "as above")]
pub struct LastCheck {
    pub code: String,
    pub detail: String,
}

/// What the node's DNS server answers.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "as above")]
pub struct Dns {
    pub names: Vec<DnsName>,
}

/// A name and the addresses that could be under it.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "as above")]
pub struct DnsName {
    pub name: String,
    pub addresses: Vec<DnsAddress>,
}

/// One node's address under a name.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "as above")]
pub struct DnsAddress {
    pub node: String,
    pub address: IpAddr,
    pub published: bool,
    pub why: String,
}

impl Status {
    /// Reads the document.
    pub(crate) fn parse(json: &str) -> Result<Status> {
        serde_json::from_str(json).context("`usher status --json` is not what the lab expects")
    }

    /// A service by name.
    ///
    /// # Errors
    /// When the node has none of that name.
    pub fn service(&self, name: &str) -> Result<&Service> {
        let found = self.services.iter().find(|service| service.name == name);
        found.with_context(|| format!("{} has no service `{name}`", self.node))
    }

    /// The addresses that the node publishes under a name.
    pub fn published(&self, name: &str) -> BTreeSet<IpAddr> {
        let names = self.dns.iter().flat_map(|dns| &dns.names).filter(|entry| entry.name == name);
        let addresses = names.flat_map(|entry| &entry.addresses).filter(|address| address.published);
        addresses.map(|address| address.address).collect()
    }

    /// Whether a backend has that health in both families, for every service that it is in.
    ///
    /// # Errors
    /// Names the first service and family in which it is otherwise.
    pub fn expect_health(&self, backend: &str, health: &str) -> Result<()> {
        for service in &self.services {
            for entry in service.backends.iter().filter(|entry| entry.name == backend) {
                ensure!(
                    entry.health == health,
                    "{} sees {backend} ({}, {}) {}",
                    self.node,
                    service.name,
                    entry.address,
                    entry.health
                );
            }
        }
        Ok(())
    }

    /// Whether every backend is up and every address of every name published.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn expect_all_well(&self) -> Result<()> {
        let backends = self.services.iter().flat_map(|service| &service.backends);
        for name in backends.map(|backend| backend.name.as_str()).collect::<BTreeSet<_>>() {
            self.expect_health(name, "up")?;
        }
        for name in self.dns.iter().flat_map(|dns| &dns.names) {
            for address in &name.addresses {
                ensure!(
                    address.published,
                    "{} does not publish {} under {}: {}",
                    self.node,
                    address.address,
                    name.name,
                    address.why
                );
            }
        }
        Ok(())
    }
}
