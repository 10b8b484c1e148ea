//! What leaves for Redis after a commit.
//!
//! Invariant: an event is the same message whether its parts stand together or elsewhere. If one of
//! the two had something that the other lacks, a bulk statement would send what a single row does
//! not.

pub mod adopted;
pub mod aside;
pub mod batch;
pub mod codec;
pub mod hold;
pub mod horizon;
pub mod log;
pub mod place;
pub mod record;
pub mod row;
pub mod window;

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

/// The same as a `Publish` or an `Append`, of parts that stand elsewhere: a statement makes one for
/// each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    pub to: To<'a>,
    pub payload: &'a [u8],
}

/// Where events go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To<'a> {
    Channel(&'a [u8]),
    Stream { name: &'a [u8], length_max: Option<u64> },
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

    /// Where it goes: what is refused there, or waits, has all that follows it there wait.
    pub fn target(&self) -> &[u8] {
        match self {
            Message::Publish { channel, .. } => channel,
            Message::Append { stream, .. } => stream,
            Message::Store { key, .. } => key,
            Message::Job { queue, .. }
            | Message::Enqueue { queue, .. }
            | Message::Done { queue, .. } => queue,
            Message::Command { arguments } => key_of(arguments),
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

    /// As an event, if it is one.
    pub fn as_event(&self) -> Option<Event<'_>> {
        match self {
            Message::Publish { channel, payload } => {
                Some(Event { to: To::Channel(channel), payload })
            }
            Message::Append { stream, length_max, payload } => {
                let to = To::Stream { name: stream, length_max: *length_max };
                Some(Event { to, payload })
            }
            _ => None,
        }
    }
}

impl Event<'_> {
    pub fn to_message(self) -> Message {
        let payload = self.payload.into();
        match self.to {
            To::Channel(channel) => Message::Publish { channel: channel.into(), payload },
            To::Stream { name, length_max } => {
                Message::Append { stream: name.into(), length_max, payload }
            }
        }
    }

    /// As [`Message::bytes`].
    pub fn bytes(self) -> usize {
        let (To::Channel(name) | To::Stream { name, .. }) = self.to;
        size_of::<Message>() + name.len() + self.payload.len()
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

/// The first key of a command; of a script that names none, the script itself.
fn key_of(arguments: &[Box<[u8]>]) -> &[u8] {
    let is = |names: &[&str]| {
        arguments
            .first()
            .is_some_and(|word| names.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes())))
    };
    let has_keys = |at: usize| {
        let count = arguments.get(at).and_then(|count| std::str::from_utf8(count).ok());
        count.and_then(|count| count.parse::<u64>().ok()).is_some_and(|count| count > 0)
    };
    let place = match () {
        () if is(&["EVAL", "EVALSHA", "FCALL"]) && has_keys(2) => 3,
        () if is(&["XGROUP", "BITOP", "LMPOP", "ZMPOP"]) => 2,
        () => 1,
    };
    arguments.get(place).or(arguments.last()).map_or(&[], |argument| &argument[..])
}

fn fields_bytes(fields: &Fields) -> usize {
    fields.iter().map(|(a, b)| a.len() + b.len() + 32).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_goes_to_the_first_of_its_keys() {
        // Danger: a script that refuses to work on one key keeps it from working on all others, and
        // what follows to its own key overtakes it.
        for (words, target) in [
            ("SET k v", "k"),
            ("PING", "PING"),
            ("eval text 2 k l v", "k"),
            ("EVAL text 0 v", "text"),
            ("EVALSHA digest 1 k", "k"),
            ("fcall name 1 k", "k"),
            ("FCALL name x k", "name"),
            ("XGROUP CREATE k g $", "k"),
            ("BITOP AND k l m", "k"),
            ("LMPOP 2 k l LEFT", "k"),
            ("EVAL text 5", "5"),
            ("XGROUP HELP", "HELP"),
        ] {
            let arguments = words.split(' ').map(|word| word.as_bytes().into()).collect();
            assert_eq!(Message::Command { arguments }.target(), target.as_bytes(), "{words}");
        }
    }
}
