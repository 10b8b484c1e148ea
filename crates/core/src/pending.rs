//! Owns what the running transaction owes Redis at its commit: tags to bump and keys to delete, on
//! a stack that mirrors the savepoints.
//!
//! Invariant: what was noted in a level is owed if and only if that level and all below it commit;
//! what does not fit becomes something coarser, never nothing. If a note outlived its rollback,
//! a reader would compute for nothing; if one were lost with another level's rollback, somebody
//! would read an old value for as long as it lives.

mod keys;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

use crate::tag::Tag;

pub use self::keys::Keys;

/// The most tags that are neither row groups nor keys, over all levels; what comes on top becomes
/// the catalogue tag, on which every entry depends.
const TAGS_MAX: usize = 10_000;

const GROUPS_MAX: usize = 10_000;

/// The relation of a tag that is no row group: PostgreSQL's invalid oid.
const NO_GROUP: u32 = 0;

/// What a transaction owes. For each key the tag of the key is owed too.
#[derive(Debug, Clone, Default)]
pub struct Owed {
    /// Sorted, each once.
    pub tags: Vec<Tag>,
    pub keys: Keys,
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
    keys: Keys,
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
        if self.levels[place].keys.insert(key) {
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
    pub fn take_keys(&mut self) -> Keys {
        // What was settled early is mostly followed by as much again.
        self.replace_keys(Keys::with_room_of)
    }

    fn replace_keys(&mut self, by: impl Fn(&Keys) -> Keys) -> Keys {
        let mut all = Keys::default();
        for level in &mut self.levels {
            self.held.forget_keys(level);
            let room = by(&level.keys);
            let keys = std::mem::replace(&mut level.keys, room);
            if all.is_empty() { all = keys } else { all.absorb(&keys, |_| {}) }
        }
        all
    }

    /// Takes everything: the transaction is about to commit.
    pub fn take(&mut self) -> Owed {
        let keys = self.replace_keys(|_| Keys::default());
        let tags = self.tags();
        self.clear();
        Owed { tags, keys }
    }

    /// What it would owe if it committed now.
    pub fn copy(&self) -> Owed {
        let mut keys = Keys::default();
        self.levels.iter().for_each(|level| keys.absorb(&level.keys, |_| {}));
        Owed { tags: self.tags(), keys }
    }

    fn tags(&self) -> Vec<Tag> {
        let tags = self.levels.iter().flat_map(|level| level.tags.keys().copied());
        let mut tags: Vec<Tag> = tags.chain(self.bottom.iter().copied()).collect();
        tags.sort_unstable();
        tags.dedup();
        tags
    }

    /// How many tags and keys are held, over all levels: one that stands in two counts twice.
    pub fn count(&self) -> usize {
        self.held.plain + self.held.groups + self.held.keys
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
        let new = Level { level, tags: HashMap::default(), keys: Keys::default() };
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
        self.keys.absorb(&child.keys, |key| {
            held.keys -= 1;
            held.key_bytes -= key.len();
        });
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
        self.key_bytes -= level.keys.bytes();
    }
}

#[cfg(test)]
mod tests;
