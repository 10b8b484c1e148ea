//! The streams that a worker has made its own, and what their records hold.
//!
//! Invariant: a claim ends with the connection that made it. Whoever appended over another one
//! would not know what came with the answers that it never got.

use std::collections::HashSet;
use std::sync::LazyLock;

use pg_cache_core::key::stream_record;
use pg_cache_core::message::Message;
use pg_cache_core::message::adopted::Adopted;
use pg_cache_core::message::place::Place;
use pg_cache_core::message::record::{self, Record};
use pg_cache_core::message::window::Window;
use pg_cache_core::queue::QUEUES;
use redis::{Pipeline, RedisResult, Script, Value, from_redis_value};

use super::super::queues;
use super::super::session::Session;
use super::commands::{APPEND, STORE, evalsha};

static ADOPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../lua/adopt_1.lua")));
static CUT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../lua/cut_1.lua")));

/// Streams that are remembered: a hundred bytes each. All are adopted anew when there are more.
const STREAMS_MAX: usize = 100_000;

/// How many are adopted in one round trip: each may answer with the places of a whole batch.
const ADOPTED_TOGETHER: usize = 100;

/// The streams that this worker has adopted.
pub struct Claims {
    /// Tells this database's part of a record from others'.
    pub(super) scope: String,
    /// Of which connection they are; they end with it.
    connection: u64,
    pub(super) nonce: String,
    pub(super) streams: Adopted,
    random: fn() -> u64,
    /// Behind whatever place a row has that was seen before.
    log_end: fn() -> u64,
    /// What was found, whatever the connection.
    pub(super) window: Window,
}

impl Claims {
    pub fn new(scope: String, random: fn() -> u64, log_end: fn() -> u64) -> Self {
        let (nonce, streams) = (String::new(), Adopted::new(STREAMS_MAX));
        Self { scope, connection: 0, nonce, streams, random, log_end, window: Window::default() }
    }

    /// This one is deleted, and with it every earlier one of its stream that was sent.
    pub fn forget(&mut self, message: &Message, place: Place) {
        if let Some(stream) = message.stream() {
            self.streams.forget_until(stream, place);
        }
    }

    /// The next step adopts again what it needs.
    pub fn drop_all(&mut self) {
        self.connection = 0;
        self.streams.clear();
    }

    /// Adopts the streams of these messages that are not ours yet.
    pub(super) fn adopt<'a>(
        &mut self,
        session: &mut Session,
        messages: impl Iterator<Item = &'a Message>,
    ) -> RedisResult<()> {
        if self.connection != session.number || self.streams.are_too_many() {
            self.drop_all();
            for script in [&*ADOPT, &*CUT, &*APPEND, &*STORE, &*queues::FINISH] {
                script.prepare_invoke().load(session)?;
            }
            self.nonce = format!("{:016x}{:016x}", (self.random)(), (self.random)());
            self.connection = session.number;
        }
        let mut new: Vec<(&[u8], bool)> = Vec::new();
        let mut known = HashSet::new();
        for message in messages {
            if let Some(stream) = message.stream()
                && !self.streams.is_known(stream)
                && known.insert(stream)
            {
                new.push((stream, !matches!(message, Message::Append { .. })));
            }
        }
        new.chunks(ADOPTED_TOGETHER).try_for_each(|streams| self.adopt_some(session, streams))
    }

    /// Adopts streams, each with whether it is a queue, in one round trip.
    fn adopt_some(&mut self, session: &mut Session, new: &[(&[u8], bool)]) -> RedisResult<()> {
        let mut pipeline = Pipeline::with_capacity(2 * new.len());
        for (stream, is_queue) in new {
            if *is_queue {
                pipeline.cmd("SADD").arg(QUEUES).arg(stream);
            }
            let mut adopt = evalsha(&ADOPT, &[&stream_record(stream)]);
            adopt.arg(&self.scope).arg(&self.nonce);
            pipeline.add_command(adopt);
        }
        let each = session.ask_each(&pipeline)?;
        // Something else in the place of a record: the script that appends will tell. Of the
        // queues: a list that cannot be written to does not hold up the jobs.
        let mut answers = each.into_iter().map(|reply| match reply.extract_error() {
            Err(error) if error.code() == Some("WRONGTYPE") => Ok(Value::Nil),
            reply => reply,
        });
        let log_end = (self.log_end)();
        let mut cuts = Pipeline::new();
        for (stream, is_queue) in new {
            if *is_queue {
                answers.next().transpose()?;
            }
            let last: Option<String> =
                from_redis_value(answers.next().transpose()?.unwrap_or(Value::Nil))?;
            let record = Record::read(&last.unwrap_or_default(), log_end);
            if record.goes_beyond {
                let left = record::text(record.places.iter().copied());
                let mut cut = evalsha(&CUT, &[&stream_record(stream)]);
                cut.arg(&self.scope).arg(&self.nonce).arg(left);
                cuts.add_command(cut);
            }
            self.streams.add(stream, record.places.into_iter());
        }
        if !cuts.is_empty() {
            session
                .ask_each(&cuts)?
                .into_iter()
                .try_for_each(|cut| cut.extract_error().map(drop))?;
        }
        Ok(())
    }

    pub(super) fn has(&self, message: &Message, place: Place) -> bool {
        message.stream().is_some_and(|stream| self.streams.has(stream, place))
    }
}
