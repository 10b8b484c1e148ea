//! Jobs as a worker meets them.
//!
//! Owns the reading of queues by SQL. Break it and every test of a queue passes on nothing.

use std::time::Duration;

use pg_cache_testbed::eventually;
use postgres::{Client, Error, GenericClient};

/// A job that was handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub id: String,
    pub payload: String,
    pub attempt: i32,
}

/// Takes jobs, by the arguments behind the queue's name.
pub fn try_dequeue(
    client: &mut impl GenericClient,
    queue: &str,
    arguments: &str,
) -> Result<Vec<Job>, Error> {
    let sql = format!("SELECT id, payload::text, attempt FROM redis_dequeue('{queue}'{arguments})");
    let row =
        |row: &postgres::Row| Job { id: row.get(0), payload: row.get(1), attempt: row.get(2) };
    Ok(client.query(&sql, &[])?.iter().map(row).collect())
}

#[track_caller]
pub fn dequeue(client: &mut impl GenericClient, queue: &str, arguments: &str) -> Vec<Job> {
    try_dequeue(client, queue, arguments).unwrap_or_else(|error| panic!("{queue}: {error:?}"))
}

/// The payloads alone.
#[track_caller]
pub fn take(client: &mut impl GenericClient, queue: &str, arguments: &str) -> Vec<String> {
    dequeue(client, queue, arguments).into_iter().map(|job| job.payload).collect()
}

/// Acknowledges jobs: how many, or the error.
pub fn ack(client: &mut impl GenericClient, queue: &str, ids: &[&str]) -> Result<i64, Error> {
    let row = client.query_one("SELECT redis_ack($1, VARIADIC $2::text[])", &[&queue, &ids])?;
    Ok(row.get(0))
}

/// How a queue stands: ready, in flight, delayed, dead.
#[track_caller]
pub fn standing(client: &mut impl GenericClient, queue: &str) -> Option<[i64; 4]> {
    let sql = "SELECT ready, in_flight, delayed, dead FROM redis_queues WHERE queue = $1";
    let row = client.query_opt(sql, &[&queue]).unwrap()?;
    Some([0, 1, 2, 3].map(|column| row.get(column)))
}

/// Waits until nothing is left in the outbox.
#[track_caller]
pub fn sent(client: &mut Client) {
    eventually(Duration::from_secs(20), "all is sent", || {
        client.batch_execute("SELECT redis_wake()").unwrap();
        crate::outbox::rows(client) == 0
    });
}
