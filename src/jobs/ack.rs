//! Acknowledging jobs with the commit, so that their effects are in the database exactly once.
//!
//! A worker does a job and acknowledges it in one transaction. In that transaction `redis_ack`
//!
//! 1. writes a row (queue, id, birth) into `redis_job_done`, whose primary key lets one transaction
//!    have it: a second one waits for the first, and fails if that commits;
//! 2. *then* asks Redis whether the job of that birth is still there, and fails if it is not;
//! 3. leaves a message for after the commit: out of Redis with the job.
//!
//! A row goes only when Redis has confirmed that the job is out (`worker::done`).
//!
//! Why two transactions cannot both commit effects of one job: say T commits first. If U writes its
//! row while that of T stands, the key refuses it. If it writes its row after that of T is gone,
//! then the job was out of Redis before, so U, which asks after it has written, is told so. Asked
//! the other way round, U could be told "there", T commit, the job go and the row too, and U write
//! its row unhindered.
//!
//! Nothing hangs on who of two workers got the job first, or on clocks: a worker that was too slow
//! and is first to commit is the one whose effects count. If the message gets lost, the row is the
//! memory: whoever is handed the job again sees it and takes the job out instead (`dequeue`). The
//! commit waits for the disk: a commit that a crash undoes must not have taken the job out.
//!
//! It holds as long as rows outlive what Redis forgets: a Redis that goes back to an earlier state
//! (a failover to a replica that lagged behind, a restart from an old file) brings jobs back, and
//! their rows, kept for `pg_cache.queue_done_keep_s`, keep them from being done twice. What Redis
//! lost before it was done is lost; whoever has it in hand fails at step 2.
//!
//! The birth tells a job from a later one of the same id. A backend knows it of the jobs that it
//! was handed itself. Whoever acknowledges in another session means the job that is there now.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

use pg_cache_core::error::{Error, Queue};
use pg_cache_core::message::{Fields, Message};
use pg_cache_core::queue::{JOBS_MAX, QueueKeys, check_id};

use crate::client::queues as client;
use crate::pg::error::{Outcome, Raised};
use crate::pg::table::{Table, WRITE_LOCK};
use crate::pg::{Datum, guc, host, job_done, text, xact};
use crate::{direct, events, registry, worker};

/// Of how many jobs a backend knows their births.
const KNOWN_MAX: usize = 10_000;

/// Of how many jobs one script hears: it keeps everybody else waiting.
const CHUNK: usize = JOBS_MAX as usize;

/// How often a backend that acknowledges looks whether there is a worker, which forgets.
const WAKE_EVERY_MS: u64 = 10_000;

/// A queue's full name and an id.
type Name = (Vec<u8>, Vec<u8>);

thread_local! {
    static KNOWN: RefCell<HashMap<Name, Vec<u8>>> = RefCell::new(HashMap::new());
    static WAKE_AT_MS: Cell<u64> = const { Cell::new(0) };
}

/// Remembers the birth of a job that this backend was handed.
pub fn remember(stream: &[u8], id: &[u8], birth: &[u8]) {
    KNOWN.with_borrow_mut(|known| {
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert((stream.to_vec(), id.to_vec()), birth.to_vec());
    });
}

fn forget(stream: &[u8], id: &[u8]) {
    KNOWN.with_borrow_mut(|known| known.remove(&(stream.to_vec(), id.to_vec())));
}

/// An id as it was given, and as Redis has it.
pub struct Given {
    pub datum: Datum,
    pub id: Box<[u8]>,
}

/// Acknowledges jobs, each once: how many.
pub fn ack(queue: &[u8], datum: Datum, mut given: Vec<Given>) -> Outcome<i64> {
    given.iter().try_for_each(|one| check_id(&one.id))?;
    // In one order, so that two who acknowledge the same jobs do not wait for one another.
    given.sort_by(|one, other| one.id.cmp(&other.id));
    given.dedup_by(|one, other| one.id == other.id);
    if given.is_empty() {
        return Ok(0);
    }
    xact::assign_xid(c"redis_ack()");
    let xid = xact::xid().unwrap_or_default();
    let keys = QueueKeys::new(&direct::name(queue)?);
    let (table, index) = open()?;
    given.retain(|one| {
        let rows = job_done::find((&table, &index), datum, one.datum);
        !rows.iter().any(|row| row.xid == xid)
    });
    if given.is_empty() {
        return Ok(0);
    }
    let births = births(&keys, &given)?;
    for (one, birth) in given.iter().zip(&births) {
        if !job_done::insert(&table, datum, one.datum, birth, xid)? {
            // A later job of this id may be in another session's hands, and be acknowledged here.
            forget(&keys.stream, &one.id);
            return Err(Error::from(Queue::Taken { id: shown(&one.id) }).into());
        }
    }
    host::fault_point("ack.written");
    if !host::skips("guard.acklook") {
        check(&given, &births, &look(&keys, &given)?)?;
    }
    host::fault_point("ack.asked");
    drop(index);
    table.keep_lock();
    let count = i64::try_from(given.len()).unwrap_or(i64::MAX);
    given.iter().for_each(|one| forget(&keys.stream, &one.id));
    let ids = given.into_iter().map(|one| one.id);
    let mut jobs = ids.zip(births.into_iter().map(Vec::into_boxed_slice)).peekable();
    xact::force_sync_commit();
    while jobs.peek().is_some() {
        let jobs: Fields = jobs.by_ref().take(CHUNK).collect();
        events::note(false, Message::Done { queue: queue.into(), jobs })?;
    }
    wake();
    Ok(count)
}

/// Which jobs of these ids are meant.
fn births(keys: &QueueKeys, given: &[Given]) -> Outcome<Vec<Vec<u8>>> {
    let known: Option<Vec<Vec<u8>>> = KNOWN.with_borrow(|known| {
        let of = |one: &Given| known.get(&(keys.stream.clone(), one.id.to_vec())).cloned();
        given.iter().map(of).collect()
    });
    if let Some(known) = known {
        return Ok(known);
    }
    let found = look(keys, given)?;
    let mut births = Vec::with_capacity(found.len());
    for (one, birth) in given.iter().zip(found) {
        let own =
            KNOWN.with_borrow(|known| known.get(&(keys.stream.clone(), one.id.to_vec())).cloned());
        let birth = own.unwrap_or(birth);
        if birth.is_empty() {
            return Err(gone(one));
        }
        births.push(birth);
    }
    Ok(births)
}

fn look(keys: &QueueKeys, given: &[Given]) -> Outcome<Vec<Vec<u8>>> {
    let mut births = Vec::with_capacity(given.len());
    for chunk in given.chunks(CHUNK) {
        let ids: Vec<Box<[u8]>> = chunk.iter().map(|one| one.id.clone()).collect();
        births.extend(direct::ask(|session| client::look(session, keys, &ids))?);
    }
    Ok(births)
}

/// Refuses jobs that are not those that Redis has.
fn check(given: &[Given], births: &[Vec<u8>], found: &[Vec<u8>]) -> Outcome<()> {
    for (place, one) in given.iter().enumerate() {
        if births.get(place) != found.get(place) {
            // It may be that another session had a later job of this id: that one is meant then.
            KNOWN.with_borrow_mut(HashMap::clear);
            return Err(gone(one));
        }
    }
    Ok(())
}

fn gone(one: &Given) -> Raised {
    Error::from(Queue::Gone { id: shown(&one.id) }).into()
}

fn shown(id: &[u8]) -> String {
    String::from_utf8_lossy(id).into_owned()
}

/// The table and its index, waited for as long as a commit may.
fn open() -> Outcome<(Table, Table)> {
    let limit = Duration::from_millis(guc::commit_timeout_ms());
    let opened = host::until(limit, || registry::open_job_done(WRITE_LOCK));
    opened.ok_or_else(|| Error::from(Queue::Locked).into())
}

fn wake() {
    let now_ms = host::monotonic_ms();
    if now_ms >= WAKE_AT_MS.get() {
        WAKE_AT_MS.set(now_ms + WAKE_EVERY_MS);
        worker::wake();
    }
}

/// What is written down of a job that Redis has handed out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Nothing,
    /// It is done, and Redis was not told yet.
    Done,
    /// This very transaction has acknowledged it.
    Own,
}

/// What is written down of a job.
pub fn written((table, index): (&Table, &Table), queue: Datum, id: &[u8], birth: &[u8]) -> Written {
    let Some(id) = text::from_utf8(id) else { return Written::Nothing };
    let rows = job_done::find((table, index), queue, text::datum(&id));
    match rows.iter().find(|row| row.birth == birth) {
        Some(row) if Some(row.xid) == xact::xid() => Written::Own,
        Some(_) => Written::Done,
        None => Written::Nothing,
    }
}
