//! NAT ports that run out, in a lab that has few.

use anyhow::{Context, Result, ensure};
use usher_lab::{Connections, Host, Lab, until};

use crate::support::{RECOVERY, status};

/// Two groups of eight, the fewest that there may be: each flow may use all of them.
pub(crate) const FEW: &str = "1024-1039";
const PORTS: u64 = 16;

/// Enough to use up all ports of all nodes towards all backends over both families.
const MOST: usize = 2 * 3 * 2 * PORTS as usize + 1;

/// The client resets a connection only when the reset is valid; else it would try until its patience ends.
pub(crate) fn c36_connections_beyond_the_ports_are_reset_and_status_says_so(lab: &Lab) -> Result<()> {
    let (connections, refused) = Connections::open_until_refused(lab, MOST)?;
    let refused = refused.context("no connection was refused")?;
    let open = connections.all().len();
    ensure!(open >= 3 * PORTS as usize, "refused after {open} connections: {refused:#}");

    let node = until("a node says that NAT ports have run out", RECOVERY, || {
        let nodes = 1..=lab.options().nodes;
        let short = |node: &u8| Ok::<_, anyhow::Error>(!status(lab, *node)?.nat_shortages.is_empty());
        nodes
            .map(|node| Ok((node, short(&node)?)))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .find_map(|(node, short)| short.then_some(node))
            .context("none does")
    })?;
    let status = status(lab, node)?;
    let shortage = status.nat_shortages.first().context("it is over already")?;
    ensure!(shortage.service == "web" && shortage.refused >= 1, "{shortage:?}");
    ensure!(shortage.flows >= PORTS, "the fullest backend has {PORTS} flows: {shortage:?}");
    ensure!(status.packets["nat_full"] >= shortage.refused, "{:?}", status.packets);
    let page = lab.run(Host::Node(node), &["usher", "status"])?;
    let second = page.lines().nth(2).unwrap_or_default();
    ensure!(second.starts_with("NAT PORTS HAVE RUN OUT"), "{page}");
    let log = lab.node_log(node)?;
    for family in ["v4", "v6"] {
        let said = log.lines().filter(|line| {
            line.contains("WARN") && line.contains(&format!("web/{family}: new flows are refused"))
        });
        let wanted = usize::from(status.nat_shortages.iter().any(|one| one.family.to_string() == family));
        ensure!(said.count() == wanted, "{family} is to be said {wanted} times:\n{log}");
    }

    // Those that have ports keep them; when they end, others find some.
    connections.wait_rounds(1)?;
    connections.finish()?.expect_whole(open, 2)?;
    until("connections find ports again", RECOVERY, || {
        Connections::open(lab, 12)?.finish()?.expect_whole(0, 0)
    })
}
