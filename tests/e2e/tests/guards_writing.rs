//! What writers must not leave out: each guard once more, and once without it.

use pg_cache_e2e::gate::Gate;
use pg_cache_e2e::guarded::{CHANGE, OLD, Stage, assert_needed, served};
use pg_cache_e2e::registry::repair;

const NOWHERE: &str = "SET pg_cache.url = 'unix:///nonexistent.sock'";

#[test]
fn bump_comes_before_del() {
    // Danger: between the two, the old value is filled again.
    assert_needed("guard.bumpfirst", |fault| {
        let mut stage = Stage::new();
        let between = Gate::new();
        let faults = format!("{fault},commit.together:skip,{}", between.at("commit.apart"));
        let writing = stage.start(&faults, CHANGE);
        between.met();
        assert_eq!(stage.served(), OLD, "not committed yet");
        between.open();
        writing.join().unwrap();
        stage.finds_old()
    });
}

#[test]
fn who_got_no_reply_owes() {
    // Danger: its commands never arrived, and nobody hears of its commit.
    assert_needed("guard.owesilence", |fault| {
        let mut stage = Stage::new();
        assert_eq!(stage.served(), OLD);
        let mut writer = stage.connect(fault);
        writer.batch_execute(NOWHERE).unwrap();
        writer.batch_execute(CHANGE).unwrap();
        stage.served() == OLD
    });
}

#[test]
fn keys_that_were_not_settled_early_are_owed() {
    // Danger: they are not noted any more, and stay what they were.
    assert_needed("guard.putback", |fault| {
        let mut stage = Stage::new();
        assert_eq!(stage.served(), OLD);
        let mut writer = stage.connect(fault);
        writer.batch_execute(NOWHERE).unwrap();
        writer.batch_execute("SET pg_cache.pending_keys_max = 1; BEGIN").unwrap();
        writer.batch_execute(CHANGE).unwrap();
        writer.batch_execute("COMMIT").unwrap();
        stage.finds_old()
    });
}

/// Prepares a change, has Redis lose everything, and commits it.
fn commits_prepared(stage: &mut Stage, fault: &str, begin: &str) {
    let mut writer = stage.connect(fault);
    let name = stage.scene.database().to_owned();
    writer.batch_execute(begin).unwrap();
    writer.batch_execute(CHANGE).unwrap();
    writer.batch_execute(&format!("PREPARE TRANSACTION '{name}'")).unwrap();
    stage.lose_everything();
    repair(&mut stage.admin);
    assert_eq!(stage.served(), OLD, "not committed yet");
    writer.batch_execute(&format!("COMMIT PREPARED '{name}'")).unwrap();
}

#[test]
fn who_is_prepared_owes() {
    // Danger: the worker does not wait for it, and its bump is lost.
    assert_needed("guard.oweprepared", |fault| {
        let mut stage = Stage::new();
        commits_prepared(&mut stage, fault, "BEGIN");
        stage.served() == OLD
    });
}

#[test]
fn who_is_prepared_owes_what_it_settled_early() {
    // Danger: keys that were settled are not noted any more, and their bump is lost.
    assert_needed("guard.preparedearly", |fault| {
        let mut stage = Stage::new();
        commits_prepared(&mut stage, fault, "SET pg_cache.pending_keys_max = 1; BEGIN");
        stage.finds_old()
    });
}

#[test]
fn the_lock_of_an_early_settlement_outlives_its_savepoint() {
    // Danger: the worker does not wait for a writer whose bump is lost.
    assert_needed("guard.lockkept", |fault| {
        let mut stage = Stage::new();
        let mut writer = stage.connect(fault);
        writer.batch_execute("SET pg_cache.pending_keys_max = 2; BEGIN").unwrap();
        writer.batch_execute(CHANGE).unwrap();
        let more = "SAVEPOINT s; UPDATE users SET v = 3 WHERE id = 2; ROLLBACK TO s";
        writer.batch_execute(more).unwrap();
        stage.lose_everything();
        stage.until_made_or_waiting();
        assert_eq!(stage.served(), OLD, "not committed yet");
        writer.batch_execute("COMMIT").unwrap();
        stage.finds_old()
    });
}

#[test]
fn a_writer_deletes_what_was_filled_before_it() {
    // Danger: the tests above see nothing old whatever is under the key.
    let mut stage = Stage::new();
    let mut reader = stage.connect("");
    assert_eq!(served(&mut reader), OLD);
    assert!(stage.finds_old());
    stage.admin.batch_execute(CHANGE).unwrap();
    assert!(!stage.finds_old());
}
