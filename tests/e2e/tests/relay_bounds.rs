//! What the worker takes of memory and time, whatever waits, was deleted, or is called how.
//!
//! `PG_CACHE_STREAMS=250000` lets events pass into that many streams.

use std::time::Duration;

use pg_cache_core::message::codec;
use pg_cache_e2e::Scene;
use pg_cache_e2e::outbox::{append, events, put, rows, wake};
use pg_cache_e2e::registry::{WORKERS, count, repair};
use pg_cache_testbed::eventually;
use postgres::Client;

const SOON: Duration = Duration::from_secs(30);

/// What the process of the worker took of memory at most.
fn most_bytes(client: &mut Client) -> u64 {
    let pid = count(client, &WORKERS.replacen("count(*)", "max(pid)::bigint", 1));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn large_messages_aside_take_no_memory() {
    // Danger: events that compress well are put aside, and each look at them takes what they were
    // before: the system kills the worker, and with it every session of the server.
    const MESSAGES: u64 = 200;
    const MESSAGE_BYTES: usize = 2 * 1024 * 1024;
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.quiet();
    scene.redis.cli(&["RPUSH", "bad", "a list"]);
    let message = codec::encode(&append("bad", &"x".repeat(MESSAGE_BYTES)));
    let aside = format!(
        "INSERT INTO redis_outbox SELECT n - (1::bigint << 62), '700', n, now(), $1
           FROM generate_series(1, {MESSAGES}) AS n"
    );
    client.execute(&aside, &[&message]).unwrap();
    put(&mut client, &[append("good", "0")]);
    eventually(SOON, "what is aside was tried, and then what is new", || {
        wake(&mut client);
        events(&scene.redis, "good") == ["0"]
    });
    let most = most_bytes(&mut client);
    assert!(most < MESSAGES * MESSAGE_BYTES as u64 / 2, "{most} bytes");
    assert_eq!(rows(&mut client), MESSAGES as i64);
}

#[test]
fn rows_that_were_deleted_are_not_walked_again_and_again() {
    // Danger: a forgotten transaction keeps millions of deleted rows from VACUUM, and each look of
    // the worker, ten times a second, goes through all of them.
    const EVENTS: usize = 4000;
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    let mut forgotten = scene.connect();
    forgotten
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; CREATE TABLE own (v int); SELECT 1")
        .unwrap();
    put(&mut client, &vec![append("s", "0"); EVENTS]);
    let walked = "SELECT idx_tup_read FROM pg_stat_user_indexes
                   WHERE indexrelname = 'redis_outbox_pkey'";
    eventually(SOON, "delivered", || {
        wake(&mut client);
        rows(&mut client) == 0
    });
    for who in ["the same", "a new one"] {
        let before = count(&mut client, walked);
        for _ in 0..15 {
            wake(&mut client);
            std::thread::sleep(Duration::from_millis(100));
        }
        // Of itself it looks through all once a second.
        let times = (count(&mut client, walked) - before) / EVENTS as i64;
        assert!(times <= 4, "{who}: walked {times} times");
        put(&mut client, &[append(who, "0")]);
        eventually(SOON, "it goes on", || {
            wake(&mut client);
            events(&scene.redis, who) == ["0"]
        });
        if who == "the same" {
            scene.quiet();
        }
    }
}

#[test]
fn any_number_of_streams_has_each_event_once() {
    // Danger: a stream for each customer: the worker remembers all of them for ever, or forgets one
    // with what it appended there last.
    let streams = std::env::var("PG_CACHE_STREAMS").map_or(3000, |many| many.parse().unwrap());
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.quiet();
    // One dies behind its first batch, before it has deleted the rows.
    scene.set_faults("relay.deleted:exit");
    let all: Vec<_> = (0..streams).map(|n| append(&format!("s:{n}"), "0")).collect();
    put(&mut client, &all);
    wake(&mut client);
    eventually(SOON, "it began", || !events(&scene.redis, "s:0").is_empty());
    scene.quiet();
    scene.set_faults("");
    put(&mut client, &all);
    eventually(4 * SOON, "delivered", || {
        wake(&mut client);
        rows(&mut client) == 0
    });
    for n in (0..streams).step_by(streams / 300) {
        assert_eq!(events(&scene.redis, &format!("s:{n}")), ["0", "0"], "{n}");
    }
    println!("{streams} streams took {} bytes at most", most_bytes(&mut client));
}
