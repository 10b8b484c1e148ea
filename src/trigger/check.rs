//! A trigger of ours is looked at when it is created, and when columns of its table go.
//!
//! Invariant: what could never fire without an error is refused. If it were not, the migration
//! would pass, and the first write after it would fail.

use pg_cache_core::error::Error;
use pg_cache_core::options::Kind;

use crate::pg::error::{Outcome, Raised};
use crate::pg::trigger::Attached;
use crate::pg::{Oid, classify};

use super::invalidate::Keys;
use super::sending::Sender;
use super::track;

/// Refuses a new trigger that is not as its function needs it.
pub fn check_new(table: Oid, trigger: Oid) -> Outcome<()> {
    Attached::each(table, |found| if found.oid() == trigger { check(found) } else { Ok(()) })
}

/// Refuses that columns went which triggers of the table, or of its children, name.
pub fn check_lost(table: Oid) -> Outcome<()> {
    let mut all = std::iter::once(table).chain(classify::children(table));
    all.try_for_each(|table| {
        Attached::each(table, |trigger| match check(trigger) {
            Err(Raised::Refused(Error::Sending(sending))) => {
                sending.of_lost_column().map_or(Ok(()), |lost| Err(Error::from(lost).into()))
            }
            other => other,
        })
    })
}

fn check(trigger: Attached<'_>) -> Outcome<()> {
    if !classify::is_ours(trigger.function()) {
        return Ok(());
    }
    match classify::function_name(trigger.function()).as_str() {
        "redis_invalidate" => Keys::new(trigger).map(|_| ()),
        "redis_track_row" => track::check_row(trigger),
        "redis_track_truncate" => track::check_truncate(trigger),
        name => {
            let all = [Kind::Publish, Kind::Stream, Kind::Store, Kind::Job];
            let kind = all.into_iter().find(|kind| kind.function() == name);
            kind.map_or(Ok(()), |kind| Sender::new(kind, trigger).map(|_| ()))
        }
    }
}
