//! Owns what the running transaction owes Redis at its commit: tags to bump and keys to delete, on
//! a stack that mirrors the savepoints.
//!
//! Invariant: what was noted in a level is owed if and only if that level and all below it commit;
//! what does not fit becomes something coarser, never nothing. If a note outlived its rollback,
//! a reader would compute for nothing; if one were lost with another level's rollback, somebody
//! would read an old value for as long as it lives.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use crate::tag::Tag;

/// The most tags that are neither row groups nor keys, over all levels; what comes on top becomes
/// the catalogue tag, on which every entry depends.
const TAGS_MAX: usize = 10_000;

const GROUPS_MAX: usize = 10_000;

/// The relation of a tag that is no row group: PostgreSQL's invalid oid.
const NO_GROUP: u32 = 0;

/// What a transaction owes. For each key the tag of the key is owed too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owed {
    /// Sorted, each once.
    pub tags: Vec<Tag>,
    /// In no order, each once.
    pub keys: Vec<Box<[u8]>>,
}

/// The stack. Levels are PostgreSQL's nest levels, 1 the transaction itself, and stand here only
/// if something was noted in them, in rising order.
#[derive(Debug, Clone)]
pub struct Pending {
    levels: Vec<Level>,
    bottom: Vec<Tag>,
    groups_max: usize,
    held: Held,
}

#[derive(Debug, Clone)]
struct Level {
    level: u32,
    /// Each with the relation that it is a row group of.
    tags: HashMap<Tag, u32, BuildHasherDefault<TagHasher>>,
    keys: HashSet<Box<[u8]>>,
}

/// What all levels hold together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Held {
    plain: usize,
    groups: usize,
    keys: usize,
    key_bytes: usize,
}

/// A tag is a hash already.
#[derive(Debug, Default)]
struct TagHasher(u64);

impl Hasher for TagHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

impl Default for Pending {
    fn default() -> Self {
        Pending::new()
    }
}

impl Pending {
    pub fn new() -> Self {
        Pending::with_limits(GROUPS_MAX)
    }

    /// Holds at most so many row groups, over all levels and relations.
    pub fn with_limits(groups_max: usize) -> Self {
        Pending { levels: Vec::new(), bottom: Vec::new(), groups_max, held: Held::default() }
    }

    /// Whether this tag stands at this very level already: what the path of each row asks first.
    pub fn seen(&self, level: u32, tag: Tag) -> bool {
        self.levels.last().is_some_and(|top| top.level == level && top.tags.contains_key(&tag))
    }

    pub fn note(&mut self, level: u32, tag: Tag) {
        let place = self.place(level);
        let top = &mut self.levels[place];
        match top.tags.entry(tag) {
            Entry::Occupied(mut found) => {
                // A row group whose hash is that of this tag must not vanish into its relation's.
                if found.insert(NO_GROUP) != NO_GROUP {
                    self.held.groups -= 1;
                    self.held.plain += 1;
                }
            }
            Entry::Vacant(free) if self.held.plain < TAGS_MAX => {
                free.insert(NO_GROUP);
                self.held.plain += 1;
            }
            Entry::Vacant(_) => {
                self.held.forget_tags(top);
                top.tags = HashMap::from_iter([(Tag::CATALOGUE, NO_GROUP)]);
                self.held.plain += 1;
            }
        }
    }

    /// Notes a row group. Beyond the limit, the groups of its relation at this level become the
    /// tag of the whole relation, on which the queries of every group depend.
    pub fn note_group(&mut self, level: u32, relation: u32, tag: Tag) {
        let place = self.place(level);
        let top = &mut self.levels[place];
        let whole = Tag::whole(relation);
        if top.tags.contains_key(&tag) || top.tags.contains_key(&whole) {
            return;
        }
        if self.held.groups < self.groups_max {
            top.tags.insert(tag, relation);
            self.held.groups += 1;
            return;
        }
        let before = top.tags.len();
        top.tags.retain(|_, group_of| *group_of != relation);
        self.held.groups -= before - top.tags.len();
        self.note(level, whole);
    }

    /// Notes a key, named without the database's prefix.
    pub fn note_key(&mut self, level: u32, key: &[u8]) {
        let place = self.place(level);
        let keys = &mut self.levels[place].keys;
        if !keys.contains(key) {
            keys.insert(key.into());
            self.held.keys += 1;
            self.held.key_bytes += key.len();
        }
    }

    /// Notes a tag that no rollback to a savepoint takes away.
    pub fn note_bottom(&mut self, tag: Tag) {
        if !self.bottom.contains(&tag) {
            self.bottom.push(tag);
        }
    }

    /// A savepoint ended well: what it owes is owed by the level below it.
    pub fn release(&mut self, level: u32) {
        let below = level.saturating_sub(1).max(1);
        while let Some(mut child) = self.levels.pop_if(|top| top.level >= level.max(2)) {
            match self.levels.last_mut() {
                Some(parent) if parent.level >= below => parent.merge(child, &mut self.held),
                _ => {
                    child.level = below;
                    self.levels.push(child);
                }
            }
        }
    }

    /// A savepoint was rolled back: nothing that it noted, nor any within it, is owed.
    pub fn roll_back(&mut self, level: u32) {
        while let Some(top) = self.levels.pop_if(|top| top.level >= level) {
            self.held.forget_tags(&top);
            self.held.forget_keys(&top);
        }
    }

    /// The keys that are held, over all levels.
    pub fn keys(&self) -> usize {
        self.held.keys
    }

    /// The bytes of the keys and tags that are held, without what the allocator adds.
    pub fn bytes(&self) -> usize {
        self.held.key_bytes + (self.held.plain + self.held.groups) * size_of::<Tag>()
    }

    /// Takes the keys of all levels, to settle them at once. What is settled and then rolled back
    /// costs a miss.
    pub fn take_keys(&mut self) -> Vec<Box<[u8]>> {
        let mut all = HashSet::new();
        for level in &mut self.levels {
            self.held.forget_keys(level);
            let keys = std::mem::take(&mut level.keys);
            if all.is_empty() { all = keys } else { all.extend(keys) }
        }
        all.into_iter().collect()
    }

    /// Takes everything: the transaction is about to commit.
    pub fn take(&mut self) -> Owed {
        let keys = self.take_keys();
        let tags = self.levels.iter().flat_map(|level| level.tags.keys().copied());
        let mut tags: Vec<Tag> = tags.chain(self.bottom.iter().copied()).collect();
        tags.sort_unstable();
        tags.dedup();
        self.clear();
        Owed { tags, keys }
    }

    /// Forgets everything: the transaction is over.
    pub fn clear(&mut self) {
        self.levels.clear();
        self.bottom.clear();
        self.held = Held::default();
    }

    pub fn is_empty(&self) -> bool {
        self.bottom.is_empty() && self.held == Held::default()
    }

    /// Where the notes of a level stand. Notes come from the innermost level; should one come from
    /// further out, it must not go with what is rolled back inside.
    fn place(&mut self, level: u32) -> usize {
        let place = match self.levels.iter().rposition(|other| other.level <= level) {
            Some(place) if self.levels[place].level == level => return place,
            Some(place) => place + 1,
            None => 0,
        };
        let new = Level { level, tags: HashMap::default(), keys: HashSet::new() };
        self.levels.insert(place, new);
        place
    }
}

impl Level {
    /// Takes over what an inner level owes. The smaller goes into the larger, so that thousands of
    /// levels that end one after another cost what they hold, not its square.
    fn merge(&mut self, mut child: Level, held: &mut Held) {
        if self.tags.len() < child.tags.len() {
            std::mem::swap(&mut self.tags, &mut child.tags);
        }
        for (tag, group_of) in child.tags {
            match self.tags.entry(tag) {
                Entry::Vacant(free) => {
                    free.insert(group_of);
                }
                // What either of them notes as no row group is none.
                Entry::Occupied(_) if group_of != NO_GROUP => held.groups -= 1,
                Entry::Occupied(mut found) => match found.insert(NO_GROUP) {
                    NO_GROUP => held.plain -= 1,
                    _ => held.groups -= 1,
                },
            }
        }
        if self.keys.len() < child.keys.len() {
            std::mem::swap(&mut self.keys, &mut child.keys);
        }
        for key in child.keys {
            let bytes = key.len();
            if !self.keys.insert(key) {
                held.keys -= 1;
                held.key_bytes -= bytes;
            }
        }
    }
}

impl Held {
    fn forget_tags(&mut self, level: &Level) {
        let groups = level.tags.values().filter(|group_of| **group_of != NO_GROUP).count();
        self.groups -= groups;
        self.plain -= level.tags.len() - groups;
    }

    fn forget_keys(&mut self, level: &Level) {
        self.keys -= level.keys.len();
        self.key_bytes -= level.keys.iter().map(|key| key.len()).sum::<usize>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn owed(pending: &mut Pending) -> (Vec<u64>, Vec<String>) {
        let Owed { tags, keys } = pending.take();
        let mut keys: Vec<_> =
            keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
        keys.sort();
        assert!(pending.is_empty() && (pending.keys(), pending.bytes()) == (0, 0));
        (tags.into_iter().map(|tag| tag.0).collect(), keys)
    }

    #[test]
    fn what_was_noted_and_rolled_back_is_not_owed() {
        // Danger: keys of a change that never was are deleted, or a parent's notes go with it.
        let mut pending = Pending::new();
        pending.note(1, Tag(1));
        pending.note_key(1, b"a");
        pending.note(2, Tag(2));
        pending.note_key(2, b"b");
        pending.note_group(3, 16384, Tag(3));
        pending.roll_back(2);
        assert_eq!((pending.keys(), pending.bytes()), (1, 1 + 8));
        assert_eq!(owed(&mut pending), (vec![1], vec!["a".into()]));
    }

    #[test]
    fn what_was_released_is_owed_once_by_the_level_below() {
        // Danger: a released savepoint's notes are lost, or survive the rollback around it.
        let mut pending = Pending::new();
        for level in [1, 2, 3] {
            pending.note(level, Tag(7));
            pending.note_key(level, b"k");
        }
        assert_eq!(pending.keys(), 3);
        pending.release(3);
        pending.release(2);
        assert_eq!((pending.keys(), pending.bytes()), (1, 1 + 8));
        assert_eq!(owed(&mut pending), (vec![7], vec!["k".into()]));

        pending.note(4, Tag(1));
        pending.release(4);
        pending.release(3);
        pending.roll_back(2);
        assert!(pending.is_empty());
    }

    #[test]
    fn a_note_from_further_out_stays_when_the_inner_level_goes() {
        // Danger: it is taken for the inner level's, whose rollback loses it.
        let mut pending = Pending::new();
        pending.note(3, Tag(3));
        pending.note(1, Tag(1));
        pending.note(2, Tag(2));
        pending.roll_back(3);
        assert_eq!(owed(&mut pending), (vec![1, 2], vec![]));
    }

    #[test]
    fn a_note_on_the_bottom_survives_every_savepoint() {
        // Danger: an early settlement that failed is forgotten with its EXCEPTION block.
        let mut pending = Pending::new();
        pending.note(2, Tag(5));
        pending.note_bottom(Tag::CATALOGUE);
        pending.note_bottom(Tag::CATALOGUE);
        pending.roll_back(2);
        assert!(!pending.is_empty());
        assert_eq!(owed(&mut pending), (vec![u64::MAX], vec![]));
        pending.note_bottom(Tag::CATALOGUE);
        pending.clear();
        assert!(pending.is_empty());
    }

    #[test]
    fn only_this_very_level_has_seen_a_tag() {
        // Danger: a note is skipped because of another that is rolled back before it.
        let mut pending = Pending::new();
        pending.note(2, Tag(1));
        assert!(pending.seen(2, Tag(1)) && !pending.seen(2, Tag(2)));
        assert!(!pending.seen(1, Tag(1)) && !pending.seen(3, Tag(1)));
        pending.release(2);
        assert!(pending.seen(1, Tag(1)) && !pending.seen(2, Tag(1)));
    }

    #[test]
    fn groups_beyond_the_limit_become_their_whole_relation() {
        // Danger: the memory of a backend, or a group that nobody bumps.
        let mut pending = Pending::with_limits(3);
        let any = Tag::any(5);
        pending.note(1, any);
        for group in 0..1000 {
            pending.note_group(1, 5, Tag(group));
        }
        assert!(pending.seen(1, Tag::whole(5)) && pending.seen(1, any));
        assert_eq!(pending.bytes(), 16);
        pending.note_group(1, 6, Tag(2000));
        // The groups of a level that is rolled back are counted out.
        pending.note_group(2, 7, Tag(2001));
        pending.note_group(2, 7, Tag(2002));
        pending.note_group(2, 7, Tag(2003));
        assert!(pending.seen(2, Tag::whole(7)));
        pending.roll_back(2);
        pending.note_group(1, 8, Tag(2004));
        pending.note_group(1, 8, Tag(2004));
        pending.note_group(1, 8, Tag(2005));
        let mut expected = vec![any.0, Tag::whole(5).0, 2000, 2004, 2005];
        expected.sort_unstable();
        assert_eq!(owed(&mut pending), (expected, vec![]));
    }

    #[test]
    fn tags_beyond_the_limit_become_the_catalogue() {
        // Danger: redis_touch in a loop takes the memory of the machine.
        let mut pending = Pending::new();
        for tag in 0..TAGS_MAX as u64 {
            pending.note(1, Tag(tag));
        }
        pending.note(2, Tag(TAGS_MAX as u64));
        assert!(pending.seen(2, Tag::CATALOGUE) && !pending.seen(2, Tag(TAGS_MAX as u64)));
        pending.release(2);
        pending.note(1, Tag(0));
        assert_eq!(pending.bytes(), (TAGS_MAX + 1) * 8);
        pending.note(1, Tag(u64::MAX - 1));
        assert_eq!(owed(&mut pending), (vec![u64::MAX], vec![]));
    }

    #[test]
    fn keys_are_taken_from_every_level_and_tags_stay() {
        // Danger: what is settled early is settled twice, or its tags are forgotten.
        let mut pending = Pending::new();
        pending.note_key(1, b"a");
        pending.note(2, Tag(2));
        pending.note_key(2, b"b");
        pending.note_key(3, b"a");
        let mut keys = pending.take_keys();
        keys.sort();
        assert_eq!(keys, [b"a"[..].into(), b"b"[..].into()] as [Box<[u8]>; 2]);
        assert_eq!((pending.keys(), pending.bytes()), (0, 8));
        pending.note_key(3, b"c");
        pending.release(3);
        assert_eq!(owed(&mut pending), (vec![2], vec!["c".into()]));
    }

    #[test]
    fn thousands_of_levels_cost_what_they_hold() {
        // Danger: a PL/pgSQL loop in nested EXCEPTION blocks takes the square of its depth. By
        // copying each level into the next, this test would take minutes.
        let depth = 100_000u32;
        let mut pending = Pending::new();
        for level in 1..=depth {
            pending.note_key(level, &level.to_le_bytes());
        }
        for level in (2..=depth).rev() {
            pending.release(level);
        }
        assert_eq!((pending.keys(), pending.take_keys().len()), (100_000, 100_000));
        // As many, one after another, with a large level below them and without.
        for start in [1, 2] {
            for turn in 0..depth {
                pending.note(start + 1, Tag(u64::from(turn % 1000)));
                pending.release(start + 1);
            }
        }
        assert_eq!(pending.take().tags.len(), 1000);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Note(u64),
        Group(u32, u64),
        Key(u8),
        Begin,
        Release,
        RollBack,
        TakeKeys,
        Bottom(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0u64..6).prop_map(Step::Note),
            3 => (1u32..3, 100u64..106).prop_map(|(of, tag)| Step::Group(of, tag * 10 + u64::from(of))),
            3 => (0u8..6).prop_map(Step::Key),
            3 => Just(Step::Begin),
            2 => Just(Step::Release),
            2 => Just(Step::RollBack),
            1 => Just(Step::TakeKeys),
            1 => (200u64..202).prop_map(Step::Bottom),
        ];
        vec(step, 0..60)
    }

    /// The same, the simplest way: every level, a list of what was noted.
    #[derive(Default, Clone)]
    struct Plain {
        tags: BTreeSet<(u64, u32)>,
        keys: BTreeSet<u8>,
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn what_is_owed_is_what_no_rollback_took(
            steps in steps(), groups_max in prop_oneof![Just(0usize), Just(2), Just(1000)],
        ) {
            // Danger: a note lost or kept by some sequence of savepoints that nobody thought of.
            let mut pending = Pending::with_limits(groups_max);
            let mut plain = vec![Plain::default()];
            let mut bottom = BTreeSet::new();
            for step in steps {
                let level = plain.len() as u32;
                let top = plain.last_mut().unwrap();
                match step {
                    Step::Note(tag) => {
                        pending.note(level, Tag(tag));
                        top.tags.insert((tag, 0));
                    }
                    Step::Group(of, tag) => {
                        pending.note_group(level, of, Tag(tag));
                        top.tags.insert((tag, of));
                    }
                    Step::Key(key) => {
                        pending.note_key(level, &[key]);
                        top.keys.insert(key);
                    }
                    Step::Begin => plain.push(Plain::default()),
                    Step::Release if level > 1 => {
                        let child = plain.pop().unwrap();
                        let parent = plain.last_mut().unwrap();
                        parent.tags.extend(child.tags);
                        parent.keys.extend(child.keys);
                        pending.release(level);
                    }
                    Step::RollBack if level > 1 => {
                        plain.pop();
                        pending.roll_back(level);
                    }
                    Step::Release | Step::RollBack => {}
                    Step::TakeKeys => {
                        let taken: BTreeSet<u8> =
                            pending.take_keys().iter().map(|key| key[0]).collect();
                        let expected: BTreeSet<u8> =
                            plain.iter_mut().flat_map(|level| std::mem::take(&mut level.keys)).collect();
                        prop_assert_eq!(taken, expected);
                    }
                    Step::Bottom(tag) => {
                        pending.note_bottom(Tag(tag));
                        bottom.insert(tag);
                    }
                }
                let keys: usize = plain.iter().map(|level| level.keys.len()).sum();
                prop_assert_eq!(pending.keys(), keys);
                prop_assert!(pending.held.groups <= groups_max);
                let tags: usize = plain.iter().map(|level| level.tags.len()).sum();
                let fits = groups_max == 1000;
                prop_assert!(!fits || pending.bytes() == keys + tags * 8);
                let nothing = tags == 0 && keys == 0 && bottom.is_empty();
                prop_assert_eq!(pending.is_empty(), nothing);
            }
            let Owed { tags, keys } = pending.take();
            let expected: BTreeSet<u8> = plain.iter().flat_map(|level| level.keys.clone()).collect();
            prop_assert_eq!(keys.len(), expected.len());
            prop_assert_eq!(keys.iter().map(|key| key[0]).collect::<BTreeSet<u8>>(), expected);
            let noted: BTreeSet<(u64, u32)> = plain.into_iter().flat_map(|level| level.tags).collect();
            let covers = |(tag, of): &(u64, u32)| {
                tags.contains(&Tag(*tag)) || *of > 0 && tags.contains(&Tag::whole(*of))
            };
            prop_assert!(noted.iter().all(covers) && bottom.iter().all(|tag| covers(&(*tag, 0))));
            let justified = |tag: &Tag| {
                bottom.contains(&tag.0)
                    || noted.iter().any(|(noted, of)| {
                        *noted == tag.0 || groups_max < 1000 && *of > 0 && Tag::whole(*of) == *tag
                    })
            };
            prop_assert!(tags.iter().all(justified));
        }
    }
}
