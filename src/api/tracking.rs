//! `redis_track`, `redis_untrack`, `redis_touch`, `redis_depends`.

use pg_cache_core::error::Error;
use pg_cache_core::tag::Tag;

use crate::pg::arguments;
use crate::pg::call::Call;
use crate::pg::error::Outcome;
use crate::pg::{Datum, Oid, text, xact};
use crate::{commit, tracking};

sql_function!(redis_track, pg_finfo_redis_track, track);
sql_function!(redis_untrack, pg_finfo_redis_untrack, untrack);
sql_function!(redis_touch, pg_finfo_redis_touch, touch);
sql_function!(redis_depends, pg_finfo_redis_depends, depends);

fn track(call: &Call) -> Outcome<Datum> {
    xact::refuse_on_standby(c"redis_track()");
    let relation = relation(call)?;
    tracking::track(relation, &arguments::names(call, 1)?, &call.function_schema())?;
    Ok(Datum::from(0usize))
}

fn untrack(call: &Call) -> Outcome<Datum> {
    xact::refuse_on_standby(c"redis_untrack()");
    tracking::untrack(relation(call)?, &call.function_schema())?;
    Ok(Datum::from(0usize))
}

fn relation(call: &Call) -> Outcome<Oid> {
    let relation = call.datum(0).ok_or(Error::NullArgument { name: "rel" })?;
    Ok(Oid::from(relation.value() as u32))
}

/// Only a transaction with an ID of its own can tell others when it is complete.
fn touch(call: &Call) -> Outcome<Datum> {
    let tag = tag(call)?;
    xact::assign_xid(c"redis_touch()");
    commit::note(tag)?;
    Ok(Datum::from(0usize))
}

/// Says nothing of its own: that a query calls it is what counts.
fn depends(call: &Call) -> Outcome<Datum> {
    tag(call)?;
    Ok(Datum::from(true))
}

fn tag(call: &Call) -> Outcome<Tag> {
    let name = text::bytes(call.datum(0).ok_or(Error::NullArgument { name: "tag" })?);
    Ok(Tag::named(&text::string(name)))
}
