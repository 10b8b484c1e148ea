//! The script that decides on one request of a rate limit.

use std::sync::LazyLock;

use pg_cache_core::gcra::{Exact, Terms};
use redis::{RedisResult, Script};

use super::session::Session;

static LIMIT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/limit_1.lua")));

/// Whether the request is allowed, and the debt of the limit after it.
pub fn decide(session: &mut Session, key: &[u8], terms: &Terms) -> RedisResult<(bool, Exact)> {
    let Terms { max, cost, capacity } = terms;
    let (allowed, micros, rest): (bool, u64, u64) = LIMIT
        .key(key)
        .arg(max)
        .arg(cost.micros)
        .arg(cost.rest)
        .arg(capacity.micros)
        .arg(capacity.rest)
        .invoke(session)?;
    Ok((allowed, Exact { micros, rest }))
}
