//! Owns the proof that every guard is needed: each is taken away in turn, and a counterexample must
//! be found. They are printed by
//! `cargo test -p pg_cache_core --test coherence_model guards -- --nocapture`.
//!
//! Invariant: a guard that cannot be missed is not tested by this model. Each test is named by what
//! the guard says.

use crate::explore::{Breach, Breach::*, explore};
use crate::world::{Guard::*, *};

const ONE: World = World { writers: &[PLAIN], readers: &[K0], ..CALM };
const TWO: World = World { writers: &[PLAIN, PLAIN], readers: &[K0, K0], ..CALM };
const LOSS: World = World { makes: 1, pays: 1, losses: 1, filled: true, ..ONE };
const REPLICA: World =
    World { second: Second::Replica, failovers: 1, makes: 1, filled: true, ..ONE };
const RDB: World = World { second: Second::Rdb, ..REPLICA };
const SCHEMA: &[Op] = &[Op::Schema];
/// Writes without naming the key: S2 is not promised, but old entries stay where they are.
const MUTE: &[Op] = &[Op::Write(A)];
const SETTLED: &[Op] = &[Op::Name(0), Op::Settle, Op::Write(A)];
const PREPARED: &[Op] = &[Op::Write(A), Op::Name(0), Op::Prepare];

fn assert_needed(without: &'static [Guard], breach: Breach, world: World) {
    let explored = explore(&World { without, ..world });
    let Some(found) = explored.found else {
        panic!("without {without:?} nothing breaks in {} states", explored.states);
    };
    let steps = found.way.len();
    println!(
        "without {without:?}: {:?} after {steps} steps, {} states",
        found.breach, explored.states
    );
    found.way.iter().for_each(|step| println!("    {step}"));
    assert_eq!(found.breach, breach);
}

#[test]
fn a_hit_needs_every_listed_writer_complete() {
    // Danger: an entry of before a commit is served to somebody who must see the commit.
    assert_needed(&[HitCheck], Stale, World { filled: true, ..TWO });
}

#[test]
fn so_does_a_fill() {
    // Danger: the value of before a commit is filled after the commit's DEL.
    assert_needed(&[FillCheck], OldValue, TWO);
}

#[test]
fn the_base_belongs_to_every_list() {
    // Danger: a writer whose bump was lost with a table is unknown to the next one.
    assert_needed(&[Base], OldValue, LOSS);
}

#[test]
fn a_table_counts_in_the_registered_generation_only() {
    // Danger: a promoted replica that lost a bump serves what it still has.
    assert_needed(&[Generation], Stale, REPLICA);
}

#[test]
fn an_entry_counts_in_its_own_generation_only() {
    // Danger: an old file brings back an entry whose versions the new table has as well.
    assert_needed(&[SidecarGeneration], Stale, RDB);
}

#[test]
fn an_entry_counts_while_its_versions_last() {
    // Danger: nothing that is filled ever ends.
    assert_needed(&[Version], Stale, World { writers: &[MUTE], named: 0, filled: true, ..ONE });
}

#[test]
fn a_sidecar_binds_one_value() {
    // Danger: another program's value is served as the result of a query.
    assert_needed(&[Binding], Stale, World { filled: true, strangers: 1, ..ONE });
}

#[test]
fn versions_are_read_again_behind_the_lease() {
    // Danger: a writer bumps and deletes between the look and the lease.
    assert_needed(&[LookAgain], OldValue, TWO);
}

#[test]
fn a_query_depends_on_its_own_key() {
    // Danger: a key that was settled early is filled again before its transaction ends.
    assert_needed(&[KeyTag], OldValue, World { writers: &[SETTLED], ..ONE });
}

#[test]
fn a_fill_needs_its_token() {
    // Danger: a filler that was overtaken replaces what came after it.
    assert_needed(&[Token], OldValue, World { expiries: 1, ..TWO });
}

#[test]
fn a_fill_spares_what_another_program_put_there() {
    // Danger: anybody who may call redis_cached may destroy another program's data.
    assert_needed(&[FillSparesForeign], ForeignReplaced, World { strangers: 1, ..ONE });
}

#[test]
fn readers_compute_where_they_see_a_debt() {
    // Danger: a writer that found Redis unreachable is overlooked.
    assert_needed(&[Debt], Stale, World { silences: 1, filled: true, ..ONE });
}

#[test]
fn a_generation_counts_while_it_is_alive() {
    // Danger: a cold backup is restored, and Redis answers from a future that never came.
    let world = World { restores: 1, bystanders: 1, readers: &[TWICE], ..ONE };
    assert_needed(&[Alive], Stale, world);
}

#[test]
fn readers_prove_their_server() {
    // Danger: a replica is promoted, or an old file loaded, that lacks a bump.
    assert_needed(&[ReaderProof], Stale, REPLICA);
    assert_needed(&[ReaderProof], Stale, RDB);
}

#[test]
fn a_proof_is_asked_for_behind_the_data() {
    // Danger: a master is demoted between its proof and its answer, and has lost a bump by then.
    // What the extension may reuse a proof for (20 ms) is too short for that, not impossible.
    assert_needed(&[ProofLast], Stale, World { writers: &[MUTE], named: 0, copies: 1, ..REPLICA });
}

#[test]
fn wal_is_flushed_before_a_fill() {
    // Danger: an entry outlives the commit that it shows.
    let world = World { makes: 1, crashes: 1, asynchronous: true, ..ONE };
    assert_needed(&[Flush], Uncommitted, world);
}

#[test]
fn who_has_an_xid_computes() {
    // Danger: others are served what was never committed.
    const OWN: &[Op] = &[Op::Write(A), Op::Name(0), Op::Read(0)];
    assert_needed(&[OwnXid], Uncommitted, World { writers: &[OWN], ..ONE });
}

#[test]
fn a_new_version_of_the_catalogue_makes_a_backend_look_at_the_schema() {
    // Danger: a plan of before the change fills under versions of after it.
    let world = World { writers: &[SCHEMA], readers: &[TWICE, TWICE], named: 0, ..ONE };
    assert_needed(&[Catalogue], Stale, world);
}

#[test]
fn nothing_is_used_before_the_messages_of_a_schema_change() {
    // Danger: it is visible, and the backend cannot know of it yet.
    let world = World { writers: &[SCHEMA], readers: &[TWICE, TWICE], named: 0, ..ONE };
    assert_needed(&[CatalogueWait], Stale, world);
}

#[test]
fn a_schema_change_waits_for_the_messages_of_those_that_it_drops() {
    // Danger: the reader waits for the last change, and the messages of the first are not sent.
    let world = World { writers: &[SCHEMA, SCHEMA], readers: &[TWICE], named: 0, ..ONE };
    assert_needed(&[MessagesPass], Stale, world);
}

#[test]
fn a_version_of_the_catalogue_counts_in_its_generation_only() {
    // Danger: a table that was lost counts from the beginning again.
    let world = World { writers: &[SCHEMA], readers: &[TWICE], named: 0, makes: 1, ..ONE };
    assert_needed(&[CatalogueGeneration], Stale, World { has_lost: true, ..world });
}

#[test]
fn bump_keeps_the_writers_that_run() {
    // Danger: the second of two writers covers up the first.
    assert_needed(&[KeepList], OldValue, TWO);
}

#[test]
fn bump_drops_nobody_of_another_generation() {
    // Danger: PostgreSQL crashes and gives out an xid again; a BUMP of before the crash arrives,
    // and takes the new owner of the xid for one that had ended.
    let world = World {
        crashes: 1,
        bystanders_before: 1,
        bystanders: 1,
        readers: &[STANDBY],
        writers: &[PLAIN, PLAIN],
        ..CALM
    };
    assert_needed(&[OwnGeneration], OldValue, world);
    let readers = &[Reading { calls: 2, ..STANDBY }];
    assert_needed(&[OwnGeneration], Stale, World { named: 0, readers, ..world });
}

#[test]
fn p_is_a_fresh_snapshot() {
    // Danger: a transaction with an old snapshot of its own bumps on the old master.
    assert_needed(&[FreshP], OldValue, World { filled: false, ..REPLICA });
}

#[test]
fn the_lock_comes_before_p() {
    // Danger: the worker finds nobody to wait for, and the writer reads the old registration.
    assert_needed(&[LockFirst], OldValue, World { filled: false, ..REPLICA });
}

#[test]
fn bump_goes_to_a_table_of_any_generation() {
    // Danger: a writer bumps nothing while the worker makes the table.
    assert_needed(&[Spoil], OldValue, World { makes: 1, pays: 1, ..ONE });
}

#[test]
fn who_could_not_prove_the_server_owes() {
    // Danger: its bump is on the server that readers do not use.
    assert_needed(&[OweProof], Stale, REPLICA);
}

#[test]
fn who_got_no_reply_owes() {
    // Danger: its commands may never have arrived.
    assert_needed(&[OweSilence], OldValue, World { silences: 1, ..LOSS });
}

#[test]
fn who_is_prepared_owes() {
    // Danger: the worker does not wait for it, and its bump is lost.
    assert_needed(&[OwePrepared], OldValue, World { writers: &[PREPARED], ..LOSS });
}

#[test]
fn who_is_prepared_before_the_first_registration_owes() {
    // Danger: others need not bump yet, because the worker waits for them.
    let world = World { writers: &[PREPARED], is_fresh: true, makes: 1, ..ONE };
    assert_needed(&[OwePreparedFresh], OldValue, world);
    // Readers of ours are misled too.
    let world = World { named: 0, readers: &[TWICE], ..world };
    assert_needed(&[OwePreparedFresh], Stale, world);
}

#[test]
fn who_is_prepared_owes_what_it_settled_early() {
    // Danger: keys that were settled are not noted any more, and their bump is lost.
    const BOTH: &[Op] = &[Op::Name(0), Op::Settle, Op::Write(A), Op::Prepare];
    assert_needed(&[OwePreparedSettled], OldValue, World { writers: &[BOTH], ..LOSS });
}

#[test]
fn who_failed_to_settle_early_owes_all_keys() {
    // Danger: keys that could not be settled are not noted any more.
    let world = World { writers: &[SETTLED], silences: 1, filled: true, ..ONE };
    assert_needed(&[Coarse], OldValue, world);
}

#[test]
fn bump_comes_before_del() {
    // Danger: between the two, the old value is filled again.
    assert_needed(&[BumpFirst], OldValue, ONE);
}

#[test]
fn del_takes_the_lease() {
    // Danger: who took it before fills the old value afterwards.
    assert_needed(&[DeleteLease], OldValue, TWO);
}

#[test]
fn whoever_stores_takes_the_lease() {
    // Danger: as above, for redis_set, redis_del and their like.
    assert_needed(&[StoreDeletesLease], Overwritten, World { stores: 1, ..ONE });
}

#[test]
fn the_lock_of_an_early_settlement_outlives_its_savepoint() {
    // Danger: the worker does not wait for a writer whose bump is lost.
    use Op::*;
    const WITHIN: &[Op] = &[Write(A), Name(0), Savepoint, Settle, RollBack];
    assert_needed(&[LockKept], OldValue, World { writers: &[WITHIN], ..LOSS });
}

const AHEAD: &[Op] = &[Op::Write(A), Op::Ahead];

#[test]
fn what_was_told_ahead_counts_in_its_own_generation_only() {
    // Danger: it was lost with its table, and the worker did not wait: nobody held the lock.
    let world = World { writers: &[AHEAD], named: 0, readers: &[TWICE], ..LOSS };
    assert_needed(&[AheadGeneration], Stale, world);
}

#[test]
fn what_was_told_ahead_counts_on_the_registered_server_only() {
    // Danger: an old master heard of it.
    assert_needed(&[AheadProof], Stale, World { writers: &[AHEAD], named: 0, ..REPLICA });
}

#[test]
fn what_was_told_ahead_must_be_all() {
    // Danger: the transaction changes more after it has told.
    const MORE: &[Op] = &[Op::Write(B), Op::Ahead, Op::Write(A)];
    let world = World { writers: &[MORE], named: 0, filled: true, ..ONE };
    assert_needed(&[AheadCovers], Stale, world);
}

#[test]
fn a_rollback_takes_back_its_own_level_only() {
    // Danger: what an outer level noted is lost with an inner one.
    use Op::*;
    const WITHIN: &[Op] = &[Write(A), Name(0), Savepoint, Write(B), RollBack];
    assert_needed(&[RollBackLevel], OldValue, World { writers: &[WITHIN], filled: true, ..ONE });
}

#[test]
fn a_table_is_made_under_a_claim() {
    // Danger: it was lost while the worker waited, with a bump that nobody owes.
    assert_needed(&[Claim], OldValue, LOSS);
}

#[test]
fn the_worker_waits_for_the_lock() {
    // Danger: a writer of the old generation commits after the base.
    assert_needed(&[Lockers], OldValue, LOSS);
}

#[test]
fn the_base_comes_after_the_lock() {
    // Danger: a writer of the old generation is not complete where the base is.
    assert_needed(&[BaseAfterLockers], OldValue, LOSS);
}

#[test]
fn the_worker_keeps_the_lists() {
    // Danger: a writer that bumped while the table was made is forgotten.
    assert_needed(&[KeepLists], OldValue, World { makes: 1, ..ONE });
}

#[test]
fn lists_of_after_the_claim_are_not_pruned() {
    // Danger: an xid is assigned, and bumps, after the worker read which are not.
    let world = World { makes: 1, prunes: true, ..ONE };
    assert_needed(&[PruneBefore], OldValue, world);
}

#[test]
fn who_bumped_another_generation_owes() {
    // Danger: none while the lists are kept: this guard is the second line behind that one.
    let world = World { makes: 1, prunes: true, named: 0, readers: &[TWICE], ..ONE };
    let world = World { writers: &[MUTE], ..world };
    assert_needed(&[PruneBefore, OweGeneration], Stale, world);
    assert!(explore(&World { without: &[PruneBefore], ..world }).found.is_none());
}

#[test]
fn debts_are_paid_with_a_bump() {
    // Danger: a reader that sees neither the debt nor its payment fills the old value.
    assert_needed(&[PayBump], OldValue, World { silences: 1, pays: 1, filled: true, ..ONE });
}

#[test]
fn debts_are_paid_on_the_registered_server() {
    // Danger: the payment goes to a server that readers do not use.
    assert_needed(&[PayProof], Stale, World { pays: 1, silences: 1, ..REPLICA });
}
