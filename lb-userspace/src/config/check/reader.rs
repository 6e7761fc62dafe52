//! Takes values out of the file's types and remembers where each stands.

use std::{collections::HashMap, hash::Hash, path::Path, sync::Arc};

use toml::Spanned;

use crate::config::{
    error::Position,
    file::{List, Value},
    findings::Findings,
    key::Key,
    locations::{LineIndex, Locations},
    shape,
};

/// A value of the file, the key that leads to it, and where it stands.
pub(super) struct Field<T> {
    pub(super) key: Key,
    pub(super) position: Position,
    pub(super) value: T,
}

impl<T> Field<T> {
    /// Another value at the same place.
    pub(super) fn with<U>(&self, value: U) -> Field<U> {
        Field { key: self.key.clone(), position: self.position, value }
    }
}

/// Reads fields of one text, collecting what is wrong with them.
pub(super) struct Reader<'a> {
    lines: LineIndex<'a>,
    findings: Findings,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str, file: Arc<Path>) -> Self {
        Self { lines: LineIndex::new(text), findings: Findings::new(file, Locations::default()) }
    }

    pub(super) fn into_findings(self) -> Findings {
        self.findings
    }

    pub(super) fn refuse(&mut self, key: &Key, what: impl Into<String>, mend: impl Into<String>) {
        self.findings.refuse(key, what, mend);
    }

    pub(super) fn warn(&mut self, key: &Key, what: impl Into<String>, mend: impl Into<String>) {
        self.findings.warn(key, what, mend);
    }

    /// Whether nothing was refused at this key or inside it.
    pub(super) fn sound(&self, key: &Key) -> bool {
        self.findings.sound(key)
    }

    /// A value that may be left out.
    pub(super) fn optional<T>(&mut self, table: &Key, name: &str, value: Value<T>) -> Option<Field<T>> {
        value.map(|value| self.take(table.child(name), value))
    }

    /// A value that must be there; refused with what to write when it is not.
    pub(super) fn required<T>(&mut self, table: &Key, name: &str, value: Value<T>) -> Option<Field<T>> {
        if value.is_none() {
            self.refuse(&table.child(name), "is missing", format!("write {}", shape::form(name)));
        }
        self.optional(table, name, value)
    }

    /// A table of an array of tables.
    pub(super) fn element<T>(
        &mut self,
        table: &Key,
        array: &str,
        index: usize,
        value: Spanned<T>,
        name: impl Fn(&T) -> &Value<String>,
    ) -> Field<T> {
        let label = name(value.get_ref()).as_ref().map(|name| name.get_ref().as_str());
        let key = table.element(array, label, index);
        self.take(key, value)
    }

    /// The values of a list, each named by itself. `None` when the list is left out; an empty one is refused.
    pub(super) fn list<T>(
        &mut self,
        table: &Key,
        name: &str,
        list: List<T>,
        label: impl Fn(&T) -> String,
    ) -> Option<Vec<Field<T>>> {
        let Field { key, value: items, .. } = self.optional(table, name, list)?;
        if items.is_empty() {
            self.refuse(&key, "is an empty list", format!("write {}", shape::form(name)));
        }
        let items = items.into_iter().map(|item| {
            let key = key.child(label(item.get_ref()));
            self.take(key, item)
        });
        Some(items.collect())
    }

    /// The values of a list that must be there.
    pub(super) fn required_list<T>(
        &mut self,
        table: &Key,
        name: &str,
        list: List<T>,
        label: impl Fn(&T) -> String,
    ) -> Vec<Field<T>> {
        if list.is_none() {
            self.refuse(&table.child(name), "is missing", format!("write {}", shape::form(name)));
        }
        self.list(table, name, list, label).unwrap_or_default()
    }

    /// One value, remembered where it stands.
    pub(super) fn take<T>(&mut self, key: Key, value: Spanned<T>) -> Field<T> {
        let position = self.lines.position(value.span().start);
        self.findings.locations.insert(key.clone(), position);
        Field { key, position, value: value.into_inner() }
    }

    /// Whether `seen` has the value not yet; refuses one that it has, and says where.
    pub(super) fn unique<T: Hash + Eq, U>(&mut self, seen: &mut Seen<T>, field: &Field<U>, value: T) -> bool {
        let Some(first) = seen.0.get(&value) else {
            seen.0.insert(value, field.position);
            return true;
        };
        let what = if first.line == field.position.line {
            "is given twice".to_owned()
        } else {
            format!("is given twice, first in line {}", first.line)
        };
        self.findings.refuse_at(field.position, &field.key, what, "remove one of the two");
        false
    }

    /// Refuses a name that another table of the same array has already.
    pub(super) fn unique_name(&mut self, seen: &mut Seen<String>, field: &Field<String>, whose: &str) {
        if let Some(first) = seen.0.get(&field.value) {
            let what =
                format!("\"{}\" is already the name of the {whose} in line {}", field.value, first.line);
            self.refuse(&field.key, what, "give each its own name");
        } else {
            seen.0.insert(field.value.clone(), field.position);
        }
    }
}

/// Values seen so far, and where.
pub(super) struct Seen<T>(HashMap<T, Position>);

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Seen(HashMap::new())
    }
}
