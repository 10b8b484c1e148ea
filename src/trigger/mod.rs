//! The trigger functions: what they need is made once per trigger and kept; each row is noted.

mod check;
pub mod ddl;
pub mod invalidate;
pub mod send;
mod sending;
pub mod track;

use pg_cache_core::error::{Error, Flaw, Sending};

use crate::pg::classify;
use crate::pg::error::Raised;
use crate::pg::trigger::Attached;

/// An error that names the trigger and its table.
fn flawed(trigger: Attached<'_>, flaw: Flaw) -> Raised {
    let relation = classify::relation_name(trigger.relation().oid());
    let trigger = trigger.name();
    Error::from(Sending { trigger, relation, flaw }).into()
}
