//! What leaves for Redis after a commit, and the order in which it leaves.
//!
//! Invariant: what was made in a savepoint is in the log if and only if that savepoint and all
//! below it are kept, at the place where it was made. If one outlived its rollback, a subscriber
//! would hear of what never happened.

pub mod batch;
pub mod codec;
pub mod hold;
pub mod horizon;
pub mod place;
pub mod row;

use self::row::Row;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// PUBLISH.
    Publish { channel: Box<[u8]>, payload: Box<[u8]> },
    /// XADD of one field, `event`.
    Append { stream: Box<[u8]>, length_max: Option<u64>, payload: Box<[u8]> },
    /// The value of a key, if the transaction's token still stands beside it.
    Store { key: Box<[u8]>, token: Box<[u8]>, ttl_ms: Option<u64>, value: Stored },
    /// A job under the id that its maker was told.
    Job { queue: Box<[u8]>, id: Box<[u8]>, payload: Box<[u8]> },
    /// A job that waits first, or that is left out if its id is known.
    Enqueue { queue: Box<[u8]>, id: Box<[u8]>, payload: Box<[u8]>, delay_ms: u64, is_named: bool },
    /// Jobs that are done: their ids, and which job of that id.
    Done { queue: Box<[u8]>, jobs: Fields },
    /// A command as the user wrote it.
    Command { arguments: Vec<Box<[u8]>> },
}

/// Names and values.
pub type Fields = Vec<(Box<[u8]>, Box<[u8]>)>;

/// What a key is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    Text(Box<[u8]>),
    Hash(Fields),
    /// Nothing: the row is gone.
    Nothing,
}

impl Message {
    /// The stream that it is appended to.
    pub fn stream(&self) -> Option<&[u8]> {
        match self {
            Message::Append { stream, .. }
            | Message::Job { queue: stream, .. }
            | Message::Enqueue { queue: stream, .. } => Some(stream),
            _ => None,
        }
    }

    /// What it takes of memory, roughly.
    pub fn bytes(&self) -> usize {
        let parts = match self {
            Message::Publish { channel, payload } => channel.len() + payload.len(),
            Message::Append { stream, payload, .. } => stream.len() + payload.len(),
            Message::Store { key, token, value, .. } => key.len() + token.len() + value.bytes(),
            Message::Job { queue, id, payload } | Message::Enqueue { queue, id, payload, .. } => {
                queue.len() + id.len() + payload.len()
            }
            Message::Done { queue, jobs } => queue.len() + fields_bytes(jobs),
            Message::Command { arguments } => arguments.iter().map(|part| part.len() + 16).sum(),
        };
        size_of::<Message>() + parts
    }
}

impl Message {
    /// The name of the key that it writes, which takes the database's prefix. Channels are no keys,
    /// and a command is sent as it was written.
    pub fn key_mut(&mut self) -> Option<&mut Box<[u8]>> {
        match self {
            Message::Append { stream: key, .. }
            | Message::Store { key, .. }
            | Message::Job { queue: key, .. }
            | Message::Enqueue { queue: key, .. }
            | Message::Done { queue: key, .. } => Some(key),
            Message::Publish { .. } | Message::Command { .. } => None,
        }
    }
}

impl Stored {
    fn bytes(&self) -> usize {
        match self {
            Stored::Text(text) => text.len(),
            Stored::Hash(fields) => fields_bytes(fields),
            Stored::Nothing => 0,
        }
    }
}

fn fields_bytes(fields: &Fields) -> usize {
    fields.iter().map(|(a, b)| a.len() + b.len() + 32).sum()
}

/// A message of the running transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place among all that the transaction made; what was rolled back leaves gaps.
    pub seq: u64,
    /// To be delivered by way of the outbox, whatever happens.
    pub durable: bool,
    pub message: Message,
    /// Of a message about a key.
    pub row: Row,
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
        if self.marks.last().is_none_or(|mark| mark.level < level) {
            let (length, bytes) = (self.entries.len(), self.bytes);
            self.marks.push(Mark { level, length, bytes });
        }
        self.bytes += message.bytes();
        let seq = self.next_seq;
        self.next_seq += 1;
        self.entries.push(Entry { seq, durable, message, row });
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

    /// What those take that were made at this very level.
    pub fn bytes_of(&self, level: u32) -> usize {
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

    #[derive(Debug, Clone)]
    enum Step {
        Make,
        Save,
        Release,
        RollBack,
    }

    proptest! {
        /// Danger: a message outlives its savepoint, or is lost with another one's.
        #[test]
        fn a_log_keeps_what_its_savepoints_keep(
            steps in proptest::collection::vec(
                prop_oneof![Just(Step::Make), Just(Step::Save), Just(Step::Release),
                    Just(Step::RollBack)], 0..60)
        ) {
            let mut log = Log::default();
            let mut stack: Vec<Vec<Message>> = vec![Vec::new()];
            for (number, step) in steps.iter().enumerate() {
                let level = stack.len() as u32;
                match step {
                    Step::Make => {
                        log.push(level, number % 3 == 0, message(number as u32));
                        stack.last_mut().unwrap().push(message(number as u32));
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
            let bytes = |messages: &[Message]| messages.iter().map(Message::bytes).sum::<usize>();
            let level = stack.len() as u32;
            prop_assert_eq!(log.bytes_of(level), bytes(stack.last().unwrap()));
            prop_assert_eq!(log.bytes(), bytes(&stack.concat()));
            let made = |entries: Vec<Entry>| {
                let rises = entries.windows(2).all(|pair| pair[0].seq < pair[1].seq);
                assert!(rises, "the order of making");
                entries.into_iter().map(|entry| entry.message).collect::<Vec<_>>()
            };
            prop_assert_eq!(made(log.take_of(level)), stack.pop().unwrap());
            prop_assert_eq!(log.bytes(), bytes(&stack.concat()));
            prop_assert_eq!(made(log.take()), stack.concat());
            prop_assert_eq!(log.bytes(), 0);
        }
    }
}
