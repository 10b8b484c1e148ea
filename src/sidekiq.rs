//! Jobs for a Sidekiq server, put where its own client puts them.
//!
//! Invariant: a job leaves with its commit, by the outbox, and the queue is made known before it.
//! Sidekiq's web page and its API list what is in `queues`: a job of another queue would be run,
//! and be seen by nobody.

use std::time::{SystemTime, UNIX_EPOCH};

use pg_cache_core::error::{Error, Queue};
use pg_cache_core::message::Message;
use pg_cache_core::sidekiq::{self, Asked, Flaw};

use crate::pg::error::Outcome;
use crate::pg::{guc, host};
use crate::{direct, events, jobs};

/// Notes a job for the commit, and returns its id.
pub fn enqueue(new: &jobs::New<'_>) -> Outcome<Box<[u8]>> {
    let asked = Asked {
        queue: utf8(new.queue)?,
        payload: utf8(new.payload)?,
        delay_ms: new.delay_ms,
        id: new.id.map(utf8).transpose()?,
    };
    let job = sidekiq::job(&asked, host::random_bytes(), now_ms()).map_err(refused)?;
    pg_cache_core::queue::check_id(job.jid.as_bytes())?;
    let (bytes, bytes_max) = (job.text.len(), guc::value_bytes_max());
    if bytes > bytes_max {
        return Err(Error::MessageTooLarge { bytes, bytes_max }.into());
    }
    let jid = job.jid.into_bytes().into();
    match job.at {
        Some(at) => {
            let schedule = direct::name(sidekiq::SCHEDULE.as_bytes())?;
            note(&[b"ZADD", &schedule, at.as_bytes(), job.text.as_bytes()])?;
        }
        None => {
            let queues = direct::name(sidekiq::QUEUES.as_bytes())?;
            let list = direct::name(sidekiq::list(asked.queue).as_bytes())?;
            note(&[b"SADD", &queues, new.queue])?;
            note(&[b"LPUSH", &list, job.text.as_bytes()])?;
        }
    }
    Ok(jid)
}

fn note(command: &[&[u8]]) -> Outcome<()> {
    let arguments = command.iter().map(|part| Box::from(*part)).collect();
    events::note(true, Message::Command { arguments })
}

fn utf8(bytes: &[u8]) -> Outcome<&str> {
    str::from_utf8(bytes).map_err(|_| refused(Flaw::Encoding).into())
}

fn refused(flaw: Flaw) -> Error {
    Queue::Sidekiq(flaw).into()
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
