//! `redis_get`, `redis_set`, `redis_del`, `redis_incr`, `redis_expire`, `redis_ttl` and
//! `redis_command`: they act at once.

use std::time::Duration;

use pg_cache_core::error::{Asking, Error};

use crate::commands::{self, Left};
use crate::pg::arguments::{all_for_redis, for_redis};
use crate::pg::call::Call;
use crate::pg::error::Outcome;
use crate::pg::{Datum, interval, jsonb, text, ttl};

sql_function!(redis_get, pg_finfo_redis_get, get);
sql_function!(redis_set, pg_finfo_redis_set, set);
sql_function!(redis_del, pg_finfo_redis_del, delete);
sql_function!(redis_incr, pg_finfo_redis_incr, increment);
sql_function!(redis_expire, pg_finfo_redis_expire, expire);
sql_function!(redis_ttl, pg_finfo_redis_ttl, time_left);
sql_function!(redis_command, pg_finfo_redis_command, command);

fn get(call: &Call) -> Outcome<Datum> {
    let Some(value) = commands::get(&key(call)?)? else { return Ok(call.null()) };
    let text = text::from_utf8(&value).ok_or(Error::from(Asking::NoText))?;
    Ok(text::datum(&text))
}

fn set(call: &Call) -> Outcome<Datum> {
    let (key, value) = (key(call)?, for_redis(call.datum(1), "value")?);
    let ttl_ms = if call.count() > 2 { Some(ttl::read(call, 2)?) } else { None };
    commands::set(&key, &value, ttl_ms)?;
    Ok(call.void())
}

fn delete(call: &Call) -> Outcome<Datum> {
    call.datum(0).ok_or(Error::NullArgument { name: "keys" })?;
    let deleted = commands::delete(&all_for_redis(call, 0, "key")?)?;
    Ok(Datum::from(deleted as i64))
}

fn increment(call: &Call) -> Outcome<Datum> {
    let by = call.datum(1).ok_or(Error::NullArgument { name: "by" })?;
    Ok(Datum::from(commands::add(&key(call)?, by.value() as i64)?))
}

fn expire(call: &Call) -> Outcome<Datum> {
    Ok(Datum::from(commands::expire(&key(call)?, ttl::read(call, 1)?)?))
}

fn time_left(call: &Call) -> Outcome<Datum> {
    Ok(match commands::left(&key(call)?)? {
        Left::NoKey => call.null(),
        Left::Endless => interval::endless(),
        Left::Milliseconds(left) => interval::datum(Duration::from_millis(left)),
    })
}

fn command(call: &Call) -> Outcome<Datum> {
    let mut parts = vec![for_redis(call.datum(0), "cmd")?];
    parts.extend(all_for_redis(call, 1, "args")?);
    match commands::command(&parts)? {
        Some(json) => jsonb::datum(json),
        None => Ok(call.null()),
    }
}

fn key(call: &Call) -> Outcome<Box<[u8]>> {
    for_redis(call.datum(0), "key")
}
