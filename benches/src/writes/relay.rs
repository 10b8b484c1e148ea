//! How fast the worker sends durable events, and whose processor time that is.
//!
//! Owns a database whose triggers send into one stream, or into ten. The invariant: the time begins
//! with the commit that made all the rows and ends when none waits, and each stream has them all.
//! Break it and a worker that loses events is the fastest.

use std::time::{Duration, Instant};

use pg_cache_testbed::{Pair, Postgres, eventually};
use postgres::Client;
use serde_json::{Value, json};

use super::process_us;
use crate::Outcome;
use crate::samples::quantile;

const DATABASE: &str = "relay";
const EVENTS: u64 = 300_000;
const EVENTS_A_SECOND_GOAL: f64 = 50_000.0;
const TIME_MAX: Duration = Duration::from_secs(120);

/// What is measured: a table, and how many streams its rows go to.
struct Case {
    table: &'static str,
    streams: u64,
}

const CASES: [Case; 2] = [Case { table: "one", streams: 1 }, Case { table: "ten", streams: 10 }];

/// Of one round.
struct Sample {
    events_a_second: f64,
    worker_us: f64,
    redis_us: f64,
}

pub fn measure(pair: &Pair, rounds: usize) -> Outcome<Value> {
    prepare(&pair.postgres)?;
    let mut samples: [Vec<Sample>; 2] = Default::default();
    for _ in 0..rounds {
        for (case, samples) in CASES.iter().zip(&mut samples) {
            samples.push(once(pair, case)?);
        }
    }
    println!("\nThe worker relays {EVENTS} durable events of 220 bytes, from their commit on:\n");
    let told = CASES.iter().zip(&samples).map(|(case, samples)| tell(case, samples));
    Ok(Value::Array(told.collect()))
}

fn prepare(postgres: &Postgres) -> Outcome<()> {
    let mut admin = postgres.connect_as("postgres", "postgres");
    admin.batch_execute(&format!("CREATE DATABASE {DATABASE}"))?;
    postgres.create_extension(DATABASE);
    postgres.register(DATABASE);
    let mut sql = postgres.connect_as("postgres", DATABASE);
    sql.batch_execute(&format!("ALTER DATABASE {DATABASE} SET pg_cache.outbox_mb_max = 4096"))?;
    for Case { table, .. } in &CASES {
        sql.batch_execute(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, part int, note text);
             CREATE TRIGGER sends AFTER INSERT ON {table} FOR EACH ROW
             EXECUTE FUNCTION redis_stream('{table}:{{part}}', 'durable')"
        ))?;
    }
    Ok(())
}

fn once(pair: &Pair, case: &Case) -> Outcome<Sample> {
    let Case { table, streams } = case;
    let mut sql = pair.postgres.connect_as("postgres", DATABASE);
    sql.batch_execute(&format!("TRUNCATE {table}; CHECKPOINT"))?;
    let mut redis = pair.redis.client();
    for part in 0..*streams {
        let () = redis::cmd("DEL").arg(format!("{table}:{part}")).query(&mut redis)?;
    }
    let worker = worker(&mut sql)?;
    let times_us =
        || -> Outcome<(f64, f64)> { Ok((process_us(worker)?, process_us(pair.redis.pid())?)) };
    let before_us = times_us()?;
    sql.batch_execute(&format!(
        "INSERT INTO {table} SELECT g, g % {streams}, 'a note' FROM generate_series(1, {EVENTS}) g"
    ))?;
    let start = Instant::now();
    eventually(TIME_MAX, "all is delivered", || is_empty(&mut sql));
    let seconds = start.elapsed().as_secs_f64();
    let after_us = times_us()?;
    let mut delivered = 0;
    for part in 0..*streams {
        let length: u64 = redis::cmd("XLEN").arg(format!("{table}:{part}")).query(&mut redis)?;
        delivered += length;
    }
    if delivered != EVENTS {
        return Err(format!("{table}: {delivered} events of {EVENTS} were delivered").into());
    }
    Ok(Sample {
        events_a_second: EVENTS as f64 / seconds,
        worker_us: (after_us.0 - before_us.0) / EVENTS as f64,
        redis_us: (after_us.1 - before_us.1) / EVENTS as f64,
    })
}

/// The worker's process, started if none is there.
fn worker(sql: &mut Client) -> Outcome<u32> {
    let mut found = None;
    eventually(TIME_MAX, "a worker runs", || {
        let _ = sql.batch_execute("SELECT redis_wake()");
        let pid = sql.query_opt(
            "SELECT pid FROM pg_stat_activity
              WHERE backend_type = 'pg_cache worker' AND datname = current_database()",
            &[],
        );
        found = pid.ok().flatten().and_then(|row| u32::try_from(row.get::<_, i32>(0)).ok());
        found.is_some()
    });
    found.ok_or_else(|| "no worker".into())
}

fn is_empty(sql: &mut Client) -> bool {
    std::thread::sleep(Duration::from_millis(5));
    let waiting = "SELECT EXISTS (SELECT FROM redis_outbox)";
    sql.query_one(waiting, &[]).is_ok_and(|row| !row.get::<_, bool>(0))
}

fn tell(case: &Case, samples: &[Sample]) -> Value {
    let median = |of: fn(&Sample) -> f64| quantile(samples.iter().map(of), 0.5);
    let rate = median(|sample| sample.events_a_second);
    let (worker, redis) = (median(|sample| sample.worker_us), median(|sample| sample.redis_us));
    let missed = if rate < EVENTS_A_SECOND_GOAL { ": MISSED" } else { "" };
    println!(
        "- into {} streams: {rate:.0} events a second (goal: {EVENTS_A_SECOND_GOAL:.0}{missed}); \
         an event takes {worker:.1} µs of the worker's processor time and {redis:.1} µs of Redis'",
        case.streams
    );
    json!({
        "streams": case.streams, "events_a_second": rate, "goal": EVENTS_A_SECOND_GOAL,
        "worker_us": worker, "redis_us": redis,
    })
}
