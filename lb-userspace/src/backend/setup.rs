//! Changes the host, and undoes it.
//!
//! The order keeps the host from ever telling of a VIP: kernel settings first and VIPs last, and back the
//! other way round. Each change is recorded before it is made.

use std::{collections::BTreeMap, net::IpAddr};

use tracing::{info, warn};

use super::{
    Host, Record, Settings, Store,
    record::{Change, StoreError},
    wanted,
};
use crate::net::{
    NetError,
    sysctl::{self, SysctlError},
    vips::Vips,
};

/// Where VIPs are put.
const LO: &str = "lo";

/// Why a change failed.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The record of changes.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A kernel setting.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// An address.
    #[error(transparent)]
    Net(#[from] NetError),
}

/// Makes the host what the record's settings say. What an earlier run has changed stays if it is still
/// wanted and is undone if not; what was right before any run is left alone, and so never undone.
///
/// # Errors
/// Any [`SetupError`]; what was done until then is in the record.
pub async fn apply(store: &Store, record: &mut Record, host: &Host) -> Result<(), SetupError> {
    change_sysctls(store, record)?;
    change_vips(store, record, host).await
}

/// Undoes everything in the record, then forgets it. What somebody has changed since is left as it is. Tries
/// everything before it fails.
///
/// # Errors
/// The first [`SetupError`]; the record then holds what is left to undo.
pub async fn undo(store: &Store, record: &mut Record, host: &Host) -> Result<(), SetupError> {
    let mut failed = None;
    let vips = Vips::open()?;
    for vip in record.vips.clone() {
        match remove_vip(&vips, vip, host).await {
            Ok(()) => drop(record.vips.remove(&vip)),
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    for (key, change) in record.sysctls.clone() {
        match restore(&key, &change) {
            Ok(()) => drop(record.sysctls.remove(&key)),
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    match failed {
        None => Ok(store.clear()?),
        Some(error) => {
            store.save(record)?;
            Err(error)
        }
    }
}

fn change_sysctls(store: &Store, record: &mut Record) -> Result<(), SetupError> {
    let wanted = wanted_sysctls(&record.settings, &record.sysctls);
    for (key, change) in record.sysctls.clone() {
        if !wanted.iter().any(|(wanted, _)| *wanted == key) {
            restore(&key, &change)?;
            record.sysctls.remove(&key);
        }
    }
    for (key, value) in wanted {
        let now = sysctl::read(&key)?;
        let found = record.sysctls.get(&key).map_or(&now, |change| &change.found).clone();
        if now != value || !record.sysctls.contains_key(&key) {
            info!(sysctl = key, from = now, to = value, "kernel setting changed");
        }
        record.sysctls.insert(key.clone(), Change { found, set: value.to_owned() });
        store.save(record)?;
        sysctl::write(&key, value)?;
    }
    Ok(())
}

/// As if no earlier run had changed anything.
fn wanted_sysctls(settings: &Settings, changed: &BTreeMap<String, Change>) -> Vec<(String, &'static str)> {
    wanted::sysctls(settings, |key| {
        changed.get(key).map(|change| change.found.clone()).or_else(|| sysctl::read(key).ok())
    })
}

/// Gives a setting its value back, unless it is no longer ours. One of an interface that is gone is gone too.
fn restore(key: &str, change: &Change) -> Result<(), SetupError> {
    match sysctl::read(key) {
        Ok(now) if now == change.set => {
            sysctl::write(key, &change.found)?;
            info!(sysctl = key, from = change.set, to = change.found, "kernel setting restored");
        }
        Ok(now) => warn!(sysctl = key, now, set = change.set, "kernel setting was changed since; it stays"),
        Err(error) => warn!(error = &error as &dyn std::error::Error, "kernel setting is gone"),
    }
    Ok(())
}

async fn change_vips(store: &Store, record: &mut Record, host: &Host) -> Result<(), SetupError> {
    let vips = Vips::open()?;
    let unwanted: Vec<IpAddr> = record.vips.difference(&record.settings.vips).copied().collect();
    for vip in unwanted {
        remove_vip(&vips, vip, host).await?;
        record.vips.remove(&vip);
        store.save(record)?;
    }
    for vip in record.settings.vips.clone() {
        if host.holders(vip).next().is_some() {
            if !record.vips.contains(&vip) {
                info!(%vip, "the VIP is there already; it stays when usher stops");
            }
            continue;
        }
        record.vips.insert(vip);
        store.save(record)?;
        vips.add(vip).await?;
        info!(%vip, "VIP put on lo");
    }
    Ok(())
}

async fn remove_vip(vips: &Vips, vip: IpAddr, host: &Host) -> Result<(), SetupError> {
    if host.holders(vip).any(|have| have.link.name == LO) {
        vips.remove(vip).await?;
        info!(%vip, "VIP taken from lo");
    }
    Ok(())
}
