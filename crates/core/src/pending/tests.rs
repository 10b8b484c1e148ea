//! Owns the proof that the stack owes what no rollback took: by example, and against the simplest
//! stack there is under every sequence of savepoints.
//!
//! Invariant: the simple stack knows nothing of merging, relabelling and counting. If it shared
//! code with the real one, both would be wrong together.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn owed(pending: &mut Pending) -> (Vec<u64>, Vec<String>) {
    let Owed { tags, keys } = pending.take();
    let mut keys: Vec<_> =
        keys.iter().map(|(_, key)| String::from_utf8_lossy(key).into_owned()).collect();
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
    for group in 0..1001 {
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
    let keys = pending.take_keys();
    assert_eq!(keys.iter().map(|(_, key)| key).collect::<Vec<_>>(), [b"a", b"b"]);
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
    let mut pending = Pending::with_limits(depth as usize);
    for level in 1..=depth {
        pending.note_key(level, &level.to_le_bytes());
        pending.note_group(level, 1, Tag(u64::from(level)));
    }
    for level in (2..=depth).rev() {
        pending.release(level);
    }
    assert_eq!((pending.keys(), pending.take().tags.len()), (100_000, 100_000));
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
        3 => prop_oneof![0u64..6, Just(1011)].prop_map(Step::Note),
        3 => (1u32..3, 100u64..106).prop_map(|(of, tag)| Step::Group(of, 10 * tag + u64::from(of))),
        3 => (0u8..6).prop_map(Step::Key),
        3 => Just(Step::Begin),
        2 => Just(Step::Release),
        2 => Just(Step::RollBack),
        1 => Just(Step::TakeKeys),
        1 => (200u64..202).prop_map(Step::Bottom),
    ];
    vec(step, 0..60)
}

/// The same, the simplest way: for every level, what was noted in it.
#[derive(Default)]
struct Plain {
    levels: Vec<PlainLevel>,
    bottom: BTreeSet<u64>,
}

#[derive(Default)]
struct PlainLevel {
    /// Each with the relation whose group it is, 0 if it was noted as something else.
    tags: BTreeSet<(u64, u32)>,
    keys: BTreeSet<u8>,
}

impl PlainLevel {
    fn distinct(&self) -> usize {
        self.tags.iter().map(|(tag, _)| tag).collect::<BTreeSet<_>>().len()
    }
}

impl Plain {
    /// The same step, here and there.
    fn step(&mut self, step: Step, pending: &mut Pending) {
        let level = self.levels.len() as u32;
        let top = self.levels.last_mut().unwrap();
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
            Step::Begin => self.levels.push(PlainLevel::default()),
            Step::Release if level > 1 => {
                let child = self.levels.pop().unwrap();
                let parent = self.levels.last_mut().unwrap();
                parent.tags.extend(child.tags);
                parent.keys.extend(child.keys);
                pending.release(level);
            }
            Step::RollBack if level > 1 => {
                self.levels.pop();
                pending.roll_back(level);
            }
            Step::Release | Step::RollBack => {}
            Step::TakeKeys => {
                let taken: BTreeSet<u8> =
                    pending.take_keys().iter().map(|(_, key)| key[0]).collect();
                let levels = self.levels.iter_mut();
                let all = levels.flat_map(|level| std::mem::take(&mut level.keys));
                assert_eq!(taken, all.collect());
            }
            Step::Bottom(tag) => {
                pending.note_bottom(Tag(tag));
                self.bottom.insert(tag);
            }
        }
    }

    /// `fits`: no group can have become its relation.
    fn assert_held(&self, pending: &Pending, fits: bool) {
        let keys: usize = self.levels.iter().map(|level| level.keys.len()).sum();
        assert_eq!(pending.keys(), keys);
        assert!(pending.held.groups <= pending.groups_max);
        let tags: usize = self.levels.iter().map(PlainLevel::distinct).sum();
        assert!(!fits || pending.bytes() == keys + tags * 8);
        assert_eq!(pending.is_empty(), tags == 0 && keys == 0 && self.bottom.is_empty());
    }

    fn assert_owed(self, owed: &Owed, fits: bool) {
        let keys: BTreeSet<u8> = self.levels.iter().flat_map(|level| level.keys.clone()).collect();
        assert_eq!(owed.keys.len(), keys.len());
        assert_eq!(owed.keys.iter().map(|(_, key)| key[0]).collect::<BTreeSet<u8>>(), keys);
        let tags = self.levels.into_iter().flat_map(|level| level.tags);
        let noted: BTreeSet<(u64, u32)> =
            tags.chain(self.bottom.iter().map(|tag| (*tag, 0))).collect();
        for (tag, of) in &noted {
            let whole = !fits && *of > 0 && owed.tags.contains(&Tag::whole(*of));
            assert!(whole || owed.tags.contains(&Tag(*tag)), "{tag} of {of} is lost");
        }
        for tag in &owed.tags {
            let whole_of = |of: u32| !fits && of > 0 && Tag::whole(of) == *tag;
            let justified = noted.iter().any(|(noted, of)| *noted == tag.0 || whole_of(*of));
            assert!(justified, "{tag:?} was rolled back");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn what_is_owed_is_what_no_rollback_took(
        steps in steps(), groups_max in prop_oneof![Just(0usize), Just(2), Just(1000)],
    ) {
        // Danger: a note lost or kept by some sequence of savepoints that nobody thought of.
        let fits = groups_max == 1000;
        let mut pending = Pending::with_limits(groups_max);
        let mut plain = Plain { levels: vec![PlainLevel::default()], ..Plain::default() };
        for step in steps {
            plain.step(step, &mut pending);
            plain.assert_held(&pending, fits);
        }
        plain.assert_owed(&pending.take(), fits);
    }
}
