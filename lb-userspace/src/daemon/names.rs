//! Names in questions: what is called so, or what else there is.

use std::{collections::BTreeSet, sync::Arc};

use lb_common::Reason;

use crate::{
    api::Refusal,
    config::{Config, Service},
    core::plan,
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
    let names = services.iter().flat_map(|service| &service.backends).map(|backend| &*backend.name);
    check_among(&names.collect(), name)
}

/// Whether flows of any of the services may go to a backend of this name: an own one, or one that another service lends
/// (`sorry/backend1`).
///
/// # Errors
/// When none may.
pub(super) fn check_member(
    config: &Config,
    services: &[&Service],
    name: Option<&str>,
) -> Result<(), Refusal> {
    let pools = services.iter().flat_map(|&service| plan::families(service));
    let members = pools.flat_map(|(service, pool)| plan::members(config, service, pool));
    let names: BTreeSet<Arc<str>> = members.map(|member| member.id.backend).collect();
    check_among(&names.iter().map(|name| &**name).collect(), name)
}

fn check_among(names: &BTreeSet<&str>, name: Option<&str>) -> Result<(), Refusal> {
    let Some(name) = name.filter(|name| !names.contains(name)) else { return Ok(()) };
    Err(Refusal::Unknown(format!("no backend is called `{name}`; there {}", list(names.iter().copied()))))
}

/// The reason with this label.
///
/// # Errors
/// When there is none.
pub(super) fn reason(label: &str) -> Result<Reason, Refusal> {
    let found = Reason::ALL.iter().find(|reason| reason.label() == label);
    found.copied().ok_or_else(|| {
        let have = Reason::ALL.iter().map(|reason| reason.label());
        Refusal::Unknown(format!("no reason is called `{label}`; there {}", list(have)))
    })
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    match names.as_slice() {
        [] => "are none".to_owned(),
        [one] => format!("is {one}"),
        [rest @ .., last] => format!("are {} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const FILE: &str = r#"
version = 1
[node]
name = "node1"
interfaces = ["front"]
addresses = ["192.0.2.11"]
[[service]]
name = "web"
protocol = "tcp"
port = 80
forward = "dsr-l2"
backend = [{ name = "b1", address = "203.0.113.21" }, { name = "b2", address = "203.0.113.22" }]
"#;

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        let config = Config::parse(FILE, Path::new("usher.toml")).unwrap();
        let all = services(&config, None).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(check_backend(&all, Some("b2")), Ok(()));
        let unknown = |text: &str| Refusal::Unknown(text.to_owned());
        assert_eq!(
            services(&config, Some("wbe")).map(drop),
            Err(unknown("no service is called `wbe`; there is web"))
        );
        assert_eq!(
            check_backend(&all, Some("b3")),
            Err(unknown("no backend is called `b3`; there are b1 and b2"))
        );
        assert_eq!(check_member(&config, &all, Some("b2")), Ok(()));
        assert_eq!(reason("nat"), Ok(Reason::Nat));
        let error = reason("natt").unwrap_err().to_string();
        assert!(error.starts_with("no reason is called `natt`; there are not_ip, "), "{error}");
    }
}
