//! Acknowledged with the commit: the effects of a job are in the database once, whoever is late.

use std::time::Duration;

use pg_cache_e2e::jobs::{ack, dequeue, sent, standing, take};
use pg_cache_e2e::registry::count;
use pg_cache_e2e::{Scene, outcome};
use pg_cache_testbed::eventually;
use postgres::Client;

const LONG: Duration = Duration::from_secs(20);
const ROWS: &str = "SELECT count(*) FROM redis_job_done";

fn put(client: &mut Client, calls: &[&str]) {
    for call in calls {
        client.batch_execute(&format!("SELECT redis_enqueue({call})")).unwrap();
    }
    sent(client);
}

/// Two workers that both have one job in hand.
fn two_with_one_job(scene: &Scene) -> (Client, Client, String) {
    let (mut one, mut other) = (scene.connect(), scene.connect());
    one.batch_execute("CREATE TABLE effects (id text)").unwrap();
    for client in [&mut one, &mut other] {
        client.batch_execute("SET pg_cache.queue_visibility_ms = 100").unwrap();
    }
    put(&mut one, &["'q', '1', id => 'a'"]);
    let job = dequeue(&mut one, "q", "").remove(0);
    let again = dequeue(&mut other, "q", ", wait => 10").remove(0);
    assert_eq!(job.id, again.id);
    (one, other, job.id)
}

fn work(client: &mut Client) {
    client.batch_execute("BEGIN; INSERT INTO effects VALUES ('a')").unwrap();
}

#[test]
fn a_rolled_back_acknowledgement_is_none() {
    // Danger: a job is taken for done whose effects are undone.
    let scene = Scene::new();
    let mut client = scene.connect();
    put(&mut client, &["'q', '1', id => 'a'", "'q', '2', id => 'b'", "'q', '3', id => 'c'"]);
    assert_eq!(take(&mut client, "q", ", 3"), ["1", "2", "3"]);
    client
        .batch_execute(
            "BEGIN; SELECT redis_ack('q', 'a', 'b'); ROLLBACK;
             BEGIN; SAVEPOINT s; SELECT redis_ack('q', 'a'); ROLLBACK TO s;
             SAVEPOINT t; SELECT redis_ack('q', 'b'); RELEASE t",
        )
        .unwrap();
    assert_eq!(ack(&mut client, "q", &["b", "b"]).unwrap(), 0, "acknowledged here already");
    assert_eq!(standing(&mut client, "q"), Some([0, 3, 0, 0]), "nothing before the commit");
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(standing(&mut client, "q"), Some([0, 2, 0, 0]));
    assert_eq!(ack(&mut client, "q", &["c", "a", "c"]).unwrap(), 2);
    assert_eq!(standing(&mut client, "q"), Some([0, 0, 0, 0]));
    assert_eq!(count(&mut client, ROWS), 3);
    let error = client.batch_execute("BEGIN READ ONLY; SELECT redis_ack('q', 'a')").unwrap_err();
    assert_eq!(outcome::sqlstate(&error), "25006");
}

#[test]
fn of_two_with_one_job_the_second_to_commit_fails() {
    // Danger: a worker that was too slow, and the one that took over, both book the payment.
    let scene = Scene::new();
    let (mut one, mut other, id) = two_with_one_job(&scene);
    work(&mut one);
    work(&mut other);
    assert_eq!(ack(&mut one, "q", &[&id]).unwrap(), 1);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| ack(&mut other, "q", &[&id]).unwrap_err());
        let mut admin = scene.connect();
        let blocked = "SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND wait_event_type = 'Lock'";
        eventually(LONG, "the second waits for the first", || count(&mut admin, blocked) == 1);
        one.batch_execute("COMMIT").unwrap();
        assert_eq!(outcome::sqlstate(&waits.join().unwrap()), "40001");
    });
    other.batch_execute("ROLLBACK").unwrap();
    assert_eq!(count(&mut one, "SELECT count(*) FROM effects"), 1);
    // Much later, the row is gone: then Redis tells.
    forget_all(&scene, &mut one);
    work(&mut other);
    assert_eq!(outcome::sqlstate(&ack(&mut other, "q", &[&id]).unwrap_err()), "40001");
    other.batch_execute("ROLLBACK").unwrap();
    assert_eq!(count(&mut one, "SELECT count(*) FROM effects"), 1);
}

/// Waits until the worker has forgotten what is done.
fn forget_all(scene: &Scene, client: &mut Client) {
    let set = format!("ALTER DATABASE {} SET pg_cache.queue_done_keep_s = 0", scene.database());
    client.batch_execute(&set).unwrap();
    scene.quiet();
    eventually(LONG, "what is done is forgotten", || {
        client.batch_execute("SELECT redis_wake()").unwrap();
        count(client, ROWS) == 0
    });
}

#[test]
fn when_the_first_rolls_back_the_second_goes_on() {
    // Danger: nobody does the job, since each thinks that the other one has.
    let scene = Scene::new();
    let (mut one, mut other, id) = two_with_one_job(&scene);
    work(&mut one);
    work(&mut other);
    assert_eq!(ack(&mut one, "q", &[&id]).unwrap(), 1);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| ack(&mut other, "q", &[&id]));
        let mut admin = scene.connect();
        let blocked = "SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND wait_event_type = 'Lock'";
        eventually(LONG, "the second waits for the first", || count(&mut admin, blocked) == 1);
        one.batch_execute("ROLLBACK").unwrap();
        assert_eq!(waits.join().unwrap().unwrap(), 1);
    });
    other.batch_execute("COMMIT").unwrap();
    assert_eq!(count(&mut one, "SELECT count(*) FROM effects"), 1);
}

#[test]
fn who_writes_its_row_after_the_first_one_is_forgotten_is_told_by_redis() {
    // Danger: the interleaving in which the row that would refuse it is gone. Without the question
    // to Redis, the effects are there twice: that is shown too.
    for (guard, expected) in [("", 1), ("guard.acklook:skip", 2)] {
        let scene = Scene::new();
        let (mut one, mut other, id) = two_with_one_job(&scene);
        work(&mut other);
        work(&mut one);
        ack(&mut one, "q", &[&id]).unwrap();
        one.batch_execute("COMMIT").unwrap();
        forget_all(&scene, &mut one);
        other.batch_execute(&format!("SET pg_cache.fault_point = '{guard}'")).unwrap();
        let outcome = ack(&mut other, "q", &[&id]);
        assert_eq!(outcome.is_ok(), expected == 2, "{outcome:?}");
        other.batch_execute("COMMIT").unwrap();
        assert_eq!(count(&mut one, "SELECT count(*) FROM effects"), expected);
    }
}

#[test]
fn a_job_whose_end_redis_did_not_hear_of_is_not_handed_out_again() {
    // Danger: Redis is away when the work commits, and comes back with the job.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("SET pg_cache.queue_visibility_ms = 100").unwrap();
    put(&mut client, &["'q', '1', id => 'a'"]);
    assert_eq!(take(&mut client, "q", ""), ["1"]);
    client.batch_execute("SET pg_cache.fault_point = 'events.send:panic'").unwrap();
    ack(&mut client, "q", &["a"]).unwrap();
    client.batch_execute("RESET pg_cache.fault_point").unwrap();
    assert_eq!(standing(&mut client, "q"), Some([0, 1, 0, 0]), "Redis did not hear of it");
    let mut other = scene.connect();
    other.batch_execute("SET pg_cache.queue_visibility_ms = 100").unwrap();
    assert_eq!(take(&mut other, "q", ", wait => 0.5"), [""; 0]);
    assert_eq!(standing(&mut client, "q"), Some([0, 0, 0, 0]));
}

#[test]
fn a_redis_that_goes_back_hands_out_nothing_that_is_done() {
    // Danger: a failover to a replica that lagged behind, and a thousand mails go out again.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("SET pg_cache.queue_visibility_ms = 100").unwrap();
    put(&mut client, &["'q', '1', id => 'a'", "'q', '2'", "'q', '3', id => 'c'"]);
    let keys = ["q", "pgc:jobs:{T}:q", "pgc:flight:{T}:q"];
    let tag = pg_cache_core::key::slot_tag(pg_cache_core::key::slot(b"q"));
    let keys = keys.map(|key| key.replace('T', std::str::from_utf8(&tag).unwrap()));
    let jobs = dequeue(&mut client, "q", ", 2");
    let dumps: Vec<Vec<u8>> = keys
        .iter()
        .map(|key| redis::cmd("DUMP").arg(key).query(&mut scene.redis.client()).unwrap())
        .collect();
    let ids: Vec<&str> = jobs.iter().map(|job| &job.id[..]).collect();
    assert_eq!(ack(&mut client, "q", &ids).unwrap(), 2);
    for (key, dump) in keys.iter().zip(&dumps) {
        let mut restore = redis::cmd("RESTORE");
        restore.arg(key).arg(0).arg(&dump[..]).arg("REPLACE");
        restore.exec(&mut scene.redis.client()).unwrap();
    }
    assert_eq!(standing(&mut client, "q"), Some([1, 2, 0, 0]), "as it was");
    assert_eq!(take(&mut client, "q", ", 1, wait => 2"), ["3"], "and not what is done");
    assert_eq!(take(&mut client, "q", ", 10, wait => 0.3"), ["3"]);
    let error = ack(&mut client, "q", &[&jobs[1].id]).unwrap_err();
    assert_eq!(outcome::sqlstate(&error), "40001");
}

#[test]
fn a_prepared_transaction_acknowledges_when_it_commits() {
    // Danger: the job goes with PREPARE TRANSACTION, and its effects are rolled back later.
    let pair = pg_cache_testbed::Pair::start_with(
        &[("max_prepared_transactions", "5"), ("max_worker_processes", "16")],
        &[],
    );
    let mut client = pair.postgres.connect();
    pg_cache_e2e::registry::repair(&mut client);
    client.batch_execute("SET pg_cache.queue_visibility_ms = 100").unwrap();
    put(&mut client, &["'q', '1', id => 'a'"]);
    assert_eq!(take(&mut client, "q", ""), ["1"]);
    client.batch_execute("BEGIN; SELECT redis_enqueue('q', '2')").unwrap();
    ack(&mut client, "q", &["a"]).unwrap();
    client.batch_execute("PREPARE TRANSACTION 'p'").unwrap();
    assert_eq!(standing(&mut client, "q"), Some([0, 1, 0, 0]));
    client.batch_execute("COMMIT PREPARED 'p'").unwrap();
    sent(&mut client);
    assert_eq!(take(&mut client, "q", ", 10, wait => 0.5"), ["2"]);
}
