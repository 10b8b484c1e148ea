//! Owns the configurations in which every promise must hold.
//!
//! Invariant: each is explored to its end, and names what it must have reached on the way: a world
//! in which nothing happens keeps every promise. How many states each has is printed with
//! `cargo test -p pg_cache_core --test memory_model holds -- --nocapture`.

use crate::explore::{explore, mark::*};
use crate::state::Home;
use crate::world::*;

const ONE: World = World { writers: &[PLAIN], readers: &[ONCE, ONCE], ..CALM };
const TWO: World = World { writers: &[PLAIN, PLAIN], readers: &[ONCE, ONCE], ..CALM };

#[track_caller]
fn assert_holds(world: World, reached: u32) {
    let explored = explore(&world);
    if let Some((breach, way)) = explored.found {
        panic!("{breach:?} after {} steps\n{}", way.len(), way.join("\n"));
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
    assert_holds(World { readers: &[ONCE, TWICE], writers: &[PLAIN, MUTE], ..TWO }, reached);
}

#[test]
fn a_transaction_keeps_its_old_snapshot() {
    // Danger: who is dropped from a list is one whom an old snapshot does not see.
    let readers = &[ONCE, REPEATABLE];
    assert_holds(World { readers, filled: true, expiries: 1, ..TWO }, HIT | HIT_CHANGED | FILL);
}

#[test]
fn a_full_bucket_holds_who_does_not_fit() {
    // Danger: a writer falls out of the list.
    let writers = &[MUTE, MUTE, MUTE];
    let world = World { writers, narrow: true, filled: true, ..ONE };
    assert_holds(World { readers: &[ONCE, ONCE], ..world }, HIT | HIT_CHANGED | FILL | HELD);
    assert_holds(World { readers: &[REPEATABLE], ..world }, HIT | HIT_CHANGED | FILL | HELD);
}

#[test]
fn a_lease_may_expire_and_a_second_one_fill() {
    // Danger: the first one comes back.
    let reached = HIT | HIT_CHANGED | FILL | FILL_REFUSED | COMPUTE;
    assert_holds(World { expiries: 2, ..TWO }, reached);
}

#[test]
fn a_deletion_may_not_be_confirmed() {
    // Danger: the transaction is over and cannot owe, and its deletion is late or lost.
    let reached = HIT | FILL | LEFT | ADOPTED | PAID | OWED | LATE | DEBT_SEEN;
    assert_holds(World { silences: 2, deaths: 1, filled: true, ..ONE }, reached);
    let world = World { silences: 1, readers: &[ONCE], ..TWO };
    assert_holds(world, FILL | LEFT | ADOPTED | PAID | OWED | LATE);
}

#[test]
fn a_prepared_transaction_may_be_committed_after_a_crash() {
    // Danger: the list is empty, and nobody but its debt knows of it.
    let reached = HIT | HIT_ANEW | HIT_CHANGED | FILL | PAID | SWEPT | DEBT_SEEN;
    let world = World { writers: &[PREPARED, MUTE], filled: true, ..ONE };
    assert_holds(World { readers: &[TWICE], crashes: 1, ..world }, reached);
    let world = World { writers: &[PREPARED], silences: 1, ..world };
    assert_holds(world, HIT | HIT_CHANGED | FILL | OWED | PAID);
    assert_holds(World { crashes: 1, moves: 1, ..world }, reached | UNPROVEN);
    assert_holds(World { saves: 1, restarts: 1, ..world }, HIT | HIT_ANEW | PAID | UNPROVEN);
}

#[test]
fn postgres_may_crash() {
    // Danger: versions begin anew, commits are lost, and names that were left are lost too.
    let reached = HIT_ANEW | FILL | SWEPT | LEFT | COMMIT_LOST;
    let world = World { crashes: 1, asynchronous: true, silences: 1, ..ONE };
    assert_holds(World { deaths: 1, filled: true, ..world }, reached);
    assert_holds(World { writers: &[PLAIN, MUTE], readers: &[TWICE], silences: 0, ..world }, FILL);
}

#[test]
fn redis_may_lose_everything() {
    // Danger: what is gone is taken for what was never told; and with it, which generations have
    // been.
    let reached = HIT | HIT_CHANGED | FILL | LEFT | PAID;
    let world = World { losses: 1, silences: 1, ..ONE };
    assert_holds(World { filled: true, ..world }, reached);
    assert_holds(World { crashes: 1, ..world }, reached | HIT_ANEW | SWEPT);
    assert_holds(World { saves: 1, restarts: 1, readers: &[ONCE], ..world }, FILL | LEFT | SWEPT);
}

#[test]
fn redis_may_come_back_with_an_older_state() {
    // Danger: an entry of before a commit is there again.
    let reached = HIT | HIT_ANEW | FILL | SWEPT | UNPROVEN | LEFT | PAID;
    let world = World { saves: 1, restarts: 1, filled: true, ..ONE };
    assert_holds(world, reached);
    assert_holds(World { crashes: 1, readers: &[ONCE], ..world }, FILL | SWEPT | UNPROVEN | LEFT);
}

#[test]
fn everybody_may_be_told_to_use_another_redis() {
    // Danger: the old one goes on, and takes deletions that are meant for the new one.
    let reached = HIT | HIT_ANEW | FILL | SWEPT | UNPROVEN;
    assert_holds(World { moves: 1, filled: true, readers: &[ONCE, TWICE], ..ONE }, reached);
    assert_holds(World { moves: 1, crashes: 1, ..ONE }, reached);
}

#[test]
fn the_table_may_move_into_memory() {
    // Danger: a writer of before the move is in no list that readers look at.
    let reached = HIT | HIT_ANEW | HIT_CHANGED | FILL | SWEPT;
    let world = World { switches: 1, home: Home::Redis, filled: true, ..ONE };
    assert_holds(World { deaths: 1, ..world }, reached);
    let readers = &[REPEATABLE];
    assert_holds(World { writers: &[PLAIN, MUTE], readers, ..world }, FILL | HIT_CHANGED | SWEPT);
    let writers = &[PREPARED];
    assert_holds(World { writers, silences: 1, ..world }, reached | OWED | PAID | DEBT_SEEN);
    assert_holds(World { crashes: 1, silences: 1, ..world }, reached | PAID | LEFT);
    assert_holds(World { switches: 2, home: Home::Memory, ..world }, reached);
}

#[test]
fn a_fill_may_come_behind_the_sweep() {
    // Danger: it is of a generation that nobody looks for any more.
    let world = World { switches: 1, home: Home::Redis, readers: &[REPEATABLE], ..ONE };
    assert_holds(World { crashes: 1, losses: 1, ..world }, FILL | SWEPT);
    assert_holds(World { saves: 1, restarts: 1, ..world }, FILL | SWEPT | UNPROVEN);
    let world = World { switches: 2, home: Home::Memory, crashes: 1, ..world };
    assert_holds(world, FILL | SWEPT);
}
