//! A message as it stands in `redis_outbox`: bytes that outlive the library that wrote them.
//!
//! A version, a kind, and the kind's parts, each with its length before it. Invariant: bytes of
//! another version, or with anything missing or left over, are no message. A message that was
//! guessed at would be sent to all the world; one that is not understood stays where it is.

use super::{Fields, Message, Stored};

const VERSION: u8 = 1;

const PUBLISH: u8 = b'P';
const APPEND: u8 = b'A';
const STORE: u8 = b'S';
const JOB: u8 = b'J';
const COMMAND: u8 = b'C';
const ENQUEUE: u8 = b'Q';
const DONE: u8 = b'D';

const TEXT: u8 = b't';
const HASH: u8 = b'h';
const NOTHING: u8 = b'n';

/// Stands for "none" where a number could stand.
const NO_NUMBER: u64 = u64::MAX;

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// Written by another release.
    Version(u8),
    /// Written by nobody of ours.
    Malformed,
}

/// The bytes of a message.
pub fn encode(message: &Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.bytes());
    out.push(VERSION);
    match message {
        Message::Publish { channel, payload } => {
            out.push(PUBLISH);
            put(&mut out, channel);
            put(&mut out, payload);
        }
        Message::Append { stream, length_max, payload } => {
            out.push(APPEND);
            put(&mut out, stream);
            put_number(&mut out, *length_max);
            put(&mut out, payload);
        }
        Message::Store { key, token, ttl_ms, value } => {
            out.push(STORE);
            put(&mut out, key);
            put(&mut out, token);
            put_number(&mut out, *ttl_ms);
            put_stored(&mut out, value);
        }
        Message::Job { queue, id, payload } => {
            out.push(JOB);
            put(&mut out, queue);
            put(&mut out, id);
            put(&mut out, payload);
        }
        Message::Enqueue { queue, id, payload, delay_ms, is_named } => {
            out.push(ENQUEUE);
            put(&mut out, queue);
            put(&mut out, id);
            put(&mut out, payload);
            out.extend_from_slice(&delay_ms.to_le_bytes());
            out.push(u8::from(*is_named));
        }
        Message::Done { queue, jobs } => {
            out.push(DONE);
            put(&mut out, queue);
            put_fields(&mut out, jobs);
        }
        Message::Command { arguments } => {
            out.push(COMMAND);
            put_all(&mut out, arguments.iter());
        }
    }
    out
}

/// The message that these bytes are.
pub fn decode(bytes: &[u8]) -> Result<Message, Unreadable> {
    let mut rest = Rest(bytes);
    match rest.byte() {
        Some(VERSION) => {}
        Some(other) => return Err(Unreadable::Version(other)),
        None => return Err(Unreadable::Malformed),
    }
    let message = rest.message().filter(|_| rest.0.is_empty());
    message.ok_or(Unreadable::Malformed)
}

fn put(out: &mut Vec<u8>, part: &[u8]) {
    // A part is at most a PostgreSQL value, which is below 1 GB.
    let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(part);
}

fn put_number(out: &mut Vec<u8>, number: Option<u64>) {
    out.extend_from_slice(&number.unwrap_or(NO_NUMBER).to_le_bytes());
}

fn put_all<'a>(out: &mut Vec<u8>, parts: impl ExactSizeIterator<Item = &'a Box<[u8]>>) {
    let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&count.to_le_bytes());
    parts.for_each(|part| put(out, part));
}

fn put_stored(out: &mut Vec<u8>, value: &Stored) {
    match value {
        Stored::Text(text) => {
            out.push(TEXT);
            put(out, text);
        }
        Stored::Hash(fields) => {
            out.push(HASH);
            put_fields(out, fields);
        }
        Stored::Nothing => out.push(NOTHING),
    }
}

fn put_fields(out: &mut Vec<u8>, fields: &Fields) {
    let parts: Vec<&Box<[u8]>> = fields.iter().flat_map(|(a, b)| [a, b]).collect();
    put_all(out, parts.into_iter());
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn message(&mut self) -> Option<Message> {
        Some(match self.byte()? {
            PUBLISH => Message::Publish { channel: self.part()?, payload: self.part()? },
            APPEND => Message::Append {
                stream: self.part()?,
                length_max: self.number()?,
                payload: self.part()?,
            },
            STORE => Message::Store {
                key: self.part()?,
                token: self.part()?,
                ttl_ms: self.number()?,
                value: self.stored()?,
            },
            JOB => Message::Job { queue: self.part()?, id: self.part()?, payload: self.part()? },
            COMMAND => Message::Command { arguments: self.all()? },
            ENQUEUE => Message::Enqueue {
                queue: self.part()?,
                id: self.part()?,
                payload: self.part()?,
                delay_ms: self.eight_bytes()?,
                is_named: self.flag()?,
            },
            DONE => Message::Done { queue: self.part()?, jobs: self.fields()? },
            _ => return None,
        })
    }

    fn stored(&mut self) -> Option<Stored> {
        Some(match self.byte()? {
            TEXT => Stored::Text(self.part()?),
            HASH => Stored::Hash(self.fields()?),
            NOTHING => Stored::Nothing,
            _ => return None,
        })
    }

    fn fields(&mut self) -> Option<Fields> {
        let mut parts = self.all()?.into_iter();
        let mut fields = Vec::with_capacity(parts.len() / 2);
        while let Some(name) = parts.next() {
            fields.push((name, parts.next()?));
        }
        Some(fields)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn length(&mut self) -> Option<usize> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        usize::try_from(u32::from_le_bytes(*length)).ok()
    }

    fn eight_bytes(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    fn number(&mut self) -> Option<Option<u64>> {
        let number = self.eight_bytes()?;
        Some((number != NO_NUMBER).then_some(number))
    }

    fn part(&mut self) -> Option<Box<[u8]>> {
        let length = self.length()?;
        let (part, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(part.into())
    }

    fn all(&mut self) -> Option<Vec<Box<[u8]>>> {
        let count = self.length()?;
        // Each part has at least its length: a count beyond that is not one of ours.
        if count > self.0.len() / 4 {
            return None;
        }
        (0..count).map(|_| self.part()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(bytes: &[u8]) -> Box<[u8]> {
        Box::from(bytes)
    }

    #[test]
    fn the_bytes_never_change() {
        // Danger: after an upgrade, what waits in the outbox is not understood, or misunderstood.
        let golden: [(Message, &[u8]); 9] = [
            (
                Message::Publish { channel: part(b"c"), payload: part(b"hi") },
                b"\x01P\x01\0\0\0c\x02\0\0\0hi",
            ),
            (
                Message::Append { stream: part(b"s"), length_max: Some(9), payload: part(b"e") },
                b"\x01A\x01\0\0\0s\x09\0\0\0\0\0\0\0\x01\0\0\0e",
            ),
            (
                Message::Store {
                    key: part(b"k"),
                    token: part(b"t"),
                    ttl_ms: None,
                    value: Stored::Text(part(b"v")),
                },
                b"\x01S\x01\0\0\0k\x01\0\0\0t\xff\xff\xff\xff\xff\xff\xff\xfft\x01\0\0\0v",
            ),
            (
                Message::Store {
                    key: part(b"k"),
                    token: part(b"t"),
                    ttl_ms: Some(1),
                    value: Stored::Hash(vec![(part(b"a"), part(b"1"))]),
                },
                b"\x01S\x01\0\0\0k\x01\0\0\0t\x01\0\0\0\0\0\0\0h\x02\0\0\0\x01\0\0\0a\x01\0\0\x001",
            ),
            (
                Message::Store {
                    key: part(b""),
                    token: part(b""),
                    ttl_ms: Some(0),
                    value: Stored::Nothing,
                },
                b"\x01S\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0n",
            ),
            (
                Message::Job { queue: part(b"q"), id: part(b"7-0"), payload: part(b"{}") },
                b"\x01J\x01\0\0\0q\x03\0\0\x007-0\x02\0\0\0{}",
            ),
            (
                Message::Enqueue {
                    queue: part(b"q"),
                    id: part(b"i"),
                    payload: part(b"1"),
                    delay_ms: 5,
                    is_named: true,
                },
                b"\x01Q\x01\0\0\0q\x01\0\0\0i\x01\0\0\x001\x05\0\0\0\0\0\0\0\x01",
            ),
            (
                Message::Done { queue: part(b"q"), jobs: vec![(part(b"i"), part(b"7-0"))] },
                b"\x01D\x01\0\0\0q\x02\0\0\0\x01\0\0\0i\x03\0\0\x007-0",
            ),
            (
                Message::Command { arguments: vec![part(b"INCR"), part(b"n")] },
                b"\x01C\x02\0\0\0\x04\0\0\0INCR\x01\0\0\0n",
            ),
        ];
        for (message, bytes) in golden {
            assert_eq!(
                encode(&message).escape_ascii().to_string(),
                bytes.escape_ascii().to_string()
            );
            assert_eq!(decode(bytes), Ok(message));
        }
    }

    #[test]
    fn another_version_is_told_apart() {
        // Danger: the event of a newer release is dropped as rubbish after a downgrade.
        assert_eq!(decode(b"\x02P whatever"), Err(Unreadable::Version(2)));
        assert_eq!(decode(b""), Err(Unreadable::Malformed));
        assert_eq!(decode(b"\x01"), Err(Unreadable::Malformed));
        assert_eq!(decode(b"\x01X"), Err(Unreadable::Malformed));
        assert_eq!(decode(b"\x01C\xff\xff\xff\xff"), Err(Unreadable::Malformed));
        assert_eq!(decode(b"\x01P\x01\0\0\0c\x02\0\0\0hi!"), Err(Unreadable::Malformed));
    }

    fn bytes() -> impl Strategy<Value = Box<[u8]>> {
        prop::collection::vec(any::<u8>(), 0..12).prop_map(Into::into)
    }

    fn stored() -> impl Strategy<Value = Stored> {
        prop_oneof![
            bytes().prop_map(Stored::Text),
            prop::collection::vec((bytes(), bytes()), 0..4).prop_map(Stored::Hash),
            Just(Stored::Nothing),
        ]
    }

    fn number() -> impl Strategy<Value = Option<u64>> {
        prop::option::of(0..u64::MAX)
    }

    fn message() -> impl Strategy<Value = Message> {
        prop_oneof![
            (bytes(), bytes()).prop_map(|(channel, payload)| Message::Publish { channel, payload }),
            (bytes(), number(), bytes()).prop_map(|(stream, length_max, payload)| {
                Message::Append { stream, length_max, payload }
            }),
            (bytes(), bytes(), number(), stored()).prop_map(|(key, token, ttl_ms, value)| {
                Message::Store { key, token, ttl_ms, value }
            }),
            (bytes(), bytes(), bytes()).prop_map(|(queue, id, payload)| Message::Job {
                queue,
                id,
                payload
            }),
            (bytes(), bytes(), bytes(), any::<u64>(), any::<bool>()).prop_map(
                |(queue, id, payload, delay_ms, is_named)| Message::Enqueue {
                    queue,
                    id,
                    payload,
                    delay_ms,
                    is_named
                }
            ),
            (bytes(), prop::collection::vec((bytes(), bytes()), 0..4))
                .prop_map(|(queue, jobs)| Message::Done { queue, jobs }),
            prop::collection::vec(bytes(), 0..5)
                .prop_map(|arguments| Message::Command { arguments }),
        ]
    }

    proptest! {
        #[test]
        fn a_message_comes_back_as_it_was(message in message()) {
            // Danger: an event arrives changed.
            prop_assert_eq!(decode(&encode(&message)), Ok(message));
        }

        #[test]
        fn a_part_of_a_message_is_none(message in message(), cut in any::<prop::sample::Index>()) {
            // Danger: a damaged row sends half a payload.
            let whole = encode(&message);
            let cut = cut.index(whole.len());
            prop_assert_eq!(decode(&whole[..cut]), Err(Unreadable::Malformed));
        }

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            // Danger: a damaged row ends the worker each time that it starts.
            let _ = decode(&bytes);
        }
    }
}
