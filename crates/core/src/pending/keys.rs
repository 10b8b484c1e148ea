//! Owns the keys that a level names: each once, in the order in which they were first named.
//!
//! A statement may name a key for each row, so a key is hashed once, into its tag, and its bytes
//! stand behind those of the others. Invariant: two keys are one only if their bytes are the same,
//! whatever their tags say. If tags decided, whoever finds two names with one tag would have a key
//! stay that is to be gone.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::tag::Tag;

#[derive(Debug, Clone, Default)]
pub struct Keys {
    bytes: Vec<u8>,
    places: Vec<Place>,
    /// Indexes of `places`.
    by_tag: HashTable<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    tag: Tag,
    start: usize,
    end: usize,
}

impl Place {
    fn holds(&self, bytes: &[u8], key: &[u8]) -> bool {
        bytes[self.start..self.end] == *key
    }
}

impl Keys {
    /// Nothing, with room for as much as others hold.
    pub fn with_room_of(others: &Keys) -> Keys {
        Keys {
            bytes: Vec::with_capacity(others.bytes.len()),
            places: Vec::with_capacity(others.len()),
            by_tag: HashTable::with_capacity(others.len()),
        }
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// What the keys take, without what tells them apart.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The keys with their tags.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Tag, &[u8])> {
        self.places.iter().map(|place| (place.tag, &self.bytes[place.start..place.end]))
    }

    pub fn contains(&self, tag: Tag, key: &[u8]) -> bool {
        let is_same = |place: &usize| self.places[*place].holds(&self.bytes, key);
        self.by_tag.find(tag.0, is_same).is_some()
    }

    /// Whether it was not there before.
    pub fn insert(&mut self, key: &[u8]) -> bool {
        self.insert_tagged(Tag::key(key), key)
    }

    /// Adds another's keys, and calls `known` for each that was there before.
    pub fn absorb(&mut self, others: &Keys, mut known: impl FnMut(&[u8])) {
        for (tag, key) in others.iter() {
            if !self.insert_tagged(tag, key) {
                known(key);
            }
        }
    }

    fn insert_tagged(&mut self, tag: Tag, key: &[u8]) -> bool {
        let Keys { bytes, places, by_tag } = self;
        let is_same = |place: &usize| places[*place].holds(bytes, key);
        match by_tag.entry(tag.0, is_same, |place| places[*place].tag.0) {
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                free.insert(places.len());
                let start = bytes.len();
                bytes.extend_from_slice(key);
                places.push(Place { tag, start, end: bytes.len() });
                true
            }
        }
    }
}

impl<K: AsRef<[u8]>> FromIterator<K> for Keys {
    fn from_iter<I: IntoIterator<Item = K>>(keys: I) -> Self {
        let mut all = Keys::default();
        for key in keys {
            all.insert(key.as_ref());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_one_tag_are_two() {
        // Danger: who finds a name with the tag of another key has that key stay.
        let mut keys = Keys::default();
        for (key, is_new) in [(&b"a"[..], true), (b"b", true), (b"a", false)] {
            assert_eq!(keys.insert_tagged(Tag(7), key), is_new);
        }
        let found: Vec<_> = keys.iter().map(|(_, key)| key).collect();
        assert_eq!((found, keys.bytes()), (vec![&b"a"[..], b"b"], 2));
    }
}
