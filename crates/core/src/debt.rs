//! Owns the decision what a transaction owes Redis, row by row of `redis_debt`.
//!
//! Invariant: for every key that may still hold something old a debt names the key, and for every
//! other key, as for every tag, one names its tag. A key that `redis_store` keeps is deleted with
//! its transaction's settlement, and set afterwards; once that has arrived, a debt that named it
//! would take away the new image, or the token that lets it in. A transaction has one row for a
//! tag: if a second name of the same tag would need another, every key is owed, and with it the
//! catalogue's tag, on which all readers depend.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use crate::pending::{Keys, Owed};
use crate::tag::Tag;

/// What is to be settled, and which of the keys only `redis_store` named.
#[derive(Debug, Default)]
pub struct Owing {
    /// All of it.
    pub owed: Owed,
    /// Keys that are set after the commit.
    stored: Keys,
    /// Those of them that are set by way of the outbox, whatever happens.
    durable: Keys,
    /// Some key was to be set, be it in neither of these because it is to be gone as well.
    stores: bool,
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Debt<'a> {
    pub tag: Tag,
    pub key: Option<&'a [u8]>,
    /// Whoever left a token beside the key has deleted it, and is to set it.
    pub yields: bool,
}

impl Debt<'_> {
    /// Everything of this database, whatever its name. No reader looks for it: beside it stands
    /// [`Debt::CATALOGUE`].
    pub const ALL_KEYS: Debt<'static> = Debt { tag: Tag::ALL_KEYS, key: Some(b"*"), yields: false };

    pub const CATALOGUE: Debt<'static> = Debt { tag: Tag::CATALOGUE, key: None, yields: false };
}

/// A search through all debts for those of some transactions. After an outage millions may owe:
/// nobody else is remembered, and it goes no further than it must.
#[derive(Debug)]
pub struct Search {
    left: HashSet<u64>,
    found: HashSet<u64>,
}

impl Search {
    pub fn of(xids: impl Iterator<Item = u64>) -> Self {
        Self { left: xids.collect(), found: HashSet::new() }
    }

    /// A debt of this transaction comes by; breaks once all are found.
    pub fn pass(&mut self, xid: u64) -> ControlFlow<()> {
        if self.left.remove(&xid) {
            self.found.insert(xid);
        }
        if self.left.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Those who owe.
    pub fn found(self) -> HashSet<u64> {
        self.found
    }
}

/// What a transaction has written down so far, row by row.
#[derive(Debug, Default)]
pub struct Ledger {
    rows: HashMap<Tag, Written>,
    /// No row is of a deeper level.
    deepest: u32,
}

#[derive(Debug)]
struct Written {
    /// A rollback to a savepoint of this level takes the row with it.
    level: u32,
    key: Option<Box<[u8]>>,
    yields: bool,
}

impl Written {
    fn new(level: u32, debt: &Debt<'_>) -> Self {
        Self { level, key: debt.key.map(Box::from), yields: debt.yields }
    }

    /// Whether a debt of the same tag needs no row of its own.
    fn covers(&self, debt: &Debt<'_>) -> bool {
        let is_gone = self.key.as_deref() == debt.key && self.yields <= debt.yields;
        debt.key.is_none() || is_gone
    }
}

impl Ledger {
    /// The rows to write for these debts, one for a tag; `all`: for every key as well.
    pub fn enter<'a>(&mut self, level: u32, debts: Vec<Debt<'a>>, mut all: bool) -> Vec<Debt<'a>> {
        let mut rows = Vec::with_capacity(debts.len());
        self.deepest = self.deepest.max(level);
        for debt in debts {
            all |= !self.write(level, debt, &mut rows);
        }
        if all {
            for debt in [Debt::ALL_KEYS, Debt::CATALOGUE] {
                self.write(level, debt, &mut rows);
            }
        }
        rows
    }

    /// Whether a row stands for the debt.
    fn write<'a>(&mut self, level: u32, debt: Debt<'a>, rows: &mut Vec<Debt<'a>>) -> bool {
        match self.rows.entry(debt.tag) {
            Entry::Occupied(row) => row.get().covers(&debt),
            Entry::Vacant(free) => {
                free.insert(Written::new(level, &debt));
                rows.push(debt);
                true
            }
        }
    }

    /// A level has ended well: its rows are those of the one below.
    pub fn release(&mut self, level: u32) {
        if self.deepest < level {
            return;
        }
        let below = level.saturating_sub(1);
        self.rows.values_mut().for_each(|row| row.level = row.level.min(below));
        self.deepest = below;
    }

    /// A level and all above it are undone.
    pub fn roll_back(&mut self, level: u32) {
        if self.deepest < level {
            return;
        }
        self.rows.retain(|_, row| row.level < level);
        self.deepest = level.saturating_sub(1);
    }
}

impl Owing {
    /// What is owed by whom: `owed` has the keys that are to be gone, the others those that are
    /// stored, in-line and durably. What several name is owed by the first of these.
    pub fn new(owed: Owed, stored: Keys, durable: Keys) -> Self {
        if stored.is_empty() && durable.is_empty() {
            return Self { owed, ..Self::default() };
        }
        let Owed { tags, mut keys } = owed;
        let mut claim = |named: &Keys| {
            let new: Keys = named
                .iter()
                .filter(|(tag, key)| !keys.contains(*tag, key))
                .map(|it| it.1)
                .collect();
            keys.absorb(&new, |_| {});
            new
        };
        let (stored, durable) = (claim(&stored), claim(&durable));
        Self { owed: Owed { tags, keys }, stored, durable, stores: true }
    }

    pub fn is_empty(&self) -> bool {
        self.owed.tags.is_empty() && self.owed.keys.is_empty()
    }

    /// Whether any key is to be set after the commit, whatever else names it.
    pub fn stores(&self) -> bool {
        self.stores
    }

    pub fn is_stored(&self, tag: Tag, key: &[u8]) -> bool {
        self.stored.contains(tag, key)
    }

    pub fn is_durable(&self, tag: Tag, key: &[u8]) -> bool {
        self.durable.contains(tag, key)
    }

    /// The debts, named ones first; `has_arrived`: the keys are deleted, and tokens laid beside
    /// them.
    pub fn debts(&self, has_arrived: bool) -> Vec<Debt<'_>> {
        let keys = self.owed.keys.iter().map(|(tag, key)| {
            let is_durable = self.is_durable(tag, key);
            let is_set = has_arrived && (is_durable || self.is_stored(tag, key));
            Debt { tag, key: (!is_set).then_some(key), yields: is_durable && !is_set }
        });
        let tags = self.owed.tags.iter().map(|tag| Debt { tag: *tag, key: None, yields: false });
        keys.chain(tags).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> Keys {
        names.iter().collect()
    }

    fn owing() -> Owing {
        let owed = Owed { tags: vec![Tag(7), Tag::key(b"gone")], keys: keys(&["gone", "both"]) };
        Owing::new(owed, keys(&["in-line", "both", "mixed"]), keys(&["durable", "both", "mixed"]))
    }

    /// For each key: whether a debt names it, and whether that yields.
    fn told(owing: &Owing, has_arrived: bool) -> Vec<(&'static str, bool, bool)> {
        let debts = Ledger::default().enter(1, owing.debts(has_arrived), false);
        let of = |name: &'static str| {
            let found: Vec<_> =
                debts.iter().filter(|d| d.tag == Tag::key(name.as_bytes())).collect();
            assert_eq!(found.len(), 1, "{name}");
            assert!(found[0].key.is_none_or(|key| key == name.as_bytes()));
            (name, found[0].key.is_some(), found[0].yields)
        };
        ["gone", "both", "in-line", "mixed", "durable"].map(of).to_vec()
    }

    #[test]
    fn what_arrived_and_is_set_afterwards_is_not_taken_away_again() {
        // Danger: the debt of a prepared transaction deletes the row that it has just stored; or
        // what a trigger named to be gone stays because something else stores it too.
        let expected = [
            ("gone", true, false),
            ("both", true, false),
            ("in-line", false, false),
            ("mixed", false, false),
            ("durable", false, false),
        ];
        assert_eq!(told(&owing(), true), expected);
        assert_eq!(Ledger::default().enter(1, owing().debts(true), false).len(), 6);
    }

    #[test]
    fn what_did_not_arrive_is_named() {
        // Danger: the old row stays in Redis; or the token of somebody later goes with it, and the
        // image that comes behind this one is refused.
        let expected = [
            ("gone", true, false),
            ("both", true, false),
            ("in-line", true, false),
            ("mixed", true, false),
            ("durable", true, true),
        ];
        assert_eq!(told(&owing(), false), expected);
        let owed = Owed { tags: vec![Tag(7)], keys: keys(&["k"]) };
        let plain = Owing::new(owed, Keys::default(), Keys::default());
        let key = Debt { tag: Tag::key(b"k"), key: Some(b"k"), yields: false };
        for has_arrived in [true, false] {
            let tag = Debt { tag: Tag(7), key: None, yields: false };
            assert_eq!(plain.debts(has_arrived), [key, tag]);
        }
        assert!(!plain.is_empty() && Owing::default().is_empty());
    }

    #[test]
    fn a_key_that_is_stored_is_told_of_whatever_else_names_it() {
        // Danger: its deletion is under way when the commit is over, and takes away what the next
        // writer of the row has set.
        let owing = |stored: &[&str], durable: &[&str]| {
            let owed = Owed { tags: Vec::new(), keys: keys(&["k"]) };
            Owing::new(owed, keys(stored), keys(durable)).stores()
        };
        assert!(owing(&["k"], &[]) && owing(&[], &["k"]) && owing(&["other"], &[]));
        assert!(!owing(&[], &[]));
    }

    #[test]
    fn a_search_remembers_nobody_else_and_ends_with_the_last_one() {
        // Danger: for each batch of events a set of all who owe, millions of them; or one of the
        // batch is overlooked, and its event leaves before its debt is paid.
        let mut search = Search::of([7, 9, 7].into_iter());
        for xid in (100..200).chain([9, 9]) {
            assert_eq!(search.pass(xid), ControlFlow::Continue(()));
        }
        assert_eq!(search.found, HashSet::from([9]));
        assert_eq!(search.pass(7), ControlFlow::Break(()));
        assert_eq!(search.found(), HashSet::from([7, 9]));
        assert_eq!(Search::of(std::iter::empty()).pass(1), ControlFlow::Break(()));
    }

    fn named(tag: u64, key: &[u8]) -> Debt<'_> {
        Debt { tag: Tag(tag), key: Some(key), yields: false }
    }

    const ALL: [Debt<'static>; 2] = [Debt::ALL_KEYS, Debt::CATALOGUE];

    #[test]
    fn two_names_of_one_tag_owe_every_key() {
        // Danger: the second name finds its tag written down, and its key stays as it was.
        let (a, b) = (named(1, b"a"), named(1, b"b"));
        let tag = Debt { key: None, ..a };
        let mut ledger = Ledger::default();
        assert_eq!(ledger.enter(1, vec![a, a, tag], false), [a]);
        assert_eq!(ledger.enter(1, vec![tag, named(2, b"c")], false), [named(2, b"c")]);
        assert_eq!(ledger.enter(1, vec![b], false), ALL);
        assert_eq!(ledger.enter(1, vec![b], true), []);
        assert_eq!(Ledger::default().enter(1, vec![a, b], false), [&[a], &ALL[..]].concat());
        assert_eq!(Ledger::default().enter(1, vec![tag, a], false), [&[tag], &ALL[..]].concat());
    }

    #[test]
    fn one_name_again_owes_nothing_more() {
        // Danger: a row that another callback changes once more at the end of a transaction has
        // every entry deleted.
        let a = named(1, b"a");
        let mut ledger = Ledger::default();
        assert_eq!(ledger.enter(1, vec![a], false), [a]);
        assert_eq!(ledger.enter(2, vec![a], false), []);
        assert_eq!(ledger.enter(1, vec![Debt { yields: true, ..a }], false), []);
        // But what makes way for a token does not take away what is to be gone.
        let mut ledger = Ledger::default();
        ledger.enter(1, vec![Debt { yields: true, ..a }], false);
        assert_eq!(ledger.enter(1, vec![Debt { yields: true, ..a }], false), []);
        assert_eq!(ledger.enter(1, vec![a], false), ALL);
    }

    #[test]
    fn each_tag_has_one_row() {
        // Danger: redis_debt takes no second one, and the commit fails.
        let (a, b) = (named(1, b"a"), named(1, b"b"));
        let mut ledger = Ledger::default();
        assert_eq!(ledger.enter(1, vec![a, Debt::CATALOGUE], false), [a, Debt::CATALOGUE]);
        assert_eq!(ledger.enter(1, vec![b], false), [Debt::ALL_KEYS]);
        assert_eq!(ledger.enter(1, vec![Debt::CATALOGUE, b], true), []);
        let all = [Debt::CATALOGUE, Debt::ALL_KEYS];
        assert_eq!(Ledger::default().enter(1, vec![Debt::CATALOGUE], true), all);
    }

    #[test]
    fn what_is_undone_is_owed_again() {
        // Danger: a tag whose row went with its savepoint counts as owed for the rest of the
        // transaction, and readers are served what it changed.
        let (a, b) = (named(1, b"a"), named(2, b"b"));
        let mut ledger = Ledger::default();
        assert_eq!(ledger.enter(1, vec![a], false), [a]);
        assert_eq!(ledger.enter(3, vec![a, b], true), [&[b], &ALL[..]].concat());
        ledger.release(3);
        ledger.roll_back(3);
        assert_eq!(ledger.enter(2, vec![b], true), []);
        ledger.roll_back(2);
        assert_eq!(ledger.enter(1, vec![a, b], true), [&[b], &ALL[..]].concat());
        ledger.release(2);
        ledger.roll_back(2);
        assert_eq!(ledger.enter(1, vec![b], true), []);
    }
}
