//! Keys whose deletion is sent before the commit record and confirmed behind it: only where a
//! transaction that is over can leave what was not confirmed to somebody else.

use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use pg_cache_e2e::gate::Gate;
use pg_cache_e2e::guarded::assert_needed;
use pg_cache_e2e::outbox::events;
use pg_cache_e2e::registry::{WORKERS, count, repair};
use pg_cache_e2e::{Notices, cached, late, same_as_direct};
use pg_cache_testbed::{Pair, eventually};
use postgres::Client;

use crate::memory::{CONF, KEY, SCHEMA, SOON, run, stage};

const CHANGE: &str = "UPDATE users SET v = 2 WHERE id = 1";

/// Gives a session a connection to Redis.
const CONNECT: &str = "UPDATE users SET v = 0 WHERE id = 2";

fn commits_wait_ms(admin: &mut Client, ms: u32) {
    run(admin, &format!("ALTER SYSTEM SET pg_cache.commit_timeout_ms = {ms}"));
    run(admin, "SELECT pg_reload_conf()");
}

/// A session that has a connection to Redis, and then these fault points.
fn connected(pair: &Pair, faults: &str) -> Client {
    let mut client = pair.postgres.connect();
    run(&mut client, CONNECT);
    run(&mut client, &format!("SET pg_cache.fault_point = '{faults}'"));
    client
}

/// The stage, where another extension runs SQL behind our part before a commit.
fn stage_with_late() -> (Pair, Client) {
    late::compile();
    let mut conf = CONF;
    conf[0].1 = "late, pg_cache";
    let pair = Pair::start_with(&conf, &[]);
    let mut admin = pair.postgres.connect();
    run(&mut admin, SCHEMA);
    repair(&mut admin);
    (pair, admin)
}

/// One transaction, at whose end another extension runs `late`.
fn with_late(work: &str, late: &str) -> String {
    format!("BEGIN; SET LOCAL late.sql = $late${late}$late$; {work}; COMMIT")
}

fn start(mut client: Client, sql: String) -> JoinHandle<(Client, Duration)> {
    spawn(move || {
        let began = Instant::now();
        run(&mut client, &sql);
        (client, began.elapsed())
    })
}

fn exists(pair: &Pair, key: &str) -> bool {
    pair.redis.cli(&["EXISTS", key]) == "1"
}

/// Redis hangs, and dies, between the commit record of a change that names a key and its answer;
/// what it holds then is from before. Whether the key is still there when all is settled.
fn outlives_silence(fault: &str) -> bool {
    let (mut pair, mut admin) = stage();
    commits_wait_ms(&mut admin, 300);
    let (mut writer, notices) = Notices::listen(&pair.postgres.conninfo("test"));
    run(&mut writer, &format!("SET pg_cache.fault_point = '{fault}'"));
    run(&mut writer, CONNECT);
    // No entry of ours: a sweep would not find it.
    pair.redis.cli(&["SET", KEY, "old"]);
    let before = pair.redis.snapshot();
    pair.redis.freeze();
    let began = Instant::now();
    run(&mut writer, CHANGE);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(290) && took < Duration::from_secs(5), "{took:?}");
    assert_eq!(notices.warnings().len(), 1);
    let is_owed = |admin: &mut Client| count(admin, "SELECT count(*) FROM redis_debt") > 0;
    let deadline = Instant::now() + Duration::from_secs(3);
    while !is_owed(&mut admin) && Instant::now() < deadline {
        sleep(Duration::from_millis(20));
    }
    // Without what it was sent.
    pair.redis.stop();
    pair.redis.start_again_from(&before);
    repair(&mut admin);
    exists(&pair, KEY)
}

#[test]
fn what_was_sent_before_a_commit_is_owed_if_it_is_not_confirmed_behind_it() {
    // Danger: the transaction is over and cannot owe any more, and a program reads the old value
    // for as long as it lasts.
    assert_needed("guard.leave", outlives_silence);
}

#[test]
fn where_many_hang_at_once_no_other_entry_goes() {
    // Danger: names for which there is no room become all keys, and a moment in which Redis hangs
    // costs the whole cache.
    let (pair, mut admin) = stage();
    commits_wait_ms(&mut admin, 300);
    let long = "x".repeat(300);
    run(
        &mut admin,
        &format!(
            "CREATE TABLE many (id int);
             CREATE TRIGGER named AFTER INSERT ON many
                 FOR EACH ROW EXECUTE FUNCTION redis_invalidate('many:{{id}}');
             CREATE TABLE long (id int);
             CREATE TRIGGER named AFTER INSERT ON long
                 FOR EACH ROW EXECUTE FUNCTION redis_invalidate('{long}:{{id}}')"
        ),
    );
    same_as_direct(&mut admin, "another", "SELECT sum(v) FROM users WHERE id > 2").unwrap();
    let of_many =
        |first: u32, last: u32| format!("INSERT INTO many SELECT generate_series({first}, {last})");
    let mut changes: Vec<String> = (0..20).map(|n| of_many(16 * n + 1, 16 * n + 16)).collect();
    changes.extend([of_many(321, 420), "INSERT INTO long VALUES (1)".to_owned()]);
    let keys = (1..=420).map(|n| format!("many:{n}")).chain([format!("{long}:1")]);
    let keys: Vec<String> = keys.collect();
    for key in &keys {
        redis::cmd("SET").arg(key).arg("old").exec(&mut pair.redis.client()).unwrap();
    }
    let writers: Vec<Client> = changes.iter().map(|_| connected(&pair, "")).collect();
    eventually(SOON, "no worker is left", || count(&mut admin, WORKERS) == 0);
    pair.redis.freeze();
    let writing: Vec<_> =
        writers.into_iter().zip(changes).map(|(it, sql)| start(it, sql)).collect();
    writing.into_iter().for_each(|it| drop(it.join().unwrap()));
    let owing = "SELECT count(*) FROM redis_debt d JOIN many m ON d.key = 'many:' || m.id
                  WHERE d.xid = m.xmin::text::xid8";
    let by_name = count(&mut admin, owing);
    println!("{by_name} of 420 keys are owed by those who named them");
    assert!(by_name >= 100 + (320 - 256), "who finds no room does");
    assert_eq!(count(&mut admin, "SELECT count(*) FROM redis_debt WHERE key LIKE 'xxx%'"), 1);
    pair.redis.thaw();
    eventually(SOON, "all is paid", || {
        count(&mut admin, "SELECT count(*) FROM redis_debt") == 0 && count(&mut admin, WORKERS) == 0
    });
    let left = redis::cmd("EXISTS").arg(&keys).query::<i64>(&mut pair.redis.client());
    assert_eq!(left.unwrap(), 0);
    assert!(exists(&pair, "another"));
}

#[test]
fn what_breaks_off_behind_the_record_leaves_its_names() {
    // Danger: they go with the stack, nobody knows what became of the deletion, and nobody repeats
    // it.
    let (pair, mut admin) = stage();
    eventually(SOON, "no worker is left", || count(&mut admin, WORKERS) == 0);
    let mut writer = connected(&pair, "commit.confirm:panic");
    run(&mut writer, CHANGE);
    pair.redis.cli(&["SET", KEY, "old"]);
    run(&mut admin, "SELECT redis_wake()");
    eventually(SOON, "it is deleted by the worker", || !exists(&pair, KEY));
    // And one that is undone leaves nothing, though its deletion was sent.
    let mut writer = connected(&pair, "events.settle:error");
    run(
        &mut admin,
        "CREATE TRIGGER told AFTER UPDATE ON users
             FOR EACH ROW WHEN (new.v > 2) EXECUTE FUNCTION redis_stream('s')",
    );
    writer.batch_execute("UPDATE users SET v = 3 WHERE id = 1").unwrap_err();
    pair.redis.cli(&["SET", KEY, "old"]);
    run(&mut admin, "SELECT redis_wake()");
    eventually(SOON, "no worker is left", || count(&mut admin, WORKERS) == 0);
    assert!(exists(&pair, KEY));
}

#[test]
fn a_commit_does_not_wait_for_a_redis_that_others_found_dead() {
    // Danger: each of many backends sends its deletion to it and waits for as long as it may.
    let (pair, mut admin) = stage();
    commits_wait_ms(&mut admin, 1500);
    let mut readers: Vec<Client> = (0..3).map(|_| connected(&pair, "")).collect();
    let writers: Vec<Client> = (0..4).map(|_| connected(&pair, "")).collect();
    eventually(SOON, "no worker is left", || count(&mut admin, WORKERS) == 0);
    pair.redis.freeze();
    for reader in &mut readers {
        cached(reader, "k", "SELECT v FROM users WHERE id = 3").unwrap();
    }
    let change = |id: usize| format!("UPDATE users SET v = 2 WHERE id = {id}");
    let writing: Vec<_> =
        writers.into_iter().zip(4..).map(|(it, id)| start(it, change(id))).collect();
    let waited: Vec<Duration> = writing.into_iter().map(|it| it.join().unwrap().1).collect();
    println!("{waited:?}");
    let long = waited.iter().filter(|it| **it > Duration::from_millis(1000)).count();
    assert!(long <= 1, "one tries for all: {waited:?}");
    assert_eq!(count(&mut admin, "SELECT count(*) FROM redis_debt WHERE key LIKE 'user:%'"), 4);
}

/// Redis is busy for half a second, and then hangs up on everybody before it reads what was sent
/// meanwhile.
fn hangs_up(pair: &Pair) -> JoinHandle<()> {
    let mut other = pair.redis.client();
    let busy = spawn(move || {
        let mut pipeline = redis::pipe();
        pipeline.cmd("EVAL").arg(BUSY).arg(0).ignore();
        pipeline.cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]).ignore();
        pipeline.exec(&mut other).unwrap();
    });
    sleep(Duration::from_millis(100));
    busy
}

#[test]
fn a_connection_that_is_lost_behind_the_commit_record_is_replaced() {
    // Danger: an idle timeout of Redis, or a proxy, at the wrong moment leaves the old value.
    assert_needed("guard.confirm", |fault| {
        let (pair, mut admin) = stage();
        let mut writer = pair.postgres.connect();
        run(&mut writer, &format!("SET pg_cache.fault_point = '{fault}'"));
        run(&mut writer, CONNECT);
        pair.redis.cli(&["SET", KEY, "old"]);
        let busy = hangs_up(&pair);
        run(&mut writer, CHANGE);
        busy.join().unwrap();
        assert_eq!(count(&mut admin, "SELECT count(*) FROM redis_debt"), 0);
        exists(&pair, KEY)
    });
}

/// For half a second.
const BUSY: &str = "
    local function ms() local t = redis.call('TIME') return t[1] * 1000 + t[2] / 1000 end
    local till = ms() + 500
    while ms() < till do end";

#[test]
fn with_error_a_commit_waits_before_its_record() {
    // Danger: a transaction that was to fail without Redis is committed, and then cannot fail.
    let (mut pair, mut admin) = stage();
    let mut writer = pair.postgres.connect();
    run(&mut writer, "SET pg_cache.on_unreachable = error; SET pg_cache.commit_timeout_ms = 300");
    run(&mut writer, CONNECT);
    pair.redis.stop();
    let error = writer.batch_execute(CHANGE).unwrap_err();
    assert_eq!(error.code().unwrap().code(), "08006");
    assert_eq!(count(&mut admin, "SELECT v::bigint FROM users WHERE id = 1"), 1);
}

#[test]
fn keys_are_gone_before_the_durable_events_of_their_transaction_leave() {
    // Danger: who hears of a change reads the value of before it, and keeps that.
    let (pair, mut admin) = stage();
    run(
        &mut admin,
        "CREATE TRIGGER told AFTER UPDATE ON users
             FOR EACH ROW WHEN (new.v > 0) EXECUTE FUNCTION redis_stream('s', 'durable')",
    );
    let gate = Gate::new();
    let writer = connected(&pair, &gate.at("commit.confirm"));
    pair.redis.cli(&["SET", KEY, "old"]);
    let busy = hangs_up(&pair);
    let writing = start(writer, CHANGE.to_owned());
    busy.join().unwrap();
    eventually(SOON, "the event arrives", || events(&pair.redis, "s").len() == 1);
    assert!(!exists(&pair, KEY), "it tells of the key");
    gate.open();
    writing.join().unwrap();
}

#[test]
fn so_they_are_if_the_event_or_the_key_is_noted_at_the_last_moment() {
    // Danger: as above, where the deletion is under way before anybody knows of an event.
    let (pair, mut admin) = stage_with_late();
    run(
        &mut admin,
        "CREATE TABLE told (v int);
         CREATE TRIGGER told AFTER INSERT ON told
             FOR EACH ROW EXECUTE FUNCTION redis_stream('s', 'durable')",
    );
    let mut writer = connected(&pair, "commit.confirm:sleep_3000");
    let tell = "INSERT INTO told VALUES (1)";
    for (first, late, told) in [(CHANGE, tell, 1), (tell, CHANGE, 2)] {
        let began = Instant::now();
        run(&mut writer, &format!("BEGIN; SET LOCAL late.sql = '{late}'; {first}"));
        run(&mut writer, "COMMIT");
        assert!(began.elapsed() < Duration::from_secs(2), "nothing is left to confirm: {late}");
        eventually(SOON, "the event arrives", || events(&pair.redis, "s").len() == told);
    }
    let began = Instant::now();
    run(&mut writer, CHANGE);
    assert!(began.elapsed() > Duration::from_secs(2), "and alone it would be");
}

#[test]
fn a_row_that_comes_back_keeps_its_image() {
    // Danger: its predecessor's deletion, repeated when everybody sees that and its locks are free,
    // takes the new one's image away.
    let (pair, mut admin) = stage();
    run(
        &mut admin,
        "CREATE TRIGGER stored AFTER INSERT OR UPDATE OR DELETE ON users
             FOR EACH ROW EXECUTE FUNCTION redis_store('image:{id}')",
    );
    for names_it_too in [false, true] {
        if names_it_too {
            run(
                &mut admin,
                "CREATE TRIGGER gone AFTER DELETE ON users
                     FOR EACH ROW EXECUTE FUNCTION redis_invalidate('image:{id}')",
            );
        }
        let gate = Gate::new();
        let writer = connected(&pair, &gate.at("commit.confirm"));
        let busy = hangs_up(&pair);
        let writing = start(writer, "DELETE FROM users WHERE id = 1".to_owned());
        let there = "SELECT count(*) FROM users WHERE id = 1";
        eventually(SOON, "it is gone", || count(&mut admin, there) == 0);
        busy.join().unwrap();
        run(&mut admin, "INSERT INTO users VALUES (1, 3)");
        assert!(exists(&pair, "image:1"));
        gate.open();
        writing.join().unwrap();
        assert!(exists(&pair, "image:1"), "named by another trigger too: {names_it_too}");
    }
}

#[test]
fn names_of_a_database_without_the_extension_are_forgotten() {
    // Danger: DROP EXTENSION has what it waits for before the deletion is confirmed; the names keep
    // their places for as long as the server runs, and workers come again and again to see them.
    let (pair, mut admin) = stage();
    commits_wait_ms(&mut admin, 300);
    let gate = Gate::new();
    let writer = connected(&pair, &gate.at("commit.confirm"));
    pair.redis.freeze();
    let writing = start(writer, CHANGE.to_owned());
    gate.met();
    run(&mut admin, "SET client_min_messages = warning; DROP EXTENSION pg_cache CASCADE");
    eventually(SOON, "no worker is left", || count(&mut admin, WORKERS) == 0);
    gate.open();
    writing.join().unwrap();
    eventually(SOON, "a worker comes", || count(&mut admin, WORKERS) == 1);
    eventually(SOON, "and goes", || count(&mut admin, WORKERS) == 0);
    sleep(Duration::from_millis(500));
    // It has no database, so pg_stat_activity does not show it: its lock does.
    let waiters = "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
                   WHERE locktype = 'userlock' AND datname = current_database()";
    assert_eq!(count(&mut admin, waiters), 0, "nobody waits to look again");
}

#[test]
fn a_name_that_is_left_while_the_worker_leaves_is_owed_at_once() {
    // Danger: the worker has looked for the last time, who leaves the name finds one running, and
    // the key stays old until somebody comes after many seconds.
    let (pair, mut admin) = stage();
    let mut writer = connected(&pair, "");
    run(&mut writer, "SET pg_cache.commit_timeout_ms = 100");
    eventually(SOON, "no worker is left", || count(&mut admin, WORKERS) == 0);
    let leaving = Gate::new();
    let at = leaving.at("worker.leaving");
    run(&mut admin, &format!("ALTER DATABASE test SET pg_cache.fault_point = '{at}'"));
    run(&mut admin, "SELECT redis_wake()");
    leaving.met();
    pair.redis.cli(&["SET", KEY, "old"]);
    pair.redis.freeze();
    run(&mut writer, CHANGE);
    pair.redis.thaw();
    eventually(SOON, "what was sent arrives", || !exists(&pair, KEY));
    pair.redis.cli(&["SET", KEY, "old"]);
    let began = Instant::now();
    leaving.open();
    eventually(SOON, "it is deleted by the worker", || !exists(&pair, KEY));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "a waiter takes longer: {took:?}");
}

/// Sessions that wait for Redis.
const WAITING: &str = "FROM pg_stat_activity
    WHERE state = 'active' AND wait_event = 'Extension' AND query LIKE '%late.sql%'";

#[test]
fn what_is_owed_in_a_savepoint_that_is_undone_is_left_all_the_same() {
    // Danger: the debt goes with what was noted there, the names are gone since it was written, and
    // the key stays as it was.
    let undone = "DO $$ BEGIN
        UPDATE users SET v = 3 WHERE id = 2; RAISE division_by_zero;
        EXCEPTION WHEN division_by_zero OR query_canceled THEN NULL; END $$";
    for is_cancelled in [false, true] {
        let (mut pair, mut admin) = stage_with_late();
        commits_wait_ms(&mut admin, 1000);
        let writer = connected(&pair, "");
        eventually(SOON, "no worker is left", || count(&mut admin, WORKERS) == 0);
        pair.redis.cli(&["SET", KEY, "old"]);
        // Without what it was sent.
        let before = pair.redis.snapshot();
        pair.redis.freeze();
        let writing = start(writer, with_late(CHANGE, undone));
        if is_cancelled {
            let cancel = format!("SELECT count(pg_cancel_backend(pid)) {WAITING}");
            eventually(SOON, "it waits for the answer", || count(&mut admin, &cancel) == 1);
        }
        writing.join().unwrap();
        pair.redis.stop();
        pair.redis.start_again_from(&before);
        repair(&mut admin);
        assert_eq!(count(&mut admin, "SELECT v::bigint FROM users WHERE id = 1"), 2);
        assert!(!exists(&pair, KEY), "cancelled: {is_cancelled}");
    }
}

#[test]
fn a_session_that_is_ended_gives_its_places_back() {
    // Danger: nothing of it is unwound, and its names keep their places until the server restarts;
    // in the end no commit finds any, and each waits for Redis before its record.
    const SESSIONS: u32 = 16;
    let (pair, mut admin) = stage_with_late();
    commits_wait_ms(&mut admin, 30_000);
    run(
        &mut admin,
        "CREATE TABLE many (id int);
         CREATE TRIGGER named AFTER INSERT ON many
             FOR EACH ROW EXECUTE FUNCTION redis_invalidate('many:{id}')",
    );
    let end = |client: &mut Client, nth: u32| {
        let (first, last) = (16 * nth, 16 * nth + 15);
        let insert = format!("INSERT INTO many SELECT generate_series({first}, {last})");
        let late = "INSERT INTO many VALUES (-1)";
        client.batch_execute(&with_late(&insert, late)).expect_err("it is ended")
    };
    let finds_places = || {
        let mut writer = connected(&pair, "commit.confirm:sleep_1000");
        let began = Instant::now();
        run(&mut writer, CHANGE);
        began.elapsed() >= Duration::from_secs(1)
    };
    // All places, of sessions that are about to send.
    for nth in 0..SESSIONS {
        end(&mut connected(&pair, "commit.named:exit"), nth);
    }
    assert!(finds_places(), "about to send");
    // And of sessions that wait for the answer.
    let mut sessions: Vec<Client> = (0..SESSIONS).map(|_| connected(&pair, "")).collect();
    pair.redis.freeze();
    std::thread::scope(|scope| {
        for (nth, session) in (0..SESSIONS).zip(&mut sessions) {
            scope.spawn(move || end(session, nth));
        }
        let waiting = format!("SELECT count(*) {WAITING}");
        let all = i64::from(SESSIONS);
        eventually(SOON, "all wait", || count(&mut admin, &waiting) == all);
        count(&mut admin, &format!("SELECT count(pg_terminate_backend(pid)) {WAITING}"));
    });
    pair.redis.thaw();
    assert!(finds_places(), "waiting for the answer");
}

#[test]
fn a_session_that_only_names_keys_hears_of_another_url() {
    // Danger: it goes on over the connection that it has, for as long as it lives: it deletes where
    // nobody reads any more, and what it owes is never registered elsewhere.
    let (pair, mut admin) = stage();
    let mut writer = connected(&pair, "");
    run(&mut writer, CHANGE);
    let servers = |admin: &mut Client| -> String {
        admin.query_one("SELECT servers FROM redis_server", &[]).unwrap().get(0)
    };
    let before = servers(&mut admin);
    eventually(SOON, "no worker is left", || count(&mut admin, WORKERS) == 0);
    let url = format!("{}?db=1", pair.redis.url());
    run(&mut admin, &format!("ALTER SYSTEM SET pg_cache.url = '{url}'"));
    run(&mut admin, "SELECT pg_reload_conf()");
    // Nobody else asks Redis for anything.
    eventually(SOON, "the other database is registered", || {
        run(&mut writer, CHANGE);
        servers(&mut admin) != before
    });
    pair.redis.cli(&["-n", "1", "SET", KEY, "old"]);
    run(&mut writer, CHANGE);
    assert_eq!(pair.redis.cli(&["-n", "1", "EXISTS", KEY]), "0");
}
