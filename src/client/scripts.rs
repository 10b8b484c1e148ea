//! The Lua that runs inside Redis: one script a file under `lua/`, found by its hash.

use std::sync::LazyLock;

use redis::{RedisResult, Script};

use super::session::Session;

static FILL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/fill_3.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/release_1.lua")));

static PEEK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/peek_1.lua")));

/// One entry as it goes to Redis.
pub struct Fill<'a> {
    pub value_key: &'a [u8],
    pub sidecar_key: &'a [u8],
    pub lease_key: &'a [u8],
    pub token: &'a [u8],
    pub value: &'a [u8],
    pub sidecar: &'a [u8],
    pub ttl_ms: u64,
}

/// What became of an entry that was to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    Stored,
    /// The lease was no longer ours.
    Overtaken,
    /// Another program's value stands under the key.
    NotOurs,
}

/// Stores the entry if the lease is still ours.
pub fn fill(session: &mut Session, entry: &Fill<'_>) -> RedisResult<Filled> {
    let outcome: i64 = FILL
        .key(entry.value_key)
        .key(entry.sidecar_key)
        .key(entry.lease_key)
        .arg(entry.token)
        .arg(entry.value)
        .arg(entry.sidecar)
        .arg(entry.ttl_ms)
        .invoke(session)?;
    Ok(match outcome {
        1 => Filled::Stored,
        0 => Filled::Overtaken,
        _ => Filled::NotOurs,
    })
}

/// Gives the lease back if it is still ours.
pub fn release(session: &mut Session, lease_key: &[u8], token: &[u8]) -> RedisResult<bool> {
    RELEASE.key(lease_key).arg(token).invoke(session)
}

/// The value under a key if it has this length.
pub fn peek(session: &mut Session, value_key: &[u8], bytes: u64) -> RedisResult<Option<Vec<u8>>> {
    PEEK.key(value_key).arg(bytes).invoke(session)
}
