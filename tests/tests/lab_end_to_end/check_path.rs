//! Checks through the data path: backends that check out at their own address, and yet cannot serve.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use lb_userspace::{config::Timing, core::check::Code, status::State};
use usher_lab::{Family, Forward, Host, Lab, until};

use crate::{
    reload::Written,
    support::{RECOVERY, SLACK, backends, check_timing, checks_take, status, vip, wait_health},
};

/// The backend that lacks something.
const VICTIM: u8 = 2;

/// Both families and both services; the node whose address is there still finds the backend up.
pub(crate) fn f57_backend_without_the_services_address_is_down(lab: &Lab) -> Result<()> {
    let timing = check_timing(lab, "web")?;
    for family in Family::ALL {
        without_address(lab, family, "web", &timing)?;
    }
    Ok(())
}

/// The same, found by datagrams: an echo has no connection that could fail.
pub(crate) fn f57_datagrams_find_it_too(lab: &Lab) -> Result<()> {
    let written = Written::of(lab, 1)?;
    let (head, echo) = written.ordinary.split_once("name = \"echo\"").context("no service echo")?;
    let http = "kind = \"http\", path = \"/healthz\", port = 80";
    ensure!(echo.contains(http), "the echo is checked otherwise: {echo}");
    let by_datagrams = echo.replacen(http, "kind = \"udp\", send = \"?\"", 1);
    written.reload(&format!("{head}name = \"echo\"{by_datagrams}"))?;
    let timing = check_timing(lab, "echo")?;
    for family in Family::ALL {
        without_address(lab, family, "echo", &timing)?;
    }
    written.reload(&written.ordinary).map(drop)
}

fn without_address(lab: &Lab, family: Family, service: &str, timing: &Timing) -> Result<()> {
    let host = Host::Backend(VICTIM);
    let vip = vip(lab, 1, family, 80)?.ip();
    let prefix = format!("{vip}/{}", if vip.is_ipv4() { 32 } else { 128 });
    lab.run(host, &["ip", "address", "delete", &prefix, "dev", "lo"])?;
    let limit = checks_take(timing.fall, timing) + SLACK;
    let lacks = format!("lacks {vip}");
    let result =
        until(&format!("{host} is down for {service}"), limit, || expect(lab, family, service, &lacks));
    let elsewhere = status(lab, 2)?;
    let add = ["ip", "address", "add", &prefix, "dev", "lo", "nodad", "preferred_lft", "0"];
    lab.run(host, if vip.is_ipv4() { &add[..6] } else { &add })?;
    result?;
    let up = backends(&elsewhere, service, family)?.iter().all(|backend| backend.health == State::Up);
    ensure!(up, "node2, whose address it holds, finds it down");
    lab.wait_all_well(RECOVERY)
}

/// `usher backend` dies; the addresses that it has put on lo stay. Linux drops GUE over IPv6 without a word (its UDP
/// checksum is 0), so there the reason is one of two.
pub(crate) fn f57_backend_that_unpacks_nothing_is_down(lab: &Lab) -> Result<()> {
    let timing = check_timing(lab, "web")?;
    lab.break_tunnel(VICTIM)?;
    let broken = Instant::now();
    wait_health(lab, VICTIM, "down", broken, checks_take(timing.fall, &timing) + SLACK)?;
    let forward = match lab.options().forward {
        Forward::DsrGue => "dsr-gue",
        _ => "dsr-ipip",
    };
    let reason = format!("does not unpack {forward}");
    for family in Family::ALL {
        for service in ["web", "echo"] {
            expect(lab, family, service, &reason)?;
        }
    }
    lab.mend_tunnel(VICTIM)?;
    lab.wait_all_well(RECOVERY)
}

/// That node1 finds the backend down, and says why.
fn expect(lab: &Lab, family: Family, service: &str, reason: &str) -> Result<()> {
    let status = status(lab, 1)?;
    let name = Host::Backend(VICTIM).to_string();
    let found = backends(&status, service, family)?;
    let backend = found.iter().find(|backend| backend.name == name).with_context(|| format!("no {name}"))?;
    let check = backend.last_check.as_ref().context("it was not checked")?;
    ensure!(backend.health == State::Down, "it is {:?}: {} {}", backend.health, check.code, check.detail);
    ensure!(matches!(check.code, Code::L4Tout | Code::L7Tout), "{} {}", check.code, check.detail);
    ensure!(check.detail.contains(reason), "{}", check.detail);
    Ok(())
}
