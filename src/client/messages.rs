//! Messages as they go to Redis after a commit: packed before it, so that nothing is left to decide
//! behind it.
//!
//! Invariant: they go in order, each at most once. Answers are counted, errors among them; whatever
//! ends the connection ends the rest, and nothing is sent again: a subscriber would hear it twice.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use pg_cache_core::key::EntryKeys;
use pg_cache_core::message::{Fields, Message, Stored};
use pg_cache_core::resp::{write_argument, write_command};
use redis::{Script, Value};

use super::failure::Failure;
use super::queues;
use super::session::Session;

const STORE_TEXT: &str = include_str!("lua/store_4.lua");

static STORE: LazyLock<Script> = LazyLock::new(|| Script::new(STORE_TEXT));

/// The keys of the script that stores.
const STORE_KEYS: &[u8] = b"4";

/// What is sent before the answers are taken.
const PART_COMMANDS_MAX: usize = 2000;
const PART_BYTES_MAX: usize = 256 * 1024;

/// What a node of a stream holds by default: `MAXLEN ~` takes whole ones away.
const STREAM_NODE_ENTRIES: u32 = 100;

/// Commands, ready to be sent.
#[derive(Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    /// Where each part ends, and how many commands it has.
    parts: Vec<Part>,
    knows_store: bool,
    knows_finish: bool,
    /// How many entries each stream gets before it is trimmed again.
    untrimmed: HashMap<Box<[u8]>, u32>,
}

#[derive(Clone, Copy, Default)]
struct Part {
    end: usize,
    commands: usize,
}

/// What became of them.
#[derive(Default)]
pub struct Delivered {
    pub sent: usize,
    /// What the server said to the first one that it refused.
    pub refused: Option<Failure>,
}

impl Outgoing {
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.commands).sum()
    }

    /// Adds one, its names with the database's prefix.
    pub fn push(&mut self, message: &Message) {
        let before = self.bytes.len();
        self.write(message);
        let (end, added) = (self.bytes.len(), self.bytes.len() - before);
        let begun = self.parts.len().checked_sub(2).map_or(0, |last| self.parts[last].end);
        match self.parts.last_mut() {
            Some(part)
                if part.commands < PART_COMMANDS_MAX
                    && before - begun + added <= PART_BYTES_MAX =>
            {
                part.end = end;
                part.commands += 1;
            }
            _ => self.parts.push(Part { end, commands: 1 }),
        }
    }

    fn write(&mut self, message: &Message) {
        match message {
            Message::Publish { channel, payload } => {
                self.command(&[b"PUBLISH", channel, payload]);
            }
            Message::Append { stream, length_max: Some(most), payload } if self.trims(stream) => {
                let most = most.to_string();
                let most = most.as_bytes();
                self.command(&[b"XADD", stream, b"MAXLEN", b"~", most, b"*", b"event", payload]);
            }
            Message::Append { stream, payload, .. } => {
                self.command(&[b"XADD", stream, b"*", b"event", payload]);
            }
            Message::Job { queue, id, payload } => {
                self.command(&[b"XADD", queue, b"*", b"id", id, b"payload", payload]);
            }
            // These go by the outbox only.
            Message::Enqueue { .. } => {}
            Message::Done { queue, jobs } => self.done(queue, jobs),
            Message::Command { arguments } => {
                let arguments: Vec<&[u8]> = arguments.iter().map(|part| &part[..]).collect();
                self.command(&arguments);
            }
            Message::Store { key, token, ttl_ms, value } => {
                self.store(key, token, *ttl_ms, value);
            }
        }
    }

    /// Whether the next entry of a stream trims it: the first of a transaction, and then as often
    /// as Redis has a whole node to take away.
    fn trims(&mut self, stream: &[u8]) -> bool {
        match self.untrimmed.get_mut(stream) {
            Some(0) => {
                self.untrimmed.remove(stream);
            }
            Some(left) => {
                *left -= 1;
                return false;
            }
            None => {}
        }
        self.untrimmed.insert(stream.into(), STREAM_NODE_ENTRIES - 1);
        true
    }

    /// The script goes with its text once, so that it is known from then on.
    fn store(&mut self, key: &[u8], token: &[u8], ttl_ms: Option<u64>, value: &Stored) {
        let keys = EntryKeys::new(key);
        let (lease, beside) = (keys.lease(), keys.token());
        let ttl = ttl_ms.map(|ttl_ms| ttl_ms.to_string()).unwrap_or_default();
        let (kind, values): (&[u8], Vec<&[u8]>) = match value {
            Stored::Text(text) => (b"text", vec![text]),
            Stored::Nothing => (b"nothing", Vec::new()),
            Stored::Hash(fields) => {
                (b"hash", fields.iter().flat_map(|(name, value)| [&name[..], &value[..]]).collect())
            }
        };
        let knows = std::mem::replace(&mut self.knows_store, true);
        let script: [&[u8]; 2] = match knows {
            true => [b"EVALSHA", STORE.get_hash().as_bytes()],
            false => [b"EVAL", STORE_TEXT.as_bytes()],
        };
        let fixed: [&[u8]; 8] = [
            STORE_KEYS,
            keys.value(),
            keys.sidecar(),
            &lease,
            &beside,
            token,
            kind,
            ttl.as_bytes(),
        ];
        self.command(&[&script[..], &fixed, &values].concat());
    }

    /// As for the script that stores.
    fn done(&mut self, queue: &[u8], jobs: &Fields) {
        let mut call = queues::finish(queue, jobs);
        if !std::mem::replace(&mut self.knows_finish, true) {
            call = queues::finish_in_full(queue, jobs);
        }
        call.write_packed_command(&mut self.bytes);
    }

    fn command(&mut self, parts: &[&[u8]]) {
        let Some((name, arguments)) = parts.split_first() else { return };
        write_command(&mut self.bytes, parts.len(), name);
        for argument in arguments {
            write_argument(&mut self.bytes, argument);
        }
    }

    /// Sends all of it, as far as the time allows. An error means that the connection is lost.
    pub fn send(
        &self,
        session: &mut Session,
        left: impl Fn() -> Duration,
        delivered: &mut Delivered,
    ) -> Result<(), Failure> {
        let mut start = 0;
        let parts = self.parts.iter().map(|part| {
            let bytes = self.bytes.get(start..part.end).unwrap_or_default();
            start = part.end;
            (bytes, part.commands)
        });
        session.pour(parts, left, |answer| delivered.take(answer))?;
        Ok(())
    }
}

impl Delivered {
    fn take(&mut self, answer: Value) {
        match answer.extract_error() {
            Ok(_) => self.sent += 1,
            Err(error) => {
                self.refused.get_or_insert_with(|| error.into());
            }
        }
    }
}
