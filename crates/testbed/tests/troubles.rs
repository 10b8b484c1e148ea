//! What the testbed does to servers on purpose really happens to them.
//!
//! Needs `PG_CACHE_PREFIX`. A crash that flushed, a relay that cut nothing, or a replica that never
//! followed would make every test built on them pass.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use pg_cache_testbed::{Postgres, Proxy, Redis, eventually};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_crash_kills_every_process_and_loses_what_was_not_flushed() {
    // Danger: a crash that stops the server in good order tests no recovery.
    let mut postgres = Postgres::start_with(&[("wal_writer_delay", "10s")]);
    let mut client = postgres.connect();
    client
        .batch_execute("CREATE TABLE kept (n int); CREATE UNLOGGED TABLE emptied AS SELECT 1")
        .unwrap();
    client.batch_execute("CHECKPOINT; SET synchronous_commit = off").unwrap();
    client.batch_execute("INSERT INTO kept VALUES (1)").unwrap();
    postgres.crash();
    assert!(client.batch_execute("SELECT 1").is_err());
    postgres.start_again();
    let mut client = postgres.connect();
    let count = |client: &mut postgres::Client, table: &str| -> i64 {
        client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).unwrap().get(0)
    };
    assert_eq!(count(&mut client, "emptied"), 0);
    assert_eq!(count(&mut client, "kept"), 0, "an asynchronous commit was flushed after all");
}

#[test]
fn a_standby_follows_and_is_promoted() {
    // Danger: a standby that is a primary of its own tests nothing about standbys.
    let mut primary = Postgres::start();
    let standby = primary.standby(&[]);
    primary.connect().batch_execute("CREATE TABLE t AS SELECT 42 AS v").unwrap();
    let mut reader = standby.connect();
    eventually(PATIENCE, "the standby replays", || {
        reader.query_one("SELECT v FROM t", &[]).is_ok()
    });
    assert!(reader.batch_execute("CREATE TABLE u ()").is_err());
    primary.stop_now();
    standby.promote();
    standby.connect().batch_execute("CREATE TABLE u ()").unwrap();
}

#[test]
fn redis_comes_back_with_what_it_held_earlier() {
    // Danger: an old dump that is an empty one tests the harmless case.
    let mut redis = Redis::start();
    redis.cli(&["SET", "k", "old"]);
    let earlier = redis.snapshot();
    redis.cli(&["SET", "k", "new"]);
    redis.stop();
    redis.start_again_from(&earlier);
    assert_eq!(redis.cli(&["GET", "k"]), "old");
    redis.stop();
    redis.start_again();
    assert_eq!(redis.cli(&["EXISTS", "k"]), "0");
}

#[test]
fn a_replica_follows_through_a_relay_and_lags_while_that_stalls() {
    // Danger: a lag that is none hides what a demoted master answers.
    let master = Redis::start_tcp(&["--repl-diskless-sync-delay", "0"]);
    let replica = Redis::start_tcp(&[]);
    let relay = Proxy::tcp(master.port().unwrap());
    replica.follow(relay.port());
    assert!(master.is_master() && !replica.is_master());
    master.cli(&["SET", "k", "1"]);
    eventually(PATIENCE, "the replica has it", || replica.cli(&["GET", "k"]) == "1");
    relay.stall(true);
    master.cli(&["SET", "k", "2"]);
    assert_eq!(replica.cli(&["GET", "k"]), "1");
    relay.stall(false);
    eventually(PATIENCE, "the replica catches up", || replica.cli(&["GET", "k"]) == "2");
}

#[test]
fn a_relay_cuts_a_reply_in_its_middle() {
    // Danger: a relay that is not in the way.
    let redis = Redis::start();
    redis.cli(&["SET", "k", "0123456789"]);
    let relay = Proxy::unix(redis.socket());
    let ask = || {
        let mut stream = UnixStream::connect(relay.path()).unwrap();
        let mut reply = Vec::new();
        let _ = stream.write_all(b"GET k\r\n");
        let mut buffer = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            reply.extend_from_slice(&buffer[..count]);
            if reply.ends_with(b"9\r\n") {
                break;
            }
        }
        reply
    };
    let whole = b"$10\r\n0123456789\r\n";
    assert_eq!(ask(), whole);
    relay.disturb(1, 5_000, 0, 0);
    let replies: Vec<Vec<u8>> = (0..50).map(|_| ask()).collect();
    assert!(replies.iter().all(|reply| whole.starts_with(reply)));
    assert!(replies.iter().any(|reply| !reply.is_empty() && reply.len() < whole.len()));
}
