//! A panic or an ERROR at any fault point leaves the backend usable, the answer right and no value
//! stuck. Needs a build with the cargo feature `faults`.

use std::time::Duration;

use pg_cache_e2e::counters::{counted, keys, value};
use pg_cache_e2e::{Scene, cached};
use pg_cache_testbed::eventually;
use postgres::Client;

const POINTS: [&str; 10] = [
    "plan.analyse",
    "plan.prepare",
    "read.look",
    "read.lease",
    "read.compute",
    "read.fill",
    "client.connect",
    "client.send",
    "client.receive",
    "api.return",
];
const QUERY: &str = "SELECT v FROM t";
const ANSWER: &str = r#"[{"v":"right"}]"#;

fn scene() -> Scene {
    let scene = Scene::new();
    scene.connect().batch_execute("CREATE TABLE t AS SELECT 'right' AS v").unwrap();
    scene
}

fn pid(client: &mut Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0)
}

fn started(client: &mut Client) -> String {
    client.query_one("SELECT pg_postmaster_start_time()::text", &[]).unwrap().get(0)
}

/// Calls with the fault set. An error is one of the fault's; an answer is the right one.
#[track_caller]
fn faulty(client: &mut Client, fault: &str, sql: &str) -> bool {
    client.batch_execute(&format!("SET pg_cache.fault_point = '{fault}'")).unwrap();
    let result = client.query_one(sql, &[]);
    client.batch_execute("RESET pg_cache.fault_point").unwrap();
    match result {
        Ok(row) => {
            assert_eq!(row.get::<_, String>(0), ANSWER, "{fault}");
            false
        }
        Err(error) => {
            let db = error
                .as_db_error()
                .unwrap_or_else(|| panic!("{fault}: the backend died: {error:?}"));
            let told = format!("{db:?}");
            for trace in ["stack backtrace", "rust_begin_unwind", ".cargo/registry", "rustc/"] {
                assert!(!told.contains(trace), "{fault}: users never see a Rust backtrace: {told}");
            }
            true
        }
    }
}

/// After a fault: same backend, right answers, and soon the cache works again.
fn recovers(scene: &Scene, client: &mut Client, backend: i32, fault: &str) {
    assert_eq!(pid(client), backend, "{fault}");
    for key in ["cold", "warm", "other"] {
        assert_eq!(cached(client, key, QUERY).as_deref(), Ok(ANSWER), "{fault}, {key}");
        let different = cached(client, &format!("{key}:different"), "SELECT 2 AS w");
        assert_eq!(different.as_deref(), Ok(r#"[{"w":2}]"#), "{fault}: another's reply");
    }
    for key in ["cold", "warm"] {
        let mut other = scene.connect();
        eventually(Duration::from_secs(5), fault, || {
            counted(&mut other, |c| cached(c, key, QUERY).unwrap()).1.hits == 1
        });
        assert_eq!(value(&scene.redis, key).as_deref(), Some(ANSWER.as_bytes()), "{fault}");
    }
    eventually(Duration::from_secs(5), fault, || {
        counted(client, |c| cached(c, "warm", QUERY).unwrap()).1.hits == 1
    });
}

fn at_each_point(kind: &str) {
    let scene = scene();
    let mut admin = scene.connect();
    let postmaster = started(&mut admin);
    for point in POINTS {
        let fault = format!("{point}:{kind}");
        scene.redis.cli(&["FLUSHALL"]);
        cached(&mut admin, "warm", QUERY).unwrap();
        let mut raised = 0;
        // On a backend that is new, where the connection is made and the plan prepared within the
        // call, and on one that has both.
        for settled in [false, true] {
            for key in ["cold", "warm"] {
                let mut client = scene.connect();
                client.batch_execute("SET pg_cache.lease_timeout_ms = 1000").unwrap();
                let backend = pid(&mut client);
                if settled {
                    cached(&mut client, "settled", QUERY).unwrap();
                }
                scene.redis.cli(&["DEL", "cold"]);
                println!("{fault}, {key}, settled {settled}");
                let sql = format!("SELECT redis_cached('{key}', 60, '{QUERY}')::text");
                raised += usize::from(faulty(&mut client, &fault, &sql));
                recovers(&scene, &mut client, backend, &fault);
            }
        }
        assert!(raised >= 1, "{fault} was never met: the point is not in the code, or swallowed");
    }
    assert_eq!(started(&mut admin), postmaster, "the cluster restarted");
}

#[test]
fn an_error_at_each_point_leaves_the_backend_usable() {
    // Danger: an ERROR longjmps over a half-read connection, a pushed snapshot, a held lease.
    at_each_point("error");
}

#[test]
fn a_panic_at_each_point_leaves_the_backend_usable() {
    // Danger: a panic that unwinds into C, or that leaves a RefCell borrowed for ever.
    at_each_point("panic");
}

#[test]
fn faults_inside_a_caught_exception_leave_the_transaction_usable() {
    // Danger: the subtransaction is rolled back and what the call held is not.
    let scene = scene();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE FUNCTION tried(key text) RETURNS text LANGUAGE plpgsql AS $$
             BEGIN RETURN redis_cached(key, 60, 'SELECT v FROM t');
             EXCEPTION WHEN OTHERS THEN RETURN 'caught'; END $$",
        )
        .unwrap();
    for point in POINTS {
        for kind in ["error", "panic"] {
            let fault = format!("{point}:{kind}");
            client.batch_execute("BEGIN").unwrap();
            for number in 0..3 {
                client.batch_execute(&format!("SET pg_cache.fault_point = '{fault}'")).unwrap();
                let key = format!("{fault}:{number}");
                let got: String = client.query_one("SELECT tried($1)", &[&key]).unwrap().get(0);
                assert!(got == "caught" || got == ANSWER, "{fault}: {got}");
                client.batch_execute("RESET pg_cache.fault_point").unwrap();
                assert_eq!(cached(&mut client, "after", QUERY).as_deref(), Ok(ANSWER), "{fault}");
            }
            client.batch_execute("COMMIT").unwrap();
        }
    }
    assert_eq!(counted(&mut client, |c| cached(c, "after", QUERY)).1.hits, 1);
}

#[test]
fn faults_in_the_rows_function_leave_the_backend_usable() {
    // Danger: the set-returning path has cleanup of its own.
    let scene = scene();
    let mut client = scene.connect();
    let backend = pid(&mut client);
    for point in POINTS {
        for kind in ["error", "panic"] {
            for key in ["warm", "cold"] {
                scene.redis.cli(&["DEL", "cold"]);
                let fault = format!("{point}:{kind}");
                let sql = format!(
                    "SELECT json_agg(row_to_json(t))::text
                     FROM redis_cached_rows('{key}', 60, '{QUERY}') AS t(v text)"
                );
                faulty(&mut client, &fault, &sql);
                assert_eq!(pid(&mut client), backend, "{fault}");
                assert_eq!(
                    client.query_one(&sql, &[]).unwrap().get::<_, String>(0),
                    ANSWER,
                    "{fault}"
                );
            }
        }
    }
}

#[test]
fn a_fault_while_filling_leaves_no_lease_that_others_wait_for() {
    // Danger: everybody waits fill_wait_ms because one backend failed.
    let scene = scene();
    for kind in ["error", "panic"] {
        for point in ["read.compute", "read.fill", "api.return"] {
            let fault = format!("{point}:{kind}");
            scene.redis.cli(&["FLUSHALL"]);
            let mut client = scene.connect();
            faulty(&mut client, &fault, &format!("SELECT redis_cached('k', 60, '{QUERY}')::text"));
            let mut other = scene.connect();
            let (answer, counters) = counted(&mut other, |c| cached(c, "k", QUERY));
            assert_eq!(answer.as_deref(), Ok(ANSWER), "{fault}");
            assert_eq!(counters.reason("lease_wait"), 0, "{fault}: {counters:?}");
            assert_eq!(keys(&scene.redis, "pgc:l:*"), [""; 0], "{fault}");
        }
    }
}

#[test]
fn faults_do_not_leak_memory_or_connections() {
    // Danger: each failure leaves a socket, a plan or a context behind; a day later there are none.
    let scene = scene();
    let mut client = scene.connect();
    let backend = pid(&mut client);
    let files = || std::fs::read_dir(format!("/proc/{backend}/fd")).unwrap().count();
    let mut after = |rounds: usize| -> (i64, usize) {
        for _ in 0..rounds {
            for point in POINTS {
                for kind in ["error", "panic"] {
                    let fault = format!("{point}:{kind}");
                    faulty(
                        &mut client,
                        &fault,
                        &format!("SELECT redis_cached('k', 60, '{QUERY}')::text"),
                    );
                    cached(&mut client, "k", QUERY).unwrap();
                }
            }
        }
        let sql = "SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts";
        (client.query_one(sql, &[]).unwrap().get(0), files())
    };
    let warm = after(3);
    let later = after(15);
    assert!(later.0 - warm.0 < 1 << 20, "memory contexts grew from {} to {}", warm.0, later.0);
    assert!(later.1 <= warm.1 + 1, "open files grew from {} to {}", warm.1, later.1);
}

#[test]
fn only_a_superuser_may_set_a_fault() {
    // Danger: a test tool is a weapon.
    let scene = scene();
    let role = scene.create_role("alice");
    let mut client = scene.connect_as(&role);
    client.batch_execute("SELECT count(*) FROM redis_stat_cached").unwrap();
    assert!(client.batch_execute("SET pg_cache.fault_point = 'read.look:panic'").is_err());
}
