//! NAT ports that run out: a line in the log when it begins and when it is over, and what status shows.

use std::time::Instant;

use lb_common::Reason;
use tracing::{info, warn};

use super::state::State;
use crate::{
    config::{Forward, Service},
    core::{
        ids::{Family, PoolId},
        nat_ports::Change,
        plan,
    },
    dataplane::DataplaneError,
    status::{NatShortage, millis},
};

impl State {
    /// Looks at the counters of packets that were refused a NAT port.
    pub(super) fn look_at_nat_ports(&mut self) {
        let now = Instant::now();
        if let Err(error) = self.observe_nat_ports(now) {
            warn!(error = &error as &dyn std::error::Error, "cannot tell whether NAT ports run out");
        }
    }

    fn observe_nat_ports(&mut self, now: Instant) -> Result<(), DataplaneError> {
        let mut began = false;
        for (_, pool) in under_nat(&self.config) {
            let refused = self.dataplane.count_of(self.planner.numbers().pool(&pool), Reason::NatFull)?;
            match self.nat_ports.entry(pool.clone()).or_default().observe(refused, now) {
                Some(Change::Began) => began = true,
                Some(Change::Ended(shortage)) => info!(
                    "{pool}: new flows find NAT ports again; {} packets were refused in {} s",
                    shortage.refused,
                    shortage.last.duration_since(shortage.since).as_secs()
                ),
                None => {}
            }
        }
        if began {
            let fresh = |shortage: &NatShortage| shortage.since_ms == 0;
            shortages(self, now)?.iter().filter(|one| fresh(one)).for_each(|one| warn!("{one}"));
        }
        Ok(())
    }
}

/// Where new flows find no port now.
pub(super) fn shortages(state: &State, now: Instant) -> Result<Vec<NatShortage>, DataplaneError> {
    if state.nat_ports.values().all(|ports| ports.shortage().is_none()) {
        return Ok(Vec::new());
    }
    let flows = state.dataplane.count_nat(&plan::idle_limits(&state.config))?;
    let shortage = |(service, pool): (&Service, PoolId)| {
        let shortage = state.nat_ports.get(&pool)?.shortage()?;
        let backends = plan::members(&state.config, service, pool.clone()).map(|member| {
            (flows.get(&state.planner.numbers().backend(&member.id)).copied().unwrap_or(0), member.id.backend)
        });
        let (flows, backend) = backends.max()?;
        let sources = state.config.nat.source.iter().filter(|source| Family::of(**source) == pool.family);
        Some(NatShortage {
            service: pool.service.to_string(),
            family: pool.family,
            since_ms: millis(now.duration_since(shortage.since)),
            refused: shortage.refused,
            backend: backend.to_string(),
            flows,
            sources: sources.copied().collect(),
        })
    };
    Ok(under_nat(&state.config).filter_map(shortage).collect())
}

fn under_nat(config: &crate::config::Config) -> impl Iterator<Item = (&Service, PoolId)> {
    plan::pools(config).filter(|(service, _)| service.forward == Forward::Nat)
}
