//! What is told ahead of a commit that is near by experience, and what becomes of it.

use std::time::{Duration, Instant};

use pg_cache_e2e::counters::{commands, counted, forget_commands};
use pg_cache_e2e::registry::repair;
use pg_cache_e2e::trouble::use_url;
use pg_cache_e2e::{Scene, cached};
use pg_cache_testbed::{Proxy, eventually};
use postgres::Client;

use crate::preload::preloaded;

const QUERY: &str = "SELECT v FROM told";

/// Calls of BUMP that Redis counted since they were forgotten.
fn bumps(scene: &Scene) -> u64 {
    commands(&scene.redis).get("evalsha").copied().unwrap_or(0)
}

/// A client and a writer whose transactions have made a habit of ending behind their one change.
fn accustomed(scene: &Scene) -> (Client, Client) {
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE TABLE told (id int PRIMARY KEY, v int); CREATE TABLE more (v int);
             INSERT INTO told VALUES (1, 0); INSERT INTO more VALUES (0);
             SELECT redis_track('told'); SELECT redis_track('more')",
        )
        .unwrap();
    repair(&mut client);
    let mut writer = scene.connect();
    accustom(&mut writer);
    forget_commands(scene);
    (client, writer)
}

/// Twenty changes, each committed at once.
fn accustom(writer: &mut Client) {
    writer.batch_execute("SET pg_cache.ahead_ms = '60 s'").unwrap();
    for _ in 0..20 {
        change(writer);
        writer.batch_execute("COMMIT").unwrap();
    }
}

/// Redis has executed what was sent ahead.
fn await_told(scene: &Scene) {
    eventually(Duration::from_secs(5), "it is told", || bumps(scene) == 1);
}

/// Begins, and changes the row.
fn change(writer: &mut Client) {
    writer.batch_execute("BEGIN").unwrap();
    writer.batch_execute("UPDATE told SET v = v + 1").unwrap();
}

#[test]
fn a_habit_is_told_ahead_and_its_commit_asks_nothing() {
    // Danger: each commit waits for Redis although it could have been told while the client was
    // making its next statement.
    let scene = Scene::new();
    let (mut client, mut writer) = accustomed(&scene);
    assert_eq!(cached(&mut client, "told:1", QUERY).unwrap(), r#"[{"v":20}]"#);
    assert_eq!(cached(&mut client, "told:1", QUERY).unwrap(), r#"[{"v":20}]"#);
    forget_commands(&scene);

    change(&mut writer);
    await_told(&scene);
    let (answer, since) = counted(&mut client, |client| cached(client, "told:1", QUERY).unwrap());
    assert_eq!(answer, r#"[{"v":20}]"#);
    assert_eq!((since.hits, since.fills), (0, 0), "{since:?}");

    writer.batch_execute("COMMIT").unwrap();
    assert_eq!(bumps(&scene), 1, "the commit told nothing more");
    assert_eq!(cached(&mut client, "told:1", QUERY).unwrap(), r#"[{"v":21}]"#);
    let (answer, since) = counted(&mut client, |client| cached(client, "told:1", QUERY).unwrap());
    assert_eq!((answer.as_str(), since.hits), (r#"[{"v":21}]"#, 1));
}

#[test]
fn it_is_a_habit_or_it_is_told_at_the_commit() {
    // Danger: readers compute for as long as a transaction stays open that was told at once.
    let scene = Scene::new();
    let (_client, mut writer) = accustomed(&scene);
    let told_before_commit = |writer: &mut Client, begin: &str| {
        forget_commands(&scene);
        writer.batch_execute(begin).unwrap();
        writer.batch_execute("UPDATE told SET v = v + 1").unwrap();
        // What was sent is executed before what another client sends now, or a moment later.
        std::thread::sleep(Duration::from_millis(100));
        let told = bumps(&scene);
        writer.batch_execute("COMMIT").unwrap();
        assert_eq!(bumps(&scene), 1);
        told
    };
    assert_eq!(told_before_commit(&mut writer, "BEGIN"), 1);
    assert_eq!(told_before_commit(&mut writer, "BEGIN; SET LOCAL pg_cache.ahead_ms = 0"), 0);
    let mut other = scene.connect();
    assert_eq!(told_before_commit(&mut other, "BEGIN"), 0, "a new session has no habits");
    // Three that stay for longer than the limit end the habit.
    for _ in 0..3 {
        writer.batch_execute("BEGIN; UPDATE told SET v = v + 1").unwrap();
        writer.batch_execute("SET LOCAL pg_cache.ahead_ms = 1; SELECT pg_sleep(0.01)").unwrap();
        writer.batch_execute("COMMIT").unwrap();
    }
    assert_eq!(told_before_commit(&mut writer, "BEGIN"), 0);
}

#[test]
fn what_changes_behind_it_is_told_by_the_commit() {
    // Danger: the commit takes a part for the whole.
    let scene = Scene::new();
    let (mut client, mut writer) = accustomed(&scene);
    let more = "SELECT v FROM more";
    assert_eq!(cached(&mut client, "more", more).unwrap(), r#"[{"v":0}]"#);
    forget_commands(&scene);
    change(&mut writer);
    writer.batch_execute("UPDATE more SET v = 1").unwrap();
    assert_eq!(cached(&mut client, "more", more).unwrap(), r#"[{"v":0}]"#);
    writer.batch_execute("COMMIT").unwrap();
    assert_eq!(bumps(&scene), 2);
    assert_eq!(cached(&mut client, "more", more).unwrap(), r#"[{"v":1}]"#);
    assert_eq!(cached(&mut client, "told:1", QUERY).unwrap(), r#"[{"v":21}]"#);
}

#[test]
fn a_rollback_behind_it_costs_a_miss() {
    // Danger: the answer that nobody took is read as that to the next question.
    let scene = Scene::new();
    let (mut client, mut writer) = accustomed(&scene);
    cached(&mut client, "told:1", QUERY).unwrap();
    change(&mut writer);
    writer.batch_execute("ROLLBACK").unwrap();
    assert_eq!(cached(&mut writer, "told:1", QUERY).unwrap(), r#"[{"v":20}]"#);
    assert_eq!(cached(&mut client, "told:1", QUERY).unwrap(), r#"[{"v":20}]"#);
    change(&mut writer);
    writer.batch_execute("SAVEPOINT s; UPDATE more SET v = 1; ROLLBACK TO s").unwrap();
    writer.batch_execute("SELECT redis_set('other', 'asked in between')").unwrap();
    writer.batch_execute("COMMIT").unwrap();
    assert_eq!(cached(&mut client, "told:1", QUERY).unwrap(), r#"[{"v":21}]"#);
}

/// What is served when Redis has lost the table, another was made and an old value filled, all
/// between telling and the commit.
fn served_after_a_loss(fault: &str) -> String {
    let scene = Scene::new();
    let (mut client, mut writer) = accustomed(&scene);
    writer.batch_execute(&format!("SET pg_cache.fault_point = '{fault}'")).unwrap();
    change(&mut writer);
    await_told(&scene);
    scene.redis.cli(&["FLUSHALL"]);
    // The open transaction holds no lock: the worker does not wait for it.
    client.batch_execute("SET statement_timeout = '20 s'").unwrap();
    repair(&mut client);
    assert_eq!(cached(&mut client, "k", QUERY).unwrap(), r#"[{"v":20}]"#);
    let (answer, since) = counted(&mut client, |client| cached(client, "k", QUERY).unwrap());
    assert_eq!(
        (answer.as_str(), since.hits),
        (r#"[{"v":20}]"#, 1),
        "the old value is cached again"
    );
    writer.batch_execute("COMMIT").unwrap();
    cached(&mut client, "k", QUERY).unwrap()
}

#[test]
fn what_was_lost_meanwhile_is_told_again() {
    // Danger: the value of before the commit is served for as long as it lives.
    assert_eq!(served_after_a_loss(""), r#"[{"v":21}]"#);
}

#[test]
fn without_a_look_at_the_registration_an_old_value_is_served() {
    // Danger: the test above passes whatever that look is good for.
    assert_eq!(served_after_a_loss("guard.ahead:skip"), r#"[{"v":20}]"#);
}

/// Nothing of this may fail for want of Redis, nor be owed: it is there.
fn ends_well(scene: &Scene, writer: &mut Client, end: &str) {
    let wanted = "SET LOCAL pg_cache.on_unreachable = 'error'";
    writer.batch_execute(&format!("{wanted}; {end}")).unwrap();
    let mut client = scene.connect();
    assert_eq!(pg_cache_e2e::registry::count(&mut client, "SELECT count(*) FROM redis_debt"), 0);
}

#[test]
fn a_lost_connection_is_made_up_for_at_the_commit() {
    // Danger: what was sent over it never arrived; or its loss is held against a server that is
    // there, and the commit owes or fails.
    let scene = Scene::new();
    let (mut client, mut writer) = accustomed(&scene);
    let relay = Proxy::unix(scene.redis.socket());
    use_url(&mut writer, &format!("unix://{}", relay.path().display()));
    accustom(&mut writer);
    cached(&mut client, "k", QUERY).unwrap();
    relay.stall(true);
    change(&mut writer);
    relay.cut_all();
    relay.stall(false);
    ends_well(&scene, &mut writer, "COMMIT");
    assert_eq!(cached(&mut client, "k", QUERY).unwrap(), r#"[{"v":41}]"#);
}

#[test]
fn a_server_that_forgot_the_script_is_told_again_at_the_commit() {
    // Danger: its refusal is held against it, and the commit owes or fails.
    let scene = Scene::new();
    let (mut client, mut writer) = accustomed(&scene);
    cached(&mut client, "k", QUERY).unwrap();
    scene.redis.cli(&["SCRIPT", "FLUSH"]);
    change(&mut writer);
    ends_well(&scene, &mut writer, "COMMIT");
    assert_eq!(cached(&mut client, "k", QUERY).unwrap(), r#"[{"v":21}]"#);
}

#[test]
fn a_lost_early_settlement_is_made_up_for_at_the_commit() {
    // Danger: the same of keys that are settled in the middle of their transaction.
    let scene = Scene::new();
    let (mut client, mut writer) = accustomed(&scene);
    name_keys(&mut client);
    for lost in ["connection", "script"] {
        let relay = Proxy::unix(scene.redis.socket());
        use_url(&mut writer, &format!("unix://{}", relay.path().display()));
        let keys: Vec<String> = (1..=4).map(|id| format!("told:{id}")).collect();
        for key in &keys {
            scene.redis.cli(&["SET", key, "old"]);
        }
        let put = |id: u32| {
            format!("INSERT INTO told VALUES ({id}, 0) ON CONFLICT (id) DO UPDATE SET v = 1")
        };
        writer.batch_execute("BEGIN; SET LOCAL pg_cache.pending_keys_max = 1").unwrap();
        writer.batch_execute("SET LOCAL pg_cache.on_unreachable = 'error'").unwrap();
        writer.batch_execute(&put(1)).unwrap();
        if lost == "script" {
            scene.redis.cli(&["SCRIPT", "FLUSH"]);
            writer.batch_execute(&put(2)).unwrap();
        } else {
            relay.stall(true);
            writer.batch_execute(&put(2)).unwrap();
            relay.cut_all();
            relay.stall(false);
        }
        writer.batch_execute(&format!("{}; {}", put(3), put(4))).unwrap();
        ends_well(&scene, &mut writer, "COMMIT");
        for key in &keys {
            assert_eq!(scene.redis.cli(&["EXISTS", key]).trim(), "0", "{key}, lost {lost}");
        }
    }
}

/// From now on each change of `told` names a key.
fn name_keys(client: &mut Client) {
    client
        .batch_execute(
            "CREATE TRIGGER named AFTER INSERT OR UPDATE ON told
                 FOR EACH ROW EXECUTE FUNCTION redis_invalidate('told:{id}')",
        )
        .unwrap();
}

#[test]
fn named_keys_go_with_the_commit() {
    // Danger: a program that finds its key gone puts back what it read before the commit; or a
    // rollback has deleted it.
    let scene = Scene::new();
    let (mut client, mut writer) = accustomed(&scene);
    name_keys(&mut client);
    accustom(&mut writer);
    forget_commands(&scene);
    let there = || scene.redis.cli(&["EXISTS", "told:1"]).trim().to_owned();
    for (end, left) in [("ROLLBACK", "1"), ("COMMIT", "0")] {
        scene.redis.cli(&["SET", "told:1", "set by a program"]);
        change(&mut writer);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!((there().as_str(), bumps(&scene)), ("1", 0), "before {end}");
        writer.batch_execute(end).unwrap();
        assert_eq!(there(), left, "after {end}");
    }
}

#[test]
fn a_connection_that_was_closed_behind_an_answer_is_replaced() {
    // Danger: the answer that nobody took hides the end of the connection, and what must not be
    // sent twice is sent into it, and fails.
    let scene = Scene::new();
    let (_client, mut writer) = accustomed(&scene);
    change(&mut writer);
    await_told(&scene);
    writer.batch_execute("ROLLBACK").unwrap();
    scene.redis.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let row = writer.query_one("SELECT redis_incr('counter')", &[]).unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
}

#[test]
fn a_schema_change_is_told_at_its_commit_only() {
    // Danger: every reader of the database computes.
    let scene = Scene::new();
    let (_client, mut writer) = accustomed(&scene);
    for place in 0..20 {
        writer.batch_execute("BEGIN").unwrap();
        writer.batch_execute(&format!("ALTER TABLE more ADD c{place} int")).unwrap();
        writer.batch_execute("UPDATE more SET v = 1").unwrap();
        forget_commands(&scene);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(bumps(&scene), 0);
        writer.batch_execute("COMMIT").unwrap();
    }
}

#[test]
fn a_prepared_transaction_tells_and_owes_whatever_was_told() {
    // Danger: the worker does not wait for it, and only a debt tells of it.
    let scene = Scene::new();
    let (mut client, mut writer) = accustomed(&scene);
    change(&mut writer);
    writer.batch_execute("PREPARE TRANSACTION 'told'").unwrap();
    assert_eq!(bumps(&scene), 2);
    assert_eq!(cached(&mut client, "k", QUERY).unwrap(), r#"[{"v":20}]"#);
    client.batch_execute("COMMIT PREPARED 'told'").unwrap();
    assert_eq!(cached(&mut client, "k", QUERY).unwrap(), r#"[{"v":21}]"#);
}

#[test]
fn nothing_is_told_ahead_to_a_redis_that_others_found_dead() {
    // Danger: each of many backends sends it there, and then waits at its commit for as long as it
    // may.
    let pair = preloaded();
    let mut client = pair.postgres.connect();
    client.batch_execute("ALTER SYSTEM SET pg_cache.commit_timeout_ms = 1500").unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    client.batch_execute("CREATE TABLE told AS SELECT 0 AS v; SELECT redis_track('told')").unwrap();
    repair(&mut client);
    let mut sessions: Vec<Client> = (0..3).map(|_| pair.postgres.connect()).collect();
    for session in &mut sessions {
        accustom(session);
    }
    let mut readers: Vec<Client> = (0..3).map(|_| pair.postgres.connect()).collect();
    for reader in &mut readers {
        cached(reader, "told:1", QUERY).unwrap();
    }
    pair.redis.freeze();
    for reader in &mut readers {
        cached(reader, "told:1", QUERY).unwrap();
    }
    let waits = |session: &mut Client| {
        let began = Instant::now();
        change(session);
        session.batch_execute("COMMIT").unwrap();
        began.elapsed()
    };
    let waited: Vec<Duration> = sessions.iter_mut().map(waits).collect();
    println!("{waited:?}");
    let long = waited.iter().filter(|it| **it > Duration::from_millis(1000)).count();
    assert!(long <= 1, "one tries for all: {waited:?}");
}
