//! `redis_ping`, `redis_health`, `redis_flush`, `redis_repair`, `redis_register`, `redis_verify`,
//! and what the views `redis_stat_cached` and `redis_stat_commit` read.

use std::time::Instant;

use crate::flush::{self, unreachable};
use crate::pg::call::Call;
use crate::pg::error::Outcome;
use crate::pg::{Datum, interval, text};
use crate::{connection, health, repair, stats, verify, worker};

sql_function!(redis_ping, pg_finfo_redis_ping, ping);
sql_function!(redis_health_json, pg_finfo_redis_health_json, health_json);
sql_function!(redis_flush, pg_finfo_redis_flush, flush_keys);
sql_function!(redis_repair_json, pg_finfo_redis_repair_json, repair_json);
sql_function!(redis_register, pg_finfo_redis_register, register);
sql_function!(redis_wake, pg_finfo_redis_wake, wake);
sql_function!(redis_verify_json, pg_finfo_redis_verify_json, verify_json);
sql_function!(redis_stat_commit_json, pg_finfo_redis_stat_commit_json, stat_commit_json);
sql_function!(redis_stat_reset, pg_finfo_redis_stat_reset, stat_reset);
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
    Ok(text::json(&health::checks()?))
}

fn flush_keys(call: &Call) -> Outcome<Datum> {
    connection::retry_now();
    let deleted = flush::flush(call.text(0).as_deref())?;
    Ok(Datum::from(deleted as i64))
}

fn stat_commit_json(_call: &Call) -> Outcome<Datum> {
    Ok(text::json(&stats::commits_as_json()))
}

fn stat_cached_json(_call: &Call) -> Outcome<Datum> {
    Ok(text::json(&stats::as_json()))
}

fn stat_reset(call: &Call) -> Outcome<Datum> {
    stats::reset();
    Ok(call.void())
}

fn repair_json(_call: &Call) -> Outcome<Datum> {
    Ok(text::json(&repair::repair()?))
}

fn verify_json(call: &Call) -> Outcome<Datum> {
    let max = call.datum(0).map(|max| max.value() as i32);
    Ok(text::json(&verify::verify(max)?))
}

fn register(call: &Call) -> Outcome<Datum> {
    let buckets = call.datum(1).map(|buckets| buckets.value() as i32);
    repair::register(call.text(0).as_deref(), buckets)?;
    Ok(call.void())
}

fn wake(call: &Call) -> Outcome<Datum> {
    worker::wake_now_and_later();
    Ok(call.void())
}
