//! The room that paid debts and delivered events took: it is given back where that is in nobody's
//! way, and whatever is wrong with it keeps nothing waiting.

use std::time::Duration;

use pg_cache_e2e::Scene;
use pg_cache_e2e::outbox::{append, events, put, rows, wake};
use pg_cache_e2e::registry::{DEBTS, WORKERS, count, repair};
use pg_cache_testbed::{Pair, eventually};
use postgres::Client;

const SOON: Duration = Duration::from_secs(20);

const SIZES: [&str; 2] =
    ["SELECT pg_relation_size('redis_debt')", "SELECT pg_relation_size('redis_outbox')"];

/// Leaves blocks in which nothing is left: more than is left alone where there are no standbys.
fn leave_room(client: &mut Client) {
    leave_room_of_debts(client, 400);
    let rolled_back = "BEGIN;
        INSERT INTO redis_outbox
        SELECT 1, pg_current_xact_id(), g, now(), convert_to(repeat('x', 1900), 'UTF8')
          FROM generate_series(1, 5000) g;
        ROLLBACK";
    client.batch_execute(rolled_back).unwrap();
}

fn leave_room_of_debts(client: &mut Client, debts: u32) {
    let rolled_back = format!(
        "BEGIN;
         INSERT INTO redis_debt SELECT 7, g::text::xid8, repeat('k', 1900)
           FROM generate_series(1, {debts}) g;
         ROLLBACK"
    );
    client.batch_execute(&rolled_back).unwrap();
}

fn sizes(client: &mut Client) -> [i64; 2] {
    SIZES.map(|size| count(client, size))
}

/// A worker comes, looks some twenty times, and goes.
#[track_caller]
fn is_looked_after(client: &mut Client) {
    wake(client);
    eventually(SOON, "a worker", || count(client, WORKERS) == 1);
    eventually(SOON, "it leaves", || count(client, WORKERS) == 0);
}

fn alone() -> (Pair, Client) {
    let pair = Pair::start_with(&[("autovacuum", "off")], &[]);
    let mut client = pair.postgres.connect();
    repair(&mut client);
    eventually(SOON, "the worker leaves", || count(&mut client, WORKERS) == 0);
    (pair, client)
}

#[test]
fn who_only_reads_the_tables_costs_no_transaction_ids() {
    // Danger: with a pg_dump or an idle transaction that looked there once, each pass of the worker
    // tries to lock the table, takes an id and writes to the log, ten times a second.
    let (pair, mut client) = alone();
    leave_room(&mut client);
    let before = sizes(&mut client);
    let mut reader = pair.postgres.connect();
    let read = "BEGIN; LOCK TABLE redis_debt, redis_outbox IN ACCESS SHARE MODE";
    reader.batch_execute(read).unwrap();
    let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    let began = count(&mut client, next);
    is_looked_after(&mut client);
    assert_eq!(sizes(&mut client), before, "somebody is in the way");
    assert_eq!(count(&mut client, next), began, "ids were taken");
    reader.batch_execute("COMMIT").unwrap();
    wake(&mut client);
    eventually(SOON, "the room is given back", || sizes(&mut client) == [0, 0]);
}

#[test]
fn who_uses_the_large_values_of_a_table_is_in_the_way_as_well() {
    // Danger: the worker has the table locked for itself alone, and waits for VACUUM of its large
    // values: every commit that leaves an event fails meanwhile.
    let (pair, mut client) = alone();
    leave_room(&mut client);
    let before = sizes(&mut client);
    let mut vacuum = pair.postgres.connect();
    vacuum.batch_execute("BEGIN").unwrap();
    for table in ["redis_debt", "redis_outbox"] {
        let name = format!(
            "SELECT reltoastrelid::regclass::text FROM pg_class
                            WHERE oid = '{table}'::regclass"
        );
        let toast: String = client.query_one(&name, &[]).unwrap().get(0);
        vacuum.batch_execute(&format!("SELECT FROM {toast}")).unwrap();
    }
    is_looked_after(&mut client);
    assert_eq!(sizes(&mut client), before, "somebody is in the way");
    put(&mut client, &[append("s", "1")]);
    is_looked_after(&mut client);
    vacuum.batch_execute("COMMIT").unwrap();
    wake(&mut client);
    eventually(SOON, "the room is given back", || sizes(&mut client) == [0, 0]);
}

#[test]
fn a_table_that_cannot_be_truncated_keeps_nothing_waiting() {
    // Danger: the worker ends there before it has sent anything, and so does each that comes after
    // it: no durable event of the database leaves any more.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    let refusing = "CREATE TABLE d (t bigint, x xid8, FOREIGN KEY (t, x) REFERENCES redis_debt);
         CREATE TABLE o (n bigint, x xid8, s bigint,
                         FOREIGN KEY (n, x, s) REFERENCES redis_outbox)";
    client.batch_execute(refusing).unwrap();
    let mut told = Vec::new();
    let mut send = |client: &mut Client| {
        told.push(told.len().to_string());
        put(client, &[append("s", &told[told.len() - 1])]);
        eventually(SOON, "sent", || {
            wake(client);
            rows(client) == 0
        });
        assert_eq!(events(&scene.redis, "s"), told);
    };
    leave_room(&mut client);
    send(&mut client);
    client.batch_execute("INSERT INTO redis_debt VALUES (5, '700', NULL)").unwrap();
    send(&mut client);
    eventually(SOON, "paid", || count(&mut client, DEBTS) == 0);
    let log = |table: &str| {
        let said = format!("pg_cache worker: cannot truncate {table}");
        scene.postgres().log().matches(&said).count()
    };
    let tables = ["redis_debt", "redis_outbox"];
    eventually(SOON, "it is told", || tables.map(log) != [0, 0]);
    send(&mut client);
    is_looked_after(&mut client);
    assert!(tables.map(log).iter().all(|count| (1..=2).contains(count)), "once by each worker");
}

#[test]
fn a_standby_waits_only_where_a_table_is_clearly_too_large() {
    // Danger: each burst of debts or events locks a table for itself alone, and on the standby all
    // replay waits for a pg_dump that reads it, or ends it.
    let (pair, mut client) = alone();
    let _standby = pair.postgres.standby(&[]);
    let replays = "SELECT count(*) FROM pg_stat_replication
                   WHERE state = 'streaming' AND replay_lsn IS NOT NULL";
    eventually(SOON, "it replays", || count(&mut client, replays) == 1);
    leave_room(&mut client);
    let before = sizes(&mut client);
    is_looked_after(&mut client);
    assert_eq!(sizes(&mut client), before, "neither is too large");
    leave_room_of_debts(&mut client, 36_000);
    wake(&mut client);
    eventually(SOON, "one was", || sizes(&mut client) == [0, before[1]]);
}
