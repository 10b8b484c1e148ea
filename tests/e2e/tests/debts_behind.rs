//! Debts that a worker does not see when it looks: of who is prepared, of who comes behind the
//! look. Whoever lets them come true wakes nobody, so it must not leave without a successor.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pg_cache_e2e::gate::Gate;
use pg_cache_e2e::guarded::{CHANGE, KEY, OLD, SOON, Stage};
use pg_cache_e2e::outcome::sqlstate;
use pg_cache_e2e::registry::{WORKERS, count};
use pg_cache_e2e::{Scene, cached, events};
use pg_cache_testbed::{Redis, eventually};
use postgres::Client;

const NOWHERE: &str = "SET pg_cache.url = 'unix:///nowhere'";

#[track_caller]
fn is_paid_by_itself(scene: &Scene) {
    eventually(2 * SOON, "what was owed is gone", || events::get(&scene.redis, KEY).is_none());
}

#[test]
fn a_debt_of_a_prepared_transaction_is_paid_without_anybodys_doing() {
    // Danger: the worker finds nothing to do and leaves, who commits what was prepared wakes
    // nobody, and its keys stay old in Redis until their ttl.
    let mut stage = Stage::new();
    stage.served();
    let (mut writer, name) = (stage.scene.connect(), stage.scene.database().to_owned());
    writer.batch_execute(NOWHERE).unwrap();
    let sql = format!("BEGIN; {CHANGE}; PREPARE TRANSACTION '{name}'");
    writer.batch_execute(&sql).unwrap();
    eventually(SOON, "a worker runs", || count(&mut stage.admin, WORKERS) == 1);
    // With nothing to do it stays for two seconds.
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(3) && count(&mut stage.admin, WORKERS) == 1 {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(events::get(&stage.scene.redis, KEY).as_deref(), Some(OLD));
    stage.admin.batch_execute(&format!("COMMIT PREPARED '{name}'")).unwrap();
    is_paid_by_itself(&stage.scene);
}

/// Somebody who copies the database has it for himself, or waits for it.
fn copy(scene: &Scene, admin: &mut Client) -> JoinHandle<Result<(), postgres::Error>> {
    let (name, mut copier) = (scene.database().to_owned(), scene.postgres().connect());
    let sql = format!("CREATE DATABASE {name}_copy TEMPLATE {name}");
    let copying = std::thread::spawn(move || copier.batch_execute(&sql));
    let wants = format!(
        "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.objid
          WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND l.granted
            AND l.mode = 'ShareLock' AND d.datname = '{}'",
        scene.database()
    );
    eventually(SOON, "the database is wanted", || count(admin, &wants) == 1);
    copying
}

/// A worker waits at the gate, behind its look at what is owed.
fn worker_that_has_looked() -> (Stage, Gate) {
    let mut stage = Stage::new();
    stage.served();
    stage.scene.quiet();
    let looked = Gate::new();
    stage.scene.set_faults(&looked.at("worker.looked"));
    stage.admin.batch_execute("SELECT redis_wake()").unwrap();
    looked.met();
    (stage, looked)
}

#[test]
fn a_worker_that_makes_way_leaves_somebody_for_what_is_owed_behind_its_look() {
    // Danger: it goes by what it saw, who owed meanwhile found it running, and nobody pays.
    let (stage, looked) = worker_that_has_looked();
    let mut writer = stage.scene.connect();
    writer.batch_execute(&format!("{NOWHERE}; {CHANGE}")).unwrap();
    assert_eq!(count(&mut writer, "SELECT count(*) FROM redis_debt WHERE key IS NOT NULL"), 1);
    drop(writer);
    let Stage { scene, admin } = stage;
    drop(admin);
    let mut elsewhere = scene.postgres().connect();
    let copying = copy(&scene, &mut elsewhere);
    looked.open();
    copying.join().unwrap().expect("the worker makes way");
    is_paid_by_itself(&scene);
}

#[test]
fn who_owes_wakes_a_worker_although_it_woke_one_a_moment_ago() {
    // Danger: the one of a moment ago has looked for the last time and is gone.
    let (mut stage, looked) = worker_that_has_looked();
    let other = Redis::start();
    let mut writer = stage.scene.connect();
    writer.batch_execute(&format!("SET pg_cache.url = '{}'", other.url())).unwrap();
    let mut elsewhere = stage.scene.postgres().connect();
    let copying = copy(&stage.scene, &mut elsewhere);
    let select = "SELECT v FROM users WHERE id = 2";
    cached(&mut writer, "k", select).unwrap();
    // It wakes whoever runs at most once in so long.
    std::thread::sleep(Duration::from_millis(110));
    let started = Instant::now();
    cached(&mut writer, "k", select).unwrap();
    looked.open();
    while count(&mut stage.admin, WORKERS) > 0 {
        assert!(started.elapsed() < SOON, "it leaves");
    }
    writer.batch_execute(CHANGE).unwrap();
    println!("owed {:?} after the wake", started.elapsed());
    assert_eq!(count(&mut writer, "SELECT owed FROM redis_stat_commit"), 1);
    // A new worker cannot begin before it has given up.
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
                   WHERE query LIKE 'CREATE DATABASE ' || $1 || '%' AND state = 'active'
                     AND pid <> pg_backend_pid()";
    elsewhere.query(cancel, &[&format!("{}_copy", stage.scene.database())]).unwrap();
    assert_eq!(sqlstate(&copying.join().unwrap().unwrap_err()), "57014");
    is_paid_by_itself(&stage.scene);
}
