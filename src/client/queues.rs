//! What the functions of queues ask of Redis: one script each, one round trip.
//!
//! Invariant: whatever moves a job does it in one script, so that a job stands in one place at any
//! moment, whoever dies. The records of jobs are read and written by the scripts alone.

use std::collections::HashSet;
use std::sync::LazyLock;

use pg_cache_core::message::Fields;
use pg_cache_core::queue::{QUEUES, QueueKeys};
use redis::{Cmd, RedisResult, Script};

use super::session::Session;

pub const FINISH_TEXT: &str = include_str!("lua/finish_6.lua");

/// How long the id that somebody gave to a job is known after the job is done.
pub const REMEMBER_MS: u64 = 3_600_000;

/// How many jobs that were given up a queue keeps; the oldest go first.
pub const DEAD_MAX: usize = 100_000;

/// How many names of queues are read.
const NAMES_MAX: usize = 100_000;

/// The longest back-off.
pub const BACKOFF_MS_MAX: u64 = 3_600_000;

pub static FINISH: LazyLock<Script> = LazyLock::new(|| Script::new(FINISH_TEXT));
static DEQUEUE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/dequeue_5.lua")));
static NACK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/nack_5.lua")));
static LOOK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/look_1.lua")));
static REQUEUE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/requeue_3.lua")));
static DEAD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/dead_2.lua")));
static STANDING: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/standing_4.lua")));

/// The call that ends jobs, for a pipeline of one who knows the script.
pub fn finish(queue: &[u8], jobs: &Fields) -> Cmd {
    call_finish("EVALSHA", FINISH.get_hash(), queue, jobs)
}

/// The same with the script's text.
pub fn finish_in_full(queue: &[u8], jobs: &Fields) -> Cmd {
    call_finish("EVAL", FINISH_TEXT, queue, jobs)
}

fn call_finish(name: &str, script: &str, queue: &[u8], jobs: &Fields) -> Cmd {
    let keys = QueueKeys::new(queue);
    let mut call = redis::cmd(name);
    call.arg(script).arg(6).arg(&keys.stream).arg(&keys.jobs).arg(&keys.due);
    call.arg(&keys.flight).arg(&keys.dead).arg(&keys.done).arg(REMEMBER_MS);
    for (id, birth) in jobs {
        call.arg(&id[..]).arg(&birth[..]);
    }
    call
}

/// Ends jobs now: how many were there.
pub fn finish_now(session: &mut Session, queue: &[u8], jobs: &Fields) -> RedisResult<usize> {
    finish_in_full(queue, jobs).query(session)
}

/// What a worker asks for.
pub struct Wanted<'a> {
    pub consumer: &'a [u8],
    pub count: usize,
    pub visibility_ms: u64,
    pub attempts_max: u64,
    /// Of all payloads together.
    pub bytes_max: usize,
}

/// A job as it is handed out.
pub struct Job {
    pub id: Vec<u8>,
    pub payload: Vec<u8>,
    pub attempt: i64,
    pub enqueued_ms: i64,
    pub birth: Vec<u8>,
}

/// What was handed out; and if that is nothing, what to wait for.
pub struct Dequeued {
    pub jobs: Vec<Job>,
    pub newest: Vec<u8>,
    /// Until something is due.
    pub due_in_ms: Option<u64>,
    /// Whether entries were put away that are no jobs: there may be jobs behind them.
    pub has_passed: bool,
    /// Whether there is such a queue.
    pub exists: bool,
}

type JobParts = (Vec<u8>, Vec<u8>, i64, i64, Vec<u8>);
type DequeuedParts = (Vec<u8>, i64, i64, bool, Vec<JobParts>);

pub fn dequeue(
    session: &mut Session,
    keys: &QueueKeys,
    wanted: &Wanted<'_>,
) -> RedisResult<Dequeued> {
    let (newest, due_in, passed, exists, jobs): DequeuedParts = DEQUEUE
        .key(&keys.stream)
        .key(&keys.jobs)
        .key(&keys.due)
        .key(&keys.flight)
        .key(&keys.dead)
        .arg(wanted.consumer)
        .arg(wanted.count)
        .arg(wanted.visibility_ms)
        .arg(wanted.attempts_max)
        .arg(DEAD_MAX)
        .arg(wanted.bytes_max)
        .invoke(session)?;
    let job = |(id, payload, attempt, enqueued_ms, birth): JobParts| Job {
        id,
        payload,
        attempt,
        enqueued_ms,
        birth,
    };
    let jobs = jobs.into_iter().map(job).collect();
    let due_in_ms = u64::try_from(due_in).ok();
    Ok(Dequeued { jobs, newest, due_in_ms, has_passed: passed > 0, exists })
}

/// Waits for an entry behind `newest`, no longer than this.
pub fn wait(session: &mut Session, stream: &[u8], newest: &[u8], wait_ms: u64) -> RedisResult<()> {
    let mut read = redis::cmd("XREAD");
    read.arg("COUNT").arg(1).arg("BLOCK").arg(wait_ms).arg("STREAMS").arg(stream).arg(newest);
    read.query::<redis::Value>(session).map(|_| ())
}

/// Has a queue listed, unless there is no room, or something else stands in the list's place: the
/// queue works without.
pub fn list(session: &mut Session, stream: &[u8]) -> RedisResult<()> {
    match redis::cmd("SADD").arg(QUEUES).arg(stream).exec(session) {
        Err(error) if matches!(error.code(), Some("OOM" | "WRONGTYPE")) => Ok(()),
        outcome => outcome,
    }
}

/// Takes a queue off the list of which nothing is left.
pub fn unlist(session: &mut Session, stream: &[u8]) -> RedisResult<()> {
    redis::cmd("SREM").arg(QUEUES).arg(stream).exec(session)
}

/// The jobs of these ids that were handed out and are not done, by their births; empty for none.
pub fn look(
    session: &mut Session,
    keys: &QueueKeys,
    ids: &[Box<[u8]>],
) -> RedisResult<Vec<Vec<u8>>> {
    let mut call = LOOK.key(&keys.jobs);
    for id in ids {
        call.arg(&id[..]);
    }
    call.invoke(session)
}

/// How a job is given back.
pub struct Nack<'a> {
    pub id: &'a [u8],
    /// None: by the back-off.
    pub delay_ms: Option<u64>,
    pub backoff_ms: u64,
    /// None: it is given up at once.
    pub attempts_max: u64,
    pub error: &'a [u8],
}

/// Gives a job back; false if it is nobody's.
pub fn nack(session: &mut Session, keys: &QueueKeys, nack: &Nack<'_>) -> RedisResult<bool> {
    let outcome: i64 = NACK
        .key(&keys.stream)
        .key(&keys.jobs)
        .key(&keys.due)
        .key(&keys.flight)
        .key(&keys.dead)
        .arg(nack.id)
        .arg(nack.delay_ms.map(|delay_ms| delay_ms.to_string()).unwrap_or_default())
        .arg(nack.backoff_ms)
        .arg(BACKOFF_MS_MAX)
        .arg(nack.attempts_max)
        .arg(nack.error)
        .arg(DEAD_MAX)
        .invoke(session)?;
    Ok(outcome > 0)
}

/// Puts a job back that was given up; false if there is none.
pub fn requeue(session: &mut Session, keys: &QueueKeys, id: &[u8]) -> RedisResult<bool> {
    REQUEUE.key(&keys.stream).key(&keys.jobs).key(&keys.dead).arg(id).invoke(session)
}

/// A job that was given up: id, payload, attempts, error, when it was enqueued and when it was
/// given up.
pub type Dead = (Vec<u8>, Vec<u8>, i64, Vec<u8>, i64, i64);

/// Those given up, the last first.
pub fn dead(
    session: &mut Session,
    keys: &QueueKeys,
    count: usize,
    bytes_max: usize,
) -> RedisResult<Vec<Dead>> {
    DEAD.key(&keys.jobs).key(&keys.dead).arg(count).arg(bytes_max).invoke(session)
}

/// The names of the queues that were used; of very many, some.
pub fn names(session: &mut Session) -> RedisResult<HashSet<Vec<u8>>> {
    const STEP: usize = 1000;
    let (mut names, mut cursor) = (HashSet::new(), 0u64);
    loop {
        let mut scan = redis::cmd("SSCAN");
        scan.arg(QUEUES).arg(cursor).arg("COUNT").arg(STEP);
        let (next, some): (u64, Vec<Vec<u8>>) = scan.query(session)?;
        names.extend(some);
        cursor = next;
        if cursor == 0 || names.len() >= NAMES_MAX {
            return Ok(names);
        }
    }
}

/// Ready, in flight, delayed, dead, and the age of the oldest that is ready in milliseconds.
pub type Standing = (i64, i64, i64, i64, i64);

/// How a queue stands; None if nothing is left of it.
pub fn standing(session: &mut Session, keys: &QueueKeys) -> RedisResult<Option<Standing>> {
    STANDING.key(&keys.stream).key(&keys.due).key(&keys.flight).key(&keys.dead).invoke(session)
}
