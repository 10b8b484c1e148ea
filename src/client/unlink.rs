//! Deletes an entry, but not what somebody else puts in its place meanwhile.
//!
//! Only its hash, in the sidecar, tells whether the value under a key is the one that was filled,
//! and Redis cannot compute that one. So the value comes here, and is watched: invariant: what is
//! deleted is what was looked at.

use pg_cache_core::key::EntryKeys;
use pg_cache_core::sidecar::Sidecar;
use redis::{Cmd, RedisResult, Value, from_redis_value};

use super::session::Session;

/// An entry that was looked at, and is watched.
pub struct Watched {
    unlink: Cmd,
}

/// Looks at the entry with this sidecar; `None` if it has another one by now.
pub fn watch(
    session: &mut Session,
    keys: &EntryKeys,
    sidecar: &[u8],
) -> RedisResult<Option<Watched>> {
    let filled = Sidecar::decode(sidecar).ok();
    let mut look = redis::pipe();
    look.cmd("WATCH").arg(keys.value()).arg(keys.sidecar());
    look.cmd("GET").arg(keys.sidecar());
    // One byte more than was filled: a longer value is another one.
    let length = filled.as_ref().map_or(0, |filled| filled.value_bytes);
    look.cmd("GETRANGE").arg(keys.value()).arg(0).arg(length);
    let mut replies = session.ask_each(&look)?;
    // An error: a value of another type.
    let value = replies.pop();
    let now = replies.pop().unwrap_or(Value::Nil).extract_error()?;
    if let Some(watching) = replies.pop() {
        watching.extract_error()?;
    }
    if from_redis_value::<Option<Vec<u8>>>(now)?.as_deref() != Some(sidecar) {
        redis::cmd("UNWATCH").exec(session)?;
        return Ok(None);
    }
    let mut unlink = redis::cmd("UNLINK");
    unlink.arg(keys.sidecar()).arg(keys.lease()).arg(keys.recipe());
    if let (Some(filled), Some(Value::BulkString(value))) = (filled, value)
        && filled.binds(&value)
    {
        unlink.arg(keys.value());
    }
    Ok(Some(Watched { unlink }))
}

impl Watched {
    /// Deletes the entry, and the value too if it was the one that was filled. False if somebody
    /// has changed it since: then nothing is deleted.
    pub fn unlink(self, session: &mut Session) -> RedisResult<bool> {
        let done: Option<(u64,)> =
            redis::pipe().atomic().add_command(self.unlink).query(session)?;
        Ok(done.is_some())
    }
}
