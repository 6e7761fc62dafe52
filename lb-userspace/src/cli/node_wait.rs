//! `usher node drain --wait`: until nobody is led to this node any more.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use tokio::time::sleep;

use super::{advise, text::age};
use crate::{
    api::Client,
    dns::{Way, look_up},
    status::{Dns, Status},
};

/// How often to look.
const LOOK: Duration = Duration::from_millis(500);

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Waits until no server has named this node for twice the TTL, by when every cache has forgotten it; says so.
///
/// # Errors
/// The node stays in DNS because no other one serves; or it takes longer than `timeout`.
pub(super) async fn wait(client: &Client, timeout: Option<Duration>) -> anyhow::Result<String> {
    let begin = Instant::now();
    let mut unnamed: Option<Instant> = None;
    loop {
        let status = client.status().await.map_err(advise)?;
        let dns = status.dns.as_ref().context("this node has no [dns] section, so nobody finds it by DNS")?;
        let named = named_by(&status.node, dns).await?;
        match &named {
            Some(_) => unnamed = None,
            None => drop(unnamed.get_or_insert_with(Instant::now)),
        }
        let ttl = Duration::from_secs(dns.ttl_s);
        if let Some(unnamed) = unnamed.map(|since| since.elapsed()).filter(|unnamed| *unnamed >= ttl * 2) {
            return Ok(safe(unnamed, SystemTime::now() - (unnamed - ttl), &status));
        }
        if timeout.is_some_and(|timeout| begin.elapsed() >= timeout) {
            match named {
                Some(server) => bail!("{server} still names this node"),
                None => bail!("no server names this node any more, but caches may still hold it"),
            }
        }
        sleep(LOOK).await;
    }
}

/// `ran_out`: when the last answer that named it could be kept no longer.
fn safe(unnamed: Duration, ran_out: SystemTime, status: &Status) -> String {
    let unnamed = age(unnamed.as_millis().try_into().unwrap_or(u64::MAX));
    let ran_out = humantime::format_rfc3339_seconds(ran_out);
    let flows = status.flow_table.used;
    format!(
        "safe to stop: no server has named it for {unnamed}, the last TTL ran out at {ran_out}; {flows} flows are left\n"
    )
}

/// A server that names the node. One that does not answer leads nobody anywhere.
async fn named_by(node: &str, dns: &Dns) -> anyhow::Result<Option<String>> {
    for name in &dns.names {
        let own: Vec<_> = name.addresses.iter().filter(|address| address.node == node).collect();
        if name.policy_in_force.is_some() && own.iter().any(|address| address.published) {
            bail!("no other node serves {}, so this one stays in DNS (all_down = \"all\")", name.name);
        }
        if own.iter().any(|address| address.published) {
            return Ok(Some("this node itself".to_owned()));
        }
        for publisher in &dns.publishers {
            let mut there =
                publisher.addresses.iter().filter(|one| one.node == node && one.name == name.name);
            if there.any(|one| one.state == "published") {
                return Ok(Some(format!("{} ({})", publisher.primary, publisher.zone)));
            }
        }
        for server in dns.servers.iter().filter(|server| server.node != node) {
            for record in ["A", "AAAA"] {
                let answer = look_up(server.address, Way::ANY, &name.name, record, PATIENCE).await;
                let names = |records: &[String]| {
                    own.iter().any(|address| records.contains(&address.address.to_string()))
                };
                if answer.is_ok_and(|found| names(&found.records)) {
                    return Ok(Some(format!("{} ({})", server.address, server.node)));
                }
            }
        }
    }
    Ok(None)
}
