//! What the worker must not leave out when it makes a table: each guard once more, and once
//! without it.

use pg_cache_e2e::Scene;
use pg_cache_e2e::gate::Gate;
use pg_cache_e2e::guarded::{CHANGE, OLD, Stage, assert_needed, served};
use pg_cache_e2e::registry::{repair, table_key};

#[test]
fn the_worker_waits_for_who_holds_the_lock() {
    // Danger: a writer of the old generation, whose bump is lost, commits after the base.
    assert_needed("guard.lockers", |fault| {
        let mut stage = Stage::new();
        stage.replace_worker(fault);
        let told = Gate::new();
        let writing = stage.start(&told.at("commit.settled"), CHANGE);
        told.met();
        stage.lose_everything();
        stage.until_made_or_waiting();
        assert_eq!(stage.served(), OLD, "not committed yet");
        told.open();
        writing.join().unwrap();
        repair(&mut stage.admin);
        stage.served() == OLD
    });
}

/// A writer tells the stub of a table, before it is made. What a program finds after its commit.
fn finds_what_was_bumped_in_a_stub(fault: &str, meanwhile: fn(&Scene, &str)) -> bool {
    let mut stage = Stage::new();
    let (claimed, told, paying) = (Gate::new(), Gate::new(), Gate::new());
    let (claims, pays) = (claimed.at("worker.claimed"), paying.at("worker.pay"));
    stage.replace_worker(&format!("{fault},{claims},{pays}"));
    stage.lose_everything();
    claimed.met();
    let writing = stage.start(&format!("{fault},{}", told.at("commit.settled")), CHANGE);
    told.met();
    let table = table_key(&mut stage.admin);
    meanwhile(&stage.scene, &table);
    claimed.open();
    stage.until_made_or_waiting();
    assert_eq!(stage.served(), OLD, "not committed yet");
    told.open();
    writing.join().unwrap();
    // Redis answered it: it owes, but what it named is to be gone now.
    stage.finds_old_now()
}

#[test]
fn a_table_is_made_under_a_claim() {
    // Danger: it was lost while the worker waited, with a bump that nobody repeats.
    let loses_it = |scene: &Scene, table: &str| drop(scene.redis.cli(&["DEL", table]));
    assert_needed("guard.claim", |fault| finds_what_was_bumped_in_a_stub(fault, loses_it));
}

#[test]
fn the_worker_keeps_the_lists() {
    // Danger: a writer that bumped while the table was made is forgotten.
    assert_needed("guard.keeplists", |fault| finds_what_was_bumped_in_a_stub(fault, |_, _| ()));
}

#[test]
fn bump_goes_to_a_table_of_any_generation() {
    // Danger: a writer bumps nothing while the worker makes the table.
    assert_needed("guard.stub", |fault| finds_what_was_bumped_in_a_stub(fault, |_, _| ()));
}

#[test]
fn debts_are_paid_with_a_bump() {
    // Danger: a reader that sees neither the debt nor its payment fills the old value.
    assert_needed("guard.paybump", |fault| {
        let mut stage = Stage::new();
        stage.replace_worker(fault);
        let mut old = stage.connect("nothing:skip");
        old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
        let mut writer = stage.connect("nothing:skip");
        writer.batch_execute("SET pg_cache.url = 'unix:///nonexistent.sock'").unwrap();
        writer.batch_execute(CHANGE).unwrap();
        repair(&mut stage.admin);
        assert_eq!(served(&mut old), OLD, "as its snapshot has it");
        stage.served() == OLD
    });
}
