//! Queues: what the functions about jobs do.
//!
//! A queue is a Redis stream of that name with the consumer group `pg_cache`. What trigger
//! `redis_job` and [`enqueue`] put there is the same to a worker. A job leaves with its commit, by
//! the outbox: it is there if and only if its transaction is.

use pg_cache_core::error::{Error, Queue};
use pg_cache_core::message::Message;
use pg_cache_core::queue::check_id;

use crate::events;
use crate::pg::error::Outcome;
use crate::pg::{guc, host};

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
