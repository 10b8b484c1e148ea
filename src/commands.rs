//! Redis' commands as functions: at once, on keys with the database's prefix, and any command as
//! it is.
//!
//! Invariant: what these write under a key is nobody's entry. A value that `redis_set` puts, or a
//! key that `redis_del` takes away, takes along what `redis_cached` keeps beside it, and the lease
//! of whoever fills it just now. Else the filler would put an answer over it that was computed
//! before, or the next reader would take the new value for the entry's.

use pg_cache_core::command::Kind;
use pg_cache_core::error::{Asking, Error, Replied};
use pg_cache_core::key::EntryKeys;
use pg_cache_core::reply::{self, Answer, Flaw};
use redis::{Cmd, Pipeline};

use crate::direct;
use crate::pg::error::Outcome;
use crate::pg::{guc, privileges, text};

/// What one pipeline deletes: the answers to it are read at once.
const DELETED_AT_ONCE: usize = 1000;

/// How long a key lives on.
pub enum Left {
    NoKey,
    Endless,
    Milliseconds(u64),
}

pub fn get(key: &[u8]) -> Outcome<Option<Vec<u8>>> {
    let key = direct::name(key)?;
    direct::ask(|session| redis::cmd("GET").arg(&key).query(session))
}

/// Without a time to live the key stays until it is deleted, whatever it had before. An error means
/// that nothing was done.
pub fn set(key: &[u8], value: &[u8], ttl_ms: Option<u64>) -> Outcome<()> {
    check_size(value.len())?;
    let keys = EntryKeys::new(&direct::name(key)?);
    let mut pipeline = Pipeline::new();
    pipeline.atomic();
    unlink_beside(&mut pipeline, &keys);
    let set = pipeline.cmd("SET").arg(keys.value()).arg(value);
    if let Some(ttl_ms) = ttl_ms {
        set.arg("PX").arg(ttl_ms);
    }
    direct::ask(|session| pipeline.exec(session))
}

/// Returns how many of the keys were there.
pub fn delete(keys: &[impl AsRef<[u8]>]) -> Outcome<u64> {
    let names = direct::names(keys)?;
    let mut deleted = 0;
    for names in names.chunks(DELETED_AT_ONCE) {
        let mut pipeline = Pipeline::new();
        for name in names {
            let keys = EntryKeys::new(name);
            // First, so that nobody fills between the two.
            unlink_beside(&mut pipeline, &keys);
            pipeline.cmd("UNLINK").arg(keys.value());
        }
        let counts: Vec<u64> = direct::ask(|session| pipeline.query(session))?;
        deleted += counts.iter().sum::<u64>();
    }
    Ok(deleted)
}

fn unlink_beside(pipeline: &mut Pipeline, keys: &EntryKeys) {
    let unlink = pipeline.cmd("UNLINK").arg(keys.sidecar());
    unlink.arg(keys.lease()).arg(keys.recipe()).ignore();
}

pub fn add(key: &[u8], by: i64) -> Outcome<i64> {
    let key = direct::name(key)?;
    direct::ask(|session| redis::cmd("INCRBY").arg(&key).arg(by).query(session))
}

/// Whether there is such a key.
pub fn expire(key: &[u8], ttl_ms: u64) -> Outcome<bool> {
    let key = direct::name(key)?;
    direct::ask(|session| redis::cmd("PEXPIRE").arg(&key).arg(ttl_ms).query(session))
}

pub fn left(key: &[u8]) -> Outcome<Left> {
    let key = direct::name(key)?;
    let left: i64 = direct::ask(|session| redis::cmd("PTTL").arg(&key).query(session))?;
    Ok(match u64::try_from(left) {
        Ok(left) => Left::Milliseconds(left),
        Err(_) if left == -1 => Left::Endless,
        Err(_) => Left::NoKey,
    })
}

/// Sends any command that this role may send. `None`: Redis answered that there is nothing.
pub fn command(parts: &[Box<[u8]>]) -> Outcome<Option<Vec<u8>>> {
    check_kind(parts)?;
    check_size(parts.iter().map(|part| part.len()).sum())?;
    let mut command = Cmd::new();
    for part in parts {
        command.arg(&part[..]);
    }
    let reply = direct::ask(|session| session.raw(&command))?;
    match reply::answer(&reply, &text::from_utf8) {
        Ok(Answer::Null) => Ok(None),
        Ok(Answer::Json(json)) => Ok(Some(json)),
        Ok(Answer::Error { code, detail }) => Err(Error::from(Replied { code, detail }).into()),
        Err(Flaw::TooDeep) => {
            Err(Error::from(Asking::ReplyTooDeep { depth_max: reply::DEPTH_MAX }).into())
        }
        Err(Flaw::Malformed(why)) => {
            let reason = pg_cache_core::reason::Reason::Protocol;
            Err(Error::Unreachable { reason, detail: why.to_owned() }.into())
        }
    }
}

fn check_kind(parts: &[Box<[u8]>]) -> Outcome<()> {
    let Some((name, arguments)) = parts.split_first() else { return Ok(()) };
    let command = || String::from_utf8_lossy(name).into_owned();
    let refusal = match Kind::of(name, arguments) {
        Kind::Ordinary => return Ok(()),
        Kind::Administrative if privileges::is_superuser() => return Ok(()),
        Kind::Administrative => Asking::Superuser { command: command() },
        kind => Asking::Refused { command: command(), kind },
    };
    Err(Error::from(refusal).into())
}

/// What is larger could not be read again.
fn check_size(bytes: usize) -> Outcome<()> {
    let bytes_max = guc::value_bytes_max();
    if bytes > bytes_max {
        return Err(Error::MessageTooLarge { bytes, bytes_max }.into());
    }
    Ok(())
}
