//! Jobs as workers take them: once at a time, again after a while, and not for ever.

use std::time::{Duration, Instant};

use pg_cache_e2e::jobs::{ack, dequeue, sent, standing, take, try_dequeue};
use pg_cache_e2e::{Scene, outcome};
use pg_cache_testbed::eventually;
use postgres::Client;

const LONG: Duration = Duration::from_secs(20);

fn put(client: &mut Client, calls: &[&str]) {
    for call in calls {
        client.batch_execute(&format!("SELECT redis_enqueue({call})")).unwrap();
    }
    sent(client);
}

#[test]
fn a_job_is_handed_out_once_and_gone_when_it_is_acknowledged() {
    // Danger: two workers send one mail each; or a job that is done comes again.
    let scene = Scene::new();
    let (mut client, mut other) = (scene.connect(), scene.connect());
    put(&mut client, &["'q', '1'", "'q', '{\"a\": \"é\"}', id => 'b'", "'q', '3'"]);
    assert_eq!(standing(&mut client, "q"), Some([3, 0, 0, 0]));
    let first = dequeue(&mut client, "q", ", 2");
    assert_eq!(first[0].payload, "1");
    assert_eq!((&first[1].id[..], &first[1].payload[..]), ("b", "{\"a\": \"é\"}"));
    assert!(first.iter().all(|job| job.attempt == 1), "{first:?}");
    assert_eq!(take(&mut other, "q", ", 10"), ["3"], "what is left");
    assert_eq!(take(&mut client, "q", ", 10"), [""; 0]);
    assert_eq!(standing(&mut client, "q"), Some([0, 3, 0, 0]));
    let ids: Vec<&str> = first.iter().map(|job| &job.id[..]).collect();
    assert_eq!(ack(&mut client, "q", &ids).unwrap(), 2);
    assert_eq!(standing(&mut client, "q"), Some([0, 1, 0, 0]));
    let at = "SELECT count(*) FROM redis_dequeue('q', 10) AS j WHERE enqueued_at > now()";
    assert_eq!(client.query_one(at, &[]).unwrap().get::<_, i64>(0), 0);
}

#[test]
fn no_two_workers_have_one_job_at_a_time() {
    // Danger: as above, when many ask at the same moment.
    const JOBS: usize = 300;
    let scene = Scene::new();
    let mut client = scene.connect();
    let all =
        format!("SELECT redis_enqueue('q', to_jsonb(n)) FROM generate_series(1, {JOBS}) AS n");
    client.batch_execute(&all).unwrap();
    let taken: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            let (mut worker, mut mine) = (scene.connect(), Vec::new());
            loop {
                let some = take(&mut worker, "q", ", 3, wait => 1");
                if some.is_empty() {
                    return mine;
                }
                mine.extend(some);
            }
        };
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let different: std::collections::BTreeSet<&String> = taken.iter().collect();
    assert_eq!((taken.len(), different.len()), (JOBS, JOBS));
}

#[test]
fn a_job_of_the_trigger_is_a_job_like_any_other() {
    // Danger: two kinds of jobs on one queue, and workers that know one of them.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY);
             CREATE TRIGGER j AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION redis_job('q');
             CREATE TRIGGER k AFTER INSERT ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_job('q', 'durable');
             INSERT INTO t VALUES (7)",
        )
        .unwrap();
    sent(&mut client);
    let jobs = dequeue(&mut client, "q", ", 10");
    assert_eq!(jobs.len(), 2);
    assert!(jobs.iter().all(|job| job.payload.contains("\"new\": {\"id\": 7}")), "{jobs:?}");
    for job in &jobs {
        assert_eq!(ack(&mut client, "q", &[&job.id]).unwrap(), 1);
    }
    assert_eq!(standing(&mut client, "q"), Some([0, 0, 0, 0]));
}

#[test]
fn a_job_waits_for_its_time_and_comes_in_that_order() {
    // Danger: a reminder that comes at once, or never.
    let scene = Scene::new();
    let mut client = scene.connect();
    put(&mut client, &["'q', '3', '1200 ms'", "'q', '2', '800 ms'", "'q', '9', '1 hour'"]);
    assert_eq!(take(&mut client, "q", ", 10"), [""; 0], "not yet");
    assert_eq!(standing(&mut client, "q"), Some([0, 0, 3, 0]));
    let started = Instant::now();
    assert_eq!(take(&mut client, "q", ", 10, 10"), ["2"], "waits until it is due");
    assert_eq!(take(&mut client, "q", ", 10, 10"), ["3"]);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(standing(&mut client, "q"), Some([0, 2, 1, 0]));
}

#[test]
fn an_id_that_is_known_adds_nothing() {
    // Danger: a client that tries again pays twice.
    let scene = Scene::new();
    let mut client = scene.connect();
    let twice = ["'q', '1', id => 'a'", "'q', '2', id => 'a'", "'q', '3', '1 hour', 'a'"];
    put(&mut client, &twice);
    assert_eq!(standing(&mut client, "q"), Some([1, 0, 0, 0]), "while it is queued");
    assert_eq!(take(&mut client, "q", ", 10"), ["1"]);
    put(&mut client, &twice);
    assert_eq!(standing(&mut client, "q"), Some([0, 1, 0, 0]), "in flight");
    ack(&mut client, "q", &["a"]).unwrap();
    put(&mut client, &twice);
    assert_eq!(standing(&mut client, "q"), Some([0, 0, 0, 0]), "done not long ago");
    put(&mut client, &["'q', '1', '1 hour', 'b'", "'q', '2', 0, 'b'"]);
    assert_eq!(standing(&mut client, "q"), Some([0, 0, 1, 0]), "delayed");
    put(&mut client, &["'q', '1', id => 'c'"]);
    scene.redis.cli(&["XTRIM", "q", "MAXLEN", "0"]);
    put(&mut client, &["'q', '2', id => 'c'", "'q', '3', id => 'c'"]);
    assert_eq!(take(&mut client, "q", ", 10"), ["2"], "the first one was deleted");
}

#[test]
fn a_job_that_is_not_acknowledged_comes_again_and_then_is_given_up() {
    // Danger: a worker dies and its job with it; or a job that kills workers does so for ever.
    let scene = Scene::new();
    let (mut client, mut other) = (scene.connect(), scene.connect());
    for client in [&mut client, &mut other] {
        let short = "SET pg_cache.queue_visibility_ms = 300; SET pg_cache.queue_attempts_max = 2";
        client.batch_execute(short).unwrap();
    }
    put(&mut client, &["'q', '1'"]);
    let first = dequeue(&mut client, "q", "");
    assert_eq!(take(&mut other, "q", ""), [""; 0], "still somebody's");
    let again = dequeue(&mut other, "q", ", wait => 10");
    assert_eq!((&again[0].id, again[0].attempt), (&first[0].id, 2));
    assert_eq!(take(&mut client, "q", ", wait => 1"), [""; 0]);
    assert_eq!(standing(&mut client, "q"), Some([0, 0, 0, 1]));
    let sql = "SELECT id, payload, attempts, error FROM redis_dead('q')";
    let dead = client.query_one(sql, &[]).unwrap();
    assert_eq!(dead.get::<_, String>(0), first[0].id);
    assert_eq!(dead.get::<_, String>(1), "1");
    assert_eq!(dead.get::<_, i32>(2), 2);
    assert_eq!(dead.get::<_, String>(3), "not acknowledged in time");
    let requeue = |client: &mut Client, id: &str| -> bool {
        client.query_one("SELECT redis_requeue('q', $1)", &[&id]).unwrap().get(0)
    };
    assert!(requeue(&mut client, &first[0].id));
    assert!(!requeue(&mut client, &first[0].id), "only once");
    let third = dequeue(&mut client, "q", "");
    assert_eq!((&third[0].id, third[0].attempt), (&first[0].id, 1));
    assert_eq!(ack(&mut client, "q", &[&third[0].id]).unwrap(), 1);
    assert_eq!(standing(&mut client, "q"), Some([0, 0, 0, 0]));
}

#[test]
fn a_failed_job_comes_later_and_later_and_keeps_its_error() {
    // Danger: a job that fails is tried a thousand times a second, and nobody knows why it fails.
    let scene = Scene::new();
    let mut client = scene.connect();
    let set = "SET pg_cache.queue_backoff_ms = 200; SET pg_cache.queue_attempts_max = 3";
    client.batch_execute(set).unwrap();
    put(&mut client, &["'q', '{\"a\": 1}', id => 'a'"]);
    let mut waits = Vec::new();
    for attempt in 1..=3 {
        let started = Instant::now();
        let job = dequeue(&mut client, "q", ", wait => 10");
        waits.push(started.elapsed());
        assert_eq!(job[0].attempt, attempt);
        let nack = format!("SELECT redis_nack('q', 'a', error => 'no: {attempt} é')");
        client.batch_execute(&nack).unwrap();
        let expected = if attempt < 3 { [0, 0, 1, 0] } else { [0, 0, 0, 1] };
        assert_eq!(standing(&mut client, "q"), Some(expected));
    }
    assert!(waits[1] >= Duration::from_millis(150), "{waits:?}");
    assert!(waits[2] >= Duration::from_millis(350), "{waits:?}");
    assert!(waits[2] < Duration::from_secs(3), "{waits:?}");
    let dead = client.query_one("SELECT error, payload FROM redis_dead('q')", &[]).unwrap();
    assert_eq!(dead.get::<_, String>(0), "no: 3 é");
    assert_eq!(dead.get::<_, String>(1), "{\"a\": 1}");
    // With a delay of its own; and what is nobody's is left alone.
    put(&mut client, &["'q', '2', id => 'b'"]);
    assert_eq!(take(&mut client, "q", ""), ["2"]);
    client.batch_execute("SELECT redis_nack('q', 'b', 0), redis_nack('q', 'b', 0)").unwrap();
    assert_eq!(take(&mut client, "q", ""), ["2"]);
    client.batch_execute("SELECT redis_nack('q', 'b', '1 hour', repeat('é', 3000))").unwrap();
    assert_eq!(take(&mut client, "q", ""), [""; 0]);
    client.batch_execute("SELECT redis_nack('q', 'nobody')").unwrap();
}

#[test]
fn an_entry_that_is_no_job_is_given_up_and_in_nobodys_way() {
    // Danger: one bad entry of some program, and the queue stands still for ever.
    let scene = Scene::new();
    let mut client = scene.connect();
    let add = |fields: &[&str]| {
        scene.redis.cli(&[&["XADD", "q", "*"], fields].concat());
    };
    add(&["id", "a", "payload", "{no json"]);
    add(&["id", "b"]);
    add(&["payload", "\"no id\""]);
    add(&["id", &"x".repeat(1000), "payload", "1"]);
    add(&["id", "c", "payload", "\"\\u0000\""]);
    add(&["id", "", "payload", "1"]);
    add(&["id", "d", "payload", "4"]);
    let jobs = dequeue(&mut client, "q", ", 10");
    assert_eq!(jobs.iter().map(|j| &j.payload[..]).collect::<Vec<_>>(), ["\"no id\"", "4"]);
    assert!(jobs[0].id.contains('-'), "the entry's own id: {jobs:?}");
    assert_eq!(standing(&mut client, "q"), Some([0, 2, 0, 5]));
    let sql = "SELECT string_agg(DISTINCT error, '|' ORDER BY error) FROM redis_dead('q')";
    let errors: String = client.query_one(sql, &[]).unwrap().get(0);
    assert_eq!(
        errors,
        "the entry has no payload|the id is empty|the id is too long|the payload is no JSON"
    );
    ack(&mut client, "q", &[&jobs[0].id, &jobs[1].id]).unwrap();
    assert_eq!(standing(&mut client, "q"), Some([0, 0, 0, 5]));
}

#[test]
fn a_wait_ends_with_a_job_a_cancel_a_timeout_or_a_termination() {
    // Danger: a worker that cannot be stopped, or one that sleeps while jobs wait.
    let scene = Scene::new();
    let (mut client, mut worker) = (scene.connect(), scene.connect());
    let waits = "SELECT count(*) FROM pg_stat_activity
                  WHERE datname = current_database() AND query LIKE '%redis_dequeue%'
                    AND state = 'active' AND pid <> pg_backend_pid()";
    let is_waiting =
        |client: &mut Client| client.query_one(waits, &[]).unwrap().get::<_, i64>(0) > 0;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let got = take(&mut worker, "q", ", wait => 30");
            (got, Instant::now(), worker)
        });
        eventually(LONG, "it waits", || is_waiting(&mut client));
        let put_at = Instant::now();
        put(&mut client, &["'q', '1'"]);
        let (got, at, mut worker) = waiting.join().unwrap();
        assert_eq!(got, ["1"]);
        println!("a job reached a waiting worker within {:?}", at - put_at);
        let timed = "SET statement_timeout = 300";
        worker.batch_execute(timed).unwrap();
        let started = Instant::now();
        let error = try_dequeue(&mut worker, "q", ", wait => 30").unwrap_err();
        assert_eq!(outcome::sqlstate(&error), "57014");
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        worker.batch_execute("SET statement_timeout = 0; SELECT redis_ping()").unwrap();
        for (end, state) in [("cancel", "57014"), ("terminate", "57P01")] {
            let waiting = scope.spawn(|| {
                let error = try_dequeue(&mut worker, "q", ", wait => 30").unwrap_err();
                // The connection may be gone before its last words are read.
                let state = error.code().map_or("57P01", |code| code.code()).to_owned();
                (state, Instant::now(), worker)
            });
            eventually(LONG, "it waits", || is_waiting(&mut client));
            let stopped_at = Instant::now();
            let stop =
                format!("SELECT pg_{end}_backend(pid) {}", &waits["SELECT count(*) ".len()..]);
            client.batch_execute(&stop).unwrap();
            let (found, at, back) = waiting.join().unwrap();
            assert_eq!(found, state, "{end}");
            assert!(at - stopped_at < Duration::from_secs(1), "{end}: {:?}", at - stopped_at);
            worker = back;
            if end == "cancel" {
                worker.batch_execute("SELECT redis_ping()").unwrap();
            }
        }
    });
}

#[test]
fn what_is_wrong_is_an_error_and_a_redis_that_is_away_too() {
    // Danger: a worker that takes no answer for no jobs, and idles while the queue grows.
    let scene = Scene::new();
    let mut client = scene.connect();
    scene.redis.cli(&["SET", "text", "x"]);
    for (call, state) in [
        ("redis_dequeue(NULL)", "22004"),
        ("redis_dequeue('')", "22023"),
        ("redis_dequeue('pgc:q')", "42939"),
        ("redis_dequeue('q', 0)", "22023"),
        ("redis_dequeue('q', -1)", "22023"),
        ("redis_dequeue('q', 100000)", "22023"),
        ("redis_dequeue('q', NULL)", "22004"),
        ("redis_dequeue('q', 1, -1)", "22023"),
        ("redis_dequeue('q', 1, 'soon')", "22023"),
        ("redis_dequeue('q', consumer => '')", "22023"),
        ("redis_dequeue('text')", "42804"),
        ("redis_ack('q', NULL)", "22004"),
        ("redis_ack('q', '')", "22023"),
        ("redis_ack('q', 'unknown')", "40001"),
        ("redis_nack('q', NULL)", "22004"),
        ("redis_nack('q', 'a', -1)", "22023"),
        ("redis_nack('q', repeat('x', 300))", "54000"),
        ("redis_requeue('q', NULL)", "22004"),
        ("redis_dead('q', 0)", "22023"),
    ] {
        let error = client.batch_execute(&format!("SELECT {call}")).unwrap_err();
        assert_eq!(outcome::sqlstate(&error), state, "{call}");
    }
    assert_eq!(ack(&mut client, "q", &[]).unwrap(), 0);
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(take(&mut client, "q", ""), [""; 0], "a full Redis hands out what it has");
    scene.redis.freeze();
    for call in ["redis_dequeue('q')", "redis_ack('q', 'a')", "redis_nack('q', 'a')"] {
        let started = Instant::now();
        let error = client.batch_execute(&format!("SELECT {call}")).unwrap_err();
        let state = outcome::sqlstate(&error);
        assert!(state.starts_with("08"), "{call}: {state}");
        assert!(started.elapsed() < Duration::from_secs(3), "{call}");
    }
    scene.redis.thaw();
}

#[test]
fn after_flushall_a_queue_begins_anew() {
    // Danger: a worker or the relay that knows of a group which is gone fails until it restarts.
    let scene = Scene::new();
    let mut client = scene.connect();
    put(&mut client, &["'q', '1'", "'q', '2', '1 hour', 'b'"]);
    let job = dequeue(&mut client, "q", "").remove(0);
    scene.redis.cli(&["FLUSHALL"]);
    assert_eq!(take(&mut client, "q", ", 10"), [""; 0]);
    let error = ack(&mut client, "q", &[&job.id]).unwrap_err();
    assert_eq!(outcome::sqlstate(&error), "40001", "its effects are rolled back");
    put(&mut client, &["'q', '3'", "'q', '4', id => 'b'"]);
    assert_eq!(take(&mut client, "q", ", 10"), ["3", "4"]);
}

#[test]
fn who_may_put_jobs_need_not_be_able_to_take_them() {
    // Danger: the role of a web application reads every mail that is to be sent.
    let scene = Scene::new();
    let mut admin = scene.connect();
    let role = scene.create_role("web");
    let grant = "GRANT EXECUTE ON FUNCTION redis_enqueue(text, jsonb, \"any\", text, text) TO";
    let mut client = scene.connect_as(&role);
    let denied = |client: &mut Client, call: &str| {
        let error = client.batch_execute(&format!("SELECT {call}")).unwrap_err();
        assert_eq!(outcome::sqlstate(&error), "42501", "{call}");
    };
    denied(&mut client, "redis_enqueue('q', '1')");
    admin.batch_execute(&format!("{grant} {role}")).unwrap();
    client.batch_execute("SELECT redis_enqueue('q', '1')").unwrap();
    for call in [
        "redis_dequeue('q')",
        "redis_ack('q', 'a')",
        "redis_nack('q', 'a')",
        "redis_requeue('q', 'a')",
        "redis_dead('q')",
        "redis_queues_json()",
        "FROM redis_queues",
        "FROM redis_job_done",
        "redis_flush()",
    ] {
        denied(&mut client, call);
    }
    // And who may take and acknowledge them needs no right to the table.
    let worker = scene.create_role("worker");
    admin
        .batch_execute(&format!(
            "GRANT EXECUTE ON FUNCTION redis_dequeue(text, integer, \"any\", text),
                                       redis_ack(text, text[]) TO {worker}"
        ))
        .unwrap();
    sent(&mut admin);
    let mut client = scene.connect_as(&worker);
    let job = dequeue(&mut client, "q", ", wait => 5").remove(0);
    assert_eq!(ack(&mut client, "q", &[&job.id]).unwrap(), 1);
    denied(&mut client, "redis_enqueue('q', '1')");
}
