//! Taking jobs from a queue.
//!
//! Invariant: a job that is returned is this worker's until its time has run out, and is text that
//! this database can hold. What is no JSON, whoever wrote it, goes to the dead with the reason: an
//! error would come again with each call, and nobody would get past it.

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use pg_cache_core::message::Fields;
use pg_cache_core::queue::QueueKeys;

use crate::client::queues::{self as client, Dequeued, Job, Nack, Wanted};
use crate::client::session::Session;
use crate::pg::error::{Outcome, Raised};
use crate::pg::table::READ_LOCK;
use crate::pg::{Datum, guc, host, jsonb, text};
use crate::{connection, direct, registry};

use super::ack::{self, Written};

/// The longest that Redis is asked to wait before it answers.
const SLICE_MS_MAX: u64 = 100;

/// Of how many queues a backend knows that they are listed.
const LISTED_MAX: usize = 1000;

/// What a call may return even where hardly anything is to be stored; no reply is too long by it.
const BYTES_LEAST: usize = 64 * 1024;

thread_local! {
    static LISTED: RefCell<HashSet<Vec<u8>>> = RefCell::new(HashSet::new());
}

/// What a worker asks for.
pub struct Request<'a> {
    pub queue: &'a [u8],
    /// The same as SQL gave it.
    pub datum: Datum,
    pub count: usize,
    pub wait_ms: u64,
    pub consumer: Option<&'a [u8]>,
}

/// Takes jobs: the rows, as a JSON array.
pub fn dequeue(request: &Request<'_>) -> Outcome<String> {
    let deadline = Instant::now() + Duration::from_millis(request.wait_ms);
    let keys = QueueKeys::new(&direct::name(request.queue)?);
    let consumer = request.consumer.unwrap_or(connection::client_name().as_bytes());
    let mut is_listed = false;
    loop {
        let wanted = Wanted {
            consumer,
            count: request.count,
            visibility_ms: guc::queue_visibility_ms(),
            attempts_max: guc::queue_attempts_max(),
            bytes_max: guc::value_bytes_max().max(BYTES_LEAST),
        };
        let found = direct::ask(|session| client::dequeue(session, &keys, &wanted))?;
        // Also if it was nothing but what is no job: there may be jobs behind it.
        let is_something = !found.jobs.is_empty() || found.has_passed;
        if found.exists && !std::mem::replace(&mut is_listed, true) {
            spare(list(&keys, is_something), !found.jobs.is_empty())?;
        }
        let rows = rows(request, &keys, &found.jobs)?;
        if !rows.is_empty() {
            return Ok(format!("[{}]", rows.join(",")));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() && !is_something {
            return Ok("[]".to_owned());
        }
        if !is_something {
            wait(&keys, &found, left)?;
        }
        host::check_interrupts();
    }
}

/// Has the queue listed: by its first call of this backend, and again by those that have time.
fn list(keys: &QueueKeys, is_busy: bool) -> Outcome<()> {
    let is_known = LISTED.with_borrow(|listed| listed.contains(&keys.stream));
    if is_known && is_busy {
        return Ok(());
    }
    direct::ask(|session| client::list(session, &keys.stream))?;
    LISTED.with_borrow_mut(|listed| {
        if listed.len() >= LISTED_MAX {
            listed.clear();
        }
        listed.insert(keys.stream.clone())
    });
    Ok(())
}

/// Waits for a new entry, but no longer than until something else is due.
fn wait(keys: &QueueKeys, found: &Dequeued, left: Duration) -> Outcome<()> {
    let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
    let due_in_ms = found.due_in_ms.unwrap_or(u64::MAX).max(1);
    // Zero would mean for ever.
    let wait_ms = left_ms.min(due_in_ms).min(SLICE_MS_MAX);
    let slice = Duration::from_millis(wait_ms);
    direct::ask_waiting(slice, |session| {
        client::wait(session, &keys.stream, &found.newest, wait_ms)
    })
}

/// Of the jobs that were handed out those to be done, as JSON.
fn rows(request: &Request<'_>, keys: &QueueKeys, jobs: &[Job]) -> Outcome<Vec<String>> {
    let mut rows = Vec::with_capacity(jobs.len());
    let mut done: Fields = Vec::new();
    let mut bad = Vec::new();
    for job in jobs {
        match written(request, job) {
            Written::Done => done.push((job.id.clone().into(), job.birth.clone().into())),
            Written::Own => {}
            Written::Nothing => match row(job)? {
                Ok(row) => {
                    ack::remember(&keys.stream, &job.id, &job.birth);
                    rows.push(row);
                }
                Err(why) => bad.push((job, why)),
            },
        }
    }
    let has_rows = !rows.is_empty();
    for (job, why) in bad {
        spare(bury(keys, job, why), has_rows)?;
    }
    if !done.is_empty() {
        let finish = |session: &mut Session| client::finish_now(session, &keys.stream, &done);
        spare(direct::ask(finish).map(|_| ()), has_rows)?;
    }
    Ok(rows)
}

/// What Redis fails at beside jobs that it has handed out does not throw them away; it comes again
/// with a later call.
fn spare(outcome: Outcome<()>, has_jobs: bool) -> Outcome<()> {
    match outcome {
        Err(Raised::Refused(_)) if has_jobs => Ok(()),
        outcome => outcome,
    }
}

/// A table that cannot be had tells nothing: `ack` asks again.
fn written(request: &Request<'_>, job: &Job) -> Written {
    match registry::open_job_done(READ_LOCK) {
        Some((table, index)) => ack::written((&table, &index), request.datum, &job.id, &job.birth),
        None => Written::Nothing,
    }
}

/// A job as JSON, or why it is none.
fn row(job: &Job) -> Outcome<Result<String, &'static str>> {
    let id =
        std::str::from_utf8(&job.id).ok().filter(|id| text::from_utf8(id.as_bytes()).is_some());
    let Some(id) = id.filter(|id| !id.is_empty()) else {
        return Ok(Err("the id is no text in this database's encoding"));
    };
    let Some(payload) = text::from_utf8(&job.payload) else {
        return Ok(Err("the payload is no text in this database's encoding"));
    };
    if !jsonb::is_one(&payload)? {
        return Ok(Err("the payload is no JSON"));
    }
    let payload = String::from_utf8_lossy(&job.payload);
    let id = serde_json::Value::from(id);
    let (attempt, at) = (job.attempt, jsonb::moment(job.enqueued_ms));
    Ok(Ok(format!(
        "{{\"id\":{id},\"payload\":{payload},\"attempt\":{attempt},\"enqueued_at\":\"{at}\"}}"
    )))
}

fn bury(keys: &QueueKeys, job: &Job, why: &str) -> Outcome<()> {
    let nack =
        Nack { id: &job.id, delay_ms: None, backoff_ms: 0, attempts_max: 0, error: why.as_bytes() };
    direct::ask(|session| client::nack(session, keys, &nack)).map(|_| ())
}
