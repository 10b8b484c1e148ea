//! Owns what the relay knows of the streams that are its own, in bounded memory.
//!
//! Beside each stream stands a record of the places that were appended last. Invariant: of a stream
//! that is known here, every place in its record whose row may still be there is known too. A place
//! that was forgotten before would be appended a second time. So when there are too many, all are
//! forgotten together, and each is adopted anew, which tells what its record holds.

use std::collections::{HashMap, HashSet};

use super::place::Place;

#[derive(Debug)]
pub struct Adopted {
    streams_max: usize,
    streams: HashSet<Box<[u8]>>,
    /// What records hold, where they hold something whose row is not deleted: mostly none.
    recorded: HashMap<Box<[u8]>, HashSet<Place>>,
}

impl Adopted {
    pub fn new(streams_max: usize) -> Self {
        Self { streams_max, streams: HashSet::new(), recorded: HashMap::new() }
    }

    pub fn is_known(&self, stream: &[u8]) -> bool {
        self.streams.contains(stream)
    }

    /// More than are to be remembered: what was known is to be forgotten before the next batch.
    pub fn are_too_many(&self) -> bool {
        self.streams.len() > self.streams_max
    }

    /// A stream was adopted, and its record holds these.
    pub fn add(&mut self, stream: &[u8], places: impl Iterator<Item = Place>) {
        self.streams.insert(stream.into());
        self.record(stream, places);
    }

    /// These were appended.
    pub fn record(&mut self, stream: &[u8], places: impl Iterator<Item = Place>) {
        let mut places = places.peekable();
        if places.peek().is_none() {
            return;
        }
        match self.recorded.get_mut(stream) {
            Some(recorded) => recorded.extend(places),
            None => _ = self.recorded.insert(stream.into(), places.collect()),
        }
    }

    pub fn has(&self, stream: &[u8], place: Place) -> bool {
        self.recorded.get(stream).is_some_and(|recorded| recorded.contains(&place))
    }

    /// Whether the record holds any that it must keep.
    pub fn must_keep(&self, stream: &[u8]) -> bool {
        self.recorded.contains_key(stream)
    }

    /// Every row up to this place is deleted.
    pub fn forget_until(&mut self, place: Place) {
        self.recorded.retain(|_, recorded| {
            recorded.retain(|known| *known > place);
            !recorded.is_empty()
        });
    }

    /// This row is deleted.
    pub fn forget(&mut self, stream: &[u8], place: Place) {
        let Some(recorded) = self.recorded.get_mut(stream) else { return };
        recorded.remove(&place);
        if recorded.is_empty() {
            self.recorded.remove(stream);
        }
    }

    /// All are to be adopted anew.
    pub fn clear(&mut self) {
        self.streams.clear();
        self.recorded.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAMS_MAX: usize = 3;

    proptest! {
        #[test]
        fn each_is_appended_once_and_memory_is_bounded(
            batches in prop::collection::vec(
                (prop::collection::vec(0u8..9, 1..4), any::<bool>()), 0..60
            )
        ) {
            // Danger: a stream for each customer, and the worker grows until it is killed; or one
            // is forgotten with what its record holds, and an event is appended twice.
            let mut adopted = Adopted::new(STREAMS_MAX);
            let mut records: HashMap<u8, Vec<Place>> = HashMap::new();
            let mut rows: Vec<(u8, Place)> = Vec::new();
            let (mut appended, mut made) = (Vec::new(), 0);
            for (streams, is_deleted) in batches {
                for stream in streams {
                    made += 1;
                    rows.push((stream, Place { number: made, xid: 1, seq: 0 }));
                }
                if adopted.are_too_many() {
                    adopted.clear();
                }
                let mut is_first = HashSet::new();
                for (stream, place) in &rows {
                    let name = [*stream];
                    let record = records.entry(*stream).or_default();
                    if !adopted.is_known(&name) {
                        adopted.add(&name, record.iter().copied());
                    }
                    if adopted.has(&name, *place) {
                        continue;
                    }
                    if is_first.insert(*stream) && !adopted.must_keep(&name) {
                        record.clear();
                    }
                    record.push(*place);
                    appended.push(*place);
                    adopted.record(&name, [*place].into_iter());
                }
                // Or whoever was to delete them died.
                match is_deleted {
                    true => adopted.forget_until(rows.drain(..).next_back().unwrap().1),
                    false => adopted.clear(),
                }
                prop_assert!(adopted.streams.len() <= STREAMS_MAX + 9);
            }
            let each: HashSet<&Place> = appended.iter().collect();
            prop_assert_eq!((appended.len() as u64, each.len() as u64), (made, made));
        }
    }

    #[test]
    fn nothing_is_kept_of_what_is_deleted() {
        // Danger: with each batch the worker looks at every stream that it ever had.
        let mut adopted = Adopted::new(STREAMS_MAX);
        let place = |number| Place { number, xid: 1, seq: 0 };
        adopted.add(b"a", [place(1), place(2)].into_iter());
        adopted.add(b"b", std::iter::empty());
        assert!(adopted.must_keep(b"a") && !adopted.must_keep(b"b"));
        adopted.forget(b"a", place(1));
        assert!(adopted.has(b"a", place(2)) && !adopted.has(b"a", place(1)));
        adopted.forget(b"a", place(2));
        assert!(!adopted.must_keep(b"a") && adopted.recorded.is_empty());
        for stream in [b"c", b"d"] {
            assert!(!adopted.are_too_many());
            adopted.add(stream, std::iter::empty());
        }
        assert!(adopted.are_too_many());
    }
}
