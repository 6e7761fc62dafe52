//! What commands have added to the file's services and backends, or taken from them. The file stays as it is; what is in
//! force is the file with these edits.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::{Table, Value};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Edit {
    /// A service gets another backend.
    AddBackend {
        /// The service's name.
        service: String,
        /// The backend.
        backend: NewBackend,
    },
    /// A service loses a backend.
    RemoveBackend {
        /// The service's name.
        service: String,
        /// The backend's.
        backend: String,
    },
    /// A service more.
    AddService {
        /// TOML with one `[[service]]`.
        text: String,
    },
    /// A service less.
    RemoveService {
        /// Its name.
        service: String,
    },
    /// As the file has it again: a service, with all its backends, or one of these.
    Reset {
        /// The service's name.
        service: String,
        /// The backend's.
        backend: Option<String>,
    },
}

/// A backend as a command describes it; what is left out is as the file's defaults are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewBackend {
    /// Unique in its service.
    pub name: String,
    /// At most one per family.
    pub addresses: Vec<IpAddr>,
    /// The service's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Whether it is one.
    #[serde(default)]
    pub backup: bool,
}

/// Why a change is not made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EditError {
    /// No such service.
    #[error("no service is called `{0}`; `usher status` shows them")]
    NoService(String),
    /// No such backend.
    #[error("service `{0}` has no backend `{1}`; `usher status` shows them")]
    NoBackend(String, String),
    /// The name is taken.
    #[error("there is `{0}` already; take it away first, or choose another name")]
    Exists(String),
    /// It is in the file, and was taken away.
    #[error("`{0}` is in the configuration's file, and was taken away by a command; `reset` brings it back")]
    TakenAway(String),
    /// Nothing to take back.
    #[error("no command has added or taken away `{0}`")]
    Untouched(String),
    /// The text is no TOML.
    #[error("what is to be added is no TOML: {0}")]
    Syntax(String),
    /// The text is something else.
    #[error("what is to be added is not one [[service]] with a name, and nothing else")]
    NotOneService,
}

/// All changes, by what they are about.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Edits {
    /// By name: a service that was added; `None`: one that was taken away.
    services: BTreeMap<String, Option<Table>>,
    /// By service and name, likewise.
    backends: BTreeMap<String, BTreeMap<String, Option<Table>>>,
}

impl Edits {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.backends.is_empty()
    }

    /// With one change more. `file` is what the file says.
    ///
    /// # Errors
    /// When what is to be added is there already, or what is to go is not.
    pub fn changed(mut self, file: &Table, edit: &Edit) -> Result<Edits, EditError> {
        match edit {
            Edit::AddBackend { service, backend } => self.add_backend(file, service, backend)?,
            Edit::RemoveBackend { service, backend } => self.remove_backend(file, service, backend)?,
            Edit::AddService { text } => self.add_service(file, text)?,
            Edit::RemoveService { service } => self.remove_service(file, service)?,
            Edit::Reset { service, backend } => self.reset(service, backend.as_deref())?,
        }
        self.backends.retain(|_, backends| !backends.is_empty());
        Ok(self)
    }

    fn add_backend(&mut self, file: &Table, service: &str, new: &NewBackend) -> Result<(), EditError> {
        let named = format!("{service}/{}", new.name);
        if self.of_backend(service, &new.name) == Some(&None) {
            return Err(EditError::TakenAway(named));
        }
        if self.backend(file, service, &new.name)?.is_some() {
            return Err(EditError::Exists(named));
        }
        let added = self.backends.entry(service.to_owned()).or_default();
        added.insert(new.name.clone(), Some(new.table()));
        Ok(())
    }

    fn remove_backend(&mut self, file: &Table, service: &str, backend: &str) -> Result<(), EditError> {
        if self.backend(file, service, backend)?.is_none() {
            return Err(EditError::NoBackend(service.to_owned(), backend.to_owned()));
        }
        let was_added = self.of_backend(service, backend).is_some();
        let edits = self.backends.entry(service.to_owned()).or_default();
        match was_added {
            true => drop(edits.remove(backend)),
            false => drop(edits.insert(backend.to_owned(), None)),
        }
        Ok(())
    }

    fn add_service(&mut self, file: &Table, text: &str) -> Result<(), EditError> {
        let mut table: Table = text.parse().map_err(|error: toml::de::Error| {
            EditError::Syntax(error.to_string().trim_end().replace('\n', "; "))
        })?;
        let services = table.remove("service");
        let service = match services {
            Some(Value::Array(services)) if table.is_empty() => match <[Value; 1]>::try_from(services) {
                Ok([Value::Table(service)]) => service,
                _ => return Err(EditError::NotOneService),
            },
            _ => return Err(EditError::NotOneService),
        };
        let name = name(&service).ok_or(EditError::NotOneService)?.to_owned();
        if self.services.get(&name) == Some(&None) {
            return Err(EditError::TakenAway(name));
        }
        if self.service(file, &name).is_some() {
            return Err(EditError::Exists(name));
        }
        self.services.insert(name, Some(service));
        Ok(())
    }

    fn remove_service(&mut self, file: &Table, service: &str) -> Result<(), EditError> {
        if self.service(file, service).is_none() {
            return Err(EditError::NoService(service.to_owned()));
        }
        self.backends.remove(service);
        // One that was added is simply gone.
        if self.services.remove(service).is_none() {
            self.services.insert(service.to_owned(), None);
        }
        Ok(())
    }

    fn reset(&mut self, service: &str, backend: Option<&str>) -> Result<(), EditError> {
        let found = match backend {
            Some(backend) => {
                self.backends.get_mut(service).and_then(|backends| backends.remove(backend)).is_some()
            }
            None => self.services.remove(service).is_some() | self.backends.remove(service).is_some(),
        };
        let named = || backend.map_or(service.to_owned(), |backend| format!("{service}/{backend}"));
        if found { Ok(()) } else { Err(EditError::Untouched(named())) }
    }

    /// What is set for a backend, if anything is.
    fn of_backend(&self, service: &str, backend: &str) -> Option<&Option<Table>> {
        self.backends.get(service)?.get(backend)
    }

    /// A service that is in force.
    fn service<'a>(&'a self, file: &'a Table, service: &str) -> Option<&'a Table> {
        in_force(&self.services, file, "service", service)
    }

    /// A backend that is in force.
    fn backend<'a>(
        &'a self,
        file: &'a Table,
        service: &str,
        backend: &str,
    ) -> Result<Option<&'a Table>, EditError> {
        let table = self.service(file, service).ok_or_else(|| EditError::NoService(service.to_owned()))?;
        Ok(match self.backends.get(service) {
            Some(edits) => in_force(edits, table, "backend", backend),
            None => find(table, "backend", backend),
        })
    }

    /// Without what the file says by now itself, and with a line for each that is forgotten: what it has is not added any
    /// more, and what it has not is not taken away.
    pub fn settled(mut self, file: &Table) -> (Edits, Vec<String>) {
        let mut notes = Vec::new();
        let mut is_settled = |what: String, is_added: bool, in_file: bool| {
            let why = match is_added {
                true => "the file has it now; what a command had added is forgotten",
                false => "the file does not have it either any more",
            };
            let settled = is_added == in_file;
            notes.extend(settled.then(|| format!("{what}: {why}")));
            settled
        };
        self.services.retain(|name, edit| {
            let in_file = find(file, "service", name).is_some();
            !is_settled(format!("service {name}"), edit.is_some(), in_file)
        });
        let services = &self.services;
        for (service, edits) in &mut self.backends {
            let table = in_force(services, file, "service", service);
            edits.retain(|name, edit| {
                let what = format!("server {service}/{name}");
                match table {
                    Some(service) => {
                        !is_settled(what, edit.is_some(), find(service, "backend", name).is_some())
                    }
                    None => !is_settled(what, false, false),
                }
            });
        }
        self.backends.retain(|_, backends| !backends.is_empty());
        (self, notes)
    }

    /// The file with all of them.
    pub fn apply(&self, mut file: Table) -> Table {
        apply(&mut file, "service", &self.services);
        if let Some(Value::Array(services)) = file.get_mut("service") {
            for service in services.iter_mut().filter_map(Value::as_table_mut) {
                let edits = name(service).and_then(|name| self.backends.get(name));
                if let Some(edits) = edits {
                    apply(service, "backend", edits);
                }
            }
        }
        file
    }

    /// One line for each, for people.
    pub fn lines(&self) -> Vec<String> {
        let done = |edit: &Option<Table>| if edit.is_some() { "added" } else { "taken away" };
        let services = self.services.iter().map(|(name, edit)| format!("service {name}: {}", done(edit)));
        let backends = self.backends.iter().flat_map(|(service, edits)| {
            edits.iter().map(move |(name, edit)| format!("server {service}/{name}: {}", done(edit)))
        });
        services.chain(backends).collect()
    }
}

impl NewBackend {
    fn table(&self) -> Table {
        let addresses = self.addresses.iter().map(|address| Value::String(address.to_string())).collect();
        let mut table = Table::new();
        table.insert("name".to_owned(), Value::String(self.name.clone()));
        table.insert("address".to_owned(), Value::Array(addresses));
        let numbers = [("port", self.port), ("weight", self.weight)];
        for (key, number) in numbers.into_iter().filter_map(|(key, number)| Some((key, number?))) {
            table.insert(key.to_owned(), Value::Integer(number.into()));
        }
        if self.backup {
            table.insert("backup".to_owned(), Value::Boolean(true));
        }
        table
    }
}

/// Takes away and adds tables of an array of named ones.
fn apply(table: &mut Table, array: &str, edits: &BTreeMap<String, Option<Table>>) {
    if edits.is_empty() {
        return;
    }
    let entry = table.entry(array).or_insert_with(|| Value::Array(Vec::new()));
    let Value::Array(items) = entry else { return };
    items.retain(|item| !item.as_table().and_then(name).is_some_and(|name| edits.contains_key(name)));
    items.extend(edits.values().flatten().cloned().map(Value::Table));
}

/// What counts of this name: the edit, if there is one, or what the array has.
fn in_force<'a>(
    edits: &'a BTreeMap<String, Option<Table>>,
    table: &'a Table,
    array: &str,
    wanted: &str,
) -> Option<&'a Table> {
    match edits.get(wanted) {
        Some(edit) => edit.as_ref(),
        None => find(table, array, wanted),
    }
}

/// The table of this name in an array of tables.
fn find<'a>(table: &'a Table, array: &str, wanted: &str) -> Option<&'a Table> {
    let items = table.get(array)?.as_array()?;
    items.iter().filter_map(Value::as_table).find(|item| name(item) == Some(wanted))
}

fn name(table: &Table) -> Option<&str> {
    table.get("name")?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
version = 1
[[service]]
name = "web"
port = 80
backend = [{ name = "b1", address = "203.0.113.21" }, { name = "b2", address = "203.0.113.22" }]
[[service]]
name = "mail"
port = 25
[[service.backend]]
name = "b1"
address = "203.0.113.31"
"#;

    const MORE: &str =
        "[[service]]\nname = \"more\"\nport = 81\nbackend = [{ name = \"b1\", address = \"203.0.113.41\" }]";

    fn file() -> Table {
        FILE.parse().unwrap()
    }

    fn add(service: &str, backend: &str) -> Edit {
        let backend = NewBackend {
            name: backend.to_owned(),
            addresses: vec!["203.0.113.29".parse().unwrap()],
            port: Some(8080),
            weight: None,
            backup: false,
        };
        Edit::AddBackend { service: service.to_owned(), backend }
    }

    fn remove(service: &str, backend: &str) -> Edit {
        Edit::RemoveBackend { service: service.to_owned(), backend: backend.to_owned() }
    }

    fn reset(service: &str, backend: Option<&str>) -> Edit {
        Edit::Reset { service: service.to_owned(), backend: backend.map(str::to_owned) }
    }

    fn more() -> Edit {
        Edit::AddService { text: MORE.to_owned() }
    }

    fn without(service: &str) -> Edit {
        Edit::RemoveService { service: service.to_owned() }
    }

    fn edited(edits: &[Edit]) -> Result<Edits, EditError> {
        edits.iter().try_fold(Edits::default(), |edits, edit| edits.changed(&file(), edit))
    }

    /// `web: b1 b2, mail: b1`
    fn shown(table: &Table) -> String {
        let names = |table: &Table, array: &str| -> Vec<Table> {
            let items = table.get(array).and_then(Value::as_array).into_iter().flatten();
            items.filter_map(Value::as_table).cloned().collect()
        };
        let service = |service: &Table| {
            let backends: Vec<_> =
                names(service, "backend").iter().filter_map(name).map(str::to_owned).collect();
            format!("{}: {}", name(service).unwrap(), backends.join(" "))
        };
        names(table, "service").iter().map(service).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn what_is_added_and_taken_away_is_in_force() {
        for (edits, expected, lines) in [
            (vec![], "web: b1 b2, mail: b1", vec![]),
            (vec![add("web", "b3")], "web: b1 b2 b3, mail: b1", vec!["server web/b3: added"]),
            (vec![add("web", "b3"), remove("web", "b3")], "web: b1 b2, mail: b1", vec![]),
            (vec![remove("web", "b1")], "web: b2, mail: b1", vec!["server web/b1: taken away"]),
            (vec![remove("web", "b1"), reset("web", Some("b1"))], "web: b1 b2, mail: b1", vec![]),
            (
                vec![more(), add("more", "b2")],
                "web: b1 b2, mail: b1, more: b1 b2",
                vec!["service more: added", "server more/b2: added"],
            ),
            (vec![more(), remove("more", "b1"), without("more")], "web: b1 b2, mail: b1", vec![]),
            (vec![remove("web", "b2"), without("web")], "mail: b1", vec!["service web: taken away"]),
            (vec![without("web"), reset("web", None)], "web: b1 b2, mail: b1", vec![]),
        ] {
            let result = edited(&edits).unwrap();
            assert_eq!(shown(&result.apply(file())), expected, "{edits:?}");
            assert_eq!(result.lines(), lines, "{edits:?}");
            let text = serde_json::to_string(&result).unwrap();
            assert_eq!(serde_json::from_str::<Edits>(&text).unwrap(), result, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_added_or_taken_away() {
        use EditError::*;
        let web = || "web".to_owned();
        let text = |text: &str| Edit::AddService { text: text.to_owned() };
        for (edits, error) in [
            (vec![add("web", "b1")], Exists("web/b1".to_owned())),
            (vec![add("wbe", "b1")], NoService("wbe".to_owned())),
            (vec![remove("web", "b1"), add("web", "b1")], TakenAway("web/b1".to_owned())),
            (vec![remove("web", "b9")], NoBackend(web(), "b9".to_owned())),
            (vec![remove("web", "b1"), remove("web", "b1")], NoBackend(web(), "b1".to_owned())),
            (vec![without("web"), remove("web", "b1")], NoService(web())),
            (vec![without("web"), text("service = [{ name = \"web\" }]")], TakenAway(web())),
            (vec![more(), more()], Exists("more".to_owned())),
            (vec![reset("web", None)], Untouched(web())),
            (vec![text("[[service]]\nport = 80")], NotOneService),
            (vec![text("[node]\n[[service]]\nname = \"a\"")], NotOneService),
            (vec![text("")], NotOneService),
        ] {
            assert_eq!(edited(&edits), Err(error), "{edits:?}");
        }
        assert!(matches!(edited(&[text("[[service")]), Err(Syntax(_))));
    }

    #[test]
    fn what_the_file_says_by_now_is_forgotten() {
        let edits = edited(&[add("web", "b3"), remove("web", "b1"), more()]).unwrap();
        let (same, notes) = edits.clone().settled(&file());
        assert_eq!((&same, notes), (&edits, vec![]));

        let later =
            "[[service]]\nname = \"web\"\nbackend = [{ name = \"b3\" }]\n[[service]]\nname = \"more\"";
        let (left, notes) = edits.clone().settled(&later.parse().unwrap());
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(notes.len(), 3, "{notes:?}");

        let (left, notes) = edits.settled(&MORE.replace("more", "other").parse().unwrap());
        assert_eq!(left.lines(), ["service more: added"], "its service is gone: {notes:?}");
    }
}
