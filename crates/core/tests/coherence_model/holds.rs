//! Owns the configurations in which every promise must hold.
//!
//! Invariant: each is explored to its end, and names what it must have reached on the way: a world
//! in which nothing happens keeps every promise. How many states each has is printed with
//! `cargo test -p pg_cache_core --test coherence_model holds -- --nocapture`.

use crate::explore::{explore, mark::*};
use crate::world::*;

const ONE: World = World { writers: &[PLAIN], readers: &[K0], ..CALM };
const TWO: World = World { writers: &[PLAIN, PLAIN], readers: &[K0, K0], ..CALM };

fn assert_holds(world: World, reached: u32) {
    let explored = explore(&world);
    if let Some(found) = explored.found {
        panic!("{:?} after {} steps\n{}", found.breach, found.way.len(), found.way.join("\n"));
    }
    println!("{} states, {:#x}", explored.states, explored.marks);
    let missing = reached & !explored.marks;
    assert_eq!(missing, 0, "of {reached:#x}, {missing:#x} is never reached");
}

#[test]
fn writers_and_readers_race() {
    // Danger: a fill that was begun before a commit ends after it.
    let reached = HIT | HIT_CHANGED | FILL | FILL_REFUSED | COMPUTE;
    assert_holds(World { filled: true, ..TWO }, reached);
    assert_holds(World { writers: &[PLAIN], readers: &[K0, TWICE], ..CALM }, reached);
}

#[test]
fn a_standby_sees_commits_before_its_primary_does() {
    // Danger: the order of commit records is not that in which commits become visible.
    let readers = &[K0, STANDBY];
    let reached = HIT | HIT_CHANGED | FILL_REFUSED;
    assert_holds(World { records: true, filled: true, readers, ..TWO }, reached);
}

#[test]
fn two_tags_and_two_keys_do_not_mix() {
    // Danger: the bump of one tag stands for another, or one of two keys is left behind.
    const BOTH: &[Op] = &[Op::Write(A), Op::Name(0), Op::Write(B), Op::Name(1)];
    const OTHER: &[Op] = &[Op::Write(B), Op::Name(1)];
    let (writers, readers) = (&[BOTH, OTHER], &[K0, K1]);
    assert_holds(World { writers, readers, named: 3, filled: true, ..CALM }, HIT | FILL);
    let keys = [1 << A | 1 << B, 1 << B];
    let writers = &[&[Op::Write(A)], OTHER];
    assert_holds(World { writers, readers, keys, named: 2, filled: true, ..CALM }, HIT | FILL);
}

#[test]
fn savepoints_take_back_what_they_noted_and_nothing_else() {
    // Danger: a note is lost with another level's rollback, or a value shows what was rolled back.
    use Op::*;
    const ROLLED_BACK: &[Op] = &[Write(A), Name(0), Savepoint, Write(B), Name(1), RollBack];
    const RELEASED: &[Op] = &[Savepoint, Savepoint, Write(B), Name(1), Release, Release];
    const MIXED: &[Op] =
        &[Savepoint, Write(A), Name(0), Savepoint, Write(B), RollBack, Release, Write(B), Name(1)];
    let readers = &[K0, K1];
    for writers in [&[ROLLED_BACK, RELEASED], &[MIXED, ROLLED_BACK]] {
        let world = World { writers, readers, named: 3, filled: true, ..CALM };
        assert_holds(world, HIT | FILL);
    }
}

#[test]
fn keys_may_be_settled_in_mid_transaction() {
    // Danger: what was deleted early is filled again before the commit, or the failure of an early
    // settlement is forgotten, or its lock goes with a savepoint.
    use Op::*;
    const EARLY: &[Op] = &[Name(0), Settle, Write(A)];
    const WITHIN: &[Op] = &[Write(A), Name(0), Savepoint, Settle, RollBack];
    let world = World { losses: 1, makes: 1, pays: 1, ..ONE };
    assert_holds(World { writers: &[EARLY], readers: &[TWICE], ..world }, HIT_ANEW | PAID);
    assert_holds(World { writers: &[WITHIN], ..world }, FILL | PAID);
    let world = World { silences: 1, pays: 1, filled: true, readers: &[K0, K0], ..ONE };
    assert_holds(World { writers: &[EARLY], ..world }, HIT | OWED | PAID);
    assert_holds(World { writers: &[WITHIN], ..world }, HIT | OWED | PAID);
}

#[test]
fn a_commit_may_be_told_ahead() {
    // Danger: what was told is lost, or was told to another generation or server, before the
    // transaction takes the lock and commits; or it changes more after it has told.
    use Op::*;
    const AHEAD: &[Op] = &[Write(A), Ahead];
    const MORE: &[Op] = &[Write(A), Ahead, Write(B), Name(1)];
    const ROLLED_BACK: &[Op] = &[Write(A), Savepoint, Write(B), Ahead, RollBack];
    const PREPARED: &[Op] = &[Write(A), Ahead, Prepare];
    let world = World { writers: &[AHEAD], named: 0, losses: 1, makes: 1, pays: 1, ..ONE };
    assert_holds(World { readers: &[TWICE], ..world }, TOLD_AHEAD | HIT_ANEW | OWED | PAID);
    assert_holds(World { writers: &[PREPARED], ..world }, FILL | OWED | PAID);
    let (writers, readers) = (&[AHEAD, PLAIN], &[K0, K0]);
    let calm = World { named: 0, ..CALM };
    assert_holds(World { writers, readers, filled: true, ..calm }, TOLD_AHEAD | HIT_CHANGED);
    let (writers, readers) = (&[MORE, ROLLED_BACK], &[K0, K1]);
    assert_holds(World { writers, readers, named: 2, ..CALM }, TOLD_AHEAD | FILL);
    let world = World { second: Second::Replica, failovers: 1, copies: 1, losses: 0, ..world };
    assert_holds(world, TOLD_AHEAD | FILL | OWED | UNPROVEN | SWEPT);
    assert_holds(World { second: Second::Rdb, ..world }, TOLD_AHEAD | FILL | OWED | UNPROVEN);
    let world = World { second: Second::None, failovers: 0, copies: 0, crashes: 1, ..world };
    assert_holds(World { bystanders_before: 1, ..world }, TOLD_AHEAD | FILL | NOT_ALIVE);
    let world = World { crashes: 0, silences: 1, makes: 0, filled: true, ..world };
    assert_holds(world, TOLD_AHEAD | HIT | OWED | PAID);
    let world = World { silences: 0, pays: 0, prunes: true, makes: 1, ..world };
    assert_holds(World { readers: &[TWICE], bystanders: 1, ..world }, TOLD_AHEAD | HIT_ANEW);
}

#[test]
fn redis_may_lose_anything() {
    // Danger: a table that was lost and made anew knows nothing of a writer that is under way.
    let reached = HIT_ANEW | FILL | OWED | PAID | DEBT_SEEN;
    let world = World { losses: 1, makes: 1, pays: 1, ..ONE };
    assert_holds(World { readers: &[TWICE], filled: true, ..world }, reached);
    assert_holds(World { losses: 2, ..world }, FILL | OWED | PAID);
    let writers = &[PLAIN, PLAIN];
    assert_holds(World { writers, readers: &[TWICE], losses: 1, ..CALM }, OWED | DEBT_SEEN);
}

#[test]
fn the_worker_may_die_and_be_started_again() {
    // Danger: it leaves half a table, half a payment, or a MAKE that arrives after its successor's.
    let world = World { makes: 2, deaths: 1, ..ONE };
    assert_holds(World { readers: &[TWICE], ..world }, HIT_ANEW | OWED | LATE);
    assert_holds(World { makes: 1, losses: 1, pays: 1, ..world }, FILL | OWED | LATE);
    let world = World { makes: 0, pays: 2, silences: 1, filled: true, ..world };
    assert_holds(World { readers: &[TWICE, K0], ..world }, HIT | OWED | PAID);
}

#[test]
fn a_writer_may_find_redis_unreachable() {
    // Danger: its commands were executed nevertheless, or are executed late.
    let world = World { silences: 1, pays: 1, filled: true, ..ONE };
    let reached = HIT | FILL | OWED | PAID | LATE | DEBT_SEEN;
    assert_holds(World { readers: &[K0, K0], ..world }, reached);
    assert_holds(World { writers: &[PLAIN, PLAIN], ..world }, reached);
    assert_holds(World { losses: 1, makes: 1, ..world }, reached);
}

#[test]
fn prepared_transactions_may_stay_as_long_as_they_like() {
    // Danger: the worker does not wait for them, so only a debt tells of them.
    use Op::*;
    const PREPARED: &[Op] = &[Write(A), Name(0), Prepare];
    const SETTLED: &[Op] = &[Name(0), Settle, Write(A), Prepare];
    let reached = FILL | OWED | PAID | DEBT_SEEN;
    let world = World { losses: 1, makes: 1, pays: 1, ..ONE };
    assert_holds(World { writers: &[PREPARED], ..world }, reached);
    assert_holds(World { writers: &[SETTLED], ..world }, reached);
    let world = World { losses: 0, is_fresh: true, readers: &[TWICE], ..world };
    assert_holds(World { writers: &[PREPARED], ..world }, reached | HIT_ANEW);
}

#[test]
fn a_replica_may_be_promoted_while_clients_stay_behind() {
    // Danger: the replica has lost writes, and the old master answers on.
    let world = World { second: Second::Replica, failovers: 1, copies: 1, makes: 1, ..ONE };
    assert_holds(World { copies: 1, pays: 1, ..world }, FILL | OWED | PAID | UNPROVEN | SWEPT);
    let world = World { copies: 0, readers: &[TWICE], filled: true, ..world };
    assert_holds(world, HIT_ANEW | UNPROVEN | SWEPT);
}

#[test]
fn redis_may_start_again_from_an_old_file() {
    // Danger: entries, lists and leases of the past come back together and fit each other.
    let world = World { second: Second::Rdb, failovers: 1, copies: 1, makes: 1, ..ONE };
    assert_holds(World { pays: 1, ..world }, FILL | OWED | PAID | UNPROVEN | SWEPT);
    assert_holds(World { copies: 0, readers: &[TWICE], ..world }, HIT_ANEW | UNPROVEN | SWEPT);
}

#[test]
fn postgres_may_crash_and_lose_commits() {
    // Danger: xids are handed out twice, and what the dead had sent arrives late.
    let world = World { crashes: 1, makes: 1, bystanders_before: 1, ..ONE };
    let reached = FILL | OWED | LATE | NOT_ALIVE;
    assert_holds(World { pays: 1, ..world }, reached | PAID);
    let asynchronous = World { asynchronous: true, readers: &[TWICE], ..world };
    assert_holds(asynchronous, reached | HIT_ANEW);
    assert_holds(World { prunes: true, filled: true, ..world }, reached);
    assert_holds(World { makes: 0, writers: &[PLAIN, PLAIN], bystanders: 1, ..world }, LATE);
}

#[test]
fn a_standby_goes_on_while_its_primary_crashes() {
    // Danger: it does not look whether a generation is alive, and xids come to mean others.
    let world = World {
        crashes: 1,
        bystanders_before: 1,
        bystanders: 1,
        readers: &[STANDBY],
        writers: &[PLAIN, PLAIN],
        ..CALM
    };
    assert_holds(world, FILL | LATE | COMPUTE);
    assert_holds(World { asynchronous: true, ..world }, FILL | LATE | COMPUTE);
    let world = World { writers: &[PLAIN], makes: 1, pays: 1, asynchronous: true, ..world };
    assert_holds(world, FILL | LATE | PAID);
}

#[test]
fn a_cold_backup_may_be_restored() {
    // Danger: Redis knows of a future that never comes.
    let world = World { restores: 1, makes: 1, bystanders: 1, readers: &[TWICE], ..ONE };
    assert_holds(world, HIT_ANEW | NOT_ALIVE | SWEPT);
    assert_holds(World { prunes: true, bystanders: 0, ..world }, HIT_ANEW | NOT_ALIVE | SWEPT);
}

#[test]
fn lists_may_be_pruned_of_xids_that_are_not_assigned() {
    // Danger: one of them is assigned meanwhile.
    let world = World { makes: 1, prunes: true, filled: true, bystanders: 1, ..ONE };
    assert_holds(World { pays: 1, readers: &[TWICE], ..world }, HIT_ANEW | OWED | PAID);
}

#[test]
fn a_schema_change_is_known_before_anything_is_used() {
    // Danger: its rows are visible before its messages are sent.
    const SCHEMA: &[Op] = &[Op::Schema];
    let world = World { named: 0, ..CALM };
    let twice = World { writers: &[SCHEMA], readers: &[TWICE, TWICE], ..world };
    assert_holds(twice, HIT_CHANGED | SCHEMA_SEEN);
    let thrice = World { writers: &[SCHEMA, SCHEMA], readers: &[THRICE], ..world };
    assert_holds(thrice, HIT_CHANGED | SCHEMA_SEEN);
    let world = World { writers: &[SCHEMA], readers: &[TWICE], makes: 1, ..world };
    assert_holds(World { losses: 1, ..world }, HIT_ANEW | SCHEMA_SEEN);
    assert_holds(World { has_lost: true, ..world }, HIT_ANEW);
}

#[test]
fn leases_may_expire_while_their_holders_compute() {
    // Danger: two fill, and the later of them knows less.
    let readers = &[K0, K0, K0];
    let reached = HIT | FILL | FILL_REFUSED | SERVED_WAITER;
    assert_holds(World { readers, expiries: 1, waits: 1, ..ONE }, reached);
}

#[test]
fn others_may_write_under_the_key() {
    // Danger: their value is served as ours, or replaced by ours.
    let world = World { readers: &[K0, K0], stores: 1, strangers: 1, losses: 1, ..ONE };
    assert_holds(world, HIT | FILL | FILL_REFUSED | FOREIGN);
}

#[test]
#[ignore = "minutes; cargo test -p pg_cache_core --test coherence_model -- --ignored --nocapture"]
fn deeper() {
    // Danger: a counterexample that needs one more of everything.
    let world = World { writers: &[PLAIN, PLAIN], readers: &[K0], makes: 1, ..CALM };
    assert_holds(World { losses: 1, pays: 1, ..world }, FILL | PAID);
    assert_holds(World { crashes: 1, asynchronous: true, ..world }, FILL | LATE);
    let world = World { readers: &[K0, K0], losses: 1, makes: 1, filled: true, ..ONE };
    assert_holds(World { pays: 1, ..world }, HIT_ANEW | PAID);
    let replica = World { second: Second::Replica, failovers: 2, copies: 1, ..world };
    assert_holds(World { losses: 0, readers: &[K0], ..replica }, FILL | UNPROVEN);
    let replica = World { losses: 0, failovers: 1, readers: &[TWICE], pays: 1, ..replica };
    assert_holds(replica, HIT_ANEW | PAID | SWEPT);
}
