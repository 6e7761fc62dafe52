//! `usher metrics`: a status for Prometheus.

use std::process::ExitCode;

use clap::Args;

use super::{advise, print};
use crate::{api::Client, metrics};

/// Print the node's figures as OpenMetrics text
///
/// What `metrics_listen` in `[node]` shows over HTTP, and the control socket at /metrics.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  usher metrics | grep backend_up
  usher metrics > /var/lib/node_exporter/usher.prom.new && mv /var/lib/node_exporter/usher.prom.new \\
    /var/lib/node_exporter/usher.prom              for node_exporter's textfile collector
  curl --unix-socket /run/usher/usher.sock http://usher/metrics")]
pub(super) struct MetricsCommand {}

impl MetricsCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let status = client.status().await.map_err(advise)?;
        print(&metrics::text(status)?)
    }
}
