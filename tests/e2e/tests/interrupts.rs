//! Every wait for Redis is bounded, can be cancelled within 100 ms, and shows what it waits for.

use std::time::Duration;

use pg_cache_e2e::counters::counted;
use pg_cache_e2e::outcome::sqlstate;
use pg_cache_e2e::stopwatch::{PROMPT, timed, timeout_overhead};
use pg_cache_e2e::{Scene, cached};
use pg_cache_testbed::eventually;
use pg_cache_testbed::fake::FakeRedis;
use postgres::{Client, NoTls};

const QUERY: &str = "SELECT 1 AS v";
const ANSWER: &str = r#"[{"v":1}]"#;
const LONG: &str = "SET pg_cache.timeout_ms = 20000; SET pg_cache.connect_timeout_ms = 20000";

fn backend(client: &mut Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0)
}

fn wait_event(admin: &mut Client, pid: i32) -> Option<(String, String)> {
    let sql = "SELECT wait_event_type, wait_event FROM pg_stat_activity
               WHERE pid = $1 AND state = 'active' AND wait_event IS NOT NULL";
    admin.query_opt(sql, &[&pid]).unwrap().map(|row| (row.get(0), row.get(1)))
}

fn waits(admin: &mut Client, pid: i32) -> bool {
    wait_event(admin, pid).is_some_and(|(kind, _)| kind == "Extension")
}

#[test]
fn statement_timeout_ends_a_read_of_a_frozen_redis() {
    // Danger: a hung Redis makes hung backends, and soon there are no connections left.
    let scene = Scene::alone();
    let mut client = scene.connect();
    let allowed = Duration::from_millis(200) + timeout_overhead(&mut client, 200) + PROMPT;
    for connected in [true, false] {
        let mut client = scene.connect();
        client.batch_execute(LONG).unwrap();
        if connected {
            cached(&mut client, "warm", QUERY).unwrap();
        }
        client.batch_execute("SET statement_timeout = '200ms'").unwrap();
        scene.redis.freeze();
        let (result, took) = timed(|| cached(&mut client, "k", QUERY));
        scene.redis.thaw();
        assert_eq!(result, Err("57014".into()));
        assert!(took >= Duration::from_millis(190), "{took:?}");
        assert!(took <= allowed, "took {took:?}, allowed {allowed:?}, connected: {connected}");
        client.batch_execute("SET statement_timeout = '60s'").unwrap();
        eventually(Duration::from_secs(15), "the backend is usable", || {
            counted(&mut client, |c| assert_eq!(cached(c, "k", QUERY).as_deref(), Ok(ANSWER)))
                .1
                .hits
                == 1
        });
    }
}

#[test]
fn statement_timeout_ends_a_connect_that_nobody_accepts() {
    // Danger: connect() to a full queue sleeps in the kernel and hears no cancel.
    let scene = Scene::alone();
    let fake = FakeRedis::never_accepts();
    let mut client = scene.connect();
    let allowed = Duration::from_millis(200) + timeout_overhead(&mut client, 200) + PROMPT;
    client.batch_execute(LONG).unwrap();
    client
        .batch_execute(&format!(
            "SET pg_cache.url = '{}'; SET statement_timeout = '200ms'",
            fake.url()
        ))
        .unwrap();
    let (result, took) = timed(|| cached(&mut client, "k", QUERY));
    // A connect that fails at once with EAGAIN is as good as one that is cancelled.
    assert!(result == Err("57014".into()) || result.as_deref() == Ok(ANSWER), "{result:?}");
    assert!(took <= allowed, "took {took:?}, allowed {allowed:?}");
}

/// Freezes Redis, starts a call in a thread, waits until it waits, and does `interrupt`. Returns
/// how long the call went on after that, and what it came to.
fn interrupted(scene: &Scene, interrupt: &str) -> (Duration, Option<String>) {
    let mut admin = scene.connect();
    let mut client = scene.connect();
    client.batch_execute(LONG).unwrap();
    cached(&mut client, "warm", QUERY).unwrap();
    let pid = backend(&mut client);
    scene.redis.freeze();
    let call = std::thread::spawn(move || {
        let result = client.query_one("SELECT redis_cached('k', 60, 'SELECT 1 AS v')::text", &[]);
        (std::time::Instant::now(), result)
    });
    eventually(Duration::from_secs(5), "the call waits for Redis", || waits(&mut admin, pid));
    let start = std::time::Instant::now();
    admin.query_one(&format!("SELECT {interrupt}($1)"), &[&pid]).unwrap();
    let (end, result) = call.join().unwrap();
    scene.redis.thaw();
    let error = result.expect_err("it was interrupted");
    (end - start, error.code().map(|code| code.code().to_owned()))
}

/// How long `interrupt` takes to end a statement that only sleeps.
fn interrupt_baseline(scene: &Scene, interrupt: &str) -> Duration {
    let mut admin = scene.connect();
    let mut client = scene.connect();
    let pid = backend(&mut client);
    let sleep = std::thread::spawn(move || {
        client.batch_execute("SELECT pg_sleep(30)").unwrap_err();
        std::time::Instant::now()
    });
    eventually(Duration::from_secs(5), "it sleeps", || {
        wait_event(&mut admin, pid).is_some_and(|w| w.1 == "PgSleep")
    });
    let start = std::time::Instant::now();
    admin.query_one(&format!("SELECT {interrupt}($1)"), &[&pid]).unwrap();
    sleep.join().unwrap() - start
}

#[test]
fn pg_cancel_backend_and_pg_terminate_backend_end_a_read_of_a_frozen_redis() {
    // Danger: an administrator cannot get rid of a hung backend without a crash of all.
    let scene = Scene::alone();
    for (interrupt, code) in [("pg_cancel_backend", "57014"), ("pg_terminate_backend", "57P01")] {
        let allowed = interrupt_baseline(&scene, interrupt) + PROMPT;
        let (took, got) = interrupted(&scene, interrupt);
        assert!(took <= allowed, "{interrupt}: took {took:?}, allowed {allowed:?}");
        assert!(got.is_none_or(|got| got == code), "{interrupt}");
    }
}

#[test]
fn a_client_that_cancels_is_heard() {
    // Danger: Ctrl-C in psql does nothing.
    let scene = Scene::alone();
    let mut admin = scene.connect();
    let mut client = scene.connect();
    client.batch_execute(LONG).unwrap();
    let pid = backend(&mut client);
    scene.redis.freeze();
    let token = client.cancel_token();
    let call = std::thread::spawn(move || {
        let result = client.query_one("SELECT redis_cached('k', 60, 'SELECT 1 AS v')::text", &[]);
        (std::time::Instant::now(), sqlstate(&result.unwrap_err()))
    });
    eventually(Duration::from_secs(5), "the call waits for Redis", || waits(&mut admin, pid));
    let start = std::time::Instant::now();
    token.cancel_query(NoTls).unwrap();
    let (end, code) = call.join().unwrap();
    scene.redis.thaw();
    assert_eq!(code, "57014");
    assert!(end - start <= PROMPT * 3, "{:?}", end - start);
}

#[test]
fn timeout_ms_ends_the_wait_and_the_query_answers() {
    // Danger: the cache makes a call slower than no cache, without bound.
    let scene = Scene::alone();
    for timeout_ms in [50, 300] {
        let mut client = scene.connect();
        cached(&mut client, "warm", QUERY).unwrap();
        client.batch_execute(&format!("SET pg_cache.timeout_ms = {timeout_ms}")).unwrap();
        scene.redis.freeze();
        let ((answer, took), counters) = counted(&mut client, |c| timed(|| cached(c, "k", QUERY)));
        scene.redis.thaw();
        assert_eq!(answer.as_deref(), Ok(ANSWER));
        assert_eq!(counters.reason("timeout"), 1, "{counters:?}");
        let limit = Duration::from_millis(timeout_ms);
        assert!(took >= limit * 9 / 10, "took {took:?} of {limit:?}");
        assert!(took <= limit + PROMPT, "took {took:?} of {limit:?}");
    }
}

#[test]
fn a_server_that_drips_does_not_stretch_the_timeout() {
    // Danger: a deadline for each read is no deadline for the reply.
    let scene = Scene::alone();
    let listener = Dripping::start();
    let mut client = scene.connect();
    client
        .batch_execute(&format!(
            "SET pg_cache.timeout_ms = 200; SET pg_cache.connect_timeout_ms = 200;
             SET pg_cache.url = 'unix://{}'",
            listener.path.display()
        ))
        .unwrap();
    let ((answer, took), counters) = counted(&mut client, |c| timed(|| cached(c, "k", QUERY)));
    assert_eq!(answer.as_deref(), Ok(ANSWER));
    assert_eq!(counters.reason("timeout"), 1, "{counters:?}");
    assert!(took <= Duration::from_millis(400) + PROMPT, "{took:?}");
}

/// Sends one byte of a long bulk string every 20 ms, to whoever connects.
struct Dripping {
    path: std::path::PathBuf,
}

impl Dripping {
    fn start() -> Dripping {
        use std::io::Write;
        let path = std::env::temp_dir().join(format!("pg_cache_drip_{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&path, open).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = stream;
                std::thread::spawn(move || {
                    let start = stream.write_all(b"$1000000\r\n");
                    let mut alive = start.is_ok();
                    while alive {
                        alive = stream.write_all(b"x").is_ok();
                        std::thread::sleep(Duration::from_millis(20));
                    }
                });
            }
        });
        Dripping { path }
    }
}

impl Drop for Dripping {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn the_wait_event_is_visible() {
    // Danger: a backend that waits for Redis looks like one that works.
    let scene = Scene::new();
    let mut admin = scene.connect();
    let mut client = scene.connect();
    client.batch_execute("SET pg_cache.timeout_ms = 3000").unwrap();
    cached(&mut client, "warm", QUERY).unwrap();
    let pid = backend(&mut client);
    scene.redis.freeze();
    let call = std::thread::spawn(move || cached(&mut client, "k", QUERY));
    let mut seen = None;
    eventually(Duration::from_secs(2), "a wait event", || {
        seen = wait_event(&mut admin, pid);
        seen.is_some()
    });
    scene.redis.thaw();
    assert_eq!(call.join().unwrap().as_deref(), Ok(ANSWER));
    let (kind, name) = seen.unwrap();
    assert_eq!(kind, "Extension");
    if scene.postgres().cluster().major() >= 17 {
        assert!(name.starts_with("PgCacheRedis"), "{name}");
    }
}

#[test]
fn a_cancel_is_never_answered_by_the_reply_to_the_question_before() {
    // Danger: the reply arrives after the cancel and is read by the next call.
    let scene = Scene::new();
    let mut client = scene.connect();
    for key in ["a", "b"] {
        cached(&mut client, key, &format!("SELECT '{key}' AS v")).unwrap();
    }
    client.batch_execute(LONG).unwrap();
    for _ in 0..5 {
        scene.redis.freeze();
        client.batch_execute("SET statement_timeout = '30ms'").unwrap();
        assert_eq!(cached(&mut client, "a", "SELECT 'a' AS v"), Err("57014".into()));
        client.batch_execute("SET statement_timeout = '60s'").unwrap();
        scene.redis.thaw();
        for key in ["b", "a", "b"] {
            let answer = cached(&mut client, key, &format!("SELECT '{key}' AS v"));
            assert_eq!(answer, Ok(format!(r#"[{{"v":"{key}"}}]"#)));
        }
    }
}

#[test]
fn a_cancel_while_the_query_computes_leaves_no_lease_that_others_wait_for() {
    // Danger: one impatient user makes everybody else wait for lease_timeout_ms.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE FUNCTION slow() RETURNS int STABLE LANGUAGE plpgsql
             AS 'BEGIN PERFORM pg_sleep(0.3); RETURN 1; END'",
        )
        .unwrap();
    client.batch_execute("SET statement_timeout = '100ms'").unwrap();
    assert_eq!(cached(&mut client, "k", "SELECT slow() AS v"), Err("57014".into()));
    let mut other = scene.connect();
    let ((answer, took), counters) =
        counted(&mut other, |c| timed(|| cached(c, "k", "SELECT slow() AS v")));
    assert_eq!(answer.as_deref(), Ok(ANSWER));
    assert_eq!(counters.fills, 1, "{counters:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

/// Freezes Redis while the query of a fill runs. The value is larger than what the kernel holds of
/// a socket, so that sending it waits. Returns what the call came to and how long it took.
fn fill_into_a_frozen_redis(settings: &str) -> (Result<usize, String>, Duration) {
    let scene = Scene::alone();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE FUNCTION slow() RETURNS text STABLE LANGUAGE plpgsql
             AS 'BEGIN PERFORM pg_sleep(0.3); RETURN repeat(''x'', 4000000); END'",
        )
        .unwrap();
    cached(&mut client, "warm", QUERY).unwrap();
    client.batch_execute(settings).unwrap();
    let call = std::thread::spawn(move || timed(|| cached(&mut client, "k", "SELECT slow() AS v")));
    let mut redis = scene.redis.client();
    eventually(Duration::from_secs(5), "the lease is taken", || {
        let leases: Vec<String> = redis::cmd("KEYS").arg("pgc:l:*").query(&mut redis).unwrap();
        !leases.is_empty()
    });
    scene.redis.freeze();
    let (result, took) = call.join().unwrap();
    scene.redis.thaw();
    (result.map(|answer| answer.len()), took)
}

#[test]
fn sending_a_large_value_is_bounded_too() {
    // Danger: only replies have a deadline; a peer that does not read holds the backend for ever.
    let (result, took) = fill_into_a_frozen_redis("SET pg_cache.timeout_ms = 200");
    assert!(result.is_ok_and(|bytes| bytes > 4_000_000));
    assert!(took < Duration::from_millis(300 + 200 + 400), "{took:?}");
}

#[test]
fn sending_a_large_value_can_be_cancelled() {
    // Danger: a cancel is heard while waiting for a reply only.
    let settings = "SET pg_cache.timeout_ms = 20000; SET statement_timeout = '600ms'";
    let (result, took) = fill_into_a_frozen_redis(settings);
    assert_eq!(result, Err("57014".into()));
    assert!(took < Duration::from_millis(600) + PROMPT * 2, "{took:?}");
}
