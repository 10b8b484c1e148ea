//! `redis_cached`, `redis_cached_rows`, `redis_cached_view`, `redis_explain`.

use std::borrow::Cow;

use pg_cache_core::error::Error;
use pg_cache_core::key;

use crate::pg::arguments::{self, Argument};
use crate::pg::call::Call;
use crate::pg::error::Outcome;
use crate::pg::{Datum, recordset, text, ttl};
use crate::read::{self, Request};
use crate::{explain, view};

sql_function!(redis_cached, pg_finfo_redis_cached, cached);
sql_function!(redis_cached_text, pg_finfo_redis_cached_text, cached_text);
sql_function!(redis_cached_rows, pg_finfo_redis_cached_rows, cached_rows);
sql_function!(redis_cached_rows_text, pg_finfo_redis_cached_rows_text, cached_rows_text);
sql_function!(redis_cached_view, pg_finfo_redis_cached_view, cached_view);
sql_function!(redis_explain, pg_finfo_redis_explain, explained);
sql_function!(redis_explain_text, pg_finfo_redis_explain_text, explained_text);

fn cached(call: &Call) -> Outcome<Datum> {
    Ok(read::read(&request(call, arguments::typed(call, 3)?)?)?.json)
}

fn cached_text(call: &Call) -> Outcome<Datum> {
    Ok(read::read(&request(call, arguments::untyped(call, 3))?)?.json)
}

fn cached_rows(call: &Call) -> Outcome<Datum> {
    rows(call, &request(call, arguments::typed(call, 3)?)?)
}

fn cached_rows_text(call: &Call) -> Outcome<Datum> {
    rows(call, &request(call, arguments::untyped(call, 3))?)
}

fn rows(call: &Call, request: &Request<'_>) -> Outcome<Datum> {
    let expected = recordset::expected_columns(call)?;
    let answer = read::read(request)?;
    recordset::check_columns(&expected, &answer.plan.columns)?;
    recordset::return_rows(call, answer.json)
}

fn cached_view(call: &Call) -> Outcome<Datum> {
    let name = call.text(0).ok_or(Error::NullArgument { name: "name" })?;
    let ttl_ms = ttl::read(call, 1)?;
    let query = query(call, 2)?;
    view::create(call.function_schema(), &name, ttl_ms, query)?;
    Ok(Datum::from(0usize))
}

fn explained(call: &Call) -> Outcome<Datum> {
    explanation(call, arguments::typed(call, 2)?)
}

fn explained_text(call: &Call) -> Outcome<Datum> {
    explanation(call, arguments::untyped(call, 2))
}

fn explanation(call: &Call, arguments: Vec<Argument>) -> Outcome<Datum> {
    let request = Request { key: key(call)?, ttl_ms: 0, query: query(call, 1)?, arguments };
    Ok(text::json(&explain::explain(&request)?))
}

fn request(call: &Call, arguments: Vec<Argument>) -> Outcome<Request<'_>> {
    let (key, ttl_ms, query) = (key(call)?, ttl::read(call, 1)?, query(call, 2)?);
    Ok(Request { key, ttl_ms, query, arguments })
}

fn key(call: &Call) -> Outcome<Cow<'_, [u8]>> {
    let key = text::bytes(call.datum(0).ok_or(Error::NullArgument { name: "key" })?);
    // A key that is no text in UTF-8 is used by its bytes.
    let key = text::to_utf8(key).unwrap_or(Cow::Borrowed(key));
    key::check(&key)?;
    Ok(key)
}

fn query(call: &Call, index: usize) -> Outcome<&[u8]> {
    Ok(text::bytes(call.datum(index).ok_or(Error::NullArgument { name: "query" })?))
}
