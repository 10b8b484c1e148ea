//! Entries that cannot be looked at or deleted: neither a flush nor a sweep nor a debt of all keys
//! ends at one, and a debt of all keys keeps nobody else waiting.

use std::time::Duration;

use pg_cache_e2e::counters::{keys, refusals, value};
use pg_cache_e2e::outbox::{append, events, owe_all_keys, put, rows, wake};
use pg_cache_e2e::outcome::sqlstate;
use pg_cache_e2e::registry::{DEBTS, count, repair, table_key};
use pg_cache_e2e::stopwatch::timed;
use pg_cache_e2e::{Scene, cached};
use pg_cache_testbed::eventually;
use postgres::Client;

const SOON: Duration = Duration::from_secs(20);

const ALL_KEYS: &str = "INSERT INTO redis_debt VALUES (-2, '700', '*'), (-1, '700', NULL)";

const WORKER_PID: &str = "SELECT coalesce(max(pid), 0)::bigint FROM pg_stat_activity
    WHERE backend_type = 'pg_cache worker' AND datname = current_database()";

fn allow(scene: &Scene, keys: &[&str]) {
    let rules = [&["ACL", "SETUSER", "default", "resetkeys"], keys].concat();
    assert_eq!(scene.redis.cli(&rules), "OK");
}

/// Fills enough of each kind that some of either come behind some of the other, in any order.
#[track_caller]
fn fill(client: &mut Client, kinds: &[&str]) {
    for kind in kinds {
        for number in 0..30 {
            cached(client, &format!("{kind}:{number}"), "SELECT 1 AS v").unwrap();
        }
    }
}

fn left(scene: &Scene, kind: &str) -> usize {
    keys(&scene.redis, &format!("{kind}:*")).len()
}

#[test]
fn a_value_above_a_bound_that_was_lowered_goes_as_any_other() {
    // Danger: one such entry, and no flush deletes what stands behind it, every sweep begins anew
    // until its ttl, and with a debt of all keys no durable event of the database leaves.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    client.batch_execute("SET pg_cache.timeout_ms = 2000").unwrap();
    let fill = |client: &mut Client| {
        client.batch_execute("SET pg_cache.value_bytes_max = '8MB'").unwrap();
        cached(client, "large", "SELECT repeat('x', 2000000) AS v").unwrap();
        assert!(value(&scene.redis, "large").is_some());
    };
    fill(&mut client);
    client.batch_execute("SET pg_cache.value_bytes_max = '1kB'").unwrap();
    assert_eq!(count(&mut client, "SELECT redis_flush()"), 1);
    assert_eq!(value(&scene.redis, "large"), None, "flushed");
    // The worker that comes next goes by it too.
    let lower = "ALTER DATABASE {} SET pg_cache.value_bytes_max = '1kB'";
    client.batch_execute(&lower.replace("{}", scene.database())).unwrap();
    scene.quiet();
    fill(&mut client);
    client.batch_execute("SELECT redis_register()").unwrap();
    repair(&mut client);
    eventually(SOON, "swept", || value(&scene.redis, "large").is_none());
    fill(&mut client);
    client.batch_execute(ALL_KEYS).unwrap();
    put(&mut client, &[append("s", "0")]);
    repair(&mut client);
    assert_eq!(count(&mut client, DEBTS), 0);
    assert_eq!(value(&scene.redis, "large"), None, "deleted");
    eventually(SOON, "sent", || rows(&mut client) == 0);
}

#[test]
fn an_entry_that_redis_refuses_keeps_no_other_from_being_flushed_or_swept() {
    // Danger: as above, of a key for which the server's access list has no room.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    fill(&mut client, &["app", "other"]);
    allow(&scene, &["~app:*", "~pgc:*", "~events"]);
    let refused = client.query_one("SELECT redis_flush()", &[]).expect_err("it is told");
    assert_eq!(sqlstate(&refused), "42501");
    assert_eq!((left(&scene, "app"), left(&scene, "other")), (0, 30));
    let refused = client.query_one("SELECT redis_flush('+*')", &[]).expect_err("it is told");
    assert_eq!(sqlstate(&refused), "42501");
    scene.redis.cli(&["SET", "app:foreign", "goes"]);
    client.query_one("SELECT redis_flush('+*')", &[]).expect_err("it is told");
    assert_eq!((left(&scene, "app"), left(&scene, "other")), (0, 30), "foreign ones too");
    fill(&mut client, &["app"]);
    put(&mut client, &[append("events", "0")]);
    client.batch_execute("SELECT redis_register()").unwrap();
    repair(&mut client);
    eventually(SOON, "swept", || left(&scene, "app") == 0);
    eventually(SOON, "sent", || rows(&mut client) == 0);
    allow(&scene, &["~*"]);
    // It was not for nothing that it is left: the next worker looks for it again.
    scene.quiet();
    eventually(SOON, "swept", || {
        wake(&mut client);
        left(&scene, "other") == 0
    });
}

#[test]
fn events_leave_at_once_where_no_sweep_is_allowed() {
    // Danger: a worker that may not look for what is to be swept takes its passes for nothing, and
    // each event waits until it tries again.
    let scene = Scene::alone();
    let mut client = scene.connect();
    repair(&mut client);
    let table = "CREATE TABLE t (id int);
         CREATE TRIGGER e AFTER INSERT ON t FOR EACH ROW
             EXECUTE FUNCTION redis_stream('s', 'durable')";
    client.batch_execute(table).unwrap();
    scene.redis.cli(&["ACL", "SETUSER", "default", "-scan"]);
    client.batch_execute("SELECT redis_register()").unwrap();
    repair(&mut client);
    let ((), took) = timed(|| {
        for number in 1..=20 {
            client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
            eventually(SOON, "sent", || events(&scene.redis, "s").len() == number);
        }
    });
    assert!(took < Duration::from_millis(1500), "{took:?}");
}

#[test]
fn a_debt_of_all_keys_that_redis_refuses_in_part_holds_up_nobody_else() {
    // Danger: no durable event of the database leaves any more; or each try bumps the catalogue's
    // tag, or deletes all keys again, and nobody is served what was filled since the last one.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    let table = table_key(&mut client);
    fill(&mut client, &["app", "other"]);
    allow(&scene, &["~app:*", "~pgc:*"]);
    client.batch_execute(ALL_KEYS).unwrap();
    let mut sent = 0;
    let mut send = |client: &mut Client| {
        put(client, &[append("app:s", &sent.to_string())]);
        sent += 1;
        eventually(SOON, "sent", || {
            wake(client);
            events(&scene.redis, "app:s").len() == sent
        });
    };
    send(&mut client);
    eventually(SOON, "the others are deleted", || left(&scene, "app") == 1);
    eventually(SOON, "it is told apart", || count(&mut client, DEBTS) == 1);
    assert_eq!(left(&scene, "other"), 30);
    eventually(SOON, "filled", || {
        cached(&mut client, "app:new", "SELECT 1 AS v").unwrap();
        value(&scene.redis, "app:new").is_some()
    });
    let (worker, before) = (count(&mut client, WORKER_PID), refusals(&scene.redis, "getrange"));
    let bumped = scene.redis.cli(&["HGET", &table, "C"]);
    // The worker stays as long as there is something to send.
    eventually(SOON, "it is tried again", || {
        send(&mut client);
        std::thread::sleep(Duration::from_millis(200));
        refusals(&scene.redis, "getrange") >= before + 30
    });
    // A pass later, whatever was in its way.
    send(&mut client);
    assert!(value(&scene.redis, "app:new").is_some(), "a hit, as before");
    assert_eq!(count(&mut client, WORKER_PID), worker);
    assert_eq!(scene.redis.cli(&["HGET", &table, "C"]), bumped);
    allow(&scene, &["~*"]);
    client.batch_execute(&format!("SELECT pg_terminate_backend({worker})")).unwrap();
    eventually(SOON, "the next one pays it", || {
        send(&mut client);
        count(&mut client, DEBTS) == 0
    });
    assert_eq!(left(&scene, "other"), 0);
}

#[test]
fn a_debt_of_all_keys_waits_alone_where_nobody_may_ask_whose_entries_are_meant() {
    // Danger: the access list, or a key of another type, keeps the worker from what it is to look
    // for, and all durable events of the database wait behind the first one of who owes.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    cached(&mut client, "k", "SELECT 1 AS v").unwrap();
    scene.redis.cli(&["ACL", "SETUSER", "default", "-smembers"]);
    owe_all_keys(&mut client);
    put(&mut client, &[append("theirs", "0")]);
    eventually(SOON, "the other one's is sent", || {
        wake(&mut client);
        events(&scene.redis, "theirs").len() == 1
    });
    assert_eq!(count(&mut client, DEBTS), 1);
    assert!(events(&scene.redis, "mine").is_empty());
    scene.redis.cli(&["ACL", "SETUSER", "default", "+smembers"]);
    pay_without_another_worker(&mut client);
    assert_eq!(value(&scene.redis, "k"), None);
    eventually(SOON, "sent", || {
        wake(&mut client);
        events(&scene.redis, "mine").len() == 1
    });
}

#[test]
fn a_debt_of_all_keys_deletes_all_again_where_a_lease_was_refused() {
    // Danger: whoever had it fills what is old behind the walk, under any name, and the next try
    // looks only at what was refused.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    cached(&mut client, "app:old", "SELECT 1 AS v").unwrap();
    scene.redis.cli(&["SET", "pgc:l:{9Le}:foo", "somebody's"]);
    allow(&scene, &["~app:*", "~pgc:[^l]*", "~pgc:l:{*}:app:*"]);
    client.batch_execute(ALL_KEYS).unwrap();
    wake(&mut client);
    eventually(SOON, "walked", || value(&scene.redis, "app:old").is_none());
    allow(&scene, &["~*"]);
    eventually(SOON, "filled", || {
        cached(&mut client, "app:behind", "SELECT 1 AS v").unwrap();
        value(&scene.redis, "app:behind").is_some()
    });
    assert_eq!(count(&mut client, DEBTS), 1, "the next try is yet to come");
    pay_without_another_worker(&mut client);
    assert_eq!(value(&scene.redis, "app:behind"), None);
}

/// The next one would walk through all keys in any case.
#[track_caller]
fn pay_without_another_worker(client: &mut Client) {
    let worker = count(client, WORKER_PID);
    eventually(SOON, "paid", || {
        // The worker stays as long as there is something to send.
        put(client, &[append("kept", "0")]);
        wake(client);
        std::thread::sleep(Duration::from_millis(200));
        count(client, DEBTS) == 0
    });
    assert_eq!(count(client, WORKER_PID), worker);
}
