//! Messages as they go to Redis after a commit. What goes, and under which names, is settled before
//! it; behind it that is only written down, part by part, while Redis works on the part before.
//!
//! Invariant: they go in order, each at most once, but for those whose savepoint was undone.
//! Answers are counted, errors among them; whatever ends the connection ends the rest, and nothing
//! is sent again: a subscriber would hear it twice.

use std::collections::HashMap;
use std::iter;
use std::sync::LazyLock;
use std::time::Duration;

use pg_cache_core::key::EntryKeys;
use pg_cache_core::message::log::{Entry, Log};
use pg_cache_core::message::{Fields, Message, Stored, To};
use pg_cache_core::reply::{self, Reply};
use pg_cache_core::resp::{write_argument, write_command};
use redis::Script;

use super::failure::Failure;
use super::queues;
use super::session::Session;
use super::session::raw::refusal;

const STORE_TEXT: &str = include_str!("lua/store_4.lua");

static STORE: LazyLock<Script> = LazyLock::new(|| Script::new(STORE_TEXT));

/// The keys of the script that stores.
const STORE_KEYS: &[u8] = b"4";

/// What is sent before answers are taken; with the entry that ends a part it may be more.
const PART_COMMANDS_MAX: usize = 2000;
const PART_BYTES_MAX: usize = 256 * 1024;

/// What a node of a stream holds by default: `MAXLEN ~` takes whole ones away.
const STREAM_NODE_ENTRIES: u32 = 100;

/// Messages, ready to be sent.
#[derive(Default)]
pub struct Outgoing {
    /// What was settled late, in a savepoint, goes with that if it is rolled back.
    log: Log,
    /// Taken before the commit: it may be large, and behind it nothing may fail.
    room: Vec<u8>,
    /// The bytes of the largest entry that there ever was.
    largest: usize,
}

/// Writes them down as commands.
#[derive(Default)]
struct Packer {
    knows_store: bool,
    knows_finish: bool,
    /// How many entries each stream gets before it is trimmed again.
    untrimmed: HashMap<Box<[u8]>, u32>,
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
        self.log.entries().iter().map(Entry::count).sum()
    }

    /// Adds some, settled at a nest level, their names with the database's prefix.
    pub fn extend(&mut self, level: u32, entries: impl Iterator<Item = Entry>) {
        let largest = &mut self.largest;
        self.log.append(level, entries.inspect(|entry| *largest = (*largest).max(entry.bytes())));
        self.room.reserve(self.log.bytes().min(PART_BYTES_MAX + self.largest));
    }

    /// A savepoint became part of the level below it.
    pub fn release(&mut self, level: u32) {
        self.log.release(level);
    }

    /// A savepoint at this level and all above it are undone.
    pub fn roll_back(&mut self, level: u32) {
        self.log.roll_back(level);
    }

    /// Sends all of it, as far as the time allows. An error means that the connection is lost.
    pub fn send(
        self,
        session: &mut Session,
        left: impl Fn() -> Duration,
        delivered: &mut Delivered,
    ) -> Result<(), Failure> {
        let Self { mut log, mut room, .. } = self;
        let mut packer = Packer::default();
        let mut entries = log.take().into_iter();
        let pack = |out: &mut Vec<u8>| packer.part(out, &mut entries);
        session.pour(&mut room, pack, left, |answer| delivered.take(answer))?;
        Ok(())
    }
}

impl Packer {
    /// Writes as many as go at once, and says how many.
    fn part(&mut self, out: &mut Vec<u8>, entries: &mut impl Iterator<Item = Entry>) -> usize {
        let mut commands = 0;
        while commands < PART_COMMANDS_MAX && out.len() < PART_BYTES_MAX {
            let Some(entry) = entries.next() else { break };
            self.write(out, &entry);
            commands += entry.count();
        }
        commands
    }

    fn write(&mut self, out: &mut Vec<u8>, entry: &Entry) {
        match &entry.message {
            Message::Publish { .. } | Message::Append { .. } => self.write_events(out, entry),
            Message::Job { queue, id, payload } => {
                write_words(out, &[b"XADD", queue, b"*", b"id", id, b"payload", payload]);
            }
            // These go by the outbox only.
            Message::Enqueue { .. } => {}
            Message::Done { queue, jobs } => self.write_done(out, queue, jobs),
            Message::Command { arguments } => {
                let arguments: Vec<&[u8]> = arguments.iter().map(|part| &part[..]).collect();
                write_words(out, &arguments);
            }
            Message::Store { key, token, ttl_ms, value } => {
                self.write_store(out, key, token, *ttl_ms, value);
            }
        }
    }

    /// Commands that differ in their last argument only: what stands before it is made once.
    fn write_events(&mut self, out: &mut Vec<u8>, entry: &Entry) {
        let Some(first) = entry.message.as_event() else { return };
        let payloads = iter::once(first.payload).chain(entry.more.iter());
        match first.to {
            To::Channel(channel) => {
                let head = head(&[b"PUBLISH", channel]);
                payloads.for_each(|payload| write_event(out, &head, payload));
            }
            To::Stream { name, length_max: None } => {
                let head = head(&[b"XADD", name, b"*", b"event"]);
                payloads.for_each(|payload| write_event(out, &head, payload));
            }
            To::Stream { name, length_max: Some(most) } => {
                let most = most.to_string();
                let most = most.as_bytes();
                let plain = head(&[b"XADD", name, b"*", b"event"]);
                let trims = head(&[b"XADD", name, b"MAXLEN", b"~", most, b"*", b"event"]);
                // The first of a transaction trims, and then as often as Redis has a whole node to
                // take away.
                let mut left = self.untrimmed.get(name).copied().unwrap_or_default();
                for payload in payloads {
                    write_event(out, if left == 0 { &trims } else { &plain }, payload);
                    left = left.checked_sub(1).unwrap_or(STREAM_NODE_ENTRIES - 1);
                }
                self.untrimmed.insert(name.into(), left);
            }
        }
    }

    /// The script goes with its text once, so that it is known from then on.
    fn write_store(
        &mut self,
        out: &mut Vec<u8>,
        key: &[u8],
        token: &[u8],
        ttl_ms: Option<u64>,
        value: &Stored,
    ) {
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
        write_words(out, &[&script[..], &fixed, &values].concat());
    }

    /// As for the script that stores.
    fn write_done(&mut self, out: &mut Vec<u8>, queue: &[u8], jobs: &Fields) {
        let mut call = queues::finish(queue, jobs);
        if !std::mem::replace(&mut self.knows_finish, true) {
            call = queues::finish_in_full(queue, jobs);
        }
        call.write_packed_command(out);
    }
}

/// A command without its last argument.
fn head(words: &[&[u8]]) -> Vec<u8> {
    let mut head = Vec::new();
    write_first(&mut head, words.len() + 1, words);
    head
}

fn write_event(out: &mut Vec<u8>, head: &[u8], payload: &[u8]) {
    out.extend_from_slice(head);
    write_argument(out, payload);
}

fn write_words(out: &mut Vec<u8>, words: &[&[u8]]) {
    write_first(out, words.len(), words);
}

/// The first words of a command of so many.
fn write_first(out: &mut Vec<u8>, count: usize, words: &[&[u8]]) {
    let Some((name, arguments)) = words.split_first() else { return };
    write_command(out, count, name);
    for argument in arguments {
        write_argument(out, argument);
    }
}

impl Delivered {
    fn take(&mut self, answer: &[u8]) {
        // What XADD and PUBLISH say needs no reading.
        if matches!(answer, [b'$' | b':', ..]) {
            self.sent += 1;
            return;
        }
        match reply::read(answer).ok().as_ref().and_then(Reply::error) {
            None => self.sent += 1,
            Some(words) => {
                self.refused.get_or_insert_with(|| refusal(words).into());
            }
        }
    }
}
