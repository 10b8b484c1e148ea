use super::super::aside::Aside;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const STREAMS: u8 = 3;

/// Rows of one step.
const LIMIT: usize = 4;

/// The relay in small: what waits, what Redis has, and what it knows of both.
struct Relay {
    adopted: Adopted,
    aside: Aside,
    cursor: Option<u64>,
    /// By number: the stream, and whether it was put aside.
    rows: BTreeMap<u64, (u8, bool)>,
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
    /// So many rows to one stream.
    Make(u8, u64),
    Refuse(u8),
    Send(Trouble),
    Again(Trouble),
}

fn place_of(number: u64) -> Place {
    Place { number, xid: 1, seq: 0 }
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

    /// The first rows of a kind, from a number on; and whether there may be more.
    fn batch(&self, is_aside: bool, from: u64, takes: impl Fn(u8) -> bool) -> Vec<(u64, u8)> {
        let rows = self.rows.range(from..).filter(|(_, row)| row.1 == is_aside && takes(row.0));
        rows.take(LIMIT).map(|(number, (stream, _))| (*number, *stream)).collect()
    }

    fn adopt(&mut self, batch: &[(u64, u8)]) {
        if self.adopted.are_too_many() {
            self.adopted.clear();
        }
        for (_, stream) in batch {
            if !self.adopted.is_known(&[*stream]) {
                let record = self.records.entry(*stream).or_default();
                self.adopted.add(&[*stream], record.iter().copied());
            }
        }
    }

    /// Sends rows in one pipeline; those of them that have arrived.
    fn append(&mut self, wave: &[(u64, u8)], is_answered: bool) -> HashSet<u64> {
        let (mut arrived, mut is_first) = (HashSet::new(), HashSet::new());
        let must_keep: HashSet<u8> =
            (0..STREAMS).filter(|stream| self.adopted.must_keep(&[*stream])).collect();
        for (number, stream) in wave.iter().filter(|(_, stream)| self.refusing >> stream & 1 == 0) {
            let record = self.records.entry(*stream).or_default();
            if is_first.insert(*stream) && !must_keep.contains(stream) {
                record.clear();
            }
            record.push(place_of(*number));
            self.streams.entry(*stream).or_default().push(*number);
            arrived.insert(*number);
        }
        if is_answered {
            for (number, stream) in wave.iter().filter(|(number, _)| arrived.contains(number)) {
                self.adopted.record(&[*stream], [place_of(*number)].into_iter());
            }
        }
        arrived
    }

    /// Which of these are known to have arrived, which were not sent, and whether an answer is
    /// missing.
    fn send(
        &mut self,
        batch: &[(u64, u8)],
        trouble: Trouble,
    ) -> (HashSet<u64>, HashSet<u64>, bool) {
        self.adopt(batch);
        let is_there = |one: &&(u64, u8)| self.adopted.has(&[one.1], place_of(one.0));
        let mut arrived: HashSet<u64> = batch.iter().filter(is_there).map(|one| one.0).collect();
        let unsent = batch.iter().filter(|one| !arrived.contains(&one.0)).copied();
        let unsent: Vec<(u64, u8)> = unsent.collect();
        let count = match trouble {
            Trouble::Late(count) | Trouble::CutShort(count) => count.min(unsent.len()),
            Trouble::Nothing | Trouble::Death => unsent.len(),
        };
        let (answered, behind) = unsent.split_at(count);
        arrived.extend(self.append(answered, true));
        if matches!(trouble, Trouble::CutShort(_)) {
            let behind = behind.iter().filter(|one| self.refusing >> one.1 & 1 == 0);
            return (arrived, behind.map(|one| one.0).collect(), false);
        }
        if !behind.is_empty() {
            self.append(behind, false);
            self.adopted.clear();
        }
        (arrived, HashSet::new(), !behind.is_empty())
    }

    fn die(&mut self) {
        self.adopted.clear();
        (self.aside, self.cursor) = (Aside::new(2), None);
        self.round();
    }

    fn delete(&mut self, number: u64, stream: u8) {
        self.rows.remove(&number);
        self.adopted.forget_until(&[stream], place_of(number));
    }

    /// One step of what is new; whether there was anything.
    fn send_new(&mut self, trouble: Trouble) -> bool {
        let batch = self.batch(false, 0, |_| true);
        let free = batch.iter().filter(|one| !self.aside.holds(&[one.1])).copied();
        let (arrived, unsent, is_late) = self.send(&free.collect::<Vec<_>>(), trouble);
        if matches!(trouble, Trouble::Death) {
            self.die();
            return true;
        }
        for (number, stream) in batch.iter().copied() {
            let refuses = self.refusing >> stream & 1 == 1 && !is_late;
            if arrived.contains(&number) {
                self.delete(number, stream);
            } else if (self.aside.holds(&[stream]) || refuses) && !unsent.contains(&number) {
                if self.cursor.is_some_and(|cursor| number < cursor) {
                    self.aside.refuse(&[stream]);
                }
                self.aside.put(&[stream]);
                self.rows.insert(number, (stream, true));
            }
        }
        !batch.is_empty()
    }

    /// One step of what is aside; whether the round goes on.
    fn send_again(&mut self, trouble: Trouble) -> bool {
        let from = self.cursor.unwrap_or(0);
        let batch = self.batch(true, from, |stream| !self.aside.passes_over(&[stream]));
        let (arrived, unsent, is_late) = self.send(&batch, trouble);
        if matches!(trouble, Trouble::Death) {
            self.die();
            return false;
        }
        if is_late && arrived.is_empty() {
            return true;
        }
        let mut cursor = batch.last().map(|last| last.0).filter(|_| batch.len() == LIMIT);
        for (number, stream) in batch {
            if unsent.contains(&number) {
                cursor = Some(number);
                break;
            }
            match arrived.contains(&number) {
                true => self.delete(number, stream),
                false => self.aside.refuse(&[stream]),
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
            Step::Make(stream, count) => {
                let rows = self.made + 1..=self.made + count;
                self.rows.extend(rows.map(|number| (number, (stream, false))));
                self.made += count;
            }
            Step::Refuse(refusing) => self.refusing = refusing,
            Step::Send(trouble) => _ = self.send_new(trouble),
            Step::Again(trouble) => _ = self.send_again(trouble),
        }
    }

    /// All refuse no more, and all is sent.
    fn finish(&mut self) {
        self.refusing = 0;
        while !self.rows.is_empty() {
            while self.send_new(Trouble::Nothing) {}
            self.round();
        }
    }
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        12 => Just(Trouble::Nothing),
        6 => (0..LIMIT).prop_map(Trouble::Late),
        2 => (1..LIMIT).prop_map(Trouble::CutShort),
        1 => Just(Trouble::Death),
    ]
}

fn make() -> impl Strategy<Value = Step> {
    (0..STREAMS, 1..6u64).prop_map(|(stream, count)| Step::Make(stream, count))
}

/// Streams refuse what comes, some of them are mended, and then this and that happens.
fn scene() -> impl Strategy<Value = Vec<Step>> {
    let refusing = (0..1u8 << STREAMS, any::<u8>());
    let step = prop_oneof![
        1 => make(),
        2 => trouble().prop_map(Step::Send),
        4 => trouble().prop_map(Step::Again),
    ];
    let (made, steps) = (prop::collection::vec(make(), 1..6), prop::collection::vec(step, 0..20));
    (refusing, made, steps).prop_map(|((refusing, still), made, steps)| {
        let sends = std::iter::repeat_n(Step::Send(Trouble::Nothing), 2 * LIMIT);
        let first = std::iter::once(Step::Refuse(refusing)).chain(made).chain(sends);
        first.chain([Step::Refuse(refusing & still)]).chain(steps).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn each_is_appended_once_and_in_order_and_memory_is_bounded(
        streams_max in 1usize..8,
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
    relay.step(Step::Make(bad, 2));
    relay.step(Step::Make(mended, 7));
    while relay.send_new(Trouble::Nothing) {}
    relay.refusing = 1 << bad;
    relay.step(Step::Again(Trouble::Nothing));
    // What is carried out and not told of is more than the next step takes.
    relay.step(Step::Again(Trouble::Late(1)));
    relay.round();
    relay.step(Step::Again(Trouble::Nothing));
    relay.step(Step::Make(another, 1));
    relay.step(Step::Send(Trouble::Nothing));
    relay.round();
    assert_eq!(relay.streams[&mended], (3..10).collect::<Vec<u64>>());
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
