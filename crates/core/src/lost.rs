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
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, fence};

use crate::tag::Tag;

/// How many names there is room for, of all databases.
const PLACES: usize = 256;

/// The longest of them.
const KEY_BYTES_MAX: usize = 248;

const FREE: u64 = 0;

/// Of a transaction of this database that is under way.
fn taken_by(database: u32) -> u64 {
    1 << 32 | u64::from(database)
}

/// Left to the worker of this database.
fn left_to(database: u32) -> u64 {
    2 << 32 | u64::from(database)
}

#[derive(Debug)]
#[repr(C)]
struct Place {
    /// Whose it is, and what of him, in one word: told apart, a place that changes hands between
    /// the one and the other would look like somebody else's.
    state: AtomicU64,
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
    database: u32,
    pub key: Vec<u8>,
}

impl Default for Lost {
    fn default() -> Self {
        let place = |_| Place {
            state: AtomicU64::new(FREE),
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
        let mut reserved = Reserved { lost: self, database, places: Vec::new(), is_left: false };
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
            state.compare_exchange(FREE, taken_by(database), AcqRel, Relaxed).is_ok()
        })?;
        let place = &self.0[found];
        place.length.store(key.len() as u32, Relaxed);
        place.key.iter().zip(key).for_each(|(to, byte)| to.store(*byte, Relaxed));
        Some(found)
    }

    /// The names of a database, which stay until they are forgotten. One process at a time.
    pub fn of(&self, database: u32) -> Vec<Found> {
        let full = self.0.iter().enumerate().filter(|(_, place)| place.is_left_to(database));
        let found = full.map(|(place, Place { length, key, .. })| {
            let bytes = key.iter().take(length.load(Relaxed) as usize);
            Found { place, database, key: bytes.map(|byte| byte.load(Relaxed)).collect() }
        });
        found.filter(|found| self.is_still(found)).collect()
    }

    /// Whether what was read is what is left there: nobody has forgotten it meanwhile.
    fn is_still(&self, found: &Found) -> bool {
        fence(Acquire);
        self.0[found.place].is_left_to(found.database)
    }

    /// Whether there is any.
    pub fn is_any_of(&self, database: u32) -> bool {
        self.0.iter().any(|place| place.is_left_to(database))
    }

    /// Gives their places back, once they are written down; not those that others have by now.
    pub fn forget(&self, found: &[Found]) {
        for Found { place, database, .. } in found {
            let state = &self.0[*place].state;
            // Whoever forgot it before has done what was to be done.
            let _ = state.compare_exchange(left_to(*database), FREE, AcqRel, Relaxed);
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
    database: u32,
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
        let state = if self.is_left { left_to(self.database) } else { FREE };
        for place in self.places.iter().filter_map(|place| self.lost.0.get(*place)) {
            place.state.store(state, Release);
        }
    }
}

impl Place {
    fn is_left_to(&self, database: u32) -> bool {
        self.state.load(Acquire) == left_to(database)
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

    #[test]
    fn a_name_is_forgotten_by_who_found_it_and_only_once() {
        // Danger: somebody looks twice, and gives a place to others that a transaction under way
        // has by then.
        let lost = Lost::default();
        leave(&lost, 5, b"a");
        let found = lost.of(5);
        lost.forget(&found);
        let mut reserved = reserve(&lost, 6, b"a").expect("room");
        lost.forget(&found);
        assert_eq!(taken(&lost), 1, "under way");
        reserved.leave();
        drop(reserved);
        lost.forget(&found);
        assert_eq!(keys(&lost, 6), [b"a"], "left");
    }

    #[test]
    fn workers_of_two_databases_take_nothing_of_each_others() {
        // Danger: a place changes hands while a worker looks at it; it takes half a name for one of
        // its own, and gives the place to others before its owner has left anything there.
        const ROUNDS: usize = 1_000;
        let lost = Lost::default();
        let write = |database: u32| {
            let name = [database as u8; 40];
            let reserve = || lost.reserve(database, [(Tag(0), &name[..]); 16].into_iter());
            for round in 0..ROUNDS {
                // All from the same place on.
                let mut reserved = std::iter::repeat_with(reserve).flatten().next().expect("room");
                std::thread::yield_now();
                if round % 2 == 0 {
                    reserved.leave();
                }
            }
        };
        let work = |database: u32, has_more: &dyn Fn() -> bool| {
            let mut count = 0;
            while has_more() || lost.is_any_of(database) {
                let found = lost.of(database);
                assert!(found.iter().all(|one| one.key == [database as u8; 40]));
                count += found.len();
                lost.forget(&found);
                std::thread::yield_now();
            }
            assert_eq!(count, 8 * ROUNDS, "database {database}");
        };
        std::thread::scope(|scope| {
            for database in [5, 6] {
                let writer = scope.spawn(move || write(database));
                scope.spawn(move || work(database, &|| !writer.is_finished()));
            }
        });
        assert_eq!(taken(&lost), 0);
    }
}
