//! `usher flows`: which flows there are.

use std::{net::SocketAddr, process::ExitCode};

use clap::Args;

use super::{
    advise, print,
    text::{Cell, count, table},
};
use crate::{
    api::Client,
    flows::{Clients, Counts, Flow, Flows, FlowsQuery, MOST_FLOWS, Stage},
};

/// List and count the flows that the data path knows
///
/// Flows under NAT are shown in full, from their records. All others are shown as the flow table has them:
/// it holds a hash instead of addresses, so CLIENT and VIP are known only when --client names one client's
/// port. Reading the tables disturbs no packet.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  usher flows                                   the first 100
  usher flows --service web --count             how many
  usher flows --client 198.51.100.0/24          of a network's clients, under NAT
  usher flows --client 198.51.100.7:4711        of one client's port, however forwarded
  usher flows --backend backend1 --state new --json

States:
  new      seen only once, or not answered yet
  proven   alive beyond doubt
  closing  saw FIN or RST")]
pub(super) struct FlowsCommand {
    /// Flows of this service only
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// Flows to the backends of this name only
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// Flows of these clients only: an address, a network, or an address and port
    #[arg(long, value_name = "CLIENT")]
    client: Option<Clients>,
    /// Flows in this state only
    #[arg(long, value_name = "STATE")]
    state: Option<Stage>,
    /// Count them, and list none
    #[arg(long, conflicts_with = "limit")]
    count: bool,
    /// List this many at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_FLOWS)))]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl FlowsCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let query = FlowsQuery {
            service: self.service,
            backend: self.backend,
            client: self.client,
            state: self.state,
            limit: if self.count { 0 } else { self.limit },
        };
        let flows = client.flows(&query).await.map_err(advise)?;
        if self.json {
            return print(&format!("{}\n", serde_json::to_string_pretty(&flows)?));
        }
        print(&render(&flows, !self.count))
    }
}

/// The answer as a page.
fn render(flows: &Flows, listed: bool) -> String {
    let mut page = String::new();
    if listed && !flows.flows.is_empty() {
        let headings = ["SERVICE", "BACKEND", "PROTOCOL", "CLIENT", "VIP", "STATE"].map(Cell::text);
        let mut rows = vec![headings.into_iter().chain(["NAT PORT", "IDLE"].map(Cell::number)).collect()];
        rows.extend(flows.flows.iter().map(row));
        page.push_str(&table(&rows, false));
    }
    if flows.truncated && listed {
        page.push_str(&format!("  and more; --limit lists up to {}\n", count(MOST_FLOWS.into())));
    }
    match &flows.flow_table {
        Some(counts) => page.push_str(&sum("Flow table", counts)),
        None => page.push_str(
            "Flow table: holds no client addresses; name one port to look into it: --client ADDRESS:PORT\n",
        ),
    }
    page.push_str(&sum("NAT records", &flows.nat));
    page
}

fn sum(what: &str, counts: &Counts) -> String {
    format!(
        "{what}: {} flows: {} new, {} proven, {} closing\n",
        count(counts.all()),
        count(counts.new),
        count(counts.proven),
        count(counts.closing)
    )
}

fn row(flow: &Flow) -> Vec<Cell> {
    let end = |end: Option<SocketAddr>| Cell::text(end.map_or("-".to_owned(), |end| end.to_string()));
    vec![
        Cell::text(&flow.service),
        Cell::text(format!("{}/{}", flow.backend, flow.family)),
        Cell::text(flow.protocol.to_string()),
        end(flow.client),
        end(flow.vip),
        Cell::text(flow.state.to_string()),
        Cell::number(flow.nat_port.map_or("-".to_owned(), |port| port.to_string())),
        Cell::number(format!("{} s", flow.idle_s)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Protocol, core::ids::Family};

    fn flow() -> Flow {
        Flow {
            service: "web".to_owned(),
            backend: "backend1".to_owned(),
            family: Family::V4,
            protocol: Protocol::Tcp,
            state: Stage::Proven,
            idle_s: 12,
            client: Some("198.51.100.7:4711".parse().expect("socket address")),
            vip: Some("192.0.2.11:80".parse().expect("socket address")),
            nat_port: Some(1_034),
        }
    }

    #[test]
    fn flows_under_nat_are_shown_in_full_and_others_as_far_as_they_are_known() {
        let directly = Flow {
            service: "echo".to_owned(),
            backend: "backend2".to_owned(),
            family: Family::V6,
            protocol: Protocol::Udp,
            state: Stage::New,
            idle_s: 0,
            client: None,
            vip: None,
            nat_port: None,
        };
        let counts = Counts { new: 1, proven: 2_000, closing: 0 };
        let flows = Flows {
            flow_table: Some(counts),
            nat: Counts::default(),
            flows: vec![flow(), directly],
            truncated: true,
        };
        let page = "  \
  SERVICE  BACKEND      PROTOCOL  CLIENT             VIP            STATE   NAT PORT  IDLE
  web      backend1/v4  tcp       198.51.100.7:4711  192.0.2.11:80  proven      1034  12 s
  echo     backend2/v6  udp       -                  -              new            -   0 s
  and more; --limit lists up to 100,000
Flow table: 2,001 flows: 1 new, 2,000 proven, 0 closing
NAT records: 0 flows: 0 new, 0 proven, 0 closing
";
        assert_eq!(render(&flows, true), page);
    }

    #[test]
    fn what_the_flow_table_cannot_tell_is_said() {
        let flows = Flows { flow_table: None, nat: Counts::default(), flows: vec![], truncated: true };
        let page = "\
Flow table: holds no client addresses; name one port to look into it: --client ADDRESS:PORT
NAT records: 0 flows: 0 new, 0 proven, 0 closing
";
        assert_eq!(render(&flows, false), page);
    }
}
