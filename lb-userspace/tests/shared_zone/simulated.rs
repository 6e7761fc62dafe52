//! A primary without a network.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use lb_userspace::core::{
    records::{Contents, Outcome, Update},
    shared::InMemory,
};

use crate::cluster::{NAME, Primary};

impl Primary for InMemory {
    fn contents(&mut self, names: &[&str], nodes: &[Arc<str>]) -> Contents {
        let names: Vec<Arc<str>> = names.iter().map(|&name| name.into()).collect();
        InMemory::contents(self, &names, nodes)
    }

    fn update(&mut self, update: &Update) -> Outcome {
        InMemory::update(self, update)
    }
}

/// The name's addresses.
pub fn addresses(primary: &InMemory) -> BTreeSet<IpAddr> {
    primary.addresses.get(NAME).cloned().unwrap_or_default()
}
