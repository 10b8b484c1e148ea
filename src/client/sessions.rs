//! The requests for sessions, each one round trip.
//!
//! Invariant: none but [`create`] makes a key. A write or a touch that made one would bring back a
//! session that was ended a moment before.

use std::sync::LazyLock;

use redis::{RedisResult, Script};

use super::session::Session;

static STORE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/session_store_1.lua")));
static TOUCH: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/session_touch_1.lua")));

/// What became of a session that was to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    Done,
    Changed,
    Gone,
}

/// A session's text as it goes to Redis, and for how long.
#[derive(Clone, Copy)]
pub struct Text<'a> {
    pub bytes: &'a [u8],
    pub ttl_ms: u64,
    /// Whether the ttl also ends a session that has no end.
    pub ends_always: bool,
}

/// Stores a new session. False: there is one of that name.
pub fn create(session: &mut Session, key: &[u8], text: Text<'_>) -> RedisResult<bool> {
    let mut set = redis::cmd("SET");
    set.arg(key).arg(text.bytes).arg("NX").arg("PX").arg(text.ttl_ms);
    let answer: Option<String> = set.query(session)?;
    Ok(answer.is_some())
}

/// Replaces a session that is still as it was read.
pub fn store(
    session: &mut Session,
    key: &[u8],
    read: &[u8],
    text: Text<'_>,
) -> RedisResult<Replaced> {
    let mut call = STORE.key(key);
    call.arg(read).arg(text.bytes).arg(text.ttl_ms).arg(u8::from(text.ends_always));
    let outcome: i64 = call.invoke(session)?;
    Ok(match outcome {
        1 => Replaced::Done,
        0 => Replaced::Changed,
        _ => Replaced::Gone,
    })
}

/// Reads a session.
pub fn read(session: &mut Session, key: &[u8]) -> RedisResult<Option<Vec<u8>>> {
    redis::cmd("GET").arg(key).query(session)
}

/// Reads a session and renews its time to live.
pub fn touch(session: &mut Session, key: &[u8], ttl_ms: u64) -> RedisResult<Option<Vec<u8>>> {
    TOUCH.key(key).arg(ttl_ms).invoke(session)
}

/// Ends a session. False: there was none.
pub fn end(session: &mut Session, key: &[u8]) -> RedisResult<bool> {
    redis::cmd("DEL").arg(key).query(session)
}
