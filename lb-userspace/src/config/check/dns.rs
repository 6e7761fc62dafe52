//! `[dns]`: the embedded server.

use std::{net::SocketAddr, ops::RangeInclusive, sync::Arc, time::Duration};

use super::{
    publish::publish,
    reader::{Field, Reader},
};
use crate::config::{
    AllDown, Dns, NodeAddress,
    file::{self, List, Value},
    key::Key,
};

/// Less than a second cannot be said in DNS; more than a week (the limit that resolvers commonly apply)
/// keeps a dead node's address alive for longer than anyone wants.
const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 60 * 60);

pub(super) fn dns(
    reader: &mut Reader<'_>,
    root: &Key,
    section: Value<file::Dns>,
    node: &[NodeAddress],
) -> Option<Dns> {
    let Field { key, value: section, .. } = reader.optional(root, "dns", section)?;
    let zone =
        reader.required(&key, "zone", section.zone).and_then(|zone| reader.dns_name(&zone, "example.test"));
    let listen = listen(reader, &key, section.listen)
        .unwrap_or_else(|| node.iter().map(|node| SocketAddr::new(node.address, 53)).collect());
    let ttl = ttl(reader, &key, "ttl", section.ttl, Duration::from_secs(30), TTL);
    let short = Duration::from_secs(5).min(ttl);
    let shorter = *TTL.start()..=ttl;
    let ttl_in_doubt = self::ttl(reader, &key, "ttl_in_doubt", section.ttl_in_doubt, short, shorter);
    let negative = section.negative_ttl;
    let negative_ttl = self::ttl(reader, &key, "negative_ttl", negative, Duration::from_secs(5), TTL);
    let contact =
        reader.optional(&key, "contact", section.contact).and_then(|contact| self::contact(reader, &contact));
    let all_down = reader
        .optional(&key, "all_down", section.all_down)
        .and_then(|policy| reader.choice(&policy, &[("all", AllDown::All), ("none", AllDown::None)]))
        .unwrap_or(AllDown::All);
    let publish = publish(reader, &key, section.publish, zone.as_ref());

    let zone = zone?;
    let contact = contact.unwrap_or_else(|| Arc::from(format!("hostmaster.{zone}")));
    Some(Dns { listen, zone, ttl, ttl_in_doubt, negative_ttl, contact, all_down, publish })
}

fn listen(reader: &mut Reader<'_>, dns: &Key, list: List<String>) -> Option<Vec<SocketAddr>> {
    let fields = reader.list(dns, "listen", list, String::clone)?;
    let sockets = reader.socket_addresses(fields, 53);
    for field in sockets.iter().filter(|field| field.value.ip().is_unspecified()) {
        let what = "is the unspecified address: answers would leave from whatever address the kernel picks";
        reader.refuse(&field.key, what, "list this node's addresses one by one");
    }
    Some(sockets.into_iter().map(|socket| socket.value).collect())
}

fn ttl(
    reader: &mut Reader<'_>,
    dns: &Key,
    name: &str,
    written: Value<String>,
    default: Duration,
    limits: RangeInclusive<Duration>,
) -> Duration {
    let Some(field) = reader.optional(dns, name, written) else { return default };
    let Some(ttl) = reader.duration(&field, limits) else { return default };
    if ttl.subsec_nanos() != 0 {
        let mend = format!("use \"{}s\"", ttl.as_secs());
        reader.refuse(&field.key, format!("\"{}\" is not a whole number of seconds", field.value), mend);
    }
    ttl
}

/// The SOA's mailbox, written as a name; an `@` is a mistake that every newcomer makes.
fn contact(reader: &mut Reader<'_>, field: &Field<String>) -> Option<Arc<str>> {
    if field.value.contains('@') {
        let mend = format!("write \"{}\", as in a SOA record", field.value.replacen('@', ".", 1));
        reader.refuse(&field.key, format!("\"{}\" has an @", field.value), mend);
        return None;
    }
    reader.dns_name(field, "hostmaster.example.test")
}
