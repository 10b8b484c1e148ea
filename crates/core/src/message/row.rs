//! Which of a transaction's messages about one key counts.
//!
//! Rows may take each other's places within a statement: one comes under a key before the row that
//! was there has left it. Invariant: a key is deleted for a row that leaves it only if no other row
//! has come there since. Otherwise each row of a list that moves up would delete the one before it;
//! and if every deletion gave way, a row that comes and goes would stay.
//!
//! A command that writes a table anew, into another file, moves its rows. Then nobody can tell
//! whether who leaves a key is who came there before, and the key goes: it may be missing then, but
//! a row that is gone never stays.

use std::collections::HashMap;

use super::log::Entry;
use super::{Message, Stored};

/// A version of a row: its table, the file that the table is in, and its place there. No two of a
/// transaction have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    pub table: u32,
    pub file: u32,
    pub block: u32,
    pub offset: u16,
}

impl Version {
    /// Whether this is plainly not the row that was last known as `other`.
    fn is_another_row(self, other: Version) -> bool {
        self != other && (self.table != other.table || self.file == other.file)
    }
}

/// What a message about a key tells of the row: the version before, if it was under that key, and
/// the one after, if it is. Nothing is known of rows of foreign tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Row {
    pub was: Option<Version>,
    pub is: Option<Version>,
}

/// What a key comes to.
struct Standing {
    /// The message that counts.
    place: usize,
    /// The row that stands there.
    holder: Option<Version>,
}

/// The places of the messages that count, one for each key that is stored or deleted, in order.
pub fn counting(entries: &[Entry]) -> Vec<usize> {
    let mut keys: HashMap<&[u8], Standing> = HashMap::new();
    for (place, Entry { message, row, .. }) in entries.iter().enumerate() {
        let Message::Store { key, value, .. } = message else { continue };
        let standing = keys.get_mut(&key[..]);
        match (standing, value, row) {
            // It stays, in another version, and nothing that is stored has changed.
            (standing, Stored::Nothing, Row { was: Some(was), is: Some(is) }) => {
                if let Some(held) = standing.filter(|held| held.holder == Some(*was)) {
                    held.holder = Some(*is);
                }
            }
            (Some(Standing { holder: Some(holder), .. }), Stored::Nothing, Row { was, .. })
                if was.is_some_and(|was| was.is_another_row(*holder)) => {}
            (_, _, Row { is, .. }) => {
                keys.insert(key, Standing { place, holder: *is });
            }
        }
    }
    let mut places: Vec<usize> = keys.into_values().map(|standing| standing.place).collect();
    places.sort_unstable();
    places
}

#[cfg(test)]
mod tests {
    use super::super::log::Payloads;
    use super::*;
    use proptest::prelude::*;

    fn entry(key: u8, value: Stored, row: Row) -> Entry {
        let ttl_ms = None;
        let message = Message::Store { key: [key].into(), token: Box::default(), ttl_ms, value };
        Entry { seq: 0, durable: false, message, row, more: Payloads::default() }
    }

    fn version(block: u32) -> Option<Version> {
        in_file(1, block)
    }

    fn in_file(file: u32, block: u32) -> Option<Version> {
        Some(Version { table: 1, file, block, offset: 1 })
    }

    fn image(version: u32) -> Stored {
        Stored::Text(version.to_le_bytes().into())
    }

    /// Which versions are stored in the end.
    fn stored(entries: &[Entry]) -> Vec<(u8, u32)> {
        let image = |place: usize| match &entries[place].message {
            Message::Store { key, value: Stored::Text(text), .. } => {
                Some((key[0], u32::from_le_bytes(text[..].try_into().unwrap())))
            }
            _ => None,
        };
        let mut found: Vec<(u8, u32)> = counting(entries).into_iter().filter_map(image).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn of_rows_that_are_not_known_the_last_message_counts() {
        // Danger: a row of a foreign table is deleted, and its key stays.
        let none = Row::default();
        let all = [entry(1, image(7), none), entry(1, Stored::Nothing, none)];
        assert_eq!((stored(&all), counting(&all)), (vec![], vec![1]));
        assert_eq!(stored(&[all[1].clone(), all[0].clone()]), [(1, 7)]);
    }

    #[derive(Debug, Clone)]
    enum Change {
        Move(usize, u8),
        Touch(usize),
        Store(usize),
        Delete(usize),
        Insert(u8),
        Rewrite,
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            3 => (0..6usize, 0..4u8).prop_map(|(row, key)| Change::Move(row, key)),
            1 => (0..6usize).prop_map(Change::Touch),
            1 => (0..6usize).prop_map(Change::Store),
            1 => (0..6usize).prop_map(Change::Delete),
            1 => (0..4u8).prop_map(Change::Insert),
            1 => Just(Change::Rewrite),
        ]
    }

    proptest! {
        #[test]
        fn whoever_stands_under_a_key_at_the_end_is_stored(
            changes in prop::collection::vec(change(), 0..30)
        ) {
            // Danger: a key is left without its row, or with one that is gone.
            let mut rows: Vec<(u8, u32)> = (0..4).map(|row| (row, u32::from(row))).collect();
            let (mut entries, mut file) = (Vec::new(), 1);
            for (next, change) in (100u32..).zip(changes) {
                let is = in_file(file, next);
                let row_of = |rows: &[(u8, u32)], row: usize| rows.get(row).copied();
                match change {
                    Change::Move(at, key) => {
                        let Some((before, old)) = row_of(&rows, at) else { continue };
                        if before != key {
                            let left = Row { was: in_file(file, old), is: None };
                            entries.push(entry(before, Stored::Nothing, left));
                        }
                        let was = in_file(file, old).filter(|_| before == key);
                        entries.push(entry(key, image(next), Row { was, is }));
                        rows[at] = (key, next);
                    }
                    Change::Touch(at) => {
                        let Some((key, old)) = row_of(&rows, at) else { continue };
                        let row = Row { was: in_file(file, old), is };
                        entries.push(entry(key, Stored::Nothing, row));
                        rows[at] = (key, next);
                    }
                    Change::Store(at) => {
                        let Some((key, old)) = row_of(&rows, at) else { continue };
                        entries.push(entry(key, image(next), Row { was: in_file(file, old), is }));
                        rows[at] = (key, next);
                    }
                    Change::Delete(at) if at < rows.len() => {
                        let (key, old) = rows.remove(at);
                        let left = Row { was: in_file(file, old), is: None };
                        entries.push(entry(key, Stored::Nothing, left));
                    }
                    Change::Delete(_) => {}
                    Change::Insert(key) => {
                        entries.push(entry(key, image(next), Row { was: None, is }));
                        rows.push((key, next));
                    }
                    // Each stands where another stood, or nobody yet.
                    Change::Rewrite => {
                        file += 1;
                        rows.reverse();
                        let places = (99..next).rev();
                        rows.iter_mut().zip(places).for_each(|(row, place)| row.1 = place);
                    }
                }
            }
            let stored = stored(&entries);
            for key in 0..4u8 {
                let holders = rows.iter().filter(|(held, _)| *held == key).count();
                let found = stored.iter().filter(|(held, _)| *held == key).count();
                // Several under one key, in between, may leave none; one that is gone never stays.
                prop_assert!(found <= holders, "key {}", key);
            }
        }

        #[test]
        fn rows_that_change_places_are_all_stored(order in Just((0..6u8).collect::<Vec<_>>())
            .prop_shuffle(), to in Just((0..6u8).collect::<Vec<_>>()).prop_shuffle()) {
            // Danger: the row that comes first is deleted by the one that leaves its place.
            let mut entries = Vec::new();
            for row in order {
                let (old, new) = (u32::from(row), 100 + u32::from(row));
                let key = to[usize::from(row)];
                if key != row {
                    let left = Row { was: version(old), is: None };
                    entries.push(entry(row, Stored::Nothing, left));
                }
                let was = version(old).filter(|_| key == row);
                entries.push(entry(key, image(new), Row { was, is: version(new) }));
            }
            let mut expected: Vec<(u8, u32)> =
                (0..6u8).map(|row| (to[usize::from(row)], 100 + u32::from(row))).collect();
            expected.sort_unstable();
            prop_assert_eq!(stored(&entries), expected);
        }
    }
}
