//! `[defence]`: who is not served.

use super::reader::{Reader, Seen};
use crate::{
    config::{
        Defence,
        file::{self, Value},
        key::Key,
    },
    core::deny::Rule,
};

pub(super) fn defence(reader: &mut Reader<'_>, root: &Key, section: Value<file::Defence>) -> Option<Defence> {
    let section = reader.optional(root, "defence", section)?;
    let (key, section) = (section.key, section.value);
    let (mut deny, mut seen) = (Vec::new(), Seen::default());
    for field in reader.list(&key, "deny", section.deny, String::clone).unwrap_or_default() {
        match field.value.parse::<Rule>() {
            Ok(rule) => {
                if reader.unique(&mut seen, &field, rule.prefix) {
                    deny.push(rule);
                }
            }
            Err(error) => reader.refuse(&field.key, error.to_string(), error.mend()),
        }
    }
    let deny_file = reader
        .optional(&key, "deny_file", section.deny_file)
        .and_then(|file| reader.absolute_path(&file, "/etc/usher/deny"));
    Some(Defence { deny, deny_file })
}
