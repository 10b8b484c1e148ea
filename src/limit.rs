//! Asks Redis whether a request is within its rate limit, and goes on without an answer as
//! `pg_cache.rate_limit_on_unreachable` says.
//!
//! Invariant: one request is one token at most. The script is sent once: sent again after a lost
//! answer, it would count twice. What stands under the limit's key and is none is an error whatever
//! the setting says: a value of somebody's must never open the gate.

use std::time::Duration;

use pg_cache_core::error::{Error, Replied};
use pg_cache_core::gcra::{Decision, Limit};
use pg_cache_core::key;
use pg_cache_core::reason::Reason;

use crate::client::failure::Failure;
use crate::client::limits;
use crate::flush::unreachable;
use crate::pg::error::Outcome;
use crate::pg::guc::{self, OnUnlimited};
use crate::{connection, direct};

/// What a caller is told.
pub enum Answer {
    Decided(Decision),
    /// Nobody was asked.
    Undecided {
        allowed: bool,
        limit: u64,
    },
}

pub fn decide(key: &[u8], limit: &Limit, cost: u64) -> Outcome<Answer> {
    let key = key::limit(&direct::name(key)?);
    let terms = limit.terms(cost);
    let timeout = Duration::from_millis(guc::timeout_ms());
    let asked = connection::ask_once(timeout, |session| Ok(limits::decide(session, &key, &terms)?));
    match asked {
        Ok((allowed, debt)) => Ok(Answer::Decided(limit.told(allowed, debt, cost))),
        Err(failure) => Ok(undecided(failure, limit)?),
    }
}

/// A Redis that refuses to write, for want of memory, as a replica or by its access list, is no
/// better for a limit than one that is away.
fn undecided(failure: Failure, limit: &Limit) -> Result<Answer, Error> {
    if let Some(replied) = about_the_key(&failure) {
        return Err(replied.into());
    }
    let allowed = match guc::rate_limit_on_unreachable() {
        OnUnlimited::Error => return Err(unreachable(failure)),
        OnUnlimited::Allow => true,
        OnUnlimited::Deny => false,
    };
    connection::warn_unlimited(&failure, allowed);
    Ok(Answer::Undecided { allowed, limit: limit.limit() })
}

fn about_the_key(failure: &Failure) -> Option<Replied> {
    let (code, detail) = failure.detail.split_once(' ')?;
    let is_about_key = failure.reason == Reason::ServerError && code == "WRONGTYPE";
    is_about_key.then(|| Replied { code: code.to_owned(), detail: detail.to_owned() })
}
