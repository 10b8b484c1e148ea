//! What events cost one INSERT of 300,000 rows, each way in turn.
//!
//! Owns a database and a table for each way. The invariant: each call runs in a backend of its own
//! on a table that was just emptied, its time ends with the commit, and every message has arrived.
//! Break it and a way is fast by not sending.

use std::time::Instant;

use pg_cache_testbed::Pair;
use postgres::Client;

use super::{Goal, PLAIN, Result, Row, Way, await_ends, compare, turns};
use crate::Outcome;

pub const DATABASE: &str = "events";
const ROWS: u64 = 300_000;

/// A multiple of what the PL/pgSQL trigger takes.
const STREAMED_GOAL: Goal = Goal::AtMost(0.5);

/// What applications do without us. It is what the others are compared with, so it stands first.
pub const NOTIFIED: Way = Way {
    id: "notified",
    title: "PL/pgSQL with pg_notify",
    setup: |table| trigger(table, "notify_change()"),
    ..PLAIN
};

pub const STREAMED: Way = Way {
    id: "streamed",
    title: "redis_stream('s', 'maxlen=100000')",
    setup: |table| trigger(table, "redis_stream('s', 'maxlen=100000')"),
    ..PLAIN
};

pub const PUBLISHED: Way = Way {
    id: "published",
    title: "redis_publish('c')",
    setup: |table| trigger(table, "redis_publish('c')"),
    ..PLAIN
};

pub const SILENT: Way = Way { id: "silent", ..PLAIN };

const WAYS: [(Way, Option<Goal>); 4] =
    [(NOTIFIED, None), (STREAMED, Some(STREAMED_GOAL)), (PUBLISHED, None), (SILENT, None)];

pub fn trigger(table: &str, function: &str) -> String {
    format!(
        "CREATE TRIGGER sends AFTER INSERT OR UPDATE OR DELETE ON {table}
         FOR EACH ROW EXECUTE FUNCTION {function}"
    )
}

pub fn prepare(pair: &Pair) -> Outcome<()> {
    let mut admin = pair.postgres.connect_as("postgres", "postgres");
    admin.batch_execute(&format!("CREATE DATABASE {DATABASE}"))?;
    pair.postgres.create_extension(DATABASE);
    pair.postgres.register(DATABASE);
    let mut sql = pair.postgres.connect_as("postgres", DATABASE);
    sql.batch_execute(&format!(
        "ALTER DATABASE {DATABASE} SET pg_cache.pending_events_bytes_max = '1GB';
         CREATE FUNCTION notify_change() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM pg_notify('orders', json_build_object('op', TG_OP,
                 'schema', TG_TABLE_SCHEMA, 'table', TG_TABLE_NAME, 'new', row_to_json(NEW))::text);
             RETURN NULL;
         END $$"
    ))?;
    for (way, _) in &WAYS {
        create(&mut sql, way)?;
    }
    Ok(())
}

/// The way's own table.
pub fn create(sql: &mut Client, way: &Way) -> Outcome<()> {
    let id = way.id;
    sql.batch_execute(&format!(
        "CREATE TABLE {id} (id int PRIMARY KEY, customer int, status text,
                            total numeric(10, 2), placed timestamptz, note text)"
    ))?;
    sql.batch_execute(&(way.setup)(id))?;
    Ok(())
}

pub fn measure(pair: &Pair, rounds: usize) -> Outcome<Row> {
    let mut results: Vec<Result> = WAYS.iter().map(|(way, goal)| Result::new(way, *goal)).collect();
    for round in 0..rounds {
        for turn in turns(WAYS.len(), round) {
            results[turn].rounds.push(once(pair, &WAYS[turn].0)?);
        }
        compare(&mut results);
    }
    Ok(Row { what: format!("INSERT of {ROWS} rows, seconds"), results })
}

/// Seconds.
fn once(pair: &Pair, way: &Way) -> Outcome<f64> {
    let mut sql = begin(pair, way)?;
    let start = Instant::now();
    sql.batch_execute(&format!(
        "INSERT INTO {} SELECT g, g % 1000, 'new', g * 1.25, now() + g * interval '1 second',
                'a note about order ' || g FROM generate_series(1, {ROWS}) g",
        way.id
    ))?;
    let seconds = start.elapsed().as_secs_f64();
    let is_heard = [STREAMED.id, PUBLISHED.id].contains(&way.id);
    end(pair, sql, way, is_heard)?;
    Ok(seconds)
}

/// A backend of its own, which has loaded the library and is connected, before an empty table.
pub fn begin(pair: &Pair, way: &Way) -> Outcome<Client> {
    let mut sql = pair.postgres.connect_as("postgres", DATABASE);
    sql.batch_execute(&format!("TRUNCATE {}; CHECKPOINT", way.id))?;
    drop(sql);
    await_ends(pair);
    let mut sql = pair.postgres.connect_as("postgres", DATABASE);
    sql.batch_execute("SELECT redis_stat_reset()")?;
    sql.batch_execute(&format!("INSERT INTO {} VALUES (0)", way.id))?;
    Ok(sql)
}

/// Fails unless each row that is there sent one message, or none.
pub fn end(pair: &Pair, mut sql: Client, way: &Way, sends: bool) -> Outcome<()> {
    let row = sql.query_one("SELECT sent, lost FROM redis_stat_commit", &[])?;
    let (sent, lost): (i64, i64) = (row.get(0), row.get(1));
    let rows: i64 = sql.query_one(&format!("SELECT count(*) FROM {}", way.id), &[])?.get(0);
    if (sent, lost) != (if sends { rows } else { 0 }, 0) {
        return Err(format!("{}: {sent} messages sent and {lost} lost", way.title).into());
    }
    drop(sql);
    await_ends(pair);
    Ok(())
}
