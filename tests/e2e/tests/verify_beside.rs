//! `redis_verify` beside others who write: it cries wolf at nothing that they do.

use pg_cache_e2e::gate::Gate;
use pg_cache_e2e::guarded::{KEY, Stage, served};
use postgres::Client;
use postgres::error::SqlState;

use crate::verify::{falsify, verified};

const ATTEMPTS_MAX: usize = 5;

/// What it reports of one entry whose table `writer` changes between its look and its own query.
///
/// The prover has a plan and need not lock the table to make one, unless what happens elsewhere on
/// the server makes it forget: then the change waits for it, and is tried again beside another.
fn reported_beside(stage: &Stage, writer: &mut Client, change: &str) -> Vec<(String, String)> {
    writer.batch_execute("SET lock_timeout = '3s'").unwrap();
    for _ in 0..ATTEMPTS_MAX {
        let looked = Gate::new();
        let mut prover = stage.connect(&looked.at("verify.looked"));
        served(&mut prover);
        let proving = std::thread::spawn(move || verified(&mut prover));
        looked.met();
        let changed = writer.batch_execute(change);
        looked.open();
        let reported = proving.join().unwrap();
        match changed {
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => continue,
            changed => changed.unwrap(),
        }
        return reported;
    }
    panic!("the prover locks the table each time: {change}");
}

#[test]
fn what_shows_in_old_snapshots_too_is_no_breach() {
    // Danger: an alarm at night: TRUNCATE and rewrites do not wait for old snapshots.
    for change in [
        "TRUNCATE users",
        "ALTER TABLE users ALTER v TYPE int USING v + 1",
        "UPDATE users SET v = 2 WHERE id = 1",
    ] {
        let mut stage = Stage::new();
        stage.served();
        let mut writer = stage.scene.connect();
        assert_eq!(reported_beside(&stage, &mut writer, change), [], "{change}");
    }
}

#[test]
fn what_was_changed_and_is_owed_is_no_breach() {
    // Danger: as above, with Redis away for who changed it.
    let mut stage = Stage::new();
    stage.served();
    let paying = Gate::new();
    stage.replace_worker(&paying.at("worker.pay"));
    let mut writer = stage.connect("nothing:skip");
    writer.batch_execute("SET pg_cache.url = 'unix:///nowhere'").unwrap();
    assert_eq!(reported_beside(&stage, &mut writer, "TRUNCATE users"), []);
}

#[test]
fn what_is_wrong_is_reported_whatever_happens_beside() {
    // Danger: the excuse for the above swallows what it is there to find.
    let mut stage = Stage::new();
    stage.admin.batch_execute("CREATE TABLE other (v int); SELECT redis_track('other')").unwrap();
    stage.served();
    falsify(&stage.scene, KEY, r#"[{"v":3}]"#);
    let looked = Gate::new();
    let mut prover = stage.connect(&looked.at("verify.looked"));
    let proving = std::thread::spawn(move || verified(&mut prover));
    looked.met();
    stage.admin.batch_execute("INSERT INTO other VALUES (1); TRUNCATE other").unwrap();
    looked.open();
    assert_eq!(proving.join().unwrap().len(), 1);
}
