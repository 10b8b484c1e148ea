//! Deletes an entry, but not what somebody else puts in its place meanwhile.
//!
//! Only its hash, in the sidecar, tells whether the value under a key is the one that was filled,
//! so the value comes here to be looked at. Invariant: what is deleted is what was looked at.
//! (Not by WATCH and MULTI: a full Redis refuses whatever stands in a transaction.)

use std::sync::LazyLock;

use pg_cache_core::key::EntryKeys;
use pg_cache_core::sidecar::Sidecar;
use redis::{RedisResult, Script, Value};

use super::session::Session;

static UNLINK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/unlink_4.lua")));

/// The value under the key of an entry, if it is the one that was filled.
pub fn value(
    session: &mut Session,
    keys: &EntryKeys,
    sidecar: &Sidecar,
) -> RedisResult<Option<Vec<u8>>> {
    let mut look = redis::pipe();
    // One byte more than was filled: a longer value is another one.
    look.cmd("GETRANGE").arg(keys.value()).arg(0).arg(sidecar.value_bytes);
    match session.ask_each(&look)?.pop() {
        Some(Value::BulkString(value)) => Ok(Some(value).filter(|value| sidecar.binds(value))),
        // An error of this command alone: a value of another type.
        Some(Value::ServerError(error)) if error.code() == "WRONGTYPE" => Ok(None),
        reply => reply.unwrap_or(Value::Nil).extract_error().map(|_| None),
    }
}

/// Deletes the entry, with the value if it is this one. False if it has another sidecar by now.
pub fn entry(
    session: &mut Session,
    keys: &EntryKeys,
    sidecar: &[u8],
    value: Option<&[u8]>,
) -> RedisResult<bool> {
    let mut call = UNLINK.key(keys.value());
    call.key(keys.sidecar()).key(keys.lease()).key(keys.recipe());
    call.arg(sidecar).arg(value.unwrap_or_default()).invoke(session)
}
