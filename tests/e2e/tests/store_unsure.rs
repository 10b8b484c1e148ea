//! `redis_store` where a token is not there, or is nobody's any more: what was spilled, what a
//! rollback or a loss took away, what a transaction that failed has left.

use std::time::Duration;

use pg_cache_core::key::EntryKeys;
use pg_cache_core::message::{Message, Stored};
use pg_cache_core::token;
use pg_cache_e2e::Scene;
use pg_cache_e2e::events::get;
use pg_cache_e2e::outbox::{put, rows};
use pg_cache_e2e::outcome::sqlstate;
use pg_cache_e2e::registry::{WORKERS, count, repair};
use pg_cache_testbed::eventually;
use postgres::Client;

const SOON: Duration = Duration::from_secs(30);

/// More than the session of [`spilling`] keeps in memory.
const MANY: i32 = 800;

/// A table of so many rows, each stored under `t:{id}`, by the worker.
fn storing(scene: &Scene, ids: i32) -> Client {
    let mut client = scene.connect();
    client
        .batch_execute(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, v int);
             INSERT INTO t SELECT i, 0 FROM generate_series(1, {ids}) i;
             CREATE TRIGGER e AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_store('t:{{id}}', 'durable')"
        ))
        .unwrap();
    repair(&mut client);
    client
}

#[track_caller]
fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// A session whose large transactions go into the outbox while they run.
fn spilling(scene: &Scene) -> Client {
    let mut client = scene.connect();
    run(&mut client, "SET pg_cache.pending_events_bytes_max = '64kB'");
    client
}

/// A session that deletes keys while its transaction runs.
fn settling(scene: &Scene) -> Client {
    let mut client = scene.connect();
    run(&mut client, "SET pg_cache.pending_keys_max = 100");
    client
}

/// Until [`let_go`], workers come and send nothing.
fn hold(scene: &Scene) {
    have_workers_die(scene, "relay.sending");
}

/// Until [`let_go`], workers die there.
fn have_workers_die(scene: &Scene, place: &str) {
    let mut client = scene.connect();
    let fault = format!("SET pg_cache.fault_point = '{place}:exit'");
    run(&mut client, &format!("ALTER DATABASE {} {fault}", scene.database()));
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE backend_type = 'pg_cache worker' AND datname = current_database()";
    // One that is starting may have read its settings before, and not be listed yet.
    let mut absent = 0;
    eventually(SOON, "no worker is there", || {
        count(&mut client, end);
        absent = if count(&mut client, WORKERS) == 0 { absent + 1 } else { 0 };
        absent > 10
    });
}

/// Waits until all is sent.
#[track_caller]
fn let_go(scene: &Scene) {
    let mut client = scene.connect();
    let reset = "RESET pg_cache.fault_point";
    run(&mut client, &format!("ALTER DATABASE {} {reset}", scene.database()));
    eventually(SOON, "all is sent", || {
        run(&mut client, "SELECT redis_wake()");
        rows(&mut client) == 0 && count(&mut client, "SELECT count(*) FROM redis_debt") == 0
    });
}

#[track_caller]
fn stored(scene: &Scene, id: i32) -> Option<i64> {
    let row: serde_json::Value =
        serde_json::from_str(&get(&scene.redis, &format!("t:{id}"))?).unwrap();
    row["v"].as_i64()
}

/// What stands beside a key where a transaction leaves its token.
fn beside(scene: &Scene, key: &str) -> String {
    let name = String::from_utf8(EntryKeys::new(key.as_bytes()).token()).unwrap();
    scene.redis.cli(&["GET", &name])
}

fn has_token(scene: &Scene, key: &str) -> bool {
    !matches!(&beside(scene, key)[..], "" | "?")
}

/// How many keys have one.
fn tokens(scene: &Scene) -> usize {
    let mut redis = scene.redis.client();
    let names: Vec<String> = redis::cmd("KEYS").arg("pgc:s:*").query(&mut redis).unwrap();
    let value = |name| -> Option<String> { redis::cmd("GET").arg(name).query(&mut redis).unwrap() };
    names.iter().filter_map(value).filter(|token| token != "?").count()
}

#[test]
fn a_row_of_a_large_transaction_does_not_stay_in_the_place_of_a_newer_one() {
    // Danger: the newer one's token is taken away by somebody who rolls back, or lost; the large
    // transaction's image, which comes first and needs none, is set, and the newer one is refused:
    // an old row stays for good, with Redis in the best of health.
    let scene = Scene::new();
    storing(&scene, MANY);
    let mut large = spilling(&scene);
    let mut other = settling(&scene);
    let mut marked = 0;
    for (what, value) in [("rolled back", 1), ("lost", 3)] {
        hold(&scene);
        run(&mut large, &format!("UPDATE t SET v = {value}"));
        assert!(rows(&mut large) > 0, "it waits");
        // The last ones were not spilled; which those are depends on where the rows stand.
        let mut spilled = (1..=100).filter(|id| !has_token(&scene, &format!("t:{id}")));
        let (one, another) = (spilled.next().unwrap(), spilled.next().unwrap());
        run(&mut other, &format!("UPDATE t SET v = {value} + 1 WHERE id = {one}"));
        let key = format!("t:{one}");
        assert!(has_token(&scene, &key), "{what}: that of the newer one");
        match what {
            "lost" => _ = scene.redis.cli(&["FLUSHALL"]),
            _ => run(&mut other, "BEGIN; UPDATE t SET v = 9 WHERE id <= 100; ROLLBACK"),
        }
        assert!(!has_token(&scene, &key), "{what}");
        let_go(&scene);
        assert_eq!(stored(&scene, one), Some(value + 1), "{what}");
        assert_eq!(stored(&scene, another), Some(value), "{what}: one of all others");
        marked = one;
    }
    // What an outage owes takes away what may be old, mark or not, before its own row comes.
    let mut lost = scene.connect();
    run(&mut lost, "SET pg_cache.url = 'unix:///nowhere'");
    hold(&scene);
    let key = format!("t:{marked}");
    assert_eq!(beside(&scene, &key), "?");
    run(&mut lost, &format!("UPDATE t SET v = 7 WHERE id = {marked}"));
    eventually(SOON, "it is paid", || {
        run(&mut other, "SELECT redis_wake()");
        count(&mut other, "SELECT count(*) FROM redis_debt") == 0
    });
    assert_eq!((stored(&scene, marked), rows(&mut other)), (None, 1));
    let_go(&scene);
    assert_eq!(stored(&scene, marked), Some(7));
    // Whoever writes next takes away what was left beside its key.
    run(&mut other, &format!("UPDATE t SET v = 5 WHERE id = {marked}"));
    let_go(&scene);
    assert_eq!((stored(&scene, marked), &beside(&scene, &key)[..]), (Some(5), ""));
    run(&mut other, &format!("DELETE FROM t WHERE id = {marked}"));
    let_go(&scene);
    assert_eq!((stored(&scene, marked), &beside(&scene, &key)[..]), (None, ""));
}

#[test]
fn what_comes_between_an_early_deletion_and_its_commit_goes_with_it() {
    // Danger: a transaction deletes its keys early; the row as it was before arrives then, and is
    // still read when COMMIT has returned.
    let scene = Scene::new();
    storing(&scene, MANY);
    hold(&scene);
    run(&mut spilling(&scene), "UPDATE t SET v = 1");
    let mut later = settling(&scene);
    run(&mut later, "BEGIN; UPDATE t SET v = 2");
    let_go(&scene);
    assert_eq!(stored(&scene, 1), Some(1), "the last that is committed");
    hold(&scene);
    run(&mut later, "COMMIT");
    let old = (1..=MANY).filter(|id| stored(&scene, *id).is_some()).count();
    assert_eq!(old, 0, "of {MANY} rows, so many are old");
    let_go(&scene);
    assert_eq!((stored(&scene, 1), stored(&scene, MANY)), (Some(2), Some(2)));
}

#[test]
fn who_fails_at_the_end_leaves_no_token() {
    // Danger: each commit that fails leaves a mark beside its keys for ever, which no policy of
    // eviction takes.
    let scene = Scene::new();
    let mut client = storing(&scene, 2);
    let mut other = scene.connect();
    // PostgreSQL finds out last of all.
    run(&mut client, "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(v) FROM t");
    run(&mut other, "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(v) FROM t");
    run(&mut client, "INSERT INTO t VALUES (11, 1)");
    run(&mut other, "INSERT INTO t VALUES (12, 1)");
    run(&mut client, "COMMIT");
    assert_eq!(sqlstate(&other.batch_execute("COMMIT").unwrap_err()), "40001");
    let_go(&scene);
    assert_eq!((stored(&scene, 11), stored(&scene, 12)), (Some(1), None));
    eventually(SOON, "none after a failure of serialization", || tokens(&scene) == 0);
    // Another's token is not ours to take.
    run(&mut other, "SET pg_cache.fault_point = 'commit.settled:error'");
    hold(&scene);
    run(&mut client, "UPDATE t SET v = 5 WHERE id = 1");
    other.batch_execute("UPDATE t SET v = 6 WHERE id = 2").unwrap_err();
    // The client hears of an error before the transaction ends.
    eventually(SOON, "that of the one that waits", || tokens(&scene) == 1);
    assert!(has_token(&scene, "t:1"));
    let_go(&scene);
    assert_eq!((stored(&scene, 1), tokens(&scene)), (Some(5), 0));
}

#[test]
fn who_finds_no_room_in_the_outbox_has_touched_nothing() {
    // Danger: a full outbox is noticed when the tokens are laid and the stored rows are gone.
    let scene = Scene::new();
    let mut client = storing(&scene, 1);
    run(&mut client, "UPDATE t SET v = 1");
    let_go(&scene);
    hold(&scene);
    run(&mut client, "SET pg_cache.outbox_mb_max = 1");
    let fill = "INSERT INTO t SELECT i, 0 FROM generate_series(100, 9100) i";
    run(&mut client, fill);
    let before = tokens(&scene);
    let refused = client.batch_execute("UPDATE t SET v = 2 WHERE id = 1").unwrap_err();
    assert_eq!(sqlstate(&refused), "53400");
    assert_eq!((tokens(&scene), stored(&scene, 1)), (before, Some(1)));
}

#[test]
fn what_is_tried_again_goes_in_order_too() {
    // Danger: what was put aside is sent in one go, the worker dies, and an older row stands in the
    // place of the newer one until all of it is sent again.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    let redis = &scene.redis;
    let token = String::from_utf8(EntryKeys::new(b"k").token()).unwrap();
    redis.cli(&["RPUSH", &token, "in the way"]);
    let store = |token: &str, value: &str| Message::Store {
        key: b"k"[..].into(),
        token: token.as_bytes().into(),
        ttl_ms: None,
        value: Stored::Text(value.as_bytes().into()),
    };
    put(&mut client, &[store("?1.1.1.1.1", "old"), store("1.1.2.1.1", "new")]);
    let aside = "SELECT count(*) FROM redis_outbox WHERE number < -(1::bigint << 61)";
    eventually(SOON, "both are put aside", || {
        run(&mut client, "SELECT redis_wake()");
        count(&mut client, aside) == 2
    });
    have_workers_die(&scene, "relay.retried");
    redis.cli(&["DEL", &token]);
    redis.cli(&["SET", &token, "1.1.2.1.1"]);
    let sent = || {
        let told = redis.cli(&["INFO", "commandstats"]);
        let calls = told.split("cmdstat_evalsha:calls=").nth(1);
        calls.and_then(|rest| rest.split(',').next()).map_or(0, |calls| calls.parse().unwrap())
    };
    let before: u32 = sent();
    eventually(SOON, "sent again and again", || {
        run(&mut client, "SELECT redis_wake()");
        sent() >= before + 4
    });
    assert_eq!((get(redis, "k"), count(&mut client, aside)), (None, 2));
    assert_eq!(redis.cli(&["GET", &token]), "1.1.2.1.1", "the newer one has not been sent");
    let_go(&scene);
    assert_eq!(get(redis, "k").as_deref(), Some("new"));
}

#[test]
fn a_token_that_a_failed_transaction_left_takes_no_row_with_it() {
    // Danger: a session is ended while its commit waits for Redis, which lays the token; then Redis
    // is away for a while, and the row that was changed meanwhile gives way to that token: the key
    // is absent until the next change.
    let scene = Scene::new();
    let mut client = storing(&scene, 0);
    let row = client
        .query_one(
            "SELECT c.system_identifier, d.oid FROM pg_control_system() c, pg_database d
              WHERE datname = current_database()",
            &[],
        )
        .unwrap();
    let (system, database) = (row.get::<_, i64>(0).cast_unsigned(), row.get::<_, u32>(1));
    let xid = "SELECT pg_current_xact_id()::text::bigint";
    let lay = |key: &str, xid: i64| {
        let origin = token::origin(system, database, xid.cast_unsigned(), 7);
        let name = String::from_utf8(EntryKeys::new(key.as_bytes()).token()).unwrap();
        let token = String::from_utf8(token::text(&origin, 0).into()).unwrap();
        scene.redis.cli(&["SET", &name, &token]);
    };
    let mut other = scene.connect();
    run(&mut client, "BEGIN");
    lay("failed", count(&mut client, xid));
    run(&mut client, "ROLLBACK");
    run(&mut other, "BEGIN");
    lay("running", count(&mut other, xid));
    let store = |key: &str| Message::Store {
        key: key.as_bytes().into(),
        token: b"?1.2.3.4.5"[..].into(),
        ttl_ms: None,
        value: Stored::Text(b"the row"[..].into()),
    };
    put(&mut client, &[store("running"), store("failed")]);
    let_go(&scene);
    assert_eq!(get(&scene.redis, "failed").as_deref(), Some("the row"));
    assert_eq!(get(&scene.redis, "running"), None, "its own row comes later");
    assert!(has_token(&scene, "running"), "and needs its token");
}
