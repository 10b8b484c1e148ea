//! Owns the proof that every guard is needed: each is taken away in turn, and a counterexample must
//! be found. They are printed by
//! `cargo test -p pg_cache_core --test memory_model guards -- --nocapture`.
//!
//! Invariant: a guard that cannot be missed is not tested by this model. Each test is named by what
//! the guard says.

use crate::explore::{Breach, Breach::*, explore};
use crate::state::Home;
use crate::world::{Guard::*, *};

const ONE: World = World { writers: &[PLAIN], readers: &[ONCE, ONCE], ..CALM };
const TWO: World = World { writers: &[PLAIN, PLAIN], readers: &[ONCE, ONCE], ..CALM };
/// Nothing is deleted: old entries stay where they are.
const SILENT: World = World { writers: &[MUTE, MUTE], filled: true, ..TWO };
const SWITCH: World = World { switches: 1, home: Home::Redis, ..ONE };
const MOVE: World = World { moves: 1, filled: true, ..ONE };
const RESTART: World = World { saves: 1, restarts: 1, filled: true, ..ONE };
const CRASH: World = World { crashes: 1, filled: true, ..ONE };
/// A name that was left to the worker goes with the crash.
const LEFT: World = World { silences: 1, ..CRASH };

#[track_caller]
fn assert_needed(without: &'static [Guard], breach: Breach, world: World) {
    let explored = explore(&World { without, ..world });
    let Some((found, way)) = explored.found else {
        panic!("without {without:?} nothing breaks in {} states", explored.states);
    };
    println!("without {without:?}: {found:?} after {} steps", way.len());
    way.iter().for_each(|step| println!("    {step}"));
    assert_eq!(found, breach);
}

#[test]
fn a_writer_lists_itself() {
    // Danger: nobody knows of it but the snapshots.
    assert_needed(&[Listing], Stale, World { writers: &[MUTE], ..SILENT });
    assert_needed(&[Listing], OldValue, ONE);
}

#[test]
fn it_does_so_before_its_commit_record() {
    // Danger: it is visible, and nothing tells that the entry is older.
    assert_needed(&[ListFirst], Stale, World { writers: &[MUTE], ..SILENT });
    assert_needed(&[ListFirst], OldValue, ONE);
}

#[test]
fn it_does_so_whatever_is_registered() {
    // Danger: the table moves into memory between its listing and its end.
    assert_needed(&[ListAlways], Stale, World { writers: &[MUTE], ..SWITCH });
    assert_needed(&[ListAlways], OldValue, SWITCH);
}

#[test]
fn a_listing_keeps_the_writers_that_run() {
    // Danger: the second of two writers covers up the first.
    assert_needed(&[KeepList], Stale, SILENT);
    assert_needed(&[KeepList], OldValue, TWO);
}

#[test]
fn it_keeps_what_the_bucket_holds() {
    // Danger: as above, for those who found no room.
    const THREE: World = World { writers: &[MUTE, MUTE, MUTE], narrow: true, ..SILENT };
    assert_needed(&[KeepHeld], Stale, THREE);
}

#[test]
fn readers_need_those_complete_whom_the_bucket_holds() {
    // Danger: a list that was full is taken for one of those who found room.
    assert_needed(&[HeldRange], Stale, World { narrow: true, ..SILENT });
    assert_needed(&[HeldRange], OldValue, World { narrow: true, ..TWO });
}

#[test]
fn a_hit_needs_every_listed_writer_complete() {
    // Danger: an entry of after a commit is served to somebody who must not see it yet.
    assert_needed(&[HitCheck], Stale, World { readers: &[ONCE, ONCE], ..ONE });
}

#[test]
fn so_does_a_fill() {
    // Danger: the value of before a commit is filled after its deletion.
    assert_needed(&[FillCheck], OldValue, TWO);
    assert_needed(&[FillCheck], Stale, World { filled: false, ..SILENT });
}

#[test]
fn an_entry_counts_while_its_version_lasts() {
    // Danger: nothing that is filled ever ends.
    assert_needed(&[Version], Stale, SILENT);
}

#[test]
fn an_entry_counts_in_its_own_generation_only() {
    // Danger: versions begin anew with the server, and an entry of before has the same.
    assert_needed(&[SidecarGeneration], Stale, World { writers: &[MUTE], ..CRASH });
}

#[test]
fn a_crash_ends_the_generation() {
    // Danger: as above.
    assert_needed(&[Alive], Stale, World { writers: &[MUTE], ..CRASH });
}

#[test]
fn the_list_is_read_again_behind_the_lease() {
    // Danger: a writer lists itself and deletes between the look and the lease.
    assert_needed(&[LookAgain], OldValue, TWO);
}

#[test]
fn a_fill_needs_its_token() {
    // Danger: a filler that was overtaken replaces what came after it.
    assert_needed(&[Token], OldValue, World { expiries: 1, ..TWO });
}

#[test]
fn wal_is_flushed_before_a_fill() {
    // Danger: an entry outlives the commit that it shows.
    assert_needed(&[Flush], Uncommitted, World { asynchronous: true, ..CRASH });
}

#[test]
fn readers_compute_where_they_see_a_debt() {
    // Danger: what was prepared before a crash is in no list.
    let world = World { writers: &[PREPARED], ..CRASH };
    assert_needed(&[Debt], Stale, world);
}

#[test]
fn a_key_is_deleted_behind_the_listing() {
    // Danger: between the two, the old value is filled again.
    assert_needed(&[DeleteBehind], OldValue, ONE);
}

#[test]
fn its_lease_goes_with_it() {
    // Danger: who took it before fills the old value afterwards.
    assert_needed(&[DeleteLease], OldValue, TWO);
}

#[test]
fn a_deletion_is_confirmed_before_commit_returns() {
    // Danger: the client reads the key before the deletion has arrived.
    assert_needed(&[Confirm], OldValue, World { filled: true, ..ONE });
}

#[test]
fn by_the_server_that_is_registered() {
    // Danger: the old server confirms it, and everybody reads from the new one.
    assert_needed(&[WriterProof], OldValue, MOVE);
}

#[test]
fn that_server_is_read_behind_the_listing() {
    // Danger: between P and the listing, the new server is registered, and filled.
    assert_needed(&[RegistrationLast], OldValue, MOVE);
}

#[test]
fn what_is_not_confirmed_is_left_to_the_worker() {
    // Danger: the transaction is over and cannot owe.
    assert_needed(&[LeaveNames], OldValue, World { silences: 1, filled: true, ..ONE });
}

#[test]
fn what_could_not_be_sent_is_owed() {
    // Danger: Redis is away before the commit record.
    assert_needed(&[OweSilence], OldValue, World { silences: 1, filled: true, ..ONE });
}

#[test]
fn who_is_prepared_owes() {
    // Danger: a crash empties the list, and only the debt tells of it.
    let world = World { writers: &[PREPARED], ..CRASH };
    assert_needed(&[PrepareOwes], OldValue, world);
    let world = World { writers: &[Writing { names: false, ..PREPARED }], ..world };
    assert_needed(&[PrepareOwes], Stale, world);
}

#[test]
fn what_was_left_is_forgotten_once_it_is_owed() {
    // Danger: the worker dies in between.
    assert_needed(&[ForgetLast], OldValue, World { silences: 1, deaths: 1, filled: true, ..ONE });
}

#[test]
fn a_debt_is_paid_by_somebody_who_is_listed() {
    // Danger: a reader that sees neither the debt nor its payment fills the old value.
    let world = World { writers: &[PREPARED], ..CRASH };
    assert_needed(&[PayBump], OldValue, world);
}

#[test]
fn before_the_key_is_deleted() {
    // Danger: as above, between the two.
    let world = World { writers: &[PREPARED], ..CRASH };
    assert_needed(&[PayDeleteBehind], OldValue, world);
}

#[test]
fn on_the_registered_server() {
    // Danger: the payment goes to a server that readers do not use.
    assert_needed(&[PayProof], OldValue, World { silences: 1, ..MOVE });
}

#[test]
fn a_generation_is_remembered_before_it_counts() {
    // Danger: the worker dies in between; nobody sweeps what was filled, when that is all that is
    // left to delete it.
    let world = World { deaths: 1, crashes: 2, filled: false, ..LEFT };
    assert_needed(&[RememberFirst], OldValue, world);
}

#[test]
fn the_former_generation_is_remembered_once_more() {
    // Danger: Redis lost what it knew of generations, in the middle of one; what it brings back
    // later, or what a crash leaves there, stays.
    assert_needed(&[RememberFormer], OldValue, World { losses: 1, ..RESTART });
    assert_needed(&[RememberFormer], OldValue, World { losses: 1, ..LEFT });
}

#[test]
fn a_sweep_forgets_no_generation() {
    // Danger: an entry of one that was swept is filled behind the sweep, by somebody who began
    // before it; what Redis brings back later, or what a crash leaves there, stays.
    let world = World { readers: &[ONCE], ..SWITCH };
    assert_needed(&[RememberLong], OldValue, World { saves: 1, restarts: 1, ..world });
    assert_needed(&[RememberLong], OldValue, World { crashes: 1, ..world });
}

#[test]
fn a_table_in_redis_ends_before_one_in_memory_counts() {
    // Danger: an old snapshot sees the former registration; its table lists nobody who came since,
    // and the old value is filled behind the deletion.
    assert_needed(&[EndTable], OldValue, SWITCH);
}

#[test]
fn former_generations_are_swept() {
    // Danger: names that were left to the worker went with a crash.
    assert_needed(&[Sweep], OldValue, LEFT);
}

/// What the table in Redis needs, and this one does not.
#[track_caller]
fn assert_not_needed(without: &'static [Guard], world: World) {
    let explored = explore(&World { without, ..world });
    assert!(explored.found.is_none(), "{:?}", explored.found);
}

#[test]
fn an_old_snapshot_lists_as_well_as_a_fresh_one() {
    // Danger: none: under an older P fewer are complete, so that more are kept; and what is
    // registered is not read under it. It is for short lists that P is fresh.
    let world = World { narrow: true, filled: true, ..TWO };
    assert_not_needed(&[FreshP], World { expiries: 1, ..world });
    assert_not_needed(&[FreshP], World { silences: 1, ..MOVE });
}

#[test]
fn what_a_reader_finds_on_another_server_is_judged_all_the_same() {
    // Danger: none: an entry with the version of a list that cannot be lost shows what it must, and
    // what is filled on a server that nobody is to use, nobody reads.
    assert_not_needed(&[ReaderProof], MOVE);
    assert_not_needed(&[ReaderProof], RESTART);
}
