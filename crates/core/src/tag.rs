//! Owns the names of what can be invalidated: 64-bit tags, and the buckets that they fall into.
//!
//! Invariant: whoever writes and whoever reads compute the same tag for the same thing, in every
//! release that shares a tag table. A collision of two tags or buckets costs a miss; two tags for
//! one thing would be a stale read. So a row group is named by the hash that PostgreSQL itself
//! uses for equality of the column's type, never by a value's text.

use smallvec::SmallVec;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use crate::decimal;

/// What can be invalidated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u64);

/// A field of the tag table. Tags share buckets, so the table is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket(pub u32);

/// Those of one entry: few, so that a hit asks nobody for memory.
pub type Tags = SmallVec<[Tag; 8]>;

/// The same as buckets.
pub type Buckets = SmallVec<[Bucket; 8]>;

/// One column of a row group and the hash of its value by the type's own extended hash function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupColumn<'a> {
    pub name: &'a str,
    pub value_hash: u64,
}

impl Tag {
    /// All that DDL could change: every entry depends on it.
    pub const CATALOGUE: Tag = Tag(u64::MAX);

    /// Every key of a database: only a debt has it, and nothing is bumped for it.
    pub const ALL_KEYS: Tag = Tag(u64::MAX - 1);

    /// Any write to a relation.
    pub fn any(relation: u32) -> Tag {
        Tag::of(b"any", |name| name.push(&relation.to_le_bytes()))
    }

    /// What concerns every query over a relation, row groups or not: TRUNCATE, overflow.
    pub fn whole(relation: u32) -> Tag {
        Tag::of(b"whole", |name| name.push(&relation.to_le_bytes()))
    }

    /// The rows of a relation that have these values in these columns, in the given order.
    pub fn group(relation: u32, columns: &[GroupColumn<'_>]) -> Tag {
        Tag::of(b"group", |name| {
            name.push(&relation.to_le_bytes());
            for column in columns {
                name.push(&(column.name.len() as u64).to_le_bytes());
                name.push(column.name.as_bytes());
                name.push(&column.value_hash.to_le_bytes());
            }
        })
    }

    /// A key in Redis, without the database's prefix.
    pub fn key(key: &[u8]) -> Tag {
        Tag::of(b"key", |name| name.push(key))
    }

    /// A name that a user made up.
    pub fn named(name: &str) -> Tag {
        Tag::of(b"named", |spelled| spelled.push(name.as_bytes()))
    }

    /// The field of the tag table. The catalogue has one of its own.
    pub fn bucket(self, buckets: u32) -> Bucket {
        if self == Tag::CATALOGUE {
            return Bucket::CATALOGUE;
        }
        Bucket((self.0 % u64::from(buckets.max(1))) as u32)
    }

    fn of(kind: &[u8], rest: impl FnOnce(&mut Name)) -> Tag {
        let mut name = Name::default();
        name.push(kind);
        name.push(&[0]);
        rest(&mut name);
        match Tag(name.hash()) {
            // Reserved: another thing that hashes there must not pass for one of them.
            Tag::CATALOGUE | Tag::ALL_KEYS => Tag(0),
            tag => tag,
        }
    }
}

/// What is hashed. A statement hashes one for each row, mostly of a few bytes: those are put
/// together and hashed at once, as the state of a hash in parts is larger than what goes in.
struct Name {
    short: [u8; Name::SHORT_BYTES],
    length: usize,
    long: Option<Box<Xxh3Default>>,
}

impl Default for Name {
    fn default() -> Self {
        Self { short: [0; Name::SHORT_BYTES], length: 0, long: None }
    }
}

impl Name {
    const SHORT_BYTES: usize = 128;

    fn push(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if let Some(long) = &mut self.long {
            long.update(bytes);
        } else if let Some(room) = self.short.get_mut(self.length..end) {
            room.copy_from_slice(bytes);
            self.length = end;
        } else {
            let mut long = Box::new(Xxh3Default::new());
            long.update(&self.short[..self.length]);
            long.update(bytes);
            self.long = Some(long);
        }
    }

    fn hash(&self) -> u64 {
        match &self.long {
            Some(long) => long.digest(),
            None => xxh3_64(&self.short[..self.length]),
        }
    }
}

impl Bucket {
    pub const CATALOGUE: Bucket = Bucket(u32::MAX);

    /// The field's name in the tag table.
    pub fn write_field(self, out: &mut Vec<u8>) {
        match self {
            Bucket::CATALOGUE => out.push(b'C'),
            Bucket(number) => decimal::write(out, u64::from(number)),
        }
    }

    /// How long that name is.
    pub fn field_bytes(self) -> usize {
        match self {
            Bucket::CATALOGUE => 1,
            Bucket(number) => decimal::width(u64::from(number)),
        }
    }

    pub fn field(self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_field(&mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMN: GroupColumn<'static> = GroupColumn { name: "id", value_hash: 7 };

    #[test]
    fn tags_never_change() {
        // Danger: during an upgrade, old and new backends bump and read different buckets.
        let tags = [
            Tag::any(16384),
            Tag::whole(16384),
            Tag::group(16384, &[COLUMN]),
            Tag::key(b"user:42"),
            Tag::named("prices"),
        ];
        assert_eq!(
            tags.map(|tag| tag.0),
            [
                0x78c2_375e_782f_d1ae,
                0x18a6_ac38_abdc_5f8d,
                0x22fa_dacb_1bae_b240,
                0x3acf_5820_d584_652b,
                0x46e0_1db3_9d9a_6064
            ]
        );
    }

    #[test]
    fn a_tag_hangs_on_the_bytes_and_not_on_how_they_are_put_together() {
        // Danger: a long key is bumped under another tag than the one that its readers look at.
        for length in 100..300 {
            let key = vec![b'k'; length];
            let whole = xxh3_64(&[&b"key\0"[..], &key].concat());
            assert_eq!(Tag::key(&key).0, whole, "{length}");
        }
    }

    #[test]
    fn different_things_have_different_tags() {
        // Danger: a change of one is taken for a change of the other, or worse, overlooked.
        let other = GroupColumn { name: "id", value_hash: 8 };
        let tags = [
            Tag::any(1),
            Tag::any(2),
            Tag::whole(1),
            Tag::group(1, &[]),
            Tag::group(1, &[COLUMN]),
            Tag::group(1, &[other]),
            Tag::group(1, &[COLUMN, other]),
            Tag::group(1, &[other, COLUMN]),
            Tag::key(b"a"),
            Tag::named("a"),
            Tag::CATALOGUE,
            Tag::ALL_KEYS,
        ];
        let distinct: std::collections::BTreeSet<_> = tags.iter().collect();
        assert_eq!(distinct.len(), tags.len());
    }

    #[test]
    fn the_catalogue_has_a_bucket_of_its_own() {
        // Danger: every write to some table makes every backend analyse all its plans anew.
        for buckets in [1, 2, 65_536, u32::MAX] {
            assert_eq!(Tag::CATALOGUE.bucket(buckets), Bucket::CATALOGUE);
            for relation in 0..1000 {
                assert!(Tag::any(relation).bucket(buckets).0 < buckets);
            }
        }
        assert_eq!(Bucket::CATALOGUE.field(), b"C");
        assert_eq!(Bucket(65_535).field(), b"65535");
    }
}
