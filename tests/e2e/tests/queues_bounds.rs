//! Queues with much in them: what one call moves has a bound, and nothing is lost at the bound.

use std::collections::BTreeSet;
use std::time::Duration;

use pg_cache_core::queue::QueueKeys;
use pg_cache_e2e::jobs::{ack, dequeue, sent, standing};
use pg_cache_e2e::registry::count;
use pg_cache_e2e::{Scene, outbox, outcome};
use pg_cache_testbed::{Redis, eventually};
use postgres::Client;

const LONG: Duration = Duration::from_secs(20);
const ROWS: &str = "SELECT count(*) FROM redis_job_done";

/// Has this many jobs of so many bytes put on queue q, each named.
fn put_many(client: &mut Client, jobs: usize, bytes: usize) {
    client
        .batch_execute(&format!(
            "SELECT redis_enqueue('q', to_jsonb(repeat('x', {bytes})), id => 'job' || n)
               FROM generate_series(1, {jobs}) AS n"
        ))
        .unwrap();
    sent(client);
}

#[test]
fn a_batch_that_is_larger_than_a_reply_comes_in_parts() {
    // Danger: the jobs are marked as handed out, the reply is refused, and after five rounds all
    // are given up without any worker having seen one.
    const JOBS: usize = 120;
    let scene = Scene::new();
    let mut client = scene.connect();
    put_many(&mut client, JOBS, 9_000);
    let short = "SET pg_cache.value_bytes_max = '100kB'; SET pg_cache.queue_visibility_ms = 500";
    client.batch_execute(short).unwrap();
    for attempt in 1..=2 {
        let (mut seen, mut calls) = (BTreeSet::new(), 0);
        while seen.len() < JOBS {
            let jobs = dequeue(&mut client, "q", ", 1000, wait => 10");
            assert!((1..=12).contains(&jobs.len()), "{} jobs of 9 kB", jobs.len());
            calls += 1;
            for job in jobs.iter().filter(|job| job.attempt == attempt) {
                assert!(seen.insert(job.id.clone()), "{} twice", job.id);
            }
            // A new attempt of what was handed out first may come in between.
            assert!(jobs.iter().all(|job| job.attempt >= attempt), "an attempt was not counted");
            assert!(calls < 100, "{} seen", seen.len());
        }
        if attempt == 1 {
            client.batch_execute("SET pg_cache.queue_visibility_ms = 60000").unwrap();
        }
    }
    assert_eq!(standing(&mut client, "q"), Some([0, JOBS as i64, 0, 0]));
}

#[test]
fn jobs_are_handed_out_in_order_over_the_bound_and_one_too_large_is_given_up() {
    // Danger: what had no room is passed over for good; or one large job stops the queue.
    let scene = Scene::new();
    let (mut client, mut worker) = (scene.connect(), scene.connect());
    for (id, bytes) in [("a", 60_000), ("b", 60_000), ("c", 300_000), ("d", 10), ("e", 99_000)] {
        let job =
            format!("SELECT redis_enqueue('q', to_jsonb(repeat('x', {bytes})), id => '{id}')");
        client.batch_execute(&job).unwrap();
    }
    sent(&mut client);
    worker.batch_execute("SET pg_cache.value_bytes_max = '100kB'").unwrap();
    let mut take = || -> Vec<String> {
        dequeue(&mut worker, "q", ", 10").into_iter().map(|job| job.id).collect()
    };
    assert_eq!(take(), ["a"]);
    assert_eq!(take(), ["b", "d"]);
    assert_eq!(take(), ["e"]);
    assert_eq!(take(), [""; 0]);
    assert_eq!(standing(&mut client, "q"), Some([0, 4, 0, 1]));
    let sql = "SELECT id || ': ' || error FROM redis_dead('q')";
    let dead: String = worker.query_one(sql, &[]).unwrap().get(0);
    let reason = "c: the payload has 300002 bytes, more than pg_cache.value_bytes_max";
    assert_eq!(dead, reason);
    client.batch_execute("SELECT redis_requeue('q', 'c')").unwrap();
    assert_eq!(dequeue(&mut client, "q", "")[0].payload.len(), 300_002, "whole");
}

#[test]
fn names_that_are_over_go_at_least_as_fast_as_new_ones_come() {
    // Danger: the set of names that are remembered grows until Redis is full.
    const NEW: usize = 1_000;
    let scene = Scene::new();
    let mut client = scene.connect();
    put_many(&mut client, NEW, 1);
    let jobs = dequeue(&mut client, "q", ", 1000");
    let ids: Vec<&str> = jobs.iter().map(|job| &job.id[..]).collect();
    assert_eq!(ids.len(), NEW);
    let done = QueueKeys::new(b"q").done;
    let mut add = redis::cmd("ZADD");
    add.arg(&done);
    (0..5_000).for_each(|n| {
        add.arg(1).arg(format!("old{n}"));
    });
    let mut redis = scene.redis.client();
    add.exec(&mut redis).unwrap();
    assert_eq!(ack(&mut client, "q", &ids).unwrap(), NEW as i64);
    let old: usize = redis::cmd("ZCOUNT").arg(&done).arg("-inf").arg(1).query(&mut redis).unwrap();
    assert!(old <= 5_000 - NEW, "{old} are left that are over");
}

/// How many scripts Redis has run.
fn scripts(redis: &Redis) -> u64 {
    let info: String = redis::cmd("INFO").arg("commandstats").query(&mut redis.client()).unwrap();
    let calls = |line: &str| {
        let (name, rest) = line.split_once(":calls=")?;
        let is_script = ["cmdstat_eval", "cmdstat_evalsha"].contains(&name);
        rest.split(',').next().filter(|_| is_script)?.parse::<u64>().ok()
    };
    info.lines().filter_map(calls).sum()
}

#[test]
fn many_acknowledgements_are_many_short_scripts() {
    // Danger: one statement of somebody's keeps everybody else's Redis waiting.
    const JOBS: usize = 2_500;
    let scene = Scene::new();
    let mut client = scene.connect();
    put_many(&mut client, JOBS, 1);
    let mut ids = Vec::new();
    while ids.len() < JOBS {
        ids.extend(dequeue(&mut client, "q", ", 1000").into_iter().map(|job| job.id));
    }
    scene.quiet();
    let before = scripts(&scene.redis);
    let ids: Vec<&str> = ids.iter().map(|id| &id[..]).collect();
    assert_eq!(ack(&mut client, "q", &ids).unwrap(), JOBS as i64);
    let after = scripts(&scene.redis);
    assert!(after >= before + 6, "three to look, three to finish: {}", after - before);
    assert_eq!(standing(&mut client, "q"), Some([0, 0, 0, 0]));
}

#[test]
fn a_session_acknowledges_a_later_job_of_a_name_that_it_had_in_hand() {
    // Danger: behind a pool, the session that had the first job of a name refuses all later ones.
    let scene = Scene::new();
    let (mut one, mut other) = (scene.connect(), scene.connect());
    let put = |client: &mut Client| {
        client.batch_execute("SELECT redis_enqueue('q', '1', id => 'a')").unwrap();
        sent(client);
    };
    put(&mut one);
    assert_eq!(dequeue(&mut one, "q", "").len(), 1);
    ack(&mut one, "q", &["a"]).unwrap();
    // As if the hour for which the name is remembered were over.
    let forget_name = || {
        redis::cmd("DEL").arg(QueueKeys::new(b"q").done).exec(&mut scene.redis.client()).unwrap();
    };
    forget_name();
    put(&mut one);
    assert_eq!(dequeue(&mut other, "q", "").len(), 1);
    assert_eq!(ack(&mut one, "q", &["a"]).unwrap(), 1, "it was another session's");
    // And after a job that it had in hand was acknowledged by another.
    forget_name();
    put(&mut one);
    assert_eq!(dequeue(&mut one, "q", "").len(), 1);
    assert_eq!(ack(&mut scene.connect(), "q", &["a"]).unwrap(), 1);
    let late = ack(&mut one, "q", &["a"]).unwrap_err();
    assert_eq!(outcome::sqlstate(&late), "40001");
    forget_name();
    put(&mut one);
    assert_eq!(dequeue(&mut other, "q", "").len(), 1);
    assert_eq!(ack(&mut one, "q", &["a"]).unwrap(), 1, "the late one is over");
}

#[test]
fn what_is_done_is_forgotten_though_redis_refuses_some_queues() {
    // Danger: one queue that somebody overwrote, and redis_job_done grows for ever.
    let scene = Scene::new();
    let mut client = scene.connect();
    for queue in ["mails", "broken", "fine"] {
        let job = format!("SELECT redis_enqueue('{queue}', '1', id => 'a')");
        client.batch_execute(&job).unwrap();
        sent(&mut client);
        assert_eq!(dequeue(&mut client, queue, "").len(), 1);
        client.batch_execute("SET pg_cache.fault_point = 'events.send:panic'").unwrap();
        ack(&mut client, queue, &["a"]).unwrap();
        client.batch_execute("RESET pg_cache.fault_point").unwrap();
    }
    let mut redis = scene.redis.client();
    for key in [b"mails".to_vec(), QueueKeys::new(b"broken").jobs] {
        redis::cmd("SET").arg(key).arg("oops").exec(&mut redis).unwrap();
    }
    // More than one step takes, and older.
    client
        .batch_execute(
            "INSERT INTO redis_job_done SELECT (jsonb_populate_record(d, jsonb_build_object(
                 'id', 'old' || n, 'at', d.at - interval '1 day'))).*
               FROM redis_job_done AS d, generate_series(1, 1500) AS n WHERE d.queue = 'broken'",
        )
        .unwrap();
    let set = format!("ALTER DATABASE {} SET pg_cache.queue_done_keep_s = 0", scene.database());
    client.batch_execute(&set).unwrap();
    scene.quiet();
    let others = format!("{ROWS} WHERE queue <> 'broken'");
    eventually(LONG, "what can be forgotten is", || {
        client.batch_execute("SELECT redis_wake()").unwrap();
        count(&mut client, &others) == 0
    });
    assert_eq!(count(&mut client, ROWS), 1501, "and not what Redis has not confirmed");
    let left: String = redis::cmd("GET").arg("mails").query(&mut redis).unwrap();
    assert_eq!(left, "oops", "what somebody put there is theirs");
}

#[test]
fn what_is_done_is_forgotten_though_the_relay_has_work_left() {
    // Danger: a database that always has something to send, or a Redis that takes nothing for a
    // night, and redis_job_done grows for ever.
    let scene = Scene::new();
    let mut client = scene.connect();
    put_many(&mut client, 1, 1);
    assert_eq!(dequeue(&mut client, "q", "").len(), 1);
    ack(&mut client, "q", &["job1"]).unwrap();
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    client.batch_execute("SELECT redis_enqueue('q', '2')").unwrap();
    let set = format!("ALTER DATABASE {} SET pg_cache.queue_done_keep_s = 0", scene.database());
    client.batch_execute(&set).unwrap();
    // Started anew, the worker reads the setting.
    let stop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE backend_type = 'pg_cache worker' AND datname = current_database()";
    client.batch_execute(stop).unwrap();
    eventually(LONG, "what is done is forgotten", || {
        client.batch_execute("SELECT redis_wake()").unwrap();
        count(&mut client, ROWS) == 0
    });
    assert_eq!(outbox::rows(&mut client), 1, "and the relay is not through");
}
