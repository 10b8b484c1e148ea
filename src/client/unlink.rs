//! Deletes an entry, but not what somebody else puts in its place meanwhile.
//!
//! Only its hash, in the sidecar, tells whether the value under a key is the one that was filled,
//! so the value comes here to be looked at. Invariant: what is deleted is what was looked at.
//! (Not by WATCH and MULTI: a full Redis refuses whatever stands in a transaction.)

use std::sync::LazyLock;

use pg_cache_core::key::EntryKeys;
use pg_cache_core::sidecar::Sidecar;
use redis::{RedisResult, Script};

use super::session::Session;

static UNLINK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/unlink_4.lua")));

/// The value under the key of an entry, if it is the one that was filled.
pub fn value(
    session: &mut Session,
    keys: &EntryKeys,
    sidecar: &Sidecar,
) -> RedisResult<Option<Vec<u8>>> {
    let mut look = redis::cmd("GETRANGE");
    // One byte more than was filled: a longer value is another one.
    look.arg(keys.value()).arg(0).arg(sidecar.value_bytes);
    match look.query(session) {
        Ok(value) => Ok(Some(value).filter(|value: &Vec<u8>| sidecar.binds(value))),
        Err(error) if error.code() == Some("WRONGTYPE") => Ok(None),
        Err(error) => Err(error),
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
