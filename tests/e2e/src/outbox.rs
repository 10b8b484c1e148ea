//! Rows of the outbox as a transaction writes them, put there by SQL: a test says which, and when.

use pg_cache_core::message::{Message, codec};
use pg_cache_testbed::Redis;
use postgres::{Client, Error, GenericClient};

/// An event for a stream.
pub fn append(stream: &str, payload: &str) -> Message {
    let (stream, payload) = (stream.as_bytes().into(), payload.as_bytes().into());
    Message::Append { stream, length_max: None, payload }
}

/// Writes messages as a commit at this moment would.
#[track_caller]
pub fn put(client: &mut impl GenericClient, messages: &[Message]) {
    try_put(client, messages).unwrap();
}

pub fn try_put(client: &mut impl GenericClient, messages: &[Message]) -> Result<(), Error> {
    try_put_bytes(client, &messages.iter().map(codec::encode).collect::<Vec<_>>())
}

/// The same with the bytes of messages.
#[track_caller]
pub fn put_bytes(client: &mut impl GenericClient, messages: &[Vec<u8>]) {
    try_put_bytes(client, messages).unwrap();
}

fn try_put_bytes(client: &mut impl GenericClient, messages: &[Vec<u8>]) -> Result<(), Error> {
    let sql = "WITH own AS MATERIALIZED (SELECT pg_current_xact_id() AS xid)
               INSERT INTO redis_outbox
               SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint, xid, n,
                      clock_timestamp(), m
                 FROM own, unnest($1::bytea[]) WITH ORDINALITY AS t(m, n)";
    client.execute(sql, &[&messages])?;
    Ok(())
}

/// A transaction that owes all keys, and has an event for the stream `mine`.
#[track_caller]
pub fn owe_all_keys(client: &mut Client) {
    let mut owing = client.transaction().unwrap();
    let owed = "INSERT INTO redis_debt VALUES (-2, pg_current_xact_id(), '*')";
    owing.batch_execute(owed).unwrap();
    put(&mut owing, &[append("mine", "0")]);
    owing.commit().unwrap();
}

/// Starts the worker, as whoever wrote to the outbox does after its commit.
pub fn wake(client: &mut Client) {
    client.batch_execute("SELECT redis_wake()").unwrap();
}

/// How many rows there are.
pub fn rows(client: &mut Client) -> i64 {
    client.query_one("SELECT count(*) FROM redis_outbox", &[]).unwrap().get(0)
}

/// The events of a stream, in its order.
pub fn events(redis: &Redis, stream: &str) -> Vec<String> {
    type Entry = (String, Vec<(String, String)>);
    let found: Vec<Entry> =
        redis::cmd("XRANGE").arg(stream).arg("-").arg("+").query(&mut redis.client()).unwrap();
    found.into_iter().flat_map(|(_, fields)| fields.into_iter().map(|(_, event)| event)).collect()
}
