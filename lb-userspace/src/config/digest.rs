//! What all nodes of a cluster must have in common, as one number.

use sha2::{Digest as _, Sha256};

use super::{Config, Service};

impl Config {
    /// Differs, but for chance, between configurations that may lead one flow to different backends.
    pub fn digest(&self) -> u32 {
        let mut services: Vec<&Service> = self.services.iter().collect();
        services.sort_by_key(|service| &service.name);
        let mut hasher = Sha256::new();
        for service in services {
            let Service { name, protocol, port, forward, backends, .. } = service;
            hasher.update(format!("{name} {protocol:?} {port} {forward:?} {:?}\n", service.flows.hash));
            let mut backends: Vec<_> = backends.iter().collect();
            backends.sort_by_key(|backend| &backend.name);
            for backend in backends {
                hasher.update(format!("{backend:?}\n"));
            }
        }
        let [a, b, c, d, ..] = <[u8; 32]>::from(hasher.finalize());
        u32::from_be_bytes([a, b, c, d])
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        config::AllDown,
        core::publish::fixture::{config, ip},
    };

    #[test]
    fn what_is_a_nodes_own_does_not_count_and_backends_do() {
        let one = config(AllDown::All);
        let mut other = config(AllDown::None);
        other.node.name = "node9".into();
        other.services[0].addresses.pop();
        other.peers[0].addresses[0].check_address = ip("10.0.0.12");
        other.services.reverse();
        assert_eq!(one.digest(), other.digest());
        other.services[0].backends[0].weight = 2;
        assert_ne!(one.digest(), other.digest());
    }
}
