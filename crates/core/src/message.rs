//! What leaves for Redis after a commit, and the order in which it leaves.
//!
//! Invariant: what was made in a savepoint is in the log if and only if that savepoint and all below
//! it are kept, at the place where it was made. If one outlived its rollback, a subscriber would
//! hear of what never happened.

pub mod batch;
pub mod codec;
pub mod horizon;
pub mod place;

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
    /// A command as the user wrote it.
    Command { arguments: Vec<Box<[u8]>> },
}

/// What a key is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    Text(Box<[u8]>),
    /// Fields and values.
    Hash(Vec<(Box<[u8]>, Box<[u8]>)>),
    /// Nothing: the row is gone.
    Nothing,
}

impl Message {
    /// The stream that it is appended to.
    pub fn stream(&self) -> Option<&[u8]> {
        match self {
            Message::Append { stream, .. } | Message::Job { queue: stream, .. } => Some(stream),
            _ => None,
        }
    }

    /// What it takes of memory, roughly.
    pub fn bytes(&self) -> usize {
        let parts = match self {
            Message::Publish { channel, payload } => channel.len() + payload.len(),
            Message::Append { stream, payload, .. } => stream.len() + payload.len(),
            Message::Store { key, token, value, .. } => key.len() + token.len() + value.bytes(),
            Message::Job { queue, id, payload } => queue.len() + id.len() + payload.len(),
            Message::Command { arguments } => arguments.iter().map(|part| part.len() + 16).sum(),
        };
        size_of::<Message>() + parts
    }
}

impl Stored {
    fn bytes(&self) -> usize {
        match self {
            Stored::Text(text) => text.len(),
            Stored::Hash(fields) => fields.iter().map(|(a, b)| a.len() + b.len() + 32).sum(),
            Stored::Nothing => 0,
        }
    }
}

/// The messages of the running transaction, of one way of delivery, in the order of their making.
#[derive(Debug, Default)]
pub struct Log {
    messages: Vec<Message>,
    /// For each nest level in which something was made, in rising order: what was there before.
    marks: Vec<Mark>,
    bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    level: u32,
    length: usize,
    bytes: usize,
}

impl Log {
    /// Appends a message made at a nest level, 1 the transaction itself.
    pub fn push(&mut self, level: u32, message: Message) {
        if self.marks.last().is_none_or(|mark| mark.level < level) {
            let (length, bytes) = (self.messages.len(), self.bytes);
            self.marks.push(Mark { level, length, bytes });
        }
        self.bytes += message.bytes();
        self.messages.push(message);
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
            self.messages.truncate(mark.length);
            self.bytes = mark.bytes;
            self.marks.pop();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// What the messages take of memory, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Empties the log.
    pub fn take(&mut self) -> Vec<Message> {
        self.marks.clear();
        self.bytes = 0;
        std::mem::take(&mut self.messages)
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
                        log.push(level, message(number as u32));
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
            let kept: Vec<Message> = stack.concat();
            prop_assert_eq!(log.bytes(), kept.iter().map(Message::bytes).sum::<usize>());
            prop_assert_eq!(log.take(), kept);
            prop_assert_eq!(log.bytes(), 0);
        }
    }
}
