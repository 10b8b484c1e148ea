//! Owns the names of keys whose deletion was sent before a commit, and not confirmed behind it.
//!
//! The transaction is over and cannot owe them any more: it leaves them here, in memory that all
//! backends share, and the worker writes them down as debts. Invariant: who may have to leave a
//! name has written it here before its commit record, and a name is gone from here only when its
//! key is, or when somebody else has it, or when its transaction is undone. Without room for it
//! beforehand, a transaction that is over would have nowhere to go with it, and a program would
//! read the old value until its ttl.
//!
//! A crash of the server empties this, and makes all entries those of a former generation, which
//! are swept.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU32};

use crate::tag::Tag;

/// How many names there is room for, of all databases.
const PLACES: usize = 256;

/// The longest of them.
const KEY_BYTES_MAX: usize = 248;

const FREE: u32 = 0;
/// Of a transaction that is under way.
const TAKEN: u32 = 1;
/// Left to the worker.
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
    /// Writes names down, each with its tag, that may have to be left; `None` if there is no room
    /// for all of them.
    pub fn reserve<'k>(
        &self,
        database: u32,
        keys: impl Iterator<Item = (Tag, &'k [u8])>,
    ) -> Option<Reserved<'_>> {
        let mut reserved = Reserved { lost: self, places: Vec::new(), is_left: false };
        for (tag, key) in keys {
            reserved.places.push(self.take(database, tag, key)?);
        }
        Some(reserved)
    }

    fn take(&self, database: u32, tag: Tag, key: &[u8]) -> Option<usize> {
        if key.len() > KEY_BYTES_MAX {
            return None;
        }
        // Not all at the same place, where they would meet.
        let start = tag.0 as usize % PLACES;
        let found = (start..PLACES).chain(0..start).find(|place| {
            let state = &self.0[*place].state;
            state.compare_exchange(FREE, TAKEN, AcqRel, Relaxed).is_ok()
        })?;
        let place = &self.0[found];
        place.database.store(database, Relaxed);
        place.length.store(key.len() as u32, Relaxed);
        place.key.iter().zip(key).for_each(|(to, byte)| to.store(*byte, Relaxed));
        Some(found)
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

/// Names of a transaction that sent the deletion of their keys. Whatever becomes of it, they do not
/// stay here for ever: dropped, they are given back, or left to the worker.
#[derive(Debug)]
pub struct Reserved<'a> {
    lost: &'a Lost,
    places: Vec<usize>,
    is_left: bool,
}

impl Reserved<'_> {
    /// The transaction is committed: from now on they are left, unless they are given back.
    pub fn leave(&mut self) {
        self.is_left = true;
    }

    /// The keys are gone.
    pub fn give_back(mut self) {
        self.is_left = false;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let state = if self.is_left { FULL } else { FREE };
        for place in self.places.iter().filter_map(|place| self.lost.0.get(*place)) {
            place.state.store(state, Release);
        }
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

    fn reserve_all<'a>(lost: &'a Lost, keys: &[&[u8]]) -> Option<Reserved<'a>> {
        lost.reserve(5, keys.iter().map(|key| (Tag::key(key), *key)))
    }

    fn reserve<'a>(lost: &'a Lost, database: u32, key: &[u8]) -> Option<Reserved<'a>> {
        lost.reserve(database, [(Tag::key(key), key)].into_iter())
    }

    /// As a transaction does that commits and hears nothing.
    #[track_caller]
    fn leave(lost: &Lost, database: u32, key: &[u8]) {
        reserve(lost, database, key).expect("room").leave();
    }

    fn keys(lost: &Lost, database: u32) -> Vec<Vec<u8>> {
        let mut keys: Vec<_> = lost.of(database).into_iter().map(|found| found.key).collect();
        keys.sort();
        keys
    }

    fn taken(lost: &Lost) -> usize {
        lost.0.iter().filter(|place| place.state.load(Relaxed) != FREE).count()
    }

    #[test]
    fn names_stay_until_they_are_forgotten_and_are_of_one_database() {
        // Danger: a worker dies between taking a name and writing it down; or deletes another
        // database's key.
        let lost = Lost::default();
        for (database, key) in [(5, &b"a"[..]), (6, b"b"), (5, b""), (5, b"a")] {
            leave(&lost, database, key);
        }
        for _ in 0..2 {
            assert_eq!(keys(&lost, 5), [&b""[..], b"a", b"a"]);
        }
        let found = lost.of(5);
        leave(&lost, 5, b"later");
        lost.forget(&found);
        assert_eq!(keys(&lost, 5), [b"later"]);
        assert!(lost.is_any_of(6) && !lost.is_any_of(7));
        lost.forget_all_of(6);
        assert!(!lost.is_any_of(6) && lost.is_any_of(5));
    }

    #[test]
    fn a_name_is_left_only_by_who_has_committed_and_heard_nothing() {
        // Danger: a key of a transaction that was undone is owed; or one that may be old is not; or
        // a place is never free again, and in the end there is none.
        let lost = Lost::default();
        let names = [&b"a"[..], b"b"];
        drop(reserve_all(&lost, &names));
        assert_eq!((taken(&lost), lost.is_any_of(5)), (0, false), "undone");
        let mut reserved = reserve_all(&lost, &names).expect("room");
        assert!(!lost.is_any_of(5), "the worker does not look for it yet");
        lost.forget_all_of(5);
        assert_eq!(taken(&lost), 2, "nor gives it to others");
        reserved.leave();
        reserved.give_back();
        assert_eq!((taken(&lost), lost.is_any_of(5)), (0, false), "confirmed");
        reserve_all(&lost, &names).expect("room").leave();
        assert_eq!(keys(&lost, 5), names);
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut reserved = reserve(&lost, 5, b"c").expect("room");
            reserved.leave();
            panic!("behind the commit record");
        }));
        assert!(unwound.is_err());
        assert_eq!(keys(&lost, 5), [b"a", b"b", b"c"]);
    }

    #[test]
    fn where_there_is_no_room_for_all_nothing_is_taken() {
        // Danger: a name is cut, and another key deleted; or some of a transaction's names have no
        // room, and those that have keep theirs.
        let lost = Lost::default();
        assert!(reserve(&lost, 5, &[b'x'; KEY_BYTES_MAX + 1]).is_none());
        let too_long = [&b"a"[..], &[b'x'; KEY_BYTES_MAX + 1]];
        assert!(reserve_all(&lost, &too_long).is_none());
        assert_eq!(taken(&lost), 0);
        leave(&lost, 5, &[b'x'; KEY_BYTES_MAX]);
        assert_eq!(keys(&lost, 5), [[b'x'; KEY_BYTES_MAX]]);
        for _ in 2..PLACES {
            leave(&lost, 5, b"y");
        }
        assert!(reserve_all(&lost, &[b"z", b"z"]).is_none());
        leave(&lost, 5, b"z");
        assert!(reserve(&lost, 5, b"z").is_none());
        lost.forget_all_of(5);
        leave(&lost, 5, b"z");
        assert_eq!(keys(&lost, 5), [b"z"]);
    }

    #[test]
    fn many_leave_names_at_once_and_none_is_mixed_with_another() {
        // Danger: two backends write into one place.
        let lost = Lost::default();
        std::thread::scope(|scope| {
            for byte in 0..8 {
                let lost = &lost;
                scope.spawn(move || (0..32).for_each(|_| leave(lost, 5, &[byte; 100])));
            }
        });
        let found = keys(&lost, 5);
        assert_eq!(found.len(), PLACES);
        for byte in 0..8 {
            assert_eq!(found.iter().filter(|key| **key == [byte; 100]).count(), 32);
        }
    }
}
