//! Debts that a worker does not see when it looks: of who is prepared, of who comes behind its look.
//! Whoever lets them come true wakes nobody, so the worker must not leave without a successor.

use std::time::{Duration, Instant};

use pg_cache_e2e::guarded::{CHANGE, KEY, OLD, SOON, Stage};
use pg_cache_e2e::registry::{WORKERS, count};
use pg_cache_e2e::{Scene, events};
use pg_cache_testbed::eventually;

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
