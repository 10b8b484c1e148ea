//! The messages of a transaction that is under way, and the order in which they leave.
//!
//! Invariant: what was made in a savepoint is in the log if and only if that savepoint and all
//! below it are kept, at the place where it was made. If one outlived its rollback, a subscriber
//! would hear of what never happened. So events that are kept together were made one right after
//! another, at one level, or at levels that were released into it.

use super::row::Row;
use super::{Event, Message, To};

/// What is kept together at most: parts of what is sent to Redis at once.
const MORE_MAX: usize = 500;
const MORE_BYTES_MAX: usize = 64 * 1024;

/// What is written to the outbox at once when memory is short, at the least, so that a transaction
/// with large messages at a lower level does not write them one by one.
const SPILL_BYTES_MIN: usize = 256 * 1024;

/// A message of the running transaction, and further events to the same place: a bulk statement
/// would else allocate a hundred bytes and more for each row, besides what the row tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place among all that the transaction made; what was rolled back leaves gaps.
    pub seq: u64,
    /// To be delivered by way of the outbox, whatever happens.
    pub durable: bool,
    pub message: Message,
    /// Of a message about a key.
    pub row: Row,
    /// Of events like it: theirs are the places that follow.
    pub more: Payloads,
}

/// Texts in one piece.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payloads {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Entry {
    /// How many messages it is.
    pub fn count(&self) -> usize {
        1 + self.more.len()
    }

    /// What they take, each by itself, of memory or as a command, roughly.
    pub fn bytes(&self) -> usize {
        let first = self.message.as_event();
        let like = first.map_or(0, |event| Event { payload: &[], ..event }.bytes());
        self.message.bytes() + self.more.len() * like + self.more.bytes.len()
    }

    /// All messages, with their places.
    pub fn into_messages(self) -> impl Iterator<Item = (u64, Message)> {
        let first = self.message.as_event();
        let like = |(event, payload): (Event<'_>, _)| Event { payload, ..event }.to_message();
        let more = first.into_iter().flat_map(|event| self.more.iter().map(move |it| (event, it)));
        let more: Vec<Message> = more.map(like).collect();
        (self.seq..).zip(std::iter::once(self.message).chain(more))
    }

    /// Whether an event of that place goes on where it ends.
    fn is_followed_by(&self, seq: u64, durable: bool, to: To<'_>) -> bool {
        self.seq + 1 + self.more.len() as u64 == seq
            && self.durable == durable
            && self.message.as_event().is_some_and(|event| event.to == to)
    }
}

impl Payloads {
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        // Read behind the commit record, where nothing may panic.
        self.ends.iter().map(move |end| {
            let part = std::mem::replace(&mut start, *end)..*end;
            self.bytes.get(part).unwrap_or_default()
        })
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn has_room_for(&self, payload: &[u8]) -> bool {
        self.ends.len() < MORE_MAX && self.bytes.len() + payload.len() <= MORE_BYTES_MAX
    }

    fn push(&mut self, payload: &[u8]) {
        self.bytes.extend_from_slice(payload);
        self.ends.push(self.bytes.len());
    }
}

/// The messages of the running transaction, in the order of their making.
#[derive(Debug, Default)]
pub struct Log {
    entries: Vec<Entry>,
    /// For each nest level in which something was made, in rising order: what was there before.
    marks: Vec<Mark>,
    bytes: usize,
    next_seq: u64,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    level: u32,
    length: usize,
    bytes: usize,
}

impl Log {
    /// Appends a message made at a nest level, 1 the transaction itself.
    pub fn push(&mut self, level: u32, durable: bool, message: Message) {
        self.push_of(level, durable, message, Row::default());
    }

    /// The same of a message about a key, and what it tells of the row.
    pub fn push_of(&mut self, level: u32, durable: bool, message: Message, row: Row) {
        self.mark(level);
        self.bytes += message.bytes();
        let seq = self.next_seq;
        self.next_seq += 1;
        self.entries.push(Entry { seq, durable, message, row, more: Payloads::default() });
    }

    /// The same of an event. It joins the one before it, if that goes to the same place.
    pub fn push_event(&mut self, level: u32, durable: bool, event: Event<'_>) {
        let seq = self.next_seq;
        let top = self.marks.last().filter(|top| top.level == level);
        let is_of_level = top.is_some_and(|top| top.length < self.entries.len());
        let last = self.entries.last_mut().filter(|_| is_of_level);
        let Some(last) = last.filter(|last| last.is_followed_by(seq, durable, event.to)) else {
            return self.push(level, durable, event.to_message());
        };
        if last.more.has_room_for(event.payload) {
            last.more.push(event.payload);
            self.bytes += event.bytes();
            self.next_seq += 1;
            return;
        }
        // What follows so many is mostly as many.
        let room = last.more.bytes.len();
        self.push(level, durable, event.to_message());
        if let Some(last) = self.entries.last_mut() {
            last.more.bytes.reserve_exact(room);
        }
    }

    /// Appends what another log held, at the places that it had there.
    pub fn append(&mut self, level: u32, entries: impl Iterator<Item = Entry>) {
        self.mark(level);
        for entry in entries {
            self.bytes += entry.bytes();
            self.next_seq = entry.seq + entry.count() as u64;
            self.entries.push(entry);
        }
    }

    /// From here on something is made at this level.
    fn mark(&mut self, level: u32) {
        if self.marks.last().is_none_or(|mark| mark.level < level) {
            let (length, bytes) = (self.entries.len(), self.bytes);
            self.marks.push(Mark { level, length, bytes });
        }
    }

    /// A savepoint became part of the level below it.
    pub fn release(&mut self, level: u32) {
        let Some(top) = self.marks.last().copied().filter(|mark| mark.level >= level) else {
            return;
        };
        self.marks.pop();
        let below = level.saturating_sub(1);
        if self.marks.last().is_none_or(|mark| mark.level < below) {
            self.marks.push(Mark { level: below, ..top });
        }
    }

    /// A savepoint at this level and all above it are undone.
    pub fn roll_back(&mut self, level: u32) {
        while let Some(mark) = self.marks.last().copied().filter(|mark| mark.level >= level) {
            self.entries.truncate(mark.length);
            self.bytes = mark.bytes;
            self.marks.pop();
        }
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What a change does to their sizes is not counted.
    pub fn entries_mut(&mut self) -> &mut [Entry] {
        &mut self.entries
    }

    /// What the messages take of memory, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether what was made at this very level is to be written to the outbox, as too much is kept
    /// in memory: in pieces that are worth it, but where many small savepoints add up to what one
    /// of them could never write.
    pub fn must_spill(&self, level: u32, bytes_max: usize) -> bool {
        let is_much = self.bytes_of(level) >= SPILL_BYTES_MIN.min(bytes_max);
        self.bytes > bytes_max && (is_much || self.bytes > bytes_max.saturating_mul(2))
    }

    /// What those take that were made at this very level.
    fn bytes_of(&self, level: u32) -> usize {
        let top = self.marks.last().filter(|mark| mark.level == level);
        top.map_or(0, |mark| self.bytes - mark.bytes)
    }

    /// Takes those that were made at this very level: what is done with them is undone with it.
    pub fn take_of(&mut self, level: u32) -> Vec<Entry> {
        let Some(top) = self.marks.last().copied().filter(|mark| mark.level == level) else {
            return Vec::new();
        };
        self.bytes = top.bytes;
        self.entries.split_off(top.length)
    }

    /// Empties the log.
    pub fn take(&mut self) -> Vec<Entry> {
        self.marks.clear();
        self.bytes = 0;
        std::mem::take(&mut self.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(number: u32) -> Message {
        let payload = number.to_string().into_bytes().into();
        Message::Publish { channel: Box::from(&b"c"[..]), payload }
    }

    fn stream(name: &str, length_max: Option<u64>) -> To<'_> {
        To::Stream { name: name.as_bytes(), length_max }
    }

    /// The messages with their places.
    fn made(entries: Vec<Entry>) -> Vec<(u64, Message)> {
        entries.into_iter().flat_map(Entry::into_messages).collect()
    }

    #[test]
    fn events_to_one_place_are_kept_together() {
        // Danger: a bulk statement takes twice the time; or what is kept together goes elsewhere.
        let mut log = Log::default();
        let (a, b) = (stream("a", None), stream("a", Some(9)));
        let turns = [(a, false), (a, false), (b, false), (b, true), (To::Channel(b"a"), true)];
        let payload = &b"p"[..];
        for (to, durable) in turns {
            log.push_event(1, durable, Event { to, payload });
        }
        let kept: Vec<_> =
            log.entries().iter().map(|entry| (entry.seq, entry.more.len())).collect();
        assert_eq!(kept, [(0, 1), (2, 0), (3, 0), (4, 0)]);
        let expected: Vec<_> =
            (0..).zip(turns.map(|(to, _)| Event { to, payload }.to_message())).collect();
        assert_eq!(made(log.take()), expected);
    }

    #[test]
    fn what_is_kept_has_a_bound_whatever_the_savepoints() {
        // Danger: a loop with an exception block for each row: none of them has much, so nothing is
        // written to the outbox, and the backend takes all memory.
        const BYTES_MAX: usize = 64 * 1024;
        let payload = vec![b'p'; 1000];
        let mut log = Log::default();
        let (mut largest, mut spilled) = (0, 0);
        for round in 0..1000 {
            log.push_event(2, false, Event { to: stream("a", None), payload: &payload });
            if log.must_spill(2, BYTES_MAX) {
                spilled += made(log.take_of(2)).len();
            }
            largest = largest.max(log.bytes());
            assert!(round > 0 || spilled == 0, "not before there is much");
            log.release(2);
        }
        assert!(largest < 2 * BYTES_MAX + 2 * payload.len(), "{largest}");
        assert_eq!(spilled + made(log.take()).len(), 1000);
    }

    #[test]
    fn what_is_kept_together_has_a_bound() {
        // Danger: the copies that a growing text takes; or an event is lost at its end.
        let mut log = Log::default();
        let payloads: Vec<Vec<u8>> = (0..9u8).map(|byte| vec![byte; MORE_BYTES_MAX / 3]).collect();
        for payload in &payloads {
            log.push_event(1, false, Event { to: stream("a", None), payload });
        }
        assert_eq!(log.entries().len(), 3);
        let to_message = |payload: &Vec<u8>| Event { to: stream("a", None), payload }.to_message();
        let expected: Vec<_> = (0..).zip(payloads.iter().map(to_message)).collect();
        assert_eq!(made(log.take()), expected);
    }

    #[test]
    fn what_is_appended_goes_with_its_savepoint() {
        // Danger: what was settled in a savepoint leaves although that was rolled back.
        let entry = |number: u32| {
            let mut log = Log::default();
            (0..=number).for_each(|number| log.push(1, false, message(number)));
            log.take().pop().unwrap()
        };
        let mut log = Log::default();
        log.append(1, [entry(0), entry(1)].into_iter());
        log.append(2, [entry(2)].into_iter());
        log.append(3, [entry(3)].into_iter());
        log.release(3);
        assert_eq!(log.bytes(), (0..4).map(|number| message(number).bytes()).sum::<usize>());
        log.roll_back(2);
        log.append(2, [entry(7)].into_iter());
        log.release(2);
        assert_eq!(made(log.take()), [0, 1, 7].map(|number| (number.into(), message(number))));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Make,
        Tell,
        Save,
        Release,
        RollBack,
    }

    proptest! {
        /// Danger: a message outlives its savepoint, is lost with another one's, or takes the place
        /// of one that stands in the outbox.
        #[test]
        fn a_log_keeps_what_its_savepoints_keep(
            steps in proptest::collection::vec(
                prop_oneof![1 => Just(Step::Make), 3 => Just(Step::Tell), 1 => Just(Step::Save),
                    1 => Just(Step::Release), 1 => Just(Step::RollBack)], 0..60)
        ) {
            let mut log = Log::default();
            let mut stack: Vec<Vec<(u64, Message)>> = vec![Vec::new()];
            let mut seq = 0;
            for (number, step) in steps.iter().enumerate() {
                let level = stack.len() as u32;
                let message = message(number as u32);
                match step {
                    Step::Make => log.push(level, number % 3 == 0, message.clone()),
                    Step::Tell => log.push_event(level, false, message.as_event().unwrap()),
                    _ => {}
                }
                match step {
                    Step::Make | Step::Tell => {
                        stack.last_mut().unwrap().push((seq, message));
                        seq += 1;
                    }
                    Step::Save => stack.push(Vec::new()),
                    Step::Release if level > 1 => {
                        log.release(level);
                        let top = stack.pop().unwrap();
                        stack.last_mut().unwrap().extend(top);
                    }
                    Step::RollBack if level > 1 => {
                        log.roll_back(level);
                        stack.pop();
                    }
                    _ => {}
                }
            }
            let bytes =
                |made: &[(u64, Message)]| made.iter().map(|(_, it)| it.bytes()).sum::<usize>();
            let level = stack.len() as u32;
            prop_assert_eq!(log.bytes_of(level), bytes(stack.last().unwrap()));
            prop_assert_eq!(log.bytes(), bytes(&stack.concat()));
            prop_assert_eq!(made(log.take_of(level)), stack.pop().unwrap());
            prop_assert_eq!(log.bytes(), bytes(&stack.concat()));
            prop_assert_eq!(made(log.take()), stack.concat());
            prop_assert_eq!(log.bytes(), 0);
        }
    }
}
