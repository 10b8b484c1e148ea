//! The relay and messages that end its connection: they wait aside, and nobody waits for them.

use std::time::Duration;

use pg_cache_core::message::Message;
use pg_cache_e2e::outbox::{append, events, put, rows, wake};
use pg_cache_e2e::registry::{count, repair};
use pg_cache_testbed::{Pair, Redis, eventually};
use postgres::Client;

const SOON: Duration = Duration::from_secs(30);

const ASIDE: &str = "SELECT count(*) FROM redis_outbox WHERE number < -(1::bigint << 61)";

fn put_aside(client: &mut Client, wanted: i64) {
    eventually(SOON, "put aside", || {
        wake(client);
        count(client, ASIDE) == wanted
    });
}

/// How often Redis was asked for a list.
fn asked(redis: &Redis) -> u64 {
    let told = redis.cli(&["INFO", "commandstats"]);
    let calls = told.split("cmdstat_lrange:calls=").nth(1);
    calls.and_then(|rest| rest.split(',').next()).map_or(0, |calls| calls.parse().unwrap())
}

#[track_caller]
fn arrives(client: &mut Client, redis: &Redis, stream: &str) {
    put(client, &[append(stream, "0")]);
    eventually(SOON, stream, || {
        wake(client);
        events(redis, stream) == ["0"]
    });
}

#[test]
fn what_ends_the_connection_stops_nobody_else() {
    // Danger: one message whose answer is too long, or on which Redis hangs up, is tried again
    // before all others, and no durable event of the database leaves any more.
    let conf = [("max_worker_processes", "16"), ("max_prepared_transactions", "5")];
    let pair = Pair::start_with(&conf, &[]);
    let mut client = pair.postgres.connect();
    repair(&mut client);
    let redis = &pair.redis;
    let megabyte = "x".repeat(1024 * 1024);
    let mut list = redis::cmd("RPUSH");
    list.arg("big").arg(&[&megabyte[..]; 9]).exec(&mut redis.client()).unwrap();
    let command = "redis_at_commit('LRANGE', 'big', '0', '-1')";
    client.batch_execute(&format!("BEGIN; SELECT {command}; PREPARE TRANSACTION 'p'")).unwrap();
    client.batch_execute("COMMIT PREPARED 'p'").unwrap();
    put_aside(&mut client, 1);
    redis.cli(&["RPUSH", "bad", "a list"]);
    put(&mut client, &[append("bad", "0")]);
    put_aside(&mut client, 2);
    // As an earlier release left it.
    let arguments = vec![b"POST"[..].into(), b"x"[..].into()];
    put(&mut client, &[Message::Command { arguments }, append("good", "0")]);
    put_aside(&mut client, 3);
    let before = asked(redis);
    eventually(SOON, "they are tried again", || {
        wake(&mut client);
        asked(redis) > before
    });
    arrives(&mut client, redis, "after they were tried again");
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE backend_type = 'pg_cache worker'";
    assert_eq!(count(&mut client, end), 1);
    arrives(&mut client, redis, "after the worker restarted");
    redis.cli(&["DEL", "bad"]);
    eventually(SOON, "another that was put aside is sent", || {
        wake(&mut client);
        events(redis, "bad") == ["0"]
    });
    redis.cli(&["DEL", "big"]);
    eventually(SOON, "and what no longer ends it", || {
        wake(&mut client);
        rows(&mut client) == 1
    });
    assert_eq!(events(redis, "good"), ["0"]);
}
