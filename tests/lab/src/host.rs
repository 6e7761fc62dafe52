//! The hosts of a lab and their names.

use std::{fmt, str::FromStr};

use anyhow::{Error, bail};

/// A host of the lab: a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// Where requests come from; behind the router.
    Client,
    /// Joins client, front and back networks.
    Router,
    /// The caching resolver that the client asks.
    Resolver,
    /// A primary name server on which the nodes publish themselves.
    Dns,
    /// A secondary of it.
    Secondary,
    /// A host that runs usher; counted from 1.
    Node(u8),
    /// A server behind the nodes; counted from 1.
    Backend(u8),
    /// Holds the two bridges; no host that packets are for.
    Switch,
}

impl Host {
    /// The network namespace's name.
    pub fn namespace(self) -> String {
        format!("usher-{self}")
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Client => f.write_str("client"),
            Host::Router => f.write_str("router"),
            Host::Resolver => f.write_str("resolver"),
            Host::Dns => f.write_str("dns"),
            Host::Secondary => f.write_str("dns2"),
            Host::Node(number) => write!(f, "node{number}"),
            Host::Backend(number) => write!(f, "backend{number}"),
            Host::Switch => f.write_str("switch"),
        }
    }
}

impl FromStr for Host {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let numbered = |prefix: &str| name.strip_prefix(prefix).and_then(|number| number.parse().ok());
        Ok(match name {
            "client" => Host::Client,
            "router" => Host::Router,
            "resolver" => Host::Resolver,
            "dns" => Host::Dns,
            "dns2" => Host::Secondary,
            "switch" => Host::Switch,
            _ => {
                if let Some(number) = numbered("node") {
                    Host::Node(number)
                } else if let Some(number) = numbered("backend") {
                    Host::Backend(number)
                } else {
                    bail!(
                        "no host is called `{name}`: client, router, resolver, dns, dns2, node1 …, backend1 …"
                    )
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for host in [
            Host::Client,
            Host::Router,
            Host::Resolver,
            Host::Dns,
            Host::Secondary,
            Host::Switch,
            Host::Node(2),
            Host::Backend(11),
        ] {
            assert_eq!(host.to_string().parse::<Host>().expect("a host's own name"), host);
        }
        assert!("node".parse::<Host>().is_err());
        assert!("backendx".parse::<Host>().is_err());
    }
}
