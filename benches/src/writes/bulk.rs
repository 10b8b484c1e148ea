//! One statement that changes 300,000 rows: time, and the backend's memory.
//!
//! Owns the table. The invariant: each call runs in a backend of its own, on a table without dead
//! rows. Break it and the memory of one is another's, and the last way pays for the ones before.

use std::time::Instant;

use pg_cache_testbed::Pair;
use pg_cache_testbed::process::memory_peak_kb;
use postgres::Client;

use super::{
    GROUPED, GROUPED_IN_MEMORY, Goal, INVALIDATED, INVALIDATED_IN_MEMORY, PLAIN, Result, Row,
    TRACKED, TRACKED_IN_MEMORY, Way, await_ends, compare, turns,
};
use crate::Outcome;

const ROWS: u64 = 300_000;

/// A multiple of the time without.
const TRACKED_GOAL: Goal = Goal::AtMost(1.10);
const INVALIDATED_GOAL: Goal = Goal::AtMost(1.35);

pub fn create(sql: &mut Client) -> Outcome<()> {
    sql.batch_execute(&format!(
        "CREATE TABLE bulk (aid int PRIMARY KEY, abalance int, filler char(84));
         INSERT INTO bulk SELECT g, 0, '' FROM generate_series(1, {ROWS}) g"
    ))?;
    Ok(())
}

pub fn measure(pair: &Pair, rounds: usize) -> Outcome<Row> {
    let ways = [
        (PLAIN, None),
        (TRACKED, Some(TRACKED_GOAL)),
        (GROUPED, None),
        (INVALIDATED, Some(INVALIDATED_GOAL)),
        (TRACKED_IN_MEMORY, Some(TRACKED_GOAL)),
        (GROUPED_IN_MEMORY, None),
        (INVALIDATED_IN_MEMORY, Some(INVALIDATED_GOAL)),
    ];
    let mut results: Vec<Result> = ways.iter().map(|(way, goal)| Result::new(way, *goal)).collect();
    // The first round finds the tables dense, the ones after it with room for new versions.
    for (way, _) in &ways {
        once(pair, way)?;
    }
    for round in 0..rounds {
        for turn in turns(ways.len(), round) {
            let once = once(pair, &ways[turn].0)?;
            let result = &mut results[turn];
            result.rounds.push(once.seconds);
            result.grown_kb = result.grown_kb.max(Some(once.grown_kb));
        }
        compare(&mut results);
    }
    Ok(Row { what: format!("UPDATE of {ROWS} rows, seconds"), results })
}

struct Once {
    seconds: f64,
    /// What the backend's memory grew by.
    grown_kb: u64,
}

fn once(pair: &Pair, way: &Way) -> Outcome<Once> {
    let mut sql = pair.postgres.connect_as("postgres", way.id);
    let process: i32 = sql.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    // Loads the library and the catalogue.
    sql.batch_execute("BEGIN; UPDATE bulk SET abalance = 0 WHERE aid = 0; ROLLBACK")?;
    let memory_before_kb = memory_peak_kb(process);
    let before = told(&mut sql)?;
    let start = Instant::now();
    sql.batch_execute("UPDATE bulk SET abalance = abalance + 1")?;
    let seconds = start.elapsed().as_secs_f64();
    let grown_kb = memory_peak_kb(process) - memory_before_kb;
    prove(before, told(&mut sql)?, way)?;
    drop(sql);
    await_ends(pair);
    let mut sql = pair.postgres.connect_as("postgres", way.id);
    sql.batch_execute("VACUUM bulk")?;
    sql.batch_execute("CHECKPOINT")?;
    drop(sql);
    await_ends(pair);
    Ok(Once { seconds, grown_kb })
}

/// Buckets bumped and keys deleted by this backend. Many keys go in one command.
fn told(sql: &mut Client) -> Outcome<(i64, i64)> {
    let row = sql.query_one("SELECT tags, keys FROM redis_stat_commit", &[])?;
    Ok((row.get(0), row.get(1)))
}

/// Each key is deleted once, and the table bumped at least once.
fn prove(before: (i64, i64), after: (i64, i64), way: &Way) -> Outcome<()> {
    let (tags, keys) = (after.0 - before.0, after.1 - before.1);
    if (tags > 0) != (way.id != PLAIN.id) || u64::try_from(keys)? != way.deletes * ROWS {
        return Err(format!("{}: {tags} tags and {keys} keys", way.title).into());
    }
    Ok(())
}
