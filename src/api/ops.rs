//! `redis_ping`, `redis_health`, `redis_flush`, and what the view `redis_stat_cached` reads.

use std::time::Instant;

use crate::flush::{self, unreachable};
use crate::pg::call::Call;
use crate::pg::error::Outcome;
use crate::pg::{Datum, interval, text};
use crate::{connection, health, stats};

sql_function!(redis_ping, pg_finfo_redis_ping, ping);
sql_function!(redis_health_json, pg_finfo_redis_health_json, health_json);
sql_function!(redis_flush, pg_finfo_redis_flush, flush_keys);
sql_function!(redis_stat_cached_json, pg_finfo_redis_stat_cached_json, stat_cached_json);

fn ping(_call: &Call) -> Outcome<Datum> {
    connection::retry_now();
    // The first request may have to connect: what is measured is the round trip.
    connection::server().map_err(unreachable)?;
    let started = Instant::now();
    connection::ask(|session| Ok(redis::cmd("PING").exec(session)?)).map_err(unreachable)?;
    Ok(interval::datum(started.elapsed()))
}

fn health_json(_call: &Call) -> Outcome<Datum> {
    Ok(text::json(&health::checks()))
}

fn flush_keys(call: &Call) -> Outcome<Datum> {
    connection::retry_now();
    let deleted = flush::flush(call.text(0).as_deref())?;
    Ok(Datum::from(deleted as i64))
}

fn stat_cached_json(_call: &Call) -> Outcome<Datum> {
    Ok(text::json(&stats::as_json()))
}
