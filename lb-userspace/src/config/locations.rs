//! Where things stand in the file.

use std::{collections::HashMap, sync::Arc};

use super::{error::Position, key::Key};

/// Turns byte offsets of a text into lines and columns.
pub(super) struct LineIndex<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> LineIndex<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let after_newlines = text.match_indices('\n').map(|(offset, _)| offset + 1);
        Self { text, starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    /// The position of a byte; an offset past the end counts as the end.
    pub(super) fn position(&self, offset: usize) -> Position {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.starts.partition_point(|&start| start <= offset);
        let start = self.starts[line - 1];
        Position { line, column: self.text[start..offset].chars().count() + 1 }
    }
}

/// Where the values stand that a later check (against the host) may have to name.
///
/// Kept beside the checked configuration, so that two configurations with the same content are equal. A clone is the same
/// list: there are several for each backend.
#[derive(Debug, Clone, Default)]
pub struct Locations(Arc<Noted>);

/// Where nothing is wrong, nothing is looked for: so only then is what was noted put in order.
#[derive(Debug, Clone, Default)]
struct Noted {
    ordered: HashMap<Key, Position>,
    /// What was noted since.
    new: Vec<(Key, Position)>,
}

impl Locations {
    pub(super) fn insert(&mut self, key: Key, position: Position) {
        Arc::make_mut(&mut self.0).new.push((key, position));
    }

    /// Where a value stands; for one that the file leaves at its default, where its section starts.
    pub fn get(&mut self, key: &Key) -> Position {
        let Noted { ordered, new } = Arc::make_mut(&mut self.0);
        ordered.extend(new.drain(..));
        let mut key = key.clone();
        loop {
            match ordered.get(&key) {
                Some(&position) => return position,
                None if key.is_root() => return Position { line: 1, column: 1 },
                None => key = key.parent(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let index = LineIndex::new("a = 1\nü = 2\n");
        assert_eq!(index.position(0), Position { line: 1, column: 1 });
        assert_eq!(index.position(5), Position { line: 1, column: 6 });
        assert_eq!(index.position(6), Position { line: 2, column: 1 });
        assert_eq!(index.position(8), Position { line: 2, column: 2 }, "ü is one column, two bytes");
        assert_eq!(index.position(999), Position { line: 3, column: 1 });
    }

    #[test]
    fn a_value_left_at_its_default_is_found_at_its_section() {
        let mut locations = Locations::default();
        let nat = Key::root().child("nat");
        locations.insert(nat.clone(), Position { line: 7, column: 1 });
        assert_eq!(locations.get(&nat.child("ports")), Position { line: 7, column: 1 });
        assert_eq!(locations.get(&Key::root().child("dns")), Position { line: 1, column: 1 });
        for line in [8, 9] {
            locations.insert(nat.clone(), Position { line, column: 1 });
            assert_eq!(locations.get(&nat), Position { line, column: 1 }, "where it was read last");
        }
    }
}
