//! Names in questions: what is called so, or what else there is.

use std::collections::BTreeSet;

use crate::{
    api::Refusal,
    config::{Config, Service},
};

/// The service of this name; all of them without a name.
///
/// # Errors
/// When there is none.
pub(super) fn services<'a>(config: &'a Config, name: Option<&str>) -> Result<Vec<&'a Service>, Refusal> {
    let named = |service: &&Service| name.is_none_or(|name| *service.name == *name);
    let found: Vec<_> = config.services.iter().filter(named).collect();
    match name {
        Some(name) if found.is_empty() => {
            let have = config.services.iter().map(|service| &*service.name);
            Err(Refusal::Unknown(format!("no service is called `{name}`; there {}", list(have))))
        }
        _ => Ok(found),
    }
}

/// Whether any of the services has a backend of this name.
///
/// # Errors
/// When none has.
pub(super) fn check_backend(services: &[&Service], name: Option<&str>) -> Result<(), Refusal> {
    let Some(name) = name else { return Ok(()) };
    let names: BTreeSet<&str> =
        services.iter().flat_map(|service| &service.backends).map(|backend| &*backend.name).collect();
    if names.contains(name) {
        return Ok(());
    }
    Err(Refusal::Unknown(format!("no backend is called `{name}`; there {}", list(names.into_iter()))))
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    match names.as_slice() {
        [] => "are none".to_owned(),
        [one] => format!("is {one}"),
        [rest @ .., last] => format!("are {} and {last}", rest.join(", ")),
    }
}
