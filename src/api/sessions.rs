//! `redis_session_new`, `redis_session_get`, `redis_session_set`, `redis_session_end`.

use pg_cache_core::error::Error;

use crate::pg::call::Call;
use crate::pg::error::Outcome;
use crate::pg::{Datum, row_text, text, ttl};
use crate::sessions;

sql_function!(redis_session_new, pg_finfo_redis_session_new, new);
sql_function!(redis_session_get, pg_finfo_redis_session_get, get);
sql_function!(redis_session_set, pg_finfo_redis_session_set, set);
sql_function!(redis_session_end, pg_finfo_redis_session_end, end);

fn new(call: &Call) -> Outcome<Datum> {
    let data = call.datum(0).ok_or(Error::NullArgument { name: "data" })?;
    let id = sessions::new(data, ttl_at(call, 1)?)?;
    Ok(text::datum(id.as_bytes()))
}

fn get(call: &Call) -> Outcome<Datum> {
    let touch = call.datum(1).ok_or(Error::NullArgument { name: "touch" })?;
    let found = sessions::get(&id(call)?, touch.value() & 1 == 1)?;
    Ok(found.unwrap_or_else(|| call.null()))
}

fn set(call: &Call) -> Outcome<Datum> {
    let data = call.datum(1).ok_or(Error::NullArgument { name: "data" })?;
    sessions::set(&id(call)?, data, ttl_at(call, 2)?)?;
    Ok(call.void())
}

fn end(call: &Call) -> Outcome<Datum> {
    Ok(Datum::from(sessions::end(&id(call)?)?))
}

fn id(call: &Call) -> Outcome<Vec<u8>> {
    let id = call.datum(0).ok_or(Error::NullArgument { name: "id" })?;
    Ok(row_text::utf8(text::bytes(id)).into_owned())
}

/// The ttl, in the form of the function that has one.
fn ttl_at(call: &Call, index: usize) -> Outcome<Option<u64>> {
    (call.count() > index).then(|| ttl::read(call, index)).transpose()
}
