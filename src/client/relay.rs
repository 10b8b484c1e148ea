//! Sends a batch of the outbox to Redis in one pipeline, or a few, into each stream exactly once.
//!
//! Beside a stream stands its *record*: who may append (the nonce of one connection of one worker),
//! and the places of the last batch, written by the very script that appends. Whoever connects
//! adopts a stream first, and is told what the record holds: that is what came with an answer that
//! was lost, or with a worker that died before it deleted the rows. A command of an earlier
//! connection that arrives late finds another nonce and does nothing. A call that follows another
//! into the same stream names the place behind which it belongs: if the first one was refused,
//! because the server was full for a moment, the second one waits with it. What is no append goes
//! with its neighbours in a transaction of Redis, for the same reason.
//!
//! Invariant: places leave a record only when their rows are deleted. Otherwise a worker that died
//! in between would be followed by one that appends them again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::LazyLock;

use pg_cache_core::key::{EntryKeys, stream_record};
use pg_cache_core::message::adopted::Adopted;
use pg_cache_core::message::batch::{Call, calls, is_transaction, wave};
use pg_cache_core::message::hold::{IN_ORDER, UNSURE};
use pg_cache_core::message::place::Place;
use pg_cache_core::message::{Message, Stored};
use pg_cache_core::queue::{QUEUES, QueueKeys};
use pg_cache_core::reason::Reason;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisResult, Script, Value, from_redis_value};

use super::failure::{Failure, is_about_server};
use super::queues;
use super::session::Session;

static ADOPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/adopt_1.lua")));
static APPEND: LazyLock<Script> = LazyLock::new(|| Script::new(APPEND_TEXT));
static STORE: LazyLock<Script> = LazyLock::new(|| Script::new(STORE_TEXT));

const APPEND_TEXT: &str = include_str!("lua/append_5.lua");
const STORE_TEXT: &str = include_str!("lua/store_4.lua");

/// Streams that are remembered: a hundred bytes each. All are adopted anew when there are more.
const STREAMS_MAX: usize = 100_000;

/// How many are adopted in one round trip: each may answer with the places of a whole batch.
const ADOPTED_TOGETHER: usize = 100;

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
    streams: Adopted,
    random: fn() -> u64,
}

impl Claims {
    pub fn new(scope: String, random: fn() -> u64) -> Self {
        let (nonce, streams) = (String::new(), Adopted::new(STREAMS_MAX));
        Self { scope, connection: 0, nonce, streams, random }
    }

    /// Everything up to this place that a snapshot saw is deleted.
    pub fn forget_until(&mut self, place: Place) {
        self.streams.forget_until(place);
    }

    /// These are deleted.
    pub fn forget(&mut self, message: &Message, place: Place) {
        if let Some(stream) = message.stream() {
            self.streams.forget(stream, place);
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
        if self.connection != session.number || self.streams.are_too_many() {
            self.drop_all();
            for script in [&*ADOPT, &*APPEND, &*STORE, &*queues::FINISH] {
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
        let Answers { each, .. } = ask(session, pipeline)?;
        // Something else in the place of a record: the script that appends will tell. Of the
        // queues: a list that cannot be written to does not hold up the jobs.
        let mut answers = each.into_iter().flatten().map(|reply| match reply.extract_error() {
            Err(error) if error.code() == Some("WRONGTYPE") => Ok(Value::Nil),
            reply => reply,
        });
        for (stream, is_queue) in new {
            if *is_queue {
                answers.next().transpose()?;
            }
            let last: Option<String> =
                from_redis_value(answers.next().transpose()?.unwrap_or(Value::Nil))?;
            let places = last.iter().flat_map(|last| last.split(' ')).filter_map(Place::parse);
            self.streams.add(stream, places);
        }
        Ok(())
    }

    fn has(&self, message: &Message, place: Place) -> bool {
        message.stream().is_some_and(|stream| self.streams.has(stream, place))
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
    let fate = |(place, message): &(Place, &Message)| match claims.has(message, *place) {
        true => Fate::Delivered,
        false => Fate::Waits,
    };
    let fates: Vec<Fate> = batch.iter().map(fate).collect();
    let unsent: Vec<usize> =
        (0..batch.len()).filter(|at| matches!(fates[*at], Fate::Waits)).collect();
    let mut sending = Sending { claims, batch, fates, refused: HashSet::new(), trouble: None };
    let mut rest = &unsent[..];
    while !rest.is_empty() && sending.trouble.is_none() {
        let count = wave(rest.iter().map(|at| batch[*at].1));
        let (together, behind) = rest.split_at(count);
        while sending.send_wave(session, together)? {}
        rest = behind;
    }
    let Sending { claims, fates, trouble, .. } = sending;
    if trouble.is_some() {
        claims.drop_all();
    }
    Ok(Sent { fates, trouble })
}

/// A batch that is under way.
struct Sending<'a> {
    claims: &'a mut Claims,
    batch: &'a [(Place, &'a Message)],
    fates: Vec<Fate>,
    /// Where something was refused: what follows it there waits.
    refused: HashSet<&'a [u8]>,
    trouble: Option<Failure>,
}

impl Sending<'_> {
    /// Sends one wave; true if the rest of it is to be sent again, without what was refused.
    fn send_wave(&mut self, session: &mut Session, wave: &[usize]) -> Result<bool, Failure> {
        let batch = self.batch;
        let is_left = |at: &&usize| {
            let target = batch[**at].1.target();
            matches!(self.fates[**at], Fate::Waits) && !self.refused.contains(target)
        };
        let left: Vec<usize> = wave.iter().filter(is_left).copied().collect();
        let calls = calls(left.iter().map(|at| (*at, batch[*at].1)));
        if calls.is_empty() {
            return Ok(false);
        }
        let known = self.refused.len();
        let pipeline = pipeline(self.claims, batch, &calls);
        let Answers { each, aborted } = match is_transaction(&calls) {
            true => ask_together(session, batch, &calls, pipeline)?,
            false => ask(session, pipeline)?,
        };
        for (call, reply) in calls.iter().zip(each) {
            if let Some(reply) = reply {
                self.note(call, reply);
            }
        }
        let Some(aborted) = aborted.filter(|_| self.trouble.is_none()) else { return Ok(false) };
        if self.refused.len() == known {
            self.trouble = Some(Failure::from(aborted));
        }
        Ok(self.trouble.is_none())
    }

    /// Notes what a call has come to.
    fn note(&mut self, call: &Call, reply: Value) {
        let batch = self.batch;
        let told = match call {
            Call::Append(events) => appended(self.claims, batch, events, reply, &mut self.fates),
            Call::Other(at) => reply.extract_error().map(|_| self.fates[*at] = Fate::Delivered),
        };
        let Err(error) = told else { return };
        if is_about_server(&error) {
            self.trouble.get_or_insert(Failure::from(error));
            return;
        }
        let of_call = match call {
            Call::Append(events) => &events[..],
            Call::Other(at) => std::slice::from_ref(at),
        };
        // What was appended before it is delivered; what stands behind it waits for it.
        let first = of_call.iter().find(|at| matches!(self.fates[**at], Fate::Waits));
        if let Some(first) = first {
            self.fates[*first] = Fate::Refused(Failure::from(error));
            self.refused.insert(batch[*first].1.target());
        }
    }
}

/// What a server said to calls.
struct Answers {
    /// To each, if it was carried out or refused by itself.
    each: Vec<Option<Value>>,
    /// Why none of them was carried out.
    aborted: Option<RedisError>,
}

/// Sends calls, each by itself.
fn ask(session: &mut Session, calls: Pipeline) -> RedisResult<Answers> {
    let each = session.ask_each(&calls)?.into_iter().map(Some).collect();
    Ok(Answers { each, aborted: None })
}

/// Sends calls as one transaction. To a user who may not have one, each by itself.
fn ask_together(
    session: &mut Session,
    batch: &[(Place, &Message)],
    calls: &[Call],
    queued: Pipeline,
) -> RedisResult<Answers> {
    let mut pipeline = Pipeline::with_capacity(calls.len() + 5);
    // Somebody may have emptied the server of scripts, which it would find out in the middle.
    let scripts = scripts_of(batch, calls);
    for script in &scripts {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(script);
    }
    pipeline.cmd("MULTI");
    for call in queued.cmd_iter() {
        pipeline.add_command(call.clone());
    }
    pipeline.cmd("EXEC");
    let mut replies = session.ask_each(&pipeline)?;
    let executed = replies.pop();
    let mut replies = replies.into_iter().skip(scripts.len());
    let is_begun = !matches!(replies.next(), Some(Value::ServerError(_)));
    match executed {
        _ if !is_begun => Ok(Answers { each: replies.map(Some).collect(), aborted: None }),
        Some(Value::Array(each)) if each.len() == calls.len() => {
            Ok(Answers { each: each.into_iter().map(Some).collect(), aborted: None })
        }
        Some(Value::ServerError(error)) => {
            let refused = |reply| matches!(reply, Value::ServerError(_)).then_some(reply);
            Ok(Answers { each: replies.map(refused).collect(), aborted: Some(error.into()) })
        }
        _ => Err((ErrorKind::UnexpectedReturnType, "no answer to a transaction").into()),
    }
}

/// The texts of the scripts that calls need.
fn scripts_of(batch: &[(Place, &Message)], calls: &[Call]) -> BTreeSet<&'static str> {
    let script = |call: &Call| match call {
        Call::Append(_) => Some(APPEND_TEXT),
        Call::Other(at) => match batch[*at].1 {
            Message::Store { .. } => Some(STORE_TEXT),
            Message::Done { .. } => Some(queues::FINISH_TEXT),
            _ => None,
        },
    };
    calls.iter().filter_map(script).collect()
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
    let count = usize::try_from(count).unwrap_or(0).min(events.len());
    let appended = &events[..count];
    appended.iter().for_each(|at| fates[*at] = Fate::Delivered);
    if let Some(stream) = events.first().and_then(|at| batch[*at].1.stream()) {
        claims.streams.record(stream, appended.iter().map(|at| batch[*at].0));
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
    for call in calls {
        pipeline.add_command(match call {
            Call::Append(events) => append(claims, batch, events, &mut lasts),
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
    lasts: &mut HashMap<&'a [u8], Place>,
) -> Cmd {
    let Some((_, first)) = events.first().map(|at| batch[*at]) else { return Cmd::new() };
    let Some(stream) = first.stream() else { return Cmd::new() };
    let keys = QueueKeys::new(stream);
    let record = stream_record(stream);
    let mut command = evalsha(&APPEND, &[stream, &record, &keys.jobs, &keys.due, &keys.done]);
    command.arg(&claims.scope).arg(&claims.nonce);
    // The record holds places whose rows are not deleted: those of an earlier call too.
    let after = events.last().and_then(|at| lasts.insert(stream, batch[*at].0));
    let is_first = after.is_none() && !claims.streams.must_keep(stream);
    command.arg(if is_first { "replace" } else { "add" });
    let length_max = match first {
        Message::Append { length_max: Some(length_max), .. } => length_max.to_string(),
        _ => String::new(),
    };
    let places: Vec<String> = events.iter().map(|at| batch[*at].0.to_string()).collect();
    command.arg(length_max).arg(places.join(" "));
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
    let way = if token.starts_with(UNSURE) { &[][..] } else { IN_ORDER };
    command.arg([way, token].concat());
    command.arg(kind).arg(ttl_ms.map(|ttl| ttl.to_string()).unwrap_or_default());
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
