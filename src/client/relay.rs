//! Sends a batch of the outbox to Redis in one pipeline, into each stream exactly once.
//!
//! Beside a stream stands its *record*: who may append (the nonce of one connection of one worker),
//! and the places of the last batch, written by the very script that appends. Whoever connects
//! adopts a stream first, and is told what the record holds: that is what came with an answer that
//! was lost, or with a worker that died before it deleted the rows. A command of an earlier
//! connection that arrives late finds another nonce and does nothing. A call that follows another
//! into the same stream names the place behind which it belongs: if the first one was refused,
//! because the server was full for a moment, the second one waits with it.
//!
//! Invariant: places leave a record only when their rows are deleted. Otherwise a worker that died
//! in between would be followed by one that appends them again.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use pg_cache_core::key::{EntryKeys, stream_record};
use pg_cache_core::message::batch::{Call, calls};
use pg_cache_core::message::place::Place;
use pg_cache_core::message::{Message, Stored};
use pg_cache_core::queue::{QUEUES, QueueKeys};
use pg_cache_core::reason::Reason;
use redis::{Cmd, Pipeline, RedisError, RedisResult, Script, Value, from_redis_value};

use super::failure::{Failure, is_about_server};
use super::queues;
use super::session::Session;

static ADOPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/adopt_1.lua")));
static APPEND: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/append_5.lua")));
static STORE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/store_4.lua")));

/// The answer to a call whose predecessor did not arrive, which told why: nothing was appended.
const BEHIND_NOTHING: i64 = -2;

/// What became of a message.
#[derive(Debug)]
pub enum Fate {
    /// Redis has it, from now or from before.
    Delivered,
    /// Redis will not have this one; others it may.
    Refused(Failure),
    /// Not now.
    Waits,
}

/// The fates of a batch, and what keeps those that wait.
pub struct Sent {
    pub fates: Vec<Fate>,
    pub trouble: Option<Failure>,
}

/// The streams that this worker has adopted.
pub struct Claims {
    /// Tells this database's part of a record from others'.
    scope: String,
    /// Of which connection they are; they end with it.
    connection: u64,
    nonce: String,
    streams: HashMap<Box<[u8]>, HashSet<Place>>,
    random: fn() -> u64,
}

impl Claims {
    pub fn new(scope: String, random: fn() -> u64) -> Self {
        let (nonce, streams) = (String::new(), HashMap::new());
        Self { scope, connection: 0, nonce, streams, random }
    }

    /// Everything up to this place that a snapshot saw is deleted.
    pub fn forget_until(&mut self, place: Place) {
        for recorded in self.streams.values_mut() {
            recorded.retain(|known| *known > place);
        }
    }

    /// These are deleted.
    pub fn forget(&mut self, message: &Message, place: Place) {
        let recorded = message.stream().and_then(|stream| self.streams.get_mut(stream));
        if let Some(recorded) = recorded {
            recorded.remove(&place);
        }
    }

    /// The next step adopts again what it needs.
    pub fn drop_all(&mut self) {
        self.connection = 0;
        self.streams.clear();
    }

    /// Adopts the streams of these messages that are not ours yet.
    fn adopt<'a>(
        &mut self,
        session: &mut Session,
        messages: impl Iterator<Item = &'a Message>,
    ) -> RedisResult<()> {
        if self.connection != session.number {
            self.drop_all();
            for script in [&*APPEND, &*STORE, &*queues::FINISH] {
                script.prepare_invoke().load(session)?;
            }
            self.nonce = format!("{:016x}{:016x}", (self.random)(), (self.random)());
            self.connection = session.number;
        }
        let mut new: Vec<(&[u8], bool)> = Vec::new();
        for message in messages {
            if let Some(stream) = message.stream()
                && !self.streams.contains_key(stream)
                && !new.iter().any(|(known, _)| *known == stream)
            {
                new.push((stream, !matches!(message, Message::Append { .. })));
            }
        }
        for (stream, is_queue) in new {
            if is_queue {
                // A list that cannot be written to does not hold up the jobs.
                match redis::cmd("SADD").arg(QUEUES).arg(stream).exec(session) {
                    Err(error) if error.code() == Some("WRONGTYPE") => {}
                    outcome => outcome?,
                }
            }
            let record = stream_record(stream);
            let adopted = ADOPT.key(record).arg(&self.scope).arg(&self.nonce).invoke(session);
            // Something else stands in the record's place: the script that appends will tell.
            let last: Option<String> = match adopted {
                Err(error) if error.code() == Some("WRONGTYPE") => None,
                other => other?,
            };
            let places = last.iter().flat_map(|last| last.split(' ')).filter_map(Place::parse);
            self.streams.insert(stream.into(), places.collect());
        }
        Ok(())
    }

    fn has(&self, message: &Message, place: Place) -> bool {
        let recorded = message.stream().and_then(|stream| self.streams.get(stream));
        recorded.is_some_and(|recorded| recorded.contains(&place))
    }
}

/// Sends what is not known to have arrived. May be called again for the same batch, over another
/// connection too.
pub fn send(
    session: &mut Session,
    claims: &mut Claims,
    batch: &[(Place, &Message)],
) -> Result<Sent, Failure> {
    claims.adopt(session, batch.iter().map(|(_, message)| *message))?;
    let mut fates: Vec<Fate> = batch
        .iter()
        .map(|(place, message)| match claims.has(message, *place) {
            true => Fate::Delivered,
            false => Fate::Waits,
        })
        .collect();
    let unsent = batch.iter().enumerate().filter(|(at, _)| matches!(fates[*at], Fate::Waits));
    let calls = calls(unsent.map(|(at, (_, message))| (at, *message)));
    if calls.is_empty() {
        return Ok(Sent { fates, trouble: None });
    }
    let pipeline = pipeline(claims, batch, &calls);
    let ticket = session.post(&pipeline.get_packed_pipeline(), calls.len())?;
    let replies = session.collect(ticket)?;
    let mut trouble = None;
    for (call, reply) in calls.iter().zip(replies) {
        let told = match call {
            Call::Append(events) => appended(claims, batch, events, reply, &mut fates),
            Call::Other(at) => reply.extract_error().map(|_| fates[*at] = Fate::Delivered),
        };
        let Err(error) = told else { continue };
        if is_about_server(&error) {
            trouble = trouble.or(Some(Failure::from(error)));
            continue;
        }
        let of_call = match call {
            Call::Append(events) => &events[..],
            Call::Other(at) => std::slice::from_ref(at),
        };
        // What was appended before it is delivered; what stands behind it waits for it.
        let first = of_call.iter().find(|at| matches!(fates[**at], Fate::Waits));
        if let Some(first) = first {
            fates[*first] = Fate::Refused(Failure::from(error));
        }
    }
    if trouble.is_some() {
        claims.drop_all();
    }
    Ok(Sent { fates, trouble })
}

/// Notes what a call has appended.
fn appended(
    claims: &mut Claims,
    batch: &[(Place, &Message)],
    events: &[usize],
    reply: Value,
    fates: &mut [Fate],
) -> RedisResult<()> {
    let (count, refused): (i64, Option<String>) = match reply.extract_error()? {
        Value::Array(parts) if parts.len() == 1 => {
            let [part] = <[Value; 1]>::try_from(parts).unwrap_or([Value::Nil]);
            (from_redis_value(part)?, None)
        }
        reply => from_redis_value(reply)?,
    };
    match count {
        BEHIND_NOTHING => return Ok(()),
        count if count < 0 => return Err(lost_claim()),
        _ => {}
    }
    for at in events.iter().take(usize::try_from(count).unwrap_or(0)) {
        let (place, message) = batch[*at];
        let recorded = message.stream().and_then(|stream| claims.streams.get_mut(stream));
        if let Some(recorded) = recorded {
            recorded.insert(place);
        }
        fates[*at] = Fate::Delivered;
    }
    match refused {
        Some(refused) => Err(redis::make_extension_error(code_of(&refused), Some(refused))),
        None => Ok(()),
    }
}

fn code_of(refused: &str) -> String {
    refused.split(' ').next().unwrap_or_default().to_owned()
}

fn lost_claim() -> RedisError {
    redis::make_extension_error("BUSY".into(), Some("another worker has the stream".into()))
}

fn pipeline(claims: &Claims, batch: &[(Place, &Message)], calls: &[Call]) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(calls.len());
    let mut lasts: HashMap<&[u8], Place> = HashMap::new();
    // A stream's record holds places whose rows are not deleted: those of an earlier call too.
    let mut kept: HashSet<&[u8]> = HashSet::new();
    kept.extend(
        claims.streams.iter().filter(|(_, places)| !places.is_empty()).map(|(s, _)| &s[..]),
    );
    for call in calls {
        pipeline.add_command(match call {
            Call::Append(events) => append(claims, batch, events, (&mut kept, &mut lasts)),
            Call::Other(at) => other(batch[*at].1),
        });
    }
    pipeline
}

fn evalsha(script: &Script, keys: &[&[u8]]) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(keys.len()).arg(keys);
    command
}

fn append<'a>(
    claims: &Claims,
    batch: &[(Place, &'a Message)],
    events: &[usize],
    (kept, lasts): (&mut HashSet<&'a [u8]>, &mut HashMap<&'a [u8], Place>),
) -> Cmd {
    let Some((_, first)) = events.first().map(|at| batch[*at]) else { return Cmd::new() };
    let Some(stream) = first.stream() else { return Cmd::new() };
    let keys = QueueKeys::new(stream);
    let record = stream_record(stream);
    let mut command = evalsha(&APPEND, &[stream, &record, &keys.jobs, &keys.due, &keys.done]);
    command.arg(&claims.scope).arg(&claims.nonce);
    command.arg(if kept.insert(stream) { "replace" } else { "add" });
    let length_max = match first {
        Message::Append { length_max: Some(length_max), .. } => length_max.to_string(),
        _ => String::new(),
    };
    let places: Vec<String> = events.iter().map(|at| batch[*at].0.to_string()).collect();
    command.arg(length_max).arg(places.join(" "));
    let after = events.last().and_then(|at| lasts.insert(stream, batch[*at].0));
    command.arg(after.map(|place| place.to_string()).unwrap_or_default());
    command.arg(match first {
        Message::Job { .. } => "job",
        Message::Enqueue { .. } => "enqueue",
        _ => "event",
    });
    for at in events {
        match batch[*at].1 {
            Message::Append { payload, .. } => command.arg(&payload[..]),
            Message::Job { id, payload, .. } => command.arg(&id[..]).arg(&payload[..]),
            Message::Enqueue { id, payload, delay_ms, is_named, .. } => {
                command.arg(&id[..]).arg(&payload[..]).arg(delay_ms).arg(u8::from(*is_named))
            }
            _ => &mut command,
        };
    }
    command
}

fn other(message: &Message) -> Cmd {
    match message {
        Message::Publish { channel, payload } => {
            let mut command = redis::cmd("PUBLISH");
            command.arg(&channel[..]).arg(&payload[..]);
            command
        }
        Message::Store { key, token, ttl_ms, value } => store(key, token, *ttl_ms, value),
        Message::Command { arguments } => {
            let mut command = Cmd::new();
            for argument in arguments {
                command.arg(&argument[..]);
            }
            command
        }
        Message::Done { queue, jobs } => queues::finish(queue, jobs),
        // They have calls of their own kind.
        Message::Append { .. } | Message::Job { .. } | Message::Enqueue { .. } => Cmd::new(),
    }
}

/// The call that sets a key, if the token beside it is still the caller's.
fn store(key: &[u8], token: &[u8], ttl_ms: Option<u64>, value: &Stored) -> Cmd {
    let keys = EntryKeys::new(key);
    let mut command = evalsha(&STORE, &[key, keys.sidecar(), &keys.lease(), &keys.token()]);
    let kind = match value {
        Stored::Text(_) => "text",
        Stored::Hash(_) => "hash",
        Stored::Nothing => "nothing",
    };
    command.arg(token).arg(kind).arg(ttl_ms.map(|ttl| ttl.to_string()).unwrap_or_default());
    match value {
        Stored::Text(text) => {
            command.arg(&text[..]);
        }
        Stored::Hash(fields) => {
            for (name, value) in fields {
                command.arg(&name[..]).arg(&value[..]);
            }
        }
        Stored::Nothing => {}
    }
    command
}

/// A failure of ours: a message that no server would take.
pub fn unreadable(why: impl std::fmt::Debug) -> Failure {
    Failure::new(Reason::Protocol, format!("the row is not understood: {why:?}"))
}
