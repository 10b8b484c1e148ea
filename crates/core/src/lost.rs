//! Owns the names of keys whose deletion was sent before a commit, and not confirmed behind it.
//!
//! The transaction is over and cannot owe them any more: it leaves them here, in memory that all
//! backends share, and the worker writes them down as debts. Invariant: a name is gone from here
//! only when somebody else has it; what finds no room, for length or number, is remembered as all
//! keys of its database. Dropped instead, a program would read the old value until its ttl.
//!
//! A crash of the server empties this, and makes all entries those of a former generation, which
//! are swept.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU32};

/// How many names there is room for, of all databases.
const PLACES: usize = 64;

/// The longest of them.
const KEY_BYTES_MAX: usize = 248;

const FREE: u32 = 0;
const TAKEN: u32 = 1;
const FULL: u32 = 2;

#[derive(Debug)]
#[repr(C)]
struct Place {
    state: AtomicU32,
    database: AtomicU32,
    length: AtomicU32,
    key: [AtomicU8; KEY_BYTES_MAX],
}

#[derive(Debug)]
#[repr(C)]
pub struct Lost([Place; PLACES]);

/// A name that was found, until it is forgotten.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    place: usize,
    pub key: Vec<u8>,
}

impl Default for Lost {
    fn default() -> Self {
        let place = |_| Place {
            state: AtomicU32::new(FREE),
            database: AtomicU32::new(0),
            length: AtomicU32::new(0),
            key: std::array::from_fn(|_| AtomicU8::new(0)),
        };
        Self(std::array::from_fn(place))
    }
}

impl Lost {
    /// Leaves a name; false if there is no room for it.
    pub fn leave(&self, database: u32, key: &[u8]) -> bool {
        let is_ours =
            |place: &&Place| place.state.compare_exchange(FREE, TAKEN, AcqRel, Relaxed).is_ok();
        if key.len() > KEY_BYTES_MAX {
            return false;
        }
        let Some(place) = self.0.iter().find(is_ours) else { return false };
        place.database.store(database, Relaxed);
        place.length.store(key.len() as u32, Relaxed);
        place.key.iter().zip(key).for_each(|(to, byte)| to.store(*byte, Relaxed));
        place.state.store(FULL, Release);
        true
    }

    /// The names of a database, which stay until they are forgotten. One process at a time.
    pub fn of(&self, database: u32) -> Vec<Found> {
        let full = self.0.iter().enumerate().filter(|(_, place)| place.is_of(database));
        let found = full.map(|(place, Place { length, key, .. })| {
            let bytes = key.iter().take(length.load(Relaxed) as usize);
            Found { place, key: bytes.map(|byte| byte.load(Relaxed)).collect() }
        });
        found.collect()
    }

    /// Whether there is any.
    pub fn is_any_of(&self, database: u32) -> bool {
        self.0.iter().any(|place| place.is_of(database))
    }

    /// Gives their places back, once they are written down.
    pub fn forget(&self, found: &[Found]) {
        for place in found.iter().filter_map(|found| self.0.get(found.place)) {
            place.state.store(FREE, Release);
        }
    }

    /// Of a database that was dropped.
    pub fn forget_all_of(&self, database: u32) {
        self.forget(&self.of(database));
    }
}

impl Place {
    fn is_of(&self, database: u32) -> bool {
        self.state.load(Acquire) == FULL && self.database.load(Relaxed) == database
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(lost: &Lost, database: u32) -> Vec<Vec<u8>> {
        lost.of(database).into_iter().map(|found| found.key).collect()
    }

    #[test]
    fn names_stay_until_they_are_forgotten_and_are_of_one_database() {
        // Danger: a worker dies between taking a name and writing it down; or deletes another
        // database's key.
        let lost = Lost::default();
        for (database, key) in [(5, &b"a"[..]), (6, b"b"), (5, b""), (5, b"a")] {
            assert!(lost.leave(database, key));
        }
        for _ in 0..2 {
            assert_eq!(keys(&lost, 5), [&b"a"[..], b"", b"a"]);
        }
        let found = lost.of(5);
        assert!(lost.leave(5, b"later"));
        lost.forget(&found);
        assert_eq!(keys(&lost, 5), [b"later"]);
        assert!(lost.is_any_of(6) && !lost.is_any_of(7));
        lost.forget_all_of(6);
        assert!(!lost.is_any_of(6) && lost.is_any_of(5));
    }

    #[test]
    fn what_has_no_room_is_told_and_changes_nothing() {
        // Danger: a name is cut, and another key deleted.
        let lost = Lost::default();
        assert!(!lost.leave(5, &[b'x'; KEY_BYTES_MAX + 1]));
        assert!(lost.leave(5, &[b'x'; KEY_BYTES_MAX]));
        assert_eq!(keys(&lost, 5), [[b'x'; KEY_BYTES_MAX]]);
        for _ in 1..PLACES {
            assert!(lost.leave(5, b"y"));
        }
        assert!(!lost.leave(5, b"z"));
        lost.forget_all_of(5);
        assert!(lost.leave(5, b"z"));
        assert_eq!(keys(&lost, 5), [b"z"]);
    }

    #[test]
    fn many_leave_names_at_once_and_none_is_mixed_with_another() {
        // Danger: two backends write into one place.
        let lost = Lost::default();
        std::thread::scope(|scope| {
            for byte in 0..8 {
                let lost = &lost;
                scope.spawn(move || {
                    (0..8).for_each(|_| assert!(lost.leave(5, &[byte; 100])));
                });
            }
        });
        let found = keys(&lost, 5);
        assert_eq!(found.len(), 64);
        for byte in 0..8 {
            assert_eq!(found.iter().filter(|key| **key == [byte; 100]).count(), 8);
        }
    }
}
