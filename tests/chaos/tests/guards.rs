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
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // Some histories are rare, and rarer on a busy machine.
    for _ in 0..ATTEMPTS_MAX {
        let seed = fastrand::u64(..1_000_000_000);
        let outcome = run(Setup { seed, ..Setup::without(guard) });
        println!("{}{}", outcome.report, outcome.line);
        if outcome.violations > 0 {
            return;
        }
    }
    panic!("{}: nothing was found in {ATTEMPTS_MAX} runs", guard.name());
}

#[test]
fn an_untracked_database_is_found_out() {
    // Danger: an oracle that compares nothing.
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = fastrand::u64(..1_000_000_000);
    let outcome = run(Setup { seed, ..Setup::untracked() });
    assert!(outcome.violations > 0, "nothing was found: {}", outcome.line);
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
    what_was_told_ahead_must_be_all: Covers, "a transaction changes more after it has told";
    every_entry_depends_on_the_catalogue: Catalogue, "a change of the schema is never heard of";
}
