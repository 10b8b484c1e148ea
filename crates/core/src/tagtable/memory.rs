//! Owns the tag table of a server that keeps it in its own shared memory.
//!
//! One table serves all databases of the server, as transaction ids do. A writer who gives a bucket
//! its next version and puts itself among its writers asks nobody for it, and a reader who looks at
//! a bucket waits for nothing: each is a cache line with a version that is odd while it is written.
//!
//! What makes the table in Redis difficult does not exist here: it cannot be lost, be an older one
//! or that of another server while any backend lives, because PostgreSQL makes shared memory anew
//! only when all of them are gone. So it needs no generation, no base and no making. Entries are of
//! a generation that this run of the server registered; whoever wrote before it is complete in
//! every snapshot of it, or is prepared and owes.
//!
//! Invariant: a bucket names every writer who may be incomplete in some snapshot, one by one or by
//! the range of ids that it holds, which all must be. What does not fit is held, never dropped: a
//! writer that nobody names is a stale read.

use std::hint::spin_loop;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

use super::Field;
use crate::tag::{Bucket, Tag};

/// Buckets of data: a power of two.
const BUCKETS: usize = 1 << 16;

/// Databases share these: a change of the schema in one costs the others that fall in with it a
/// look at their catalogues.
const CATALOGUES: usize = 1024;

/// As many as fill a cache line.
const WRITERS: usize = 5;

/// Changes of the schema that are between their bump and their end at the same time.
const CATALOGUE_WRITERS: usize = 29;

/// How often to look for a bucket's release before the processor is left to whoever holds it.
const SPINS: u32 = 100;

/// What a snapshot says of others: a reader's, or a writer's that was taken before its bump.
pub struct View<'a> {
    pub is_complete: &'a dyn Fn(u64) -> bool,
    /// Whether all ids of a range are.
    pub are_complete: &'a dyn Fn(RangeInclusive<u64>) -> bool,
}

impl View<'_> {
    fn lets_go(&self, held: (u64, u64)) -> bool {
        held == NOBODY || (self.are_complete)(held.0..=held.1)
    }
}

/// The least and the greatest id that a bucket holds.
const NOBODY: (u64, u64) = (0, 0);

/// A bucket as of one moment, and what it holds.
pub type Known = (Field, (u64, u64));

/// A bucket: even version, whom it holds, writers (0: none).
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Slot<const N: usize> {
    version: AtomicU64,
    held: (AtomicU64, AtomicU64),
    writers: [AtomicU64; N],
}

/// As it stands when it is read so: for those who explore what may become of it.
impl<const N: usize> From<&Known> for Slot<N> {
    fn from((field, held): &Known) -> Self {
        debug_assert!(field.version & 1 == 0, "nobody writes it");
        debug_assert!(field.xids.len() <= N, "nobody is left out");
        let writer = |place| AtomicU64::new(field.xids.get(place).copied().unwrap_or(0));
        let held = (AtomicU64::new(held.0), AtomicU64::new(held.1));
        let (version, writers) = (AtomicU64::new(field.version), std::array::from_fn(writer));
        Self { version, held, writers }
    }
}

impl<const N: usize> Slot<N> {
    /// Waits until nobody else writes it. Who does is never interrupted, and does next to nothing.
    fn lock(&self) -> u64 {
        let mut tries = 0;
        loop {
            let version = self.version.load(Relaxed) & !1;
            if self.version.compare_exchange_weak(version, version | 1, AcqRel, Relaxed).is_ok() {
                // What is written next is not to be seen under the even version before.
                fence(Release);
                return version;
            }
            pause(&mut tries);
        }
    }

    fn unlock(&self, version: u64) {
        self.version.store(version, Release);
    }

    /// Lists `x` under the next version: those complete in its snapshot may go, as whoever sees `x`
    /// as complete sees them too. False, and nothing is changed, if there is no room and it may
    /// hold nobody.
    ///
    /// Who is complete is asked before the bucket is locked: it may take PostgreSQL a look at its
    /// disk, which may fail. Who came meanwhile stays.
    pub fn bump(&self, x: u64, view: &View<'_>, may_hold: bool) -> bool {
        let (known, known_held) = self.read();
        let goes = |xid: &u64| *xid == x || (view.is_complete)(*xid);
        let gone: Vec<u64> = known.xids.into_iter().filter(goes).collect();
        let lets_go = view.lets_go(known_held);
        let version = self.lock();
        let mut held = self.held();
        if lets_go && held == known_held {
            held = NOBODY;
        }
        let before = self.writers.iter().map(|writer| writer.load(Relaxed));
        let mut kept = [0; N];
        let mut count = 0;
        for xid in before.filter(|xid| *xid != 0 && *xid != x && !gone.contains(xid)) {
            kept[count] = xid;
            count += 1;
        }
        if count == N && !may_hold {
            self.unlock(version);
            return false;
        }
        if count == N {
            // The oldest goes: it will be the first to be complete.
            let oldest = (0..N).min_by_key(|place| kept[*place]).unwrap_or(0);
            let xid = std::mem::replace(&mut kept[oldest], x);
            held = if held == NOBODY { (xid, xid) } else { (held.0.min(xid), held.1.max(xid)) };
        } else {
            kept[count] = x;
        }
        self.held.0.store(held.0, Relaxed);
        self.held.1.store(held.1, Relaxed);
        for (writer, xid) in self.writers.iter().zip(kept) {
            writer.store(xid, Relaxed);
        }
        self.unlock(version + 2);
        true
    }

    fn held(&self) -> (u64, u64) {
        (self.held.0.load(Relaxed), self.held.1.load(Relaxed))
    }

    /// For a reader; `None` if it holds writers who may not be complete.
    pub fn field(&self, view: &View<'_>) -> Option<Field> {
        let (field, held) = self.read();
        view.lets_go(held).then_some(field)
    }

    pub fn read(&self) -> Known {
        let mut tries = 0;
        loop {
            let version = self.version.load(Acquire);
            let held = self.held();
            let writers = self.writers.iter().map(|writer| writer.load(Relaxed));
            let xids = writers.filter(|xid| *xid != 0).collect();
            fence(Acquire);
            if version & 1 == 0 && self.version.load(Relaxed) == version {
                return (Field { version, xids }, held);
            }
            pause(&mut tries);
        }
    }
}

fn pause(tries: &mut u32) {
    *tries += 1;
    if tries.is_multiple_of(SPINS) {
        std::thread::yield_now();
    } else {
        spin_loop();
    }
}

/// All zero is a table that nobody wrote yet.
#[derive(Debug)]
#[repr(C)]
pub struct Table {
    catalogues: [Slot<CATALOGUE_WRITERS>; CATALOGUES],
    buckets: [Slot<WRITERS>; BUCKETS],
}

/// The bucket of a tag of a database. Copies of a database have the same tables and the same tags.
pub fn bucket(tag: Tag, database: u32) -> Bucket {
    if tag == Tag::CATALOGUE {
        return Bucket::CATALOGUE;
    }
    let apart = u64::from(database).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Bucket(((tag.0 ^ apart) % BUCKETS as u64) as u32)
}

impl Table {
    /// Gives the bucket its next version and lists `x`. False, and nothing is changed, if it is the
    /// catalogue's and too many changes of the schema are ending: readers have to know each of
    /// them.
    pub fn bump(&self, database: u32, bucket: Bucket, x: u64, view: &View<'_>) -> bool {
        match bucket {
            Bucket::CATALOGUE => self.catalogue(database).bump(x, view, false),
            bucket => self.slot(bucket).bump(x, view, true),
        }
    }

    /// The bucket for a reader; `None` if it holds writers who may not be complete.
    pub fn field(&self, database: u32, bucket: Bucket, view: &View<'_>) -> Option<Field> {
        match bucket {
            Bucket::CATALOGUE => self.catalogue(database).field(view),
            bucket => self.slot(bucket).field(view),
        }
    }

    /// Who is listed for the catalogue.
    pub fn catalogue_writers(&self, database: u32) -> Vec<u64> {
        self.catalogue(database).read().0.xids
    }

    fn catalogue(&self, database: u32) -> &Slot<CATALOGUE_WRITERS> {
        &self.catalogues[database as usize % CATALOGUES]
    }

    fn slot(&self, bucket: Bucket) -> &Slot<WRITERS> {
        &self.buckets[bucket.0 as usize % BUCKETS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::sync::atomic::AtomicBool;

    fn empty<const N: usize>() -> Slot<N> {
        Slot::from(&Known::default())
    }

    /// A snapshot: below `xmax`, all are complete but those that run.
    #[derive(Clone, Debug)]
    struct Seen {
        xmax: u64,
        running: BTreeSet<u64>,
    }

    impl Seen {
        fn is_complete(&self, xid: u64) -> bool {
            xid < self.xmax && !self.running.contains(&xid)
        }

        fn are_complete(&self, range: RangeInclusive<u64>) -> bool {
            *range.end() < self.xmax && self.running.range(range).next().is_none()
        }
    }

    /// The transactions of a server, and what one bucket knows of them.
    struct World {
        slot: Slot<2>,
        next: u64,
        running: BTreeSet<u64>,
        bumped: BTreeSet<u64>,
        snapshots: Vec<Seen>,
    }

    impl World {
        fn new() -> Self {
            let (running, bumped) = (BTreeSet::new(), BTreeSet::new());
            Self { slot: empty(), next: 3, running, bumped, snapshots: Vec::new() }
        }

        fn see(&self) -> Seen {
            Seen { xmax: self.next, running: self.running.clone() }
        }

        fn begin(&mut self) {
            self.running.insert(self.next);
            self.next += 1;
        }

        fn nth_running(&self, n: usize) -> Option<u64> {
            self.running.iter().nth(n % self.running.len().max(1)).copied()
        }

        fn bump(&mut self, x: u64, seen: &Seen, may_hold: bool) -> bool {
            let is_complete = |xid| seen.is_complete(xid);
            let are_complete = |range| seen.are_complete(range);
            let view = View { is_complete: &is_complete, are_complete: &are_complete };
            let before = self.slot.read().0;
            let done = self.slot.bump(x, &view, may_hold);
            let (after, _) = self.slot.read();
            assert_eq!(after != before, done);
            assert_eq!(after.version > before.version, done);
            if done {
                self.bumped.insert(x);
            }
            done
        }

        /// Whether a reader of this snapshot may trust the bucket.
        fn trusts(&self, seen: &Seen) -> bool {
            let (field, (low, high)) = self.slot.read();
            let lets_go = high == 0 || seen.are_complete(low..=high);
            lets_go && field.xids.iter().all(|xid| seen.is_complete(*xid))
        }

        fn check(&self) {
            for seen in self.snapshots.iter().chain([&self.see()]) {
                let all = self.bumped.iter().all(|xid| seen.is_complete(*xid));
                assert!(all || !self.trusts(seen), "{seen:?} trusts {:?}", self.slot);
            }
        }
    }

    proptest! {
        #[test]
        fn no_snapshot_trusts_a_bucket_with_a_writer_it_does_not_see(
            steps in proptest::collection::vec((0..5u8, 0..8usize), 1..80),
            may_hold: bool,
        ) {
            // Danger: a writer falls out of the list, and an entry from before it is served.
            let mut world = World::new();
            let mut views: Vec<(u64, Seen)> = Vec::new();
            for (step, n) in steps {
                match (step, world.nth_running(n)) {
                    (0, _) => world.begin(),
                    (1, Some(x)) => views.push((x, world.see())),
                    // Others may have begun, bumped and ended since the snapshot was taken.
                    (2, _) if !views.is_empty() => {
                        let (x, seen) = views.swap_remove(n % views.len());
                        if world.running.contains(&x) {
                            world.bump(x, &seen, may_hold);
                        }
                    }
                    (3, Some(x)) => {
                        world.running.remove(&x);
                    }
                    _ => world.snapshots.push(world.see()),
                }
                world.check();
            }
            // Danger: once full, a bucket serves nobody for ever.
            world.running.clear();
            world.begin();
            let (x, seen) = (world.next - 1, world.see());
            prop_assert!(world.bump(x, &seen, may_hold));
            world.running.clear();
            prop_assert!(world.trusts(&world.see()));
        }
    }

    #[test]
    fn a_full_bucket_holds_the_oldest_or_refuses() {
        // Danger: more writers at once than a bucket has room for.
        let mut world = World::new();
        (0..4).for_each(|_| world.begin());
        let seen = world.see();
        assert!(world.bump(3, &seen, true) && world.bump(4, &seen, true));
        assert!(!world.bump(5, &seen, false), "the catalogue's readers have to know each");
        assert!(world.bump(4, &seen, false), "who is listed already needs no room");
        assert!(world.bump(5, &seen, true));
        let (field, held) = world.slot.read();
        assert_eq!((held, field.xids.len(), field.version), ((3, 3), 2, 8));
        world.running = [3, 6].into();
        assert!(!world.trusts(&world.see()));
        world.running = [6].into();
        assert!(world.trusts(&world.see()));
    }

    #[test]
    fn an_old_transaction_does_not_keep_a_bucket_that_was_full_from_its_readers() {
        // Danger: one moment of many writers, and a report that runs for hours has everybody
        // compute for as long.
        let mut world = World::new();
        (0..4).for_each(|_| world.begin());
        let seen = world.see();
        for x in 4..7 {
            assert!(world.bump(x, &seen, true));
        }
        world.running = [3].into();
        assert!(world.trusts(&world.see()));
    }

    #[test]
    fn readers_see_each_bucket_as_of_one_moment() {
        // Danger: the version of one bump with the writers of another.
        let slot = Slot::<WRITERS>::from(&Known::default());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writers = [1u64, 2].map(|first| {
                let slot = &slot;
                scope.spawn(move || {
                    // Each sees all others as complete: of each thread, one at most remains that
                    // the other did not meet before it bumped.
                    let view = View { is_complete: &|_| true, are_complete: &|_| true };
                    (0..100_000).for_each(|n| {
                        assert!(slot.bump(first + 2 * n, &view, true));
                    });
                })
            });
            let reader = scope.spawn(|| {
                let (mut last, mut reads) = (0, 0u64);
                while !done.load(Relaxed) {
                    let (field, held) = slot.read();
                    assert!(field.version >= last && held == NOBODY, "{held:?}");
                    let threads: BTreeSet<u64> = field.xids.iter().map(|xid| xid % 2).collect();
                    assert_eq!(threads.len(), field.xids.len(), "{field:?}");
                    (last, reads) = (field.version, reads + 1);
                }
                reads
            });
            for writer in writers {
                writer.join().unwrap();
            }
            done.store(true, Relaxed);
            assert!(reader.join().unwrap() > 0);
        });
        assert_eq!(slot.read().0.version, 400_000);
    }

    #[test]
    fn the_table_takes_as_much_memory_as_the_documents_say() {
        // Danger: a server that does not start for want of memory, after an upgrade.
        assert_eq!(size_of::<Slot<WRITERS>>(), 64);
        assert_eq!(size_of::<Slot<CATALOGUE_WRITERS>>(), 256);
        assert_eq!(size_of::<Table>(), (4 << 20) + 256 * 1024);
    }

    #[test]
    fn copies_of_a_database_have_buckets_of_their_own() {
        // Danger: in a server of copies, as one for each tenant, everybody's writes cost everybody
        // their entries.
        let tags: Vec<Tag> = (16_384..16_484).map(Tag::any).collect();
        let of = |database| tags.iter().map(move |tag| bucket(*tag, database));
        let shared = of(5).zip(of(6)).filter(|(one, other)| one == other).count();
        assert!(shared < 5, "{shared}");
        assert_eq!(bucket(Tag::CATALOGUE, 5), Bucket::CATALOGUE);
    }
}
