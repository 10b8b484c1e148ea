//! Owns what the relay knows of the streams that are its own, in bounded memory.
//!
//! Beside each stream stands a record of the places that were appended last. Invariant: of a stream
//! that is known here, every place in its record whose row may still be there is known too. A place
//! that was forgotten before would be appended a second time. So when there are too many, all are
//! forgotten together, and each is adopted anew, which tells what its record holds.
//!
//! Messages of one stream are deleted in their order, those of several are not: what was put aside
//! for one keeps its place while later ones to others go. So each stream is looked at by itself.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::place::Place;

#[derive(Debug)]
pub struct Adopted {
    streams_max: usize,
    streams: HashSet<Box<[u8]>>,
    /// What records hold, where they hold something whose row is not deleted: mostly none.
    recorded: HashMap<Box<[u8]>, BTreeSet<Place>>,
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

    /// This row is deleted, and with it every earlier one of its stream that was sent.
    pub fn forget_until(&mut self, stream: &[u8], place: Place) {
        let Some(recorded) = self.recorded.get_mut(stream) else { return };
        while recorded.first().is_some_and(|first| *first <= place) {
            recorded.pop_first();
        }
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
mod tests;
