//! What is noted after our part before the commit: by the callback of another extension, which runs
//! SQL there and so fires triggers of ours.

use std::time::Duration;

use pg_cache_e2e::events::{get, told};
use pg_cache_e2e::gate::Gate;
use pg_cache_e2e::outbox::rows;
use pg_cache_e2e::registry::{count, repair};
use pg_cache_e2e::{Notices, Scene, cached, late};
use pg_cache_testbed::{Pair, eventually};
use postgres::Client;

const SOON: Duration = Duration::from_secs(20);

/// A table whose rows are stored under `t:{id}`, and told of in a stream.
fn table(options: &str) -> String {
    format!(
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         CREATE TABLE other (v int);
         CREATE TRIGGER a AFTER INSERT OR UPDATE ON t FOR EACH ROW
             EXECUTE FUNCTION redis_store('t:{{id}}'{options});
         CREATE TRIGGER b AFTER INSERT OR UPDATE ON t FOR EACH ROW
             EXECUTE FUNCTION redis_stream('s'{options})"
    )
}

fn scene_with(options: &str) -> (Scene, Client, Notices) {
    let scene = Scene::new();
    let (mut client, notices) = scene.connect_listening();
    late::load(&mut client);
    client.batch_execute(&table(options)).unwrap();
    repair(&mut client);
    (scene, client, notices)
}

/// One transaction, at whose end another extension runs `sql`.
#[track_caller]
fn transaction(client: &mut Client, work: &str, sql: &str) {
    client.batch_execute("BEGIN").unwrap();
    client.batch_execute(&format!("SET LOCAL late.sql = $late${sql}$late$; {work}")).unwrap();
    client.batch_execute("COMMIT").unwrap();
}

#[track_caller]
fn holds(scene: &Scene, key: &str, v: &str) {
    let wanted = format!(r#""v":"{v}""#);
    eventually(SOON, &wanted, || get(&scene.redis, key).is_some_and(|row| row.contains(&wanted)));
}

#[test]
fn what_is_noted_late_is_sent_like_all_else() {
    // Danger: the row is committed and its key stays away, and nobody counts or says it.
    for options in ["", ", 'durable'"] {
        let (scene, mut client, notices) = scene_with(options);
        transaction(&mut client, "INSERT INTO other VALUES (1)", "INSERT INTO t VALUES (1, 'a')");
        holds(&scene, "t:1", "a");
        transaction(&mut client, "SELECT 1", "INSERT INTO t VALUES (2, 'b')");
        holds(&scene, "t:2", "b");
        // The same key twice: the later image counts.
        transaction(&mut client, "UPDATE t SET v = 'c'", "UPDATE t SET v = 'd' WHERE id = 1");
        holds(&scene, "t:1", "d");
        holds(&scene, "t:2", "c");
        eventually(SOON, "all is sent", || rows(&mut client) == 0);
        assert_eq!(told(&scene.redis, "s", "v"), ["a", "b", "c", "c", "d"], "{options}");
        assert_eq!(scene.redis.cli(&["KEYS", "pgc:s:*"]).trim(), "", "no token is left");
        assert_eq!(count(&mut client, "SELECT lost FROM redis_stat_commit"), 0);
        assert_eq!(notices.warnings().len(), 0, "{options}");
    }
}

#[test]
fn what_is_noted_late_of_a_row_comes_behind_who_changed_it_before() {
    // Danger: it stands where the transaction's first event does, and that of whoever had the row
    // meanwhile, and has committed, comes behind it: the stream ends with what is not so.
    let large = "SELECT redis_publish('c', repeat('x', 70000))";
    for first in ["SELECT 1", large] {
        let (scene, mut client, _) = scene_with(", 'durable'");
        client.batch_execute("SET pg_cache.pending_events_bytes_max = '64kB'").unwrap();
        client.batch_execute("INSERT INTO t VALUES (1, 'a'), (2, 'a')").unwrap();
        eventually(SOON, "all is sent", || rows(&mut client) == 0);
        scene.quiet();
        let sending = Gate::new();
        scene.set_faults(&sending.at("worker.looked"));
        let (mut other, mut admin) = (scene.connect(), scene.connect());
        other.batch_execute("BEGIN; UPDATE t SET v = 'b' WHERE id = 1").unwrap();
        let work = format!("{first}; UPDATE t SET v = 'early' WHERE id = 2");
        let writing = std::thread::spawn(move || {
            transaction(&mut client, &work, "UPDATE t SET v = 'late' WHERE id = 1");
            client
        });
        let waits = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock'";
        eventually(SOON, "it waits for the row", || count(&mut admin, waits) == 1);
        other.batch_execute("COMMIT").unwrap();
        let mut client = writing.join().unwrap();
        sending.open();
        eventually(SOON, "all is sent", || rows(&mut client) == 0);
        assert_eq!(told(&scene.redis, "s", "v"), ["a", "a", "early", "b", "late"], "{first}");
        holds(&scene, "t:1", "late");
    }
}

#[test]
fn what_is_noted_late_without_redis_is_counted_and_told() {
    // Danger: as above, with Redis away.
    let (mut scene, mut client, notices) = scene_with("");
    scene.redis.stop();
    transaction(&mut client, "INSERT INTO other VALUES (1)", "INSERT INTO t VALUES (1, 'a')");
    assert_eq!(count(&mut client, "SELECT lost FROM redis_stat_commit"), 2);
    assert!(!notices.warnings().is_empty());
}

#[test]
fn a_change_that_is_noted_late_is_never_served_old() {
    // Danger: a transaction that had no id at our part gets one afterwards, and what it changes is
    // neither bumped nor owed.
    let (scene, mut client, _) = scene_with("");
    client.batch_execute("SELECT redis_track('t')").unwrap();
    client.batch_execute("INSERT INTO t VALUES (1, 'a')").unwrap();
    let query = "SELECT v FROM t ORDER BY id";
    let mut reader = scene.connect();
    for v in ["b", "c", "d"] {
        cached(&mut reader, "k", query).unwrap();
        transaction(&mut client, "SELECT 1", &format!("UPDATE t SET v = '{v}'"));
        let found = cached(&mut reader, "k", query).unwrap();
        assert!(format!("{found:?}").contains(&format!("\"{v}")), "{v}: {found:?}");
    }
}

#[test]
fn a_schema_change_that_is_noted_late_does_not_wait_for_itself() {
    // Danger: it finds itself listed, as complete as others are, and COMMIT never returns: nothing
    // but SIGKILL ends it.
    let (scene, mut client, _) = scene_with("");
    let mut other = scene.connect();
    client.batch_execute("BEGIN; SET LOCAL late.sql = 'CREATE TABLE b ()'").unwrap();
    client.batch_execute("CREATE TABLE a ()").unwrap();
    other.batch_execute("INSERT INTO other VALUES (1)").unwrap();
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || ended.send(client.batch_execute("COMMIT").is_ok()));
    assert_eq!(end.recv_timeout(SOON), Ok(true), "both are there, and no longer awaited");
}

#[test]
fn what_is_noted_late_and_undone_is_never_sent() {
    // Danger: a savepoint of the other extension's is rolled back, and what was noted in it leaves
    // all the same: an event of what never happened, and a row that is not there.
    for options in ["", ", 'durable'"] {
        let (scene, mut client, _) = scene_with(options);
        let undone = "INSERT INTO t VALUES (2, 'b'); INSERT INTO t VALUES (3, 'c');
                      RAISE division_by_zero";
        let late = format!(
            "DO $do$ BEGIN
                 INSERT INTO t VALUES (1, 'a');
                 BEGIN {undone}; EXCEPTION WHEN division_by_zero THEN NULL; END;
                 BEGIN INSERT INTO t VALUES (4, 'd'); EXCEPTION WHEN OTHERS THEN NULL; END;
                 BEGIN
                     BEGIN INSERT INTO t VALUES (5, 'e'); EXCEPTION WHEN OTHERS THEN NULL; END;
                     {undone};
                 EXCEPTION WHEN division_by_zero THEN NULL; END;
                 INSERT INTO t VALUES (6, 'f');
             END $do$"
        );
        for work in ["SELECT 1", "INSERT INTO t VALUES (0, 'z')"] {
            client.batch_execute("TRUNCATE t").unwrap();
            scene.redis.cli(&["DEL", "s", "t:0", "t:1", "t:4", "t:6"]);
            transaction(&mut client, work, &late);
            holds(&scene, "t:6", "f");
            eventually(SOON, "all is sent", || rows(&mut client) == 0);
            let first = if work == "SELECT 1" { vec![] } else { vec!["z"] };
            let expected = [&first[..], &["a", "d", "f"]].concat();
            assert_eq!(told(&scene.redis, "s", "v"), expected, "{options}");
            let absent = |key: &&str| get(&scene.redis, key).is_none();
            assert_eq!(["t:2", "t:3", "t:5"].iter().filter(|key| absent(key)).count(), 3);
            eventually(SOON, "no token is left of what was undone", || {
                scene.redis.cli(&["KEYS", "pgc:s:*"]).trim().is_empty()
            });
        }
    }
}

#[test]
fn what_is_noted_late_is_prepared_with_the_rest() {
    // Danger: who commits what was prepared knows nothing of it.
    let conf = [("max_worker_processes", "16"), ("max_prepared_transactions", "5")];
    let pair = Pair::start_with(&conf, &[]);
    let mut client = pair.postgres.connect();
    late::load(&mut client);
    client.batch_execute(&table("")).unwrap();
    repair(&mut client);
    let late = "SET LOCAL late.sql = 'INSERT INTO t VALUES (2, ''b'')'";
    client.batch_execute(&format!("BEGIN; {late}; INSERT INTO t VALUES (1, 'a')")).unwrap();
    client.batch_execute("PREPARE TRANSACTION 'p'").unwrap();
    pair.postgres.connect().batch_execute("COMMIT PREPARED 'p'").unwrap();
    eventually(SOON, "both are sent", || told(&pair.redis, "s", "v").len() == 2);
    assert_eq!(told(&pair.redis, "s", "v"), ["a", "b"]);
}

#[test]
fn what_is_owed_late_and_undone_is_owed_again() {
    // Danger: the row of the debt goes with its savepoint, the tag counts as owed, and readers are
    // served what was before.
    let (scene, mut client, _notices) = scene_with("");
    client.batch_execute("SELECT redis_track('other')").unwrap();
    repair(&mut client);
    let paying = Gate::new();
    scene.quiet();
    scene.set_faults(&paying.at("worker.pay"));
    client.batch_execute("SET pg_cache.url = 'unix:///nowhere'").unwrap();
    let undone = "DO $$ BEGIN
        BEGIN INSERT INTO other VALUES (1); RAISE EXCEPTION 'undo';
        EXCEPTION WHEN raise_exception THEN NULL; END;
        INSERT INTO other VALUES (2);
    END $$";
    transaction(&mut client, "CREATE TEMPORARY TABLE has_xid (v int)", undone);
    let owed = "SELECT count(*) FROM redis_debt WHERE tag <> -1";
    assert_eq!(count(&mut client, owed), 1);
}

#[test]
fn what_is_owed_twice_is_owed_once() {
    // Danger: a commit fails since two rows of a debt are the same; or a key that is named again
    // has every entry of the database deleted.
    let (scene, mut client, _notices) = scene_with("");
    client
        .batch_execute(
            "CREATE TABLE named (id int PRIMARY KEY, v int);
             INSERT INTO named VALUES (1, 1), (2, 1);
             CREATE TRIGGER k AFTER INSERT OR UPDATE ON named FOR EACH ROW
                 EXECUTE FUNCTION redis_invalidate('named:{id}')",
        )
        .unwrap();
    repair(&mut client);
    let paying = Gate::new();
    scene.quiet();
    scene.set_faults(&paying.at("worker.pay"));
    client.batch_execute("SET pg_cache.url = 'unix:///nowhere'").unwrap();
    let change = "UPDATE named SET v = v + 1 WHERE id = 1";
    for (first, debts) in [("SELECT 1", 1), ("CREATE TABLE x()", 3)] {
        transaction(&mut client, &format!("{first}; {change}"), change);
        assert_eq!(count(&mut client, "SELECT count(*) FROM redis_debt"), debts, "{first}");
        assert_eq!(count(&mut client, "SELECT count(*) FROM redis_debt WHERE key = '*'"), 0);
    }
    assert_eq!(count(&mut client, "SELECT v::bigint FROM named WHERE id = 1"), 5);
}
