//! Queues: what the functions about jobs do.
//!
//! A queue is a Redis stream of that name with the consumer group `pg_cache`. What trigger
//! `redis_job` and [`enqueue`] put there is the same to a worker. A job leaves with its commit, by
//! the outbox: it is there if and only if its transaction is.
//!
//! Invariant: whoever takes a job ends it by [`ack`], in the transaction that has its effects, or
//! gives it back; whoever does neither loses it when its time has run out. `ack` says why the
//! effects are there once all the same.

mod ack;
mod dequeue;
mod standing;

pub use ack::{Given, ack};
pub use dequeue::{Request, dequeue};
pub use standing::{dead, queues};

use pg_cache_core::error::{Error, Queue};
use pg_cache_core::message::Message;
use pg_cache_core::queue::{QueueKeys, check_id};

use crate::client::queues::{self as client, Nack};
use crate::pg::error::Outcome;
use crate::pg::{guc, host};
use crate::{direct, events};

/// What is kept of the words with which a handler failed.
const ERROR_BYTES_MAX: usize = 2000;

/// A job to be put on a queue.
pub struct New<'a> {
    pub queue: &'a [u8],
    pub payload: &'a [u8],
    pub delay_ms: u64,
    /// As its maker calls it.
    pub id: Option<&'a [u8]>,
}

/// Notes a job for the commit, and returns its id.
pub fn enqueue(new: &New<'_>) -> Outcome<Box<[u8]>> {
    let (bytes, bytes_max) = (new.payload.len(), guc::value_bytes_max());
    if bytes > bytes_max {
        return Err(Error::MessageTooLarge { bytes, bytes_max }.into());
    }
    new.id.map_or(Ok(()), check_id)?;
    let id: Box<[u8]> = new.id.map_or_else(new_id, Box::from);
    let (queue, payload) = (new.queue.into(), new.payload.into());
    let (delay_ms, is_named) = (new.delay_ms, new.id.is_some());
    let message = match (delay_ms, is_named) {
        (0, false) => Message::Job { queue, id: id.clone(), payload },
        _ => Message::Enqueue { queue, id: id.clone(), payload, delay_ms, is_named },
    };
    events::note(true, message)?;
    Ok(id)
}

/// Gives a job back.
pub fn nack(queue: &[u8], id: &[u8], delay_ms: Option<u64>, error: &[u8]) -> Outcome<()> {
    let keys = QueueKeys::new(&direct::name(queue)?);
    let nack = Nack {
        id,
        delay_ms,
        backoff_ms: guc::queue_backoff_ms(),
        attempts_max: guc::queue_attempts_max(),
        error: head(error),
    };
    direct::ask(|session| client::nack(session, &keys, &nack))?;
    Ok(())
}

/// Puts a job back that was given up; false if there is none.
pub fn requeue(queue: &[u8], id: &[u8]) -> Outcome<bool> {
    let keys = QueueKeys::new(&direct::name(queue)?);
    direct::ask(|session| client::requeue(session, &keys, id))
}

/// The beginning of a text, not cut within a character.
fn head(text: &[u8]) -> &[u8] {
    if text.len() <= ERROR_BYTES_MAX {
        return text;
    }
    let begins_character = |at: &usize| text[*at] & 0xc0 != 0x80;
    let end = (0..=ERROR_BYTES_MAX).rev().find(begins_character).unwrap_or(0);
    &text[..end]
}

/// Refuses what is no name of a queue.
pub fn check_name(queue: &[u8]) -> Outcome<()> {
    if queue.is_empty() {
        return Err(Error::from(Queue::Empty { name: "queue" }).into());
    }
    Ok(pg_cache_core::key::check(queue)?)
}

/// 128 random bits, as hexadecimal digits.
pub fn new_id() -> Box<[u8]> {
    format!("{:016x}{:016x}", host::random(), host::random()).into_bytes().into()
}
