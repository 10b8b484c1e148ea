//! The oracle on code that lacks one guard: a checker that cannot fail proves nothing.
//!
//! Needs a build of the extension with the cargo feature `faults`. The guard of the base is not
//! among them: the moment that it is for is too rare to wait for, so an end-to-end test makes it.

use std::sync::{Mutex, PoisonError};

use pg_cache_chaos::guards::Guard;
use pg_cache_chaos::{Setup, run};

/// One run at a time: two at once would starve each other of the moments they need.
static TURN: Mutex<()> = Mutex::new(());

/// Runs without a guard before it is taken for one that the oracle cannot see.
const ATTEMPTS_MAX: u32 = 4;

fn found_without(guard: Guard) {
    found(guard.name(), Setup::without(guard));
}

/// A run must show a violation that begins as the setup says.
fn found(name: &str, setup: Setup) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let shows = setup.stop_at.expect("what it is to show");
    // Some histories are rare, and rarer on a busy machine.
    for _ in 0..ATTEMPTS_MAX {
        let seed = fastrand::u64(..1_000_000_000);
        let outcome = run(Setup { seed, ..setup.clone() });
        println!("{}{}", outcome.report, outcome.line);
        let shown = outcome.details.iter().find(|details| details.starts_with(shows));
        if let Some(details) = shown {
            println!("{details}");
            return;
        }
    }
    panic!("{name}: no violation {shows} was found in {ATTEMPTS_MAX} runs");
}

#[test]
fn an_untracked_database_is_found_out() {
    // Danger: an oracle that compares nothing, or only one of both sides.
    found("no table is tracked", Setup::untracked("S1:"));
    found("no key is named", Setup::untracked("S2:"));
}

#[test]
fn a_hit_on_a_standby_looks_at_the_running_writers() {
    // Danger: whatever a standby answers is excused.
    found("guard.hit on a standby", Setup::of_standby_without(Guard::Hit));
}

#[test]
fn redis_verify_finds_what_is_wrong_too() {
    // Danger: the proof that operators run overlooks what the oracle sees.
    let setup = Setup { stop_at: Some("verify:"), ..Setup::without(Guard::Hit) };
    found("guard.hit under redis_verify", setup);
}

macro_rules! each {
    ($($name:ident: $guard:ident, $danger:literal;)*) => { $(
        #[test]
        fn $name() {
            println!("danger: {}", $danger);
            found_without(Guard::$guard);
        }
    )* };
}

each! {
    a_hit_looks_at_the_running_writers: Hit, "an old snapshot is served what is newer";
    a_fill_looks_at_the_running_writers: Fill, "what an old snapshot saw is served to new ones";
    a_bump_keeps_those_still_running: DropList, "a writer that commits late is forgotten";
    a_delete_takes_the_lease: KeepLease, "a slow fill comes after the commit it did not see";
    readers_look_for_debts: Debt, "a writer that did not reach Redis is never heard of";
    a_table_has_the_generation_that_counts: Generation, "an empty table forgets who wrote";
    a_server_proves_who_it_is: Proof, "a demoted master answers with old lists";
    a_transaction_that_wrote_computes: OwnXid, "own rows go into the cache, or are not seen";
    a_rollback_to_a_savepoint_keeps_the_outer_notes: Savepoint, "a commit bumps nothing";
    nothing_is_filled_before_its_commit_is_durable: Flush, "an entry outlives a lost commit";
    what_was_told_ahead_is_looked_at_again: Ahead, "it was lost with its table";
    writers_list_themselves_in_memory: Listing, "readers of a table in memory hear of nobody";
    what_was_told_ahead_must_be_all: Covers, "a transaction changes more after it has told";
    every_entry_depends_on_the_catalogue: Catalogue, "a change of the schema is never heard of";
}
