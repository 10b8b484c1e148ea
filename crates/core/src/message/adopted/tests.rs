//! The relay in small, over the code that decides what it knows: rows that go at once, are put
//! aside or owe, answers that are lost, workers that die. Whatever happens, each event is appended
//! once, in its order.

use super::super::aside::Aside;
use super::super::hold;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const STREAMS: u8 = 3;

/// Rows of one step.
const LIMIT: usize = 4;

/// A row: where it goes, whether it was put aside, and whether what its transaction owes cannot be
/// paid for now.
#[derive(Debug, Clone, Copy)]
struct Row {
    number: u64,
    stream: u8,
    is_aside: bool,
    owes: bool,
}

/// The relay in small: what waits, what Redis has, and what it knows of both.
struct Relay {
    adopted: Adopted,
    aside: Aside,
    cursor: Option<u64>,
    rows: BTreeMap<u64, Row>,
    records: BTreeMap<u8, Vec<Place>>,
    streams: BTreeMap<u8, Vec<u64>>,
    made: u64,
    /// Which streams refuse.
    refusing: u8,
}

/// What goes wrong with a step.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    Nothing,
    /// The answer to all behind the first so many is lost, and what it told of was done.
    Late(usize),
    /// As many are sent as fit into the time.
    CutShort(usize),
    /// The worker dies before it deletes anything.
    Death,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// So many rows to one stream, of one who owes or not.
    Make(u8, u64, bool),
    Pay,
    Refuse(u8),
    Send(Trouble),
    Again(Trouble),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Delivered,
    Refused,
    Waits,
    Unsent,
}

fn place_of(number: u64) -> Place {
    Place { number, xid: 1, seq: 0 }
}

/// Those who wait for debts, and what waits behind them.
fn behind_debts(batch: &[Row]) -> HashSet<u64> {
    let owing: HashSet<u64> = batch.iter().filter(|row| row.owes).map(|row| row.number).collect();
    let each = batch.iter().map(|row| (row.number, row.stream));
    let waits = hold::waiting(each, |number| owing.contains(&number));
    batch.iter().zip(waits).filter(|(_, waits)| *waits).map(|(row, _)| row.number).collect()
}

impl Relay {
    fn new(streams_max: usize, targets_max: usize) -> Self {
        Self {
            adopted: Adopted::new(streams_max),
            aside: Aside::new(targets_max),
            cursor: None,
            rows: BTreeMap::new(),
            records: BTreeMap::new(),
            streams: BTreeMap::new(),
            made: 0,
            refusing: 0,
        }
    }

    fn refuses(&self, stream: u8) -> bool {
        self.refusing >> stream & 1 == 1
    }

    /// The first rows of a kind, from a number on.
    fn batch(&self, is_aside: bool, from: u64, takes: impl Fn(u8) -> bool) -> Vec<Row> {
        let rows = self.rows.range(from..).map(|(_, row)| *row);
        rows.filter(|row| row.is_aside == is_aside && takes(row.stream)).take(LIMIT).collect()
    }

    fn adopt(&mut self, rows: &[Row]) {
        if self.adopted.are_too_many() {
            self.adopted.clear();
        }
        for Row { stream, .. } in rows {
            if !self.adopted.is_known(&[*stream]) {
                let record = self.records.entry(*stream).or_default();
                self.adopted.add(&[*stream], record.iter().copied());
            }
        }
    }

    /// Has Redis carry out one pipeline.
    fn append(&mut self, wave: &[Row], is_answered: bool) {
        let mut is_first = HashSet::new();
        let kept = |stream: &u8| self.adopted.must_keep(&[*stream]);
        let kept: HashSet<u8> = (0..STREAMS).filter(kept).collect();
        let taken: Vec<Row> =
            wave.iter().filter(|row| !self.refuses(row.stream)).copied().collect();
        for Row { number, stream, .. } in &taken {
            let record = self.records.entry(*stream).or_default();
            if is_first.insert(*stream) && !kept.contains(stream) {
                record.clear();
            }
            record.push(place_of(*number));
            self.streams.entry(*stream).or_default().push(*number);
        }
        for Row { number, stream, .. } in taken.iter().filter(|_| is_answered) {
            self.adopted.record(&[*stream], [place_of(*number)].into_iter());
        }
    }

    /// Sends rows; what has become of each, and whether an answer is missing.
    fn send(
        &mut self,
        batch: &[Row],
        is_held: impl Fn(&Row) -> bool,
        trouble: Trouble,
    ) -> (Vec<Fate>, bool) {
        let chosen: Vec<Row> = batch.iter().filter(|row| !is_held(row)).copied().collect();
        self.adopt(&chosen);
        let mut fates: BTreeMap<u64, Fate> = BTreeMap::new();
        for row in &chosen {
            let is_there = self.adopted.has(&[row.stream], place_of(row.number));
            fates.insert(row.number, if is_there { Fate::Delivered } else { Fate::Waits });
        }
        let unsent = chosen.iter().filter(|row| fates[&row.number] == Fate::Waits);
        let unsent: Vec<Row> = unsent.copied().collect();
        let count = match trouble {
            Trouble::Late(count) | Trouble::CutShort(count) => count.min(unsent.len()),
            Trouble::Nothing | Trouble::Death => unsent.len(),
        };
        let (answered, behind) = unsent.split_at(count);
        self.append(answered, true);
        let mut refused = HashSet::new();
        for row in answered {
            if !self.refuses(row.stream) {
                fates.insert(row.number, Fate::Delivered);
            } else if refused.insert(row.stream) {
                fates.insert(row.number, Fate::Refused);
            }
        }
        let is_late = matches!(trouble, Trouble::Late(_)) && !behind.is_empty();
        if is_late {
            self.append(behind, false);
            self.adopted.clear();
        } else {
            let left = behind.iter().filter(|row| !refused.contains(&row.stream));
            fates.extend(left.map(|row| (row.number, Fate::Unsent)));
        }
        let fate = |row: &Row| fates.get(&row.number).copied().unwrap_or(Fate::Waits);
        (batch.iter().map(fate).collect(), is_late)
    }

    fn die(&mut self) {
        self.adopted.clear();
        (self.aside, self.cursor) = (Aside::new(2), None);
        self.round();
    }

    fn delete(&mut self, row: &Row) {
        self.rows.remove(&row.number);
        self.adopted.forget_until(&[row.stream], place_of(row.number));
    }

    fn put_aside(&mut self, row: &Row) {
        if self.cursor.is_some_and(|cursor| row.number < cursor) {
            self.aside.refuse(&[row.stream]);
        }
        self.aside.put(&[row.stream]);
        self.rows.insert(row.number, Row { is_aside: true, ..*row });
    }

    /// One step of what is new; whether there was anything.
    fn send_new(&mut self, trouble: Trouble) -> bool {
        let batch = self.batch(false, 0, |_| true);
        let stuck = behind_debts(&batch);
        let held: HashSet<u8> =
            (0..STREAMS).filter(|stream| self.aside.holds(&[*stream])).collect();
        let is_held = |row: &Row| held.contains(&row.stream) || stuck.contains(&row.number);
        let (fates, _) = self.send(&batch, is_held, trouble);
        if matches!(trouble, Trouble::Death) {
            self.die();
            return true;
        }
        let mut left = HashSet::new();
        for (row, fate) in batch.iter().zip(fates) {
            let waits = stuck.contains(&row.number) || self.aside.holds(&[row.stream]);
            match fate {
                Fate::Delivered => self.delete(row),
                Fate::Refused => self.put_aside(row),
                Fate::Waits if waits && !left.contains(&row.stream) => self.put_aside(row),
                Fate::Waits | Fate::Unsent => _ = left.insert(row.stream),
            }
        }
        !batch.is_empty()
    }

    /// One step of what is aside; whether the round goes on.
    fn send_again(&mut self, trouble: Trouble) -> bool {
        let from = self.cursor.unwrap_or(0);
        let batch = self.batch(true, from, |stream| !self.aside.passes_over(&[stream]));
        let stuck = behind_debts(&batch);
        let (fates, is_late) = self.send(&batch, |row| stuck.contains(&row.number), trouble);
        if matches!(trouble, Trouble::Death) {
            self.die();
            return false;
        }
        if is_late && !fates.contains(&Fate::Delivered) {
            return true;
        }
        let mut cursor = batch.last().map(|last| last.number).filter(|_| batch.len() == LIMIT);
        for (row, fate) in batch.iter().zip(fates) {
            match fate {
                Fate::Delivered => self.delete(row),
                Fate::Unsent => {
                    cursor = Some(row.number);
                    break;
                }
                Fate::Waits | Fate::Refused => self.aside.refuse(&[row.stream]),
            }
        }
        let begins_anew = self.aside.must_begin_anew();
        self.cursor = cursor.filter(|_| !begins_anew);
        if cursor.is_none() && !begins_anew {
            self.aside.end_round();
            return false;
        }
        true
    }

    fn round(&mut self) {
        while self.send_again(Trouble::Nothing) {}
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Make(stream, count, owes) => {
                let numbers = self.made + 1..=self.made + count;
                let row = |number| (number, Row { number, stream, is_aside: false, owes });
                self.rows.extend(numbers.map(row));
                self.made += count;
            }
            Step::Pay => self.rows.values_mut().for_each(|row| row.owes = false),
            Step::Refuse(refusing) => self.refusing = refusing,
            Step::Send(trouble) => _ = self.send_new(trouble),
            Step::Again(trouble) => _ = self.send_again(trouble),
        }
    }

    /// Nothing is owed or refused any more, and all is sent.
    fn finish(&mut self) {
        self.step(Step::Pay);
        self.refusing = 0;
        while !self.rows.is_empty() {
            while self.send_new(Trouble::Nothing) {}
            self.round();
        }
    }
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        5 => Just(Trouble::Nothing),
        5 => (0..LIMIT).prop_map(Trouble::Late),
        4 => (1..LIMIT).prop_map(Trouble::CutShort),
        1 => Just(Trouble::Death),
    ]
}

fn make() -> impl Strategy<Value = Step> {
    let owes = prop::bool::weighted(0.4);
    (0..STREAMS, 1..6u64, owes).prop_map(|(stream, count, owes)| Step::Make(stream, count, owes))
}

/// Streams refuse what comes, some of them are mended, and then this and that happens. Or that
/// happens at once.
fn scene() -> impl Strategy<Value = Vec<Step>> {
    let refusing = (0..1u8 << STREAMS, any::<u8>(), any::<bool>());
    let may_owe = prop::bool::weighted(0.3);
    let step = prop_oneof![
        2 => make(),
        3 => Just(Step::Pay),
        4 => Just(Step::Send(Trouble::Nothing)),
        2 => trouble().prop_map(Step::Send),
        4 => Just(Step::Again(Trouble::Nothing)),
        4 => trouble().prop_map(Step::Again),
    ];
    let (made, steps) = (prop::collection::vec(make(), 1..6), prop::collection::vec(step, 0..20));
    (refusing, may_owe, made, steps).prop_map(|((refusing, still, waits), may_owe, made, steps)| {
        let sends = std::iter::repeat_n(Step::Send(Trouble::Nothing), 2 * LIMIT);
        let mended = sends.chain([Step::Refuse(refusing & still)]).filter(|_| waits);
        let first = [Step::Refuse(refusing)].into_iter().chain(made);
        let owed = |step| match step {
            Step::Make(stream, count, owes) => Step::Make(stream, count, owes && may_owe),
            step => step,
        };
        first.chain(mended).chain(steps).map(owed).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn each_is_appended_once_and_in_order_and_memory_is_bounded(
        streams_max in 2usize..8,
        targets_max in 2usize..6,
        scenes in prop::collection::vec(scene(), 1..5),
    ) {
        // Danger: a stream for each customer, and the worker grows until it is killed; or one is
        // forgotten with what its record holds while a row of it waits, put aside, and its event is
        // appended twice.
        let mut relay = Relay::new(streams_max, targets_max);
        for step in scenes.into_iter().flatten() {
            relay.step(step);
            prop_assert!(relay.adopted.streams.len() <= streams_max + LIMIT);
        }
        relay.finish();
        let appended: usize = relay.streams.values().map(Vec::len).sum();
        prop_assert_eq!(appended as u64, relay.made);
        for numbers in relay.streams.values() {
            prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", numbers);
        }
        prop_assert!(relay.adopted.recorded.is_empty(), "{:?}", relay.adopted.recorded);
    }
}

#[test]
fn what_is_aside_is_known_whatever_goes_past_it() {
    // Danger: as above, step by step, where chance might not come by.
    let mut relay = Relay::new(9, 9);
    let (bad, mended, another) = (0, 1, 2);
    relay.refusing = 1 << bad | 1 << mended;
    relay.step(Step::Make(bad, 2, false));
    relay.step(Step::Make(mended, 7, false));
    while relay.send_new(Trouble::Nothing) {}
    relay.refusing = 1 << bad;
    relay.step(Step::Again(Trouble::Nothing));
    // What is carried out and not told of is more than the next step takes.
    relay.step(Step::Again(Trouble::Late(1)));
    relay.round();
    relay.step(Step::Again(Trouble::Nothing));
    relay.step(Step::Make(another, 1, false));
    relay.step(Step::Send(Trouble::Nothing));
    relay.round();
    assert_eq!(relay.streams[&mended], (3..10).collect::<Vec<u64>>());
}

#[test]
fn what_owes_does_not_overtake_what_there_was_no_time_for() {
    // Danger: it is put aside, and tried when it is paid for, before what stands before it.
    let mut relay = Relay::new(9, 9);
    relay.step(Step::Make(0, 2, false));
    relay.step(Step::Make(0, 1, true));
    relay.step(Step::Send(Trouble::CutShort(1)));
    relay.step(Step::Pay);
    relay.round();
    relay.finish();
    assert_eq!(relay.streams[&0], [1, 2, 3]);
}

#[test]
fn nothing_is_kept_of_what_is_deleted() {
    // Danger: with each batch the worker looks at every stream that it ever had.
    let mut adopted = Adopted::new(3);
    adopted.add(b"a", [1, 2, 3].map(place_of).into_iter());
    adopted.add(b"b", std::iter::empty());
    assert!(adopted.must_keep(b"a") && !adopted.must_keep(b"b"));
    adopted.forget_until(b"a", place_of(2));
    assert!(adopted.has(b"a", place_of(3)) && !adopted.has(b"a", place_of(1)));
    adopted.forget_until(b"b", place_of(3));
    assert!(adopted.must_keep(b"a"), "each stream by itself");
    adopted.forget_until(b"a", place_of(3));
    assert!(!adopted.must_keep(b"a") && adopted.recorded.is_empty());
    for stream in [b"c", b"d"] {
        assert!(!adopted.are_too_many());
        adopted.add(stream, std::iter::empty());
    }
    assert!(adopted.are_too_many());
}
