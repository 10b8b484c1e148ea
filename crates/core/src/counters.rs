//! Counters that one backend, or all of them at once, add to without waiting for each other.
//!
//! Invariant: memory that is all zero is a valid beginning, so that a segment of shared memory can
//! be used as it comes; and an addition is a relaxed one to a word, whatever another process does
//! or wherever it dies. Were there a lock, a backend killed with it in hand would stop every hit.

pub mod families;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::breaker::shared::Breakers;
use crate::lost::Lost;
use crate::reason::Reason;

use self::families::Families;

/// Costs come out of sidecars, which anybody who may write Redis can forge: no single one may make
/// a sum wrap.
const PART_MAX: u64 = 1 << 40;
const SUM_MAX: u64 = 1 << 62;

/// Databases that have counters of their own in shared memory; in a further one each session counts
/// for itself.
const DATABASES_MAX: usize = 1024;

#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Sum(AtomicU64);

impl Sum {
    pub fn add(&self, part: u64) {
        if self.0.fetch_add(part.min(PART_MAX), Relaxed) > SUM_MAX {
            self.0.store(SUM_MAX, Relaxed);
        }
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

/// What was read through the cache.
#[derive(Debug)]
#[repr(C)]
pub struct Reads {
    pub hits: Sum,
    pub misses: Sum,
    pub fills: Sum,
    pub bytes_read: Sum,
    pub bytes_filled: Sum,
    pub hit_us: Sum,
    pub query_us: Sum,
    pub saved_us: Sum,
    pub reasons: [Sum; Reason::ALL.len()],
}

impl Default for Reads {
    fn default() -> Self {
        let zero = Sum::default;
        Self {
            hits: zero(),
            misses: zero(),
            fills: zero(),
            bytes_read: zero(),
            bytes_filled: zero(),
            hit_us: zero(),
            query_us: zero(),
            saved_us: zero(),
            // (Arrays beyond 32 members have no default of their own.)
            reasons: std::array::from_fn(|_| zero()),
        }
    }
}

impl Reads {
    /// Each of them, in a fixed order.
    fn sums(&self) -> impl Iterator<Item = &Sum> {
        let Self { hits, misses, fills, bytes_read, bytes_filled, .. } = self;
        let Self { hit_us, query_us, saved_us, reasons, .. } = self;
        [hits, misses, fills, bytes_read, bytes_filled, hit_us, query_us, saved_us]
            .into_iter()
            .chain(reasons)
    }

    pub fn add(&self, other: &Self) {
        self.sums().zip(other.sums()).for_each(|(sum, part)| sum.add(part.get()));
    }

    pub fn reset(&self) {
        self.sums().for_each(Sum::reset);
    }

    pub fn is_zero(&self) -> bool {
        self.sums().all(|sum| sum.get() == 0)
    }
}

/// What commits cost, and what became of them.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Commits {
    pub settled: Sum,
    pub early: Sum,
    pub owed: Sum,
    pub tags: Sum,
    pub keys: Sum,
    pub time_us: Sum,
    pub sent: Sum,
    pub lost: Sum,
    pub send_us: Sum,
}

impl Commits {
    pub fn reset(&self) {
        let Self { settled, early, owed, tags, keys, time_us, sent, lost, send_us } = self;
        let all = [settled, early, owed, tags, keys, time_us, sent, lost, send_us];
        all.into_iter().for_each(Sum::reset);
    }
}

/// What is known of a database.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Database {
    oid: AtomicU32,
    has_extension: AtomicU32,
    pub commits: Commits,
}

const UNKNOWN: u32 = 0;
const YES: u32 = 1;
const NO: u32 = 2;

impl Database {
    /// Whether a worker found the extension there when it last looked, if one did.
    pub fn has_extension(&self) -> Option<bool> {
        match self.has_extension.load(Relaxed) {
            UNKNOWN => None,
            found => Some(found == YES),
        }
    }

    /// Somebody of the extension is there: what was found may be over.
    pub fn forget_absence(&self) {
        if self.has_extension() == Some(false) {
            self.set_extension(None);
        }
    }

    pub fn set_extension(&self, found: Option<bool>) {
        let found = found.map_or(UNKNOWN, |found| if found { YES } else { NO });
        self.has_extension.store(found, Relaxed);
    }
}

/// Of a place that a dropped database had. Whoever looks for one goes on behind it.
const FREED: u32 = u32::MAX;

/// The place of an owner in a table of a fixed size, or else the first that it may take; and what
/// stands there: its own mark, zero where nobody ever was, or that of a place that was freed.
fn find_or_free<P, M: Copy + Default + PartialEq>(
    places: &[P],
    start: usize,
    own: M,
    freed: M,
    mark: impl Fn(&P) -> M,
) -> Option<(&P, M)> {
    let mut free = None;
    for step in 0..places.len() {
        let place = &places[(start + step) % places.len()];
        match mark(place) {
            found if found == own => return Some((place, own)),
            found if found == M::default() => return free.or(Some((place, found))),
            found if found == freed => free = free.or(Some((place, freed))),
            _ => {}
        }
    }
    free
}

#[repr(C)]
pub struct Databases([Database; DATABASES_MAX]);

impl Databases {
    /// The one of this oid, which takes a place if it has none; `None` if there are too many.
    ///
    /// Two that look at once, while a place between is freed, may take one each: then one of them
    /// counts where nobody looks.
    pub fn of(&self, oid: u32) -> Option<&Database> {
        loop {
            let (place, found) = self.find_or_free(oid)?;
            if found == oid || place.oid.compare_exchange(found, oid, AcqRel, Acquire).is_ok() {
                return Some(place);
            }
        }
    }

    /// The same, but takes no place.
    pub fn find(&self, oid: u32) -> Option<&Database> {
        self.find_or_free(oid).filter(|(_, found)| *found == oid).map(|(place, _)| place)
    }

    fn find_or_free(&self, oid: u32) -> Option<(&Database, u32)> {
        find_or_free(&self.0, oid as usize, oid, FREED, |place| place.oid.load(Acquire))
    }

    fn oids(&self) -> impl Iterator<Item = u32> {
        let oids = self.0.iter().map(|place| place.oid.load(Relaxed));
        oids.filter(|oid| *oid != 0 && *oid != FREED)
    }

    fn free(&self, oid: u32) {
        for place in self.0.iter().filter(|place| place.oid.load(Relaxed) == oid) {
            place.commits.reset();
            place.set_extension(None);
            place.oid.store(FREED, Release);
        }
    }
}

/// All that backends share, where the library was preloaded.
#[repr(C)]
pub struct Shared {
    pub breakers: Breakers,
    pub databases: Databases,
    pub families: Families,
    pub lost: Lost,
}

impl Shared {
    /// The databases that have a place.
    pub fn databases_known(&self) -> BTreeSet<u32> {
        self.databases.oids().chain(self.families.databases()).collect()
    }

    /// Gives back the places of a database that was dropped, so that nobody is connected to it.
    pub fn forget(&self, database: u32) {
        self.databases.free(database);
        self.families.free(database);
        self.lost.forget_all_of(database);
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            breakers: Breakers::default(),
            databases: Databases(std::array::from_fn(|_| Database::default())),
            families: Families::default(),
            lost: Lost::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forged_cost_does_not_wrap_a_sum() {
        // Danger: a sidecar that claims u64::MAX makes `saved_ms` negative, or small.
        let sum = Sum::default();
        let mut before = 0;
        for _ in 0..1 << 23 {
            sum.add(u64::MAX);
            assert!(sum.get() >= before);
            before = sum.get().min(SUM_MAX);
        }
        assert!(sum.get() >= SUM_MAX && sum.get() < 1 << 63);
    }

    #[test]
    fn every_counter_is_summed_and_reset() {
        // Danger: a counter that is forgotten in one place shows the past for ever.
        let reads = Reads::default();
        reads.sums().enumerate().for_each(|(place, sum)| sum.add(place as u64 + 1));
        let all = Reads::default();
        all.add(&reads);
        all.add(&reads);
        let values: Vec<u64> = all.sums().map(Sum::get).collect();
        let expected: Vec<u64> = (1..=8 + Reason::ALL.len() as u64).map(|n| 2 * n).collect();
        assert_eq!(values, expected);
        assert_eq!(size_of::<Reads>(), size_of::<u64>() * values.len(), "all of it is summed");
        all.reset();
        assert!(all.is_zero() && !reads.is_zero());
        let commits = Commits::default();
        commits.time_us.add(5);
        commits.reset();
        assert_eq!(commits.time_us.get(), 0);
    }

    #[test]
    fn databases_keep_their_place_until_there_are_too_many() {
        // Danger: one database too many counts for another one.
        let shared = Shared::default();
        let databases = &shared.databases;
        for oid in 5..5 + DATABASES_MAX as u32 {
            databases.of(oid).unwrap().commits.keys.add(oid.into());
        }
        for oid in 5..5 + DATABASES_MAX as u32 {
            assert_eq!(databases.of(oid).unwrap().commits.keys.get(), u64::from(oid));
        }
        assert!(databases.of(1).is_none() && databases.find(1).is_none());
        assert!(size_of::<Shared>() < 340_000, "the documents say how much memory it takes");
        let one = databases.of(5).unwrap();
        assert_eq!(one.has_extension(), None);
        for found in [Some(true), Some(false), None] {
            one.set_extension(found);
            assert_eq!(one.has_extension(), found);
            one.forget_absence();
            assert_eq!(one.has_extension(), found.filter(|found| *found));
        }
    }

    #[test]
    fn the_places_of_dropped_databases_are_given_to_others() {
        // Danger: where databases come and go, as in tests of an application, nobody counts for all
        // any more after a thousand of them; or one shows what another counted.
        let shared = Shared::default();
        for oid in 5..20_000 {
            let database = shared.databases.of(oid).expect("a place");
            assert_eq!((database.commits.keys.get(), database.has_extension()), (0, None));
            database.commits.keys.add(oid.into());
            database.set_extension(Some(true));
            shared.families.of(oid, "orders").hits.add(oid.into());
            assert_eq!(shared.families.all_in(oid).len(), 1);
            if oid >= 105 {
                shared.forget(oid - 100);
                assert!(shared.databases.find(oid - 100).is_none());
                assert!(shared.families.all_in(oid - 100).is_empty());
            }
        }
        let left: Vec<u32> = shared.databases_known().into_iter().collect();
        assert_eq!(left, (19_900..20_000).collect::<Vec<u32>>());
        for oid in left {
            assert_eq!(shared.databases.of(oid).unwrap().commits.keys.get(), u64::from(oid));
            let [(_, reads)] = &shared.families.all_in(oid)[..] else { panic!("one family") };
            assert_eq!(reads.hits.get(), u64::from(oid));
        }
    }
}
