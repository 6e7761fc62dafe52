//! `[[dns.publish]]`: zones on other servers, which all nodes write.

use std::{net::SocketAddr, ops::RangeInclusive, sync::Arc, time::Duration};

use toml::Spanned;

use super::reader::{Field, Reader, Seen};
use crate::{
    config::{
        Publish,
        file::{self, List},
        key::Key,
    },
    core::shared::TwoNodes,
};

/// Shorter ones load the primary with renewals; longer ones leave a dead node of two in the zone for too long.
const LEASE: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(3_600);

/// All of `[[dns.publish]]`; `zone` is that of `[dns]`.
pub(super) fn publish(
    reader: &mut Reader<'_>,
    dns: &Key,
    sections: Vec<Spanned<file::Publish>>,
    zone: Option<&Arc<str>>,
) -> Vec<Publish> {
    let mut seen = Seen::default();
    let sections = sections.into_iter().enumerate();
    let read = sections.filter_map(|(index, section)| {
        let field = reader.element(dns, "publish", index, section, |_| &None);
        one(reader, field, zone, &mut seen)
    });
    read.collect()
}

fn one(
    reader: &mut Reader<'_>,
    Field { key, value: section, position }: Field<file::Publish>,
    zone: Option<&Arc<str>>,
    seen: &mut Seen<(Arc<str>, Vec<SocketAddr>)>,
) -> Option<Publish> {
    let kind =
        reader.required(&key, "kind", section.kind).and_then(|kind| reader.choice(&kind, &[("rfc2136", ())]));
    let zone = match reader.optional(&key, "zone", section.zone) {
        Some(field) => reader.dns_name(&field, "example.test"),
        None => zone.cloned(),
    };
    let primaries = primaries(reader, &key, section.primaries);
    let key_file = reader
        .required(&key, "key_file", section.key_file)
        .and_then(|file| reader.absolute_path(&file, "/etc/usher/publish.key"));
    let lease = reader.duration_or(&key, "lease", section.lease, Duration::from_secs(60), LEASE);
    let longest = lease / 2;
    let renew = Duration::from_secs(1)..=longest;
    let renew = reader.duration_or(&key, "renew", section.renew, lease / 3, renew);
    let share_rrset =
        reader.optional(&key, "share_rrset", section.share_rrset).is_some_and(|field| field.value);
    let two_nodes = reader
        .optional(&key, "two_nodes", section.two_nodes)
        .and_then(|policy| {
            let choices = [("remove-after-lease", TwoNodes::RemoveAfterLease), ("never", TwoNodes::Never)];
            reader.choice(&policy, &choices)
        })
        .unwrap_or_default();
    let witness = reader.optional(&key, "witness", section.witness).is_some_and(|field| field.value);
    let (zone, key_file) = (zone?, key_file?);
    if primaries.is_empty() || kind.is_none() {
        return None;
    }
    let whole = Field { key, position, value: () };
    reader.unique(seen, &whole, (zone.clone(), primaries.clone()));
    Some(Publish { zone, primaries, key_file, lease, renew, share_rrset, two_nodes, witness })
}

fn primaries(reader: &mut Reader<'_>, publish: &Key, list: List<String>) -> Vec<SocketAddr> {
    let fields = reader.required_list(publish, "primaries", list, String::clone);
    let sockets = reader.socket_addresses(fields, 53);
    sockets.into_iter().map(|socket| socket.value).collect()
}
