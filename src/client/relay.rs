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
//! Invariant: places leave a record only when their rows are deleted, or lost with the history that
//! wrote them. Otherwise a worker that died in between would be followed by one that appends them
//! again.

mod claims;
mod commands;

use std::collections::HashSet;

use pg_cache_core::message::Message;
use pg_cache_core::message::batch::{Call, calls, is_transaction, wave};
use pg_cache_core::message::hold::UNSURE;
use pg_cache_core::message::place::Place;
use pg_cache_core::reason::Reason;
use redis::{ErrorKind, Pipeline, RedisError, RedisResult, Value, from_redis_value};

use self::commands::{pipeline, scripts_of};
use super::failure::{Failure, is_about_server};
use super::session::Session;

pub use self::claims::Claims;

const PROBE_TEXT: &str = include_str!("lua/probe_0.lua");

/// The answer to a call whose predecessor did not arrive, which told why: nothing was appended.
const BEHIND_NOTHING: i64 = -2;

/// What became of a message.
#[derive(Debug)]
pub enum Fate {
    /// Redis has it, from now or from before.
    Delivered,
    /// Redis will not have this one; others it may.
    Refused(Failure),
    /// Somebody's token stands beside its key, who is to store that later.
    Overtaken(Box<[u8]>),
    /// Not now.
    Waits,
    /// There was no time left for it.
    Unsent,
}

/// The fates of messages, and what keeps those that wait.
pub struct Sent {
    pub fates: Vec<Fate>,
    pub trouble: Option<Failure>,
}

/// Sends what is not known to have arrived, and notes what has become of it, whatever becomes of
/// the connection; returns what keeps those that wait. May be called again with the same batch and
/// its fates, over another connection too. However late it is, the first wave goes.
pub fn send(
    session: &mut Session,
    claims: &mut Claims,
    batch: &[(Place, &Message)],
    fates: &mut [Fate],
    is_late: &dyn Fn() -> bool,
) -> Result<Option<Failure>, Failure> {
    claims.adopt(session, batch.iter().map(|(_, message)| *message))?;
    for (fate, (place, message)) in fates.iter_mut().zip(batch) {
        if claims.has(message, *place) {
            *fate = Fate::Delivered;
        }
    }
    let with = |is_meant: fn(&Fate) -> bool| -> Vec<usize> {
        (0..batch.len()).filter(|at| is_meant(&fates[*at])).collect()
    };
    let unsent = with(|fate| matches!(fate, Fate::Waits));
    let refused = with(|fate| matches!(fate, Fate::Refused(_)));
    let refused = refused.into_iter().map(|at| batch[at].1.target()).collect();
    let mut sending =
        Sending { claims, batch, fates, refused, trouble: None, is_late, is_cut_short: false };
    let mut rest = &unsent[..];
    while !rest.is_empty() && sending.trouble.is_none() && !sending.is_cut_short {
        let limit = sending.claims.window.most();
        let count = wave(rest.iter().take(limit).map(|at| batch[*at].1));
        let (together, behind) = rest.split_at(count);
        sending.send_waves(session, together)?;
        rest = behind;
        sending.is_cut_short |= !rest.is_empty() && is_late();
    }
    if sending.trouble.is_some() {
        sending.claims.drop_all();
    } else if sending.is_cut_short {
        sending.leave(&unsent);
    }
    Ok(sending.trouble)
}

/// A batch that is under way.
struct Sending<'a> {
    claims: &'a mut Claims,
    batch: &'a [(Place, &'a Message)],
    fates: &'a mut [Fate],
    /// Where something was refused: what follows it there waits.
    refused: HashSet<&'a [u8]>,
    trouble: Option<Failure>,
    /// Whether the worker is to look at something else by now: commands of users take their time.
    is_late: &'a dyn Fn() -> bool,
    /// Whether that was so before all had gone.
    is_cut_short: bool,
}

impl Sending<'_> {
    /// Sends one wave, again without what was refused, until nothing of it is refused any more.
    fn send_waves(&mut self, session: &mut Session, wave: &[usize]) -> Result<(), Failure> {
        let mut sent = Ok(true);
        while matches!(sent, Ok(true)) && !self.is_cut_short {
            sent = self.send_wave(session, wave);
            self.is_cut_short |= matches!(sent, Ok(true)) && (self.is_late)();
        }
        match &sent {
            Ok(_) => self.claims.window.arrived(wave.len()),
            Err(failure) if failure.reason == Reason::Timeout => {
                self.claims.window.was_too_long(wave.len());
            }
            Err(_) => {}
        }
        sent.map(|_| ())
    }

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
        let Some(aborted) = self.send_calls(session, &calls)? else { return Ok(false) };
        match &self.trouble {
            Some(trouble) if trouble.reason == Reason::Oom => {
                self.trouble = None;
                self.send_leading(session, &calls)?;
            }
            None if self.refused.len() == known => self.trouble = Some(Failure::from(aborted)),
            None => return Ok(true),
            Some(_) => {}
        }
        Ok(false)
    }

    /// A server that is full takes nothing into a transaction, not even what needs no memory or
    /// gives it back. So the calls go one by one, as far as it takes them.
    fn send_leading(&mut self, session: &mut Session, calls: &[Call]) -> Result<(), Failure> {
        for call in calls {
            let target = self.batch[of_call(call)[0]].1.target();
            if !self.refused.contains(target) {
                self.send_calls(session, std::slice::from_ref(call))?;
            }
            if self.trouble.is_some() {
                break;
            }
            if (self.is_late)() {
                self.is_cut_short = true;
                break;
            }
        }
        Ok(())
    }

    /// Notes of which of these it is only the time that was missing.
    fn leave(&mut self, unsent: &[usize]) {
        for at in unsent {
            let is_refused = self.refused.contains(self.batch[*at].1.target());
            if matches!(self.fates[*at], Fate::Waits) && !is_refused {
                self.fates[*at] = Fate::Unsent;
            }
        }
    }

    /// Sends calls, and notes what they have come to; returns why none of them was carried out.
    fn send_calls(
        &mut self,
        session: &mut Session,
        calls: &[Call],
    ) -> Result<Option<RedisError>, Failure> {
        let batch = self.batch;
        let pipeline = pipeline(self.claims, batch, calls);
        let Answers { each, aborted } = match is_transaction(calls) {
            true => ask_together(session, batch, calls, pipeline)?,
            false => ask(session, pipeline)?,
        };
        let mut doubtful = Vec::new();
        for (call, reply) in calls.iter().zip(each) {
            let Some(reply) = reply else { continue };
            match (call, self.note(call, reply)) {
                (_, None) => {}
                // What is not carried out answers nothing of its own.
                (Call::Other(at), Some(error)) if aborted.is_none() && is_command(batch[*at].1) => {
                    doubtful.push((*at, error));
                }
                (_, Some(error)) => _ = self.trouble.get_or_insert(Failure::from(error)),
            }
        }
        self.settle_doubts(session, doubtful)?;
        Ok(aborted)
    }

    /// Notes what a call has come to; returns what may be in the way of all others, too.
    fn note(&mut self, call: &Call, reply: Value) -> Option<RedisError> {
        let batch = self.batch;
        let told = match call {
            Call::Append(events) => appended(self.claims, batch, events, reply, self.fates),
            Call::Other(at) => {
                reply.extract_error().map(|reply| self.fates[*at] = fate_of(batch[*at].1, reply))
            }
        };
        let error = told.err()?;
        if is_about_server(&error) {
            return Some(error);
        }
        self.refuse(of_call(call), error);
        None
    }

    /// What was appended before it is delivered; what stands behind it waits for it.
    fn refuse(&mut self, of_call: &[usize], error: RedisError) {
        let first = of_call.iter().find(|at| matches!(self.fates[**at], Fate::Waits));
        if let Some(first) = first {
            self.fates[*first] = Fate::Refused(Failure::from(error));
            self.refused.insert(self.batch[*first].1.target());
        }
    }

    /// A script that a user wrote may answer in the words in which the server speaks of itself, and
    /// would keep everything waiting for ever. So the server is asked whether it is in the way.
    fn settle_doubts(
        &mut self,
        session: &mut Session,
        doubtful: Vec<(usize, RedisError)>,
    ) -> RedisResult<()> {
        if doubtful.is_empty() || self.trouble.is_some() {
            return Ok(());
        }
        let mut probe = Pipeline::new();
        probe.cmd("EVAL").arg(PROBE_TEXT).arg(0);
        let answer = session.ask_each(&probe)?.pop().unwrap_or(Value::Nil);
        match answer.extract_error() {
            Err(error) if is_about_server(&error) => self.trouble = Some(Failure::from(error)),
            _ => doubtful.into_iter().for_each(|(at, error)| self.refuse(&[at], error)),
        }
        Ok(())
    }
}

/// Which messages it carries: at least one.
fn of_call(call: &Call) -> &[usize] {
    match call {
        Call::Append(events) => events,
        Call::Other(at) => std::slice::from_ref(at),
    }
}

/// What an answer tells, for who does not know whether its token was laid.
fn fate_of(message: &Message, reply: Value) -> Fate {
    match (message, reply) {
        (Message::Store { token, .. }, Value::BulkString(standing))
            if token.starts_with(UNSURE) =>
        {
            Fate::Overtaken(standing.into())
        }
        _ => Fate::Delivered,
    }
}

fn is_command(message: &Message) -> bool {
    matches!(message, Message::Command { .. })
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

/// A failure of ours: a message that no server would take.
pub fn unreadable(why: impl std::fmt::Debug) -> Failure {
    Failure::new(Reason::Protocol, format!("the row is not understood: {why:?}"))
}
