//! What a database has registered, and what stands in its Redis because of it.
//!
//! Owns no state. The invariant: what these say is read from the servers at that moment. Break it
//! and a test about a new generation compares an old one with itself.

use pg_cache_testbed::Redis;
use postgres::Client;

/// How many workers this database has.
pub const WORKERS: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE backend_type = 'pg_cache worker' AND datname = current_database()";

/// How many rows tell of what is owed.
pub const DEBTS: &str = "SELECT count(*) FROM redis_debt";

/// The generation that is registered with a server, if any.
pub fn generation(client: &mut Client) -> Option<String> {
    let sql = "SELECT replace(generation::text, '-', '') FROM redis_server WHERE servers <> ''";
    client.query_opt(sql, &[]).unwrap().map(|row| row.get(0))
}

/// Waits until the database is registered; returns the generation.
#[track_caller]
pub fn repair(client: &mut Client) -> String {
    let steps = client.query("SELECT step, detail FROM redis_repair()", &[]).unwrap();
    assert!(steps.len() >= 4, "it tells what it found");
    generation(client).expect("registered")
}

/// The one number that a query gives.
#[track_caller]
pub fn count(client: &mut Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).unwrap().get(0)
}

/// The name of the tag table.
pub fn table_key(client: &mut Client) -> String {
    let sql = "SELECT format('pgc:t:{%s.%s.0}', system_identifier, d.oid)
               FROM pg_control_system(), pg_database d WHERE datname = current_database()";
    client.query_one(sql, &[]).unwrap().get(0)
}

/// Whose the tag table is.
pub fn made(redis: &Redis, client: &mut Client) -> String {
    redis.cli(&["HGET", &table_key(client), "R"])
}
