//! The counters of each key family, in a table of a fixed size.
//!
//! Invariant: a place belongs to one family of one database from the moment it is claimed until the
//! database is dropped; a family without a place counts among the others. Keys are made by
//! programs: without the bound they would fill the memory, and without the claim two families
//! could count as one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{Reads, find_or_free};
use crate::key::FAMILY_OTHER;

/// Families, of all databases, that are counted apart.
const FAMILIES_MAX: usize = 256;

/// A longer name counts among the others.
const NAME_BYTES_MAX: usize = 64;

/// Of a place that a dropped database had; no hash is even. Whoever looks for one goes on behind
/// it.
const FREED: u64 = 2;

const WORD_BYTES: usize = size_of::<u64>();

#[derive(Default)]
#[repr(C, align(64))]
struct Place {
    /// A hash of the family and its database; zero while it is free, or [`FREED`].
    id: AtomicU64,
    database: AtomicU32,
    /// One more than the length of the name; zero until it is written.
    named: AtomicU32,
    name: [AtomicU64; NAME_BYTES_MAX / WORD_BYTES],
    reads: Reads,
}

impl Place {
    /// Whoever claimed the place may have died before it could name it; all write the same.
    fn name(&self, database: u32, family: &str) {
        if self.named.load(Ordering::Acquire) != 0 {
            return;
        }
        self.database.store(database, Ordering::Relaxed);
        for (word, part) in self.name.iter().zip(family.as_bytes().chunks(WORD_BYTES)) {
            let mut bytes = [0; WORD_BYTES];
            bytes[..part.len()].copy_from_slice(part);
            word.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        }
        self.named.store(family.len() as u32 + 1, Ordering::Release);
    }

    /// Whose family it is, if it is anybody's.
    fn database(&self) -> Option<u32> {
        (self.named.load(Ordering::Acquire) != 0).then(|| self.database.load(Ordering::Relaxed))
    }

    /// Nobody counts here any more.
    fn free(&self) {
        self.named.store(0, Ordering::Relaxed);
        self.reads.reset();
        self.id.store(FREED, Ordering::Release);
    }

    /// The family, if it is one of this database.
    fn family_in(&self, database: u32) -> Option<String> {
        let length = self.named.load(Ordering::Acquire).checked_sub(1)? as usize;
        if self.database.load(Ordering::Relaxed) != database {
            return None;
        }
        let words = self.name.iter().map(|word| word.load(Ordering::Relaxed).to_ne_bytes());
        let mut bytes: Vec<u8> = words.flatten().collect();
        bytes.truncate(length);
        String::from_utf8(bytes).ok()
    }
}

#[repr(C)]
pub struct Families {
    places: [Place; FAMILIES_MAX],
    /// Those without a place, of all databases.
    others: Reads,
}

impl Default for Families {
    fn default() -> Self {
        let places = std::array::from_fn(|_| Place::default());
        Self { places, others: Reads::default() }
    }
}

impl Families {
    /// Where a family counts. A look through the table: to be remembered.
    pub fn of(&self, database: u32, family: &str) -> &Reads {
        if family.len() > NAME_BYTES_MAX {
            return self.of(database, FAMILY_OTHER);
        }
        let mut hasher = DefaultHasher::new();
        (database, family).hash(&mut hasher);
        // Never zero, and the place does not depend on the bit that makes sure of it.
        let id = hasher.finish() | 1;
        let start = (id >> 1) as usize;
        loop {
            let mark = |place: &Place| place.id.load(Ordering::Acquire);
            let Some((place, found)) = find_or_free(&self.places, start, id, FREED, mark) else {
                return &self.others;
            };
            let (claimed, kept) = (Ordering::AcqRel, Ordering::Acquire);
            if found == id || place.id.compare_exchange(found, id, claimed, kept).is_ok() {
                place.name(database, family);
                return &place.reads;
            }
        }
    }

    /// The databases that have families here.
    pub(super) fn databases(&self) -> impl Iterator<Item = u32> {
        self.places.iter().filter_map(Place::database)
    }

    /// Gives back the places of a database that was dropped.
    pub(super) fn free(&self, database: u32) {
        let theirs = self.places.iter().filter(|place| place.database() == Some(database));
        theirs.for_each(Place::free);
    }

    /// The families of a database that counted anything. What has no place of its own is of all
    /// databases, and stands among the others of each.
    pub fn all_in(&self, database: u32) -> Vec<(String, Reads)> {
        let mut rows: Vec<(String, Reads)> = Vec::new();
        let named = self
            .places
            .iter()
            .filter_map(|place| place.family_in(database).map(|family| (family, &place.reads)));
        let others = (FAMILY_OTHER.to_owned(), &self.others);
        for (family, reads) in named.chain([others]).filter(|(_, reads)| !reads.is_zero()) {
            match rows.iter().find(|(known, _)| *known == family) {
                Some((_, sum)) => sum.add(reads),
                None => {
                    let sum = Reads::default();
                    sum.add(reads);
                    rows.push((family, sum));
                }
            }
        }
        rows
    }

    /// Begins anew for a database.
    pub fn reset(&self, database: u32) {
        let ours = self.places.iter().filter(|place| place.family_in(database).is_some());
        ours.for_each(|place| place.reads.reset());
        self.others.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_count_apart_by_name_and_database() {
        // Danger: one application's hits show under another's name, or in another database.
        let families = Families::default();
        families.of(1, "orders").hits.add(2);
        families.of(1, "").hits.add(3);
        families.of(2, "orders").hits.add(5);
        families.of(1, "orders").hits.add(7);
        families.of(1, &"é".repeat(32)).hits.add(11);
        let hits = |database| {
            let mut rows: Vec<(String, u64)> = families
                .all_in(database)
                .into_iter()
                .map(|(family, reads)| (family, reads.hits.get()))
                .collect();
            rows.sort();
            rows
        };
        let row = |family: &str, hits| (family.to_owned(), hits);
        assert_eq!(hits(1), [row("", 3), row("orders", 9), row(&"é".repeat(32), 11)]);
        assert_eq!(hits(2), [row("orders", 5)]);
        families.reset(1);
        assert_eq!((hits(1), hits(2)), (vec![], vec![row("orders", 5)]));
        families.of(1, "orders").hits.add(1);
        assert_eq!(hits(1), [row("orders", 1)]);
    }

    #[test]
    fn what_has_no_place_counts_among_the_others() {
        // Danger: a program whose keys are all different fills the table, and then the memory; or
        // what it does is counted nowhere.
        let families = Families::default();
        families.of(1, FAMILY_OTHER).hits.add(1);
        families.of(1, &"x".repeat(NAME_BYTES_MAX + 1)).hits.add(1);
        for number in 0..2 * FAMILIES_MAX {
            families.of(1, &format!("family {number}")).hits.add(1);
        }
        let rows = families.all_in(1);
        assert_eq!(rows.len(), FAMILIES_MAX);
        let sum: u64 = rows.iter().map(|(_, reads)| reads.hits.get()).sum();
        assert_eq!(sum, 2 * FAMILIES_MAX as u64 + 2);
        let (_, others) = rows.iter().find(|(family, _)| family == FAMILY_OTHER).unwrap();
        assert_eq!(others.hits.get(), FAMILIES_MAX as u64 + 3);
    }

    #[test]
    fn many_at_once_lose_no_count_and_claim_no_place_twice() {
        // Danger: two backends that meet a new family in the same moment split it in two.
        let families = Families::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..40_000 {
                        families.of(7, &format!("f{}", number % 200)).hits.add(1);
                    }
                });
            }
        });
        let rows = families.all_in(7);
        assert_eq!(rows.len(), 200);
        assert!(rows.iter().all(|(_, reads)| reads.hits.get() == 800));
    }
}
