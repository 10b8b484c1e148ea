//! A commit that cannot tell Redis: by `pg_cache.on_unreachable` it fails before its record, or it
//! owes, and is over in time.

use std::time::{Duration, Instant};

use pg_cache_e2e::counters::counted;
use pg_cache_e2e::outcome::{sqlstate, words};
use pg_cache_e2e::registry::{count, repair};
use pg_cache_e2e::{Scene, cached, same_as_direct};
use pg_cache_testbed::eventually;
use postgres::Client;

const QUERY: &str = "SELECT id, v FROM t ORDER BY id";
const DEBTS: &str = "SELECT count(*) FROM redis_debt";

const SOON: Duration = Duration::from_secs(20);

fn prepared(scene: &Scene) -> Client {
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             INSERT INTO t VALUES (1, 'old'), (2, 'old');
             SELECT redis_track('t');
             CREATE TABLE named (id int PRIMARY KEY, v text);
             INSERT INTO named VALUES (1, 'old'), (2, 'old');
             CREATE TRIGGER k AFTER INSERT OR UPDATE OR DELETE ON named FOR EACH ROW
                 EXECUTE FUNCTION redis_invalidate('named:{id}')",
        )
        .unwrap();
    repair(&mut client);
    client
}

#[test]
fn with_error_nothing_is_committed_that_redis_was_not_told() {
    // Danger: who chose it so that programs that read Redis never meet an old value gets a debt,
    // and they do.
    let scene = Scene::new();
    let mut reader = prepared(&scene);
    same_as_direct(&mut reader, "k", QUERY).unwrap();
    let mut writer = scene.connect();
    writer.batch_execute("SET pg_cache.on_unreachable = 'error'").unwrap();
    // The last statement of each is the one that fails.
    let cases: [(&str, &[&str]); 6] = [
        ("10000", &["UPDATE t SET v = 'new'"]),
        ("10000", &["BEGIN", "UPDATE t SET v = 'new'", "COMMIT"]),
        ("10000", &["BEGIN", "UPDATE t SET v = 'new'", "PREPARE TRANSACTION 'unsettled'"]),
        ("10000", &["BEGIN", "UPDATE named SET v = 'new'", "COMMIT"]),
        // Settled in the middle of the statement, and that is where it fails.
        ("1", &["BEGIN", "UPDATE t SET v = 'new'", "UPDATE named SET v = 'new'"]),
        ("1", &["UPDATE named SET v = 'new'"]),
    ];
    let away = "SET pg_cache.url = 'unix:///nonexistent/redis.sock'";
    for (keys_max, statements) in cases {
        let settings = format!("{away}; SET pg_cache.pending_keys_max = {keys_max}");
        writer.batch_execute(&settings).unwrap();
        let (last, before) = statements.split_last().unwrap();
        for sql in before {
            writer.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
        let error = writer.batch_execute(last).expect_err(last);
        assert_eq!(sqlstate(&error), "08006", "{statements:?}: {}", words(&error));
        assert!(words(&error).contains("pg_cache.on_unreachable"), "{}", words(&error));
        writer.batch_execute("ROLLBACK").unwrap();
        let changed = "SELECT (SELECT count(*) FROM t WHERE v = 'new')
                            + (SELECT count(*) FROM named WHERE v = 'new')
                            + (SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'unsettled')";
        assert_eq!(count(&mut reader, changed), 0, "{statements:?}");
        assert_eq!(count(&mut reader, DEBTS), 0, "{statements:?}");
        let (_, counters) = counted(&mut reader, |c| cached(c, "k", QUERY).unwrap());
        assert_eq!(counters.hits, 1, "{statements:?}: {counters:?}");
    }
    // Once Redis is there, the same transactions succeed, and are told.
    writer.batch_execute("RESET pg_cache.url").unwrap();
    eventually(SOON, "the breaker tries again", || {
        writer.batch_execute("UPDATE t SET v = 'new'").is_ok()
    });
    assert!(same_as_direct(&mut reader, "k", QUERY).unwrap().contains("new"));
    assert_eq!(count(&mut reader, DEBTS), 0);
}

#[test]
fn a_redis_that_hangs_costs_a_tracked_commit_its_time_and_a_debt() {
    // Danger: a commit that nothing can cancel waits for ever; or the debt of a user who may not
    // write to redis_debt is not written, and old values are served.
    let scene = Scene::alone();
    let mut admin = prepared(&scene);
    let role = scene.create_role("writer");
    admin.batch_execute(&format!("GRANT SELECT, UPDATE ON t TO {role}")).unwrap();
    let limit = |ms: u64| {
        let database = scene.database();
        format!("ALTER DATABASE {database} SET pg_cache.commit_timeout_ms = {ms}")
    };
    for (role, limit_ms, v) in [("postgres", 300, "a"), (role.as_str(), 900, "b")] {
        admin.batch_execute(&limit(limit_ms)).unwrap();
        let mut writer = scene.connect_as(role);
        writer.batch_execute("UPDATE t SET v = 'warm'").unwrap();
        let mut reader = scene.connect_as(role);
        same_as_direct(&mut reader, "k", QUERY).unwrap();
        scene.redis.freeze();
        let started = Instant::now();
        writer.batch_execute(&format!("UPDATE t SET v = '{v}'")).unwrap();
        let took_ms = started.elapsed().as_millis() as u64;
        let debts = count(&mut admin, DEBTS);
        let owed = count(&mut writer, "SELECT owed FROM redis_stat_commit");
        // Its connection is one that answers no more: the debt is looked at first.
        let (answer, counters) = counted(&mut reader, |c| cached(c, "k", QUERY).unwrap());
        scene.redis.thaw();
        assert!((limit_ms..limit_ms + 2000).contains(&took_ms), "{role}: {took_ms} ms");
        assert_eq!((debts, owed), (1, 1), "{role}");
        assert_eq!(counters.reason("debt"), 1, "{role}: {counters:?}");
        assert!(answer.contains(&format!("\"{v}\"")), "{role}: {answer}");
        repair(&mut admin);
        assert_eq!(count(&mut admin, DEBTS), 0, "{role}: paid");
        assert!(same_as_direct(&mut reader, "k", QUERY).unwrap().contains(v), "{role}");
    }
}
