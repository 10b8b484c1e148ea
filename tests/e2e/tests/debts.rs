//! What the worker does once the table is made: it pays what commits could not settle, sweeps away
//! what former generations left, and takes ids out of the lists that nobody ever had.

use std::time::Duration;

use pg_cache_e2e::counters::value;
use pg_cache_e2e::outbox::{append, events, owe_all_keys, put, rows, wake};
use pg_cache_e2e::registry::{DEBTS, WORKERS, count, repair, table_key};
use pg_cache_e2e::{Scene, cached};
use pg_cache_testbed::eventually;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn debts_are_paid() {
    // Danger: a debt that stays keeps its readers computing, and its key old, for ever.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    let key = table_key(&mut client);
    for name in ["k", "other"] {
        scene.redis.cli(&["SET", name, "old"]);
    }
    client
        .batch_execute("INSERT INTO redis_debt VALUES (65541, '700', 'k'), (6, '700', NULL)")
        .unwrap();
    repair(&mut client);
    assert_eq!(count(&mut client, DEBTS), 0);
    assert_eq!(value(&scene.redis, "k"), None, "the key that was owed");
    assert!(value(&scene.redis, "other").is_some());
    for bucket in ["5", "6"] {
        let list = scene.redis.cli(&["HGET", &key, bucket]);
        assert!(list.contains(':'), "bucket {bucket} was bumped: {list:?}");
    }
}

#[test]
fn debts_are_paid_although_nobody_asks_when_redis_is_back() {
    // Danger: the keys of a quiet table stay old in Redis until somebody happens to read it.
    let mut scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.redis.stop();
    client
        .batch_execute("INSERT INTO redis_debt VALUES (5, '700', 'k'); SELECT redis_wake()")
        .unwrap();
    // It has no database, so pg_stat_activity does not show it: its lock does.
    let waiters = "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
                   WHERE locktype = 'userlock' AND classid = x'70676362'::int::oid
                     AND datname = current_database()";
    eventually(SOON, "somebody waits", || count(&mut client, waiters) > 0);
    eventually(SOON, "the worker is gone", || count(&mut client, WORKERS) == 0);
    scene.redis.start_again();
    scene.redis.cli(&["SET", "k", "old"]);
    eventually(2 * SOON, "paid", || count(&mut client, DEBTS) == 0);
    assert_eq!(value(&scene.redis, "k"), None);
}

#[test]
fn many_debts_leave_neither_room_nor_a_reader_without_hits() {
    // Danger: after an outage every read steps over what was paid, until VACUUM comes by.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    let many = "INSERT INTO redis_debt SELECT 7, g::text::xid8, 'k:' || g
                FROM generate_series(1, 25000) g";
    for number in [1, 12_500, 25_000] {
        scene.redis.cli(&["SET", &format!("k:{number}"), "old"]);
    }
    client.batch_execute(many).unwrap();
    put(&mut client, &[append("s", "told")]);
    wake(&mut client);
    eventually(SOON, "told", || rows(&mut client) == 0);
    eventually(SOON, "paid", || count(&mut client, DEBTS) == 0);
    let size = "SELECT pg_relation_size('redis_debt')";
    eventually(SOON, "no block is left", || count(&mut client, size) == 0);
    for number in [1, 12_500, 25_000] {
        assert_eq!(value(&scene.redis, &format!("k:{number}")), None);
    }
    assert_eq!(scene.redis.cli(&["XLEN", "s"]).trim(), "1");
}

#[test]
fn a_debt_of_all_keys_deletes_every_entry_of_this_database() {
    // Danger: keys that were too many to write down stay old for who reads Redis.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    client.batch_execute("CREATE TABLE t AS SELECT 1 AS v").unwrap();
    for number in 0..500 {
        cached(&mut client, &format!("k:{number}"), "SELECT v FROM t").unwrap();
    }
    scene.redis.cli(&["SET", "foreign", "stays"]);
    assert!(value(&scene.redis, "k:499").is_some());
    let owed = "INSERT INTO redis_debt VALUES (-2, '700', '*'), (-1, '700', NULL)";
    client.batch_execute(owed).unwrap();
    repair(&mut client);
    assert_eq!(count(&mut client, DEBTS), 0);
    assert_eq!(scene.redis.cli(&["KEYS", "*k:*"]), "");
    assert!(value(&scene.redis, "foreign").is_some());
    let list = scene.redis.cli(&["HGET", &table_key(&mut client), "C"]);
    assert!(list.contains(':'), "the catalogue's tag was bumped: {list:?}");
}

#[test]
fn a_debt_of_all_keys_is_paid_in_turns_with_all_else() {
    // Danger: with many keys in Redis no event leaves for minutes, and DROP DATABASE fails. Or each
    // time that Redis does not answer it begins anew, and all that was filled since is for nothing.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    let table = table_key(&mut client);
    cached(&mut client, "mine", "SELECT 1 AS v").unwrap();
    scene.add_foreign_keys(1_200);
    scene.quiet();
    scene.set_faults("worker.walking:sleep_60");
    client.batch_execute("INSERT INTO redis_debt VALUES (-2, '700', '*')").unwrap();
    put(&mut client, &[append("s", "told")]);
    wake(&mut client);
    eventually(SOON, "told", || rows(&mut client) == 0);
    assert_eq!(count(&mut client, DEBTS), 1, "long before it is paid");
    let listed = || scene.redis.cli(&["HGET", &table, "C"]);
    let bumped = listed();
    // Longer than the worker waits for an answer.
    scene.redis.cli(&["CLIENT", "PAUSE", "2200", "ALL"]);
    eventually(SOON, "paid", || count(&mut client, DEBTS) == 0);
    assert_eq!((value(&scene.redis, "mine"), listed()), (None, bumped));
    client.batch_execute("INSERT INTO redis_debt VALUES (-2, '701', '*')").unwrap();
    wake(&mut client);
    let walks = format!("{WORKERS} AND query LIKE 'paying a debt of all keys%'");
    eventually(SOON, "the next one is under way", || count(&mut client, &walks) == 1);
    drop(client);
    let drop = format!("DROP DATABASE {}", scene.database());
    scene.postgres().connect().batch_execute(&drop).unwrap();
}

#[test]
fn events_leave_in_the_middle_of_a_walk_but_for_those_of_whoever_owes() {
    // Danger: with many keys in Redis one transaction that named too much has all durable events
    // of the database wait for minutes. Or its own leave although it owes.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.add_foreign_keys(3_000);
    scene.quiet();
    scene.set_faults("worker.walking:sleep_60");
    let sent = |stream| events(&scene.redis, stream).len();
    // The second one comes when the walk is under way.
    for number in 1..=2 {
        owe_all_keys(&mut client);
        put(&mut client, &[append("theirs", "0")]);
        wake(&mut client);
        eventually(SOON, "the other one's is sent", || sent("theirs") == number);
        assert_eq!(count(&mut client, DEBTS), number as i64, "long before it is paid");
    }
    // The next worker looks at once at what was put aside.
    let walks = format!("{WORKERS} AND query LIKE 'paying a debt of all keys%'");
    let terminate = walks.replace("count(*)", "pg_terminate_backend(pid)");
    client.batch_execute(&terminate).unwrap();
    let mut walked = 0;
    eventually(SOON, "paid", || {
        wake(&mut client);
        walked += count(&mut client, &walks);
        let sent = sent("mine");
        let owed = count(&mut client, DEBTS);
        assert!(sent == 0 || owed == 0, "sent before it is paid");
        owed == 0
    });
    assert!(walked > 0);
    eventually(SOON, "sent", || {
        wake(&mut client);
        sent("mine") == 2
    });
}

#[test]
fn an_event_waits_for_few_of_the_entries_that_are_deleted() {
    // Danger: where each round trip takes long, events wait for all entries that one look at
    // Redis' keys finds, seconds each time.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    for number in 0..60 {
        cached(&mut client, &format!("k:{number}"), "SELECT 1 AS v").unwrap();
    }
    scene.quiet();
    scene.set_faults("flush.looked:sleep_20");
    client.batch_execute("INSERT INTO redis_debt VALUES (-2, '700', '*')").unwrap();
    put(&mut client, &[append("s", "told")]);
    wake(&mut client);
    eventually(SOON, "told", || events(&scene.redis, "s").len() == 1);
    assert_eq!(count(&mut client, DEBTS), 1, "long before it is paid");
    eventually(SOON, "paid", || count(&mut client, DEBTS) == 0);
    assert_eq!(scene.redis.cli(&["KEYS", "k:*"]), "");
}

#[test]
fn entries_of_former_generations_are_swept_away() {
    // Danger: programs that read Redis live for a day with what a failover brought back.
    let scene = Scene::new();
    let second = format!("{}_b", scene.database());
    scene.create_database(&second);
    let mut client = scene.connect();
    let mut other = scene.connect_to("postgres", &second);
    for (client, key) in [(&mut client, "mine"), (&mut other, "theirs")] {
        repair(client);
        client.batch_execute("CREATE TABLE t AS SELECT 1 AS v").unwrap();
        cached(client, key, "SELECT v FROM t").unwrap();
        assert!(value(&scene.redis, key).is_some(), "{key}");
    }
    scene.redis.cli(&["SET", "foreign", "stays"]);
    client.batch_execute("SELECT redis_register()").unwrap();
    repair(&mut client);
    eventually(SOON, "swept", || value(&scene.redis, "mine").is_none());
    assert!(value(&scene.redis, "theirs").is_some(), "another database's");
    assert!(value(&scene.redis, "foreign").is_some(), "another program's");
}

#[test]
fn what_a_full_redis_holds_is_swept_while_events_wait() {
    // Danger: events cannot leave, for hours, and all that while whoever reads Redis lives with
    // what a failover brought back. And it is the sweep that would make room for the events.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    client.batch_execute("CREATE TABLE t AS SELECT 1 AS v").unwrap();
    for number in 0..30 {
        cached(&mut client, &format!("mine:{number}"), "SELECT v FROM t").unwrap();
    }
    // Many: the worker does not come through them all before it leaves, if it has done nothing.
    scene.add_foreign_keys(20_000);
    scene.quiet();
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    put(&mut client, &[append("s", "0")]);
    client.batch_execute("SELECT redis_register()").unwrap();
    eventually(SOON, "swept", || {
        wake(&mut client);
        scene.redis.cli(&["KEYS", "mine:*"]).is_empty()
    });
    assert_eq!(rows(&mut client), 1, "the event waits");
}

#[test]
fn ids_from_the_future_are_taken_out_of_the_lists() {
    // Danger: after a restored backup, buckets that compute until the ids of the lost future have
    // been handed out again.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    let key = table_key(&mut client);
    let mut set = redis::cmd("HSET");
    set.arg(&key).arg("V").arg("10");
    for bucket in 0..2000 {
        set.arg(bucket).arg("7:3,99999999999,4");
    }
    set.exec(&mut scene.redis.client()).unwrap();
    client.batch_execute("SELECT redis_register()").unwrap();
    repair(&mut client);
    for bucket in ["0", "1000", "1999"] {
        assert_eq!(scene.redis.cli(&["HGET", &key, bucket]), "7:3,4");
    }
    assert_eq!(scene.redis.cli(&["HEXISTS", &key, "claim"]), "0");
}
