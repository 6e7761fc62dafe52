//! `usher node drain --wait`: until nobody is led to this node any more, and nobody comes.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use tokio::time::sleep;

use super::advise;
use crate::{
    api::Client,
    cli::drain_watch::{Begun, Watch},
    dns::{Way, look_up},
    status::{Dns, Status},
};

/// How often to look.
const LOOK: Duration = Duration::from_millis(500);

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Waits until no server has named this node for twice the TTL, by when every cache has forgotten it, and no flow has begun
/// for `quiet`; says so.
///
/// # Errors
/// The node stays in DNS because no other one serves; or it takes longer than `timeout`.
pub(super) async fn wait(
    client: &Client,
    quiet: Duration,
    timeout: Option<Duration>,
) -> anyhow::Result<String> {
    let begin = Instant::now();
    let mut watch = Watch::new(quiet);
    loop {
        let status = client.status().await.map_err(advise)?;
        let dns = status.dns.as_ref().context("this node has no [dns] section, so nobody finds it by DNS")?;
        let named = named_by(&status.node, dns).await?;
        let now = Instant::now();
        watch.look(named, begun(&status), now);
        let left = watch.left(Duration::from_secs(dns.ttl_s), now);
        if left.is_empty() {
            let ran_out = watch.unnamed(now).saturating_sub(Duration::from_secs(dns.ttl_s));
            return Ok(safe(&watch, now, SystemTime::now() - ran_out, status.flow_table.used));
        }
        if timeout.is_some_and(|timeout| begin.elapsed() >= timeout) {
            bail!("not safe to stop yet: {}", left.join("; "));
        }
        sleep(LOOK).await;
    }
}

/// `ran_out`: when the last answer that named it could be kept no longer.
fn safe(watch: &Watch, now: Instant, ran_out: SystemTime, flows: u64) -> String {
    let seen = watch.seen(now);
    let ran_out = humantime::format_rfc3339_seconds(ran_out);
    format!("safe to stop: {seen}, the last TTL ran out at {ran_out}; {flows} flows are left\n")
}

/// The counters of every backend.
fn begun(status: &Status) -> Begun {
    let backends = status
        .services
        .iter()
        .flat_map(|service| service.backends.iter().map(move |backend| (service, backend)));
    backends
        .map(|(service, backend)| {
            let key = (service.name.clone(), backend.name.clone(), backend.address, backend.port);
            (key, backend.flows_begun)
        })
        .collect()
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
