//! Commands that go to Redis at once, whatever becomes of the transaction.
//!
//! Invariant: a command is sent once at most. If a lost answer were taken for a lost command, INCR
//! would count twice and a job be queued twice. So a connection that the server closed is replaced
//! before anything is sent, and never after.

use std::time::Duration;

use pg_cache_core::error::{Asking, Error};
use pg_cache_core::key;
use pg_cache_core::reason::Reason;
use redis::RedisResult;

use crate::client::failure::Failure;
use crate::client::session::Session;
use crate::flush::unreachable;
use crate::pg::error::Outcome;
use crate::pg::guc;
use crate::{connection, registry};

/// What a server says that has become a replica, or always was one.
const READONLY: &str = "READONLY";

/// Asks Redis now. What it answers with an error is an error of its own, and leaves the connection
/// as it is; a Redis that cannot be asked is one as everywhere.
pub fn ask<T>(request: impl FnOnce(&mut Session) -> RedisResult<T>) -> Outcome<T> {
    ask_waiting(Duration::ZERO, request)
}

/// Asks for what Redis itself waits for before it answers, for so long at most.
pub fn ask_waiting<T>(
    wait: Duration,
    request: impl FnOnce(&mut Session) -> RedisResult<T>,
) -> Outcome<T> {
    let timeout = Duration::from_millis(guc::timeout_ms()).saturating_add(wait);
    let answer = connection::ask_once(timeout, |session| match request(session) {
        Ok(answer) => Ok(Ok(answer)),
        Err(error) => {
            let replied = Failure::of_command(error)?;
            if replied.code == READONLY {
                session.outdate();
            }
            Ok(Err(replied))
        }
    });
    let error: Error = match answer {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(replied)) => replied.into(),
        Err(failure) if failure.reason == Reason::TooLarge => {
            Asking::ReplyTooLarge { bytes_max: guc::value_bytes_max() }.into()
        }
        Err(failure) => unreachable(failure),
    };
    Err(error.into())
}

/// What a key of the user's is called in Redis: with the database's prefix.
pub fn name(key: &[u8]) -> Outcome<Vec<u8>> {
    let mut names = names(&[key])?;
    Ok(names.pop().unwrap_or_default())
}

/// The same of several, all checked before anything is asked.
pub fn names(keys: &[impl AsRef<[u8]>]) -> Outcome<Vec<Vec<u8>>> {
    for key in keys {
        key::check(key.as_ref())?;
    }
    let prefix = registry::prefix_in_time()?.unwrap_or_default();
    Ok(keys.iter().map(|key| [&prefix[..], key.as_ref()].concat()).collect())
}
