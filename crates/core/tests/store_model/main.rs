//! Owns an exhaustive model of `redis_store`: in which order writers of a row, the worker and what
//! goes past it reach Redis, with rollbacks, deaths and losses.
//!
//! Invariant: with all guards in force no order leaves an older row under the key, and each guard
//! taken away has an order that does. A guard whose removal is not found here is either useless or
//! not modelled.

mod model;

use std::collections::HashSet;
use std::rc::Rc;

use model::{Breach, Guard, Program, State, WAYS, Way, World};

/// What an exploration found.
#[derive(Default)]
struct Explored {
    states: usize,
    /// A row was stored whose token was gone, behind one that was unsure.
    by_mark: bool,
    found: Option<(Breach, Vec<&'static str>)>,
}

/// Goes every way there is, breadth first, until it meets a breach that `is_wanted`.
fn explore(world: &World<'_>, is_wanted: impl Fn(Breach) -> bool) -> Explored {
    let first = Rc::new(State::first());
    let mut known = HashSet::from([first.clone()]);
    let mut trail: Vec<(Rc<State>, usize, &str)> = vec![(first, 0, "begins")];
    let mut explored = Explored::default();
    let mut at = 0;
    while at < trail.len() {
        let state = trail[at].0.clone();
        for (does, mut next) in state.next(world) {
            explored.by_mark |= std::mem::take(&mut next.by_mark);
            let breach = next.breach(world);
            next.left_old = false;
            let next = Rc::new(next);
            if known.insert(next.clone()) {
                trail.push((next, at, does));
            }
            if let Some(breach) = breach.filter(|breach| is_wanted(*breach)) {
                let mut way = vec![does];
                let mut from = at;
                while from > 0 {
                    way.push(trail[from].2);
                    from = trail[from].1;
                }
                way.reverse();
                return Explored { states: trail.len(), found: Some((breach, way)), ..explored };
            }
        }
        at += 1;
    }
    Explored { states: trail.len(), ..explored }
}

const fn durable(way: Way) -> Program {
    Program { way, durable: true }
}

const fn inline(way: Way) -> Program {
    Program { way, durable: false }
}

#[track_caller]
fn assert_holds(world: World<'_>) -> Explored {
    let explored = explore(&world, |_| true);
    if let Some((breach, way)) = &explored.found {
        panic!("{:?}: {breach:?}\n{}", world.programs, way.join("\n"));
    }
    explored
}

#[track_caller]
fn assert_needed(guard: Guard, breach: Breach, programs: &[Program]) {
    let world = World { programs, without: Some(guard), deaths: 1, losses: 0 };
    let explored = explore(&world, |found| found == breach);
    let Some((_, way)) = explored.found else {
        panic!("without {guard:?} never {breach:?} in {} states", explored.states);
    };
    println!("without {guard:?}: {breach:?} after {} steps", way.len());
    way.iter().for_each(|step| println!("    {step}"));
    assert_holds(World { without: None, ..world });
}

#[test]
fn no_order_of_events_leaves_an_older_row() {
    // Danger: rollbacks, deaths and losses come in an order that nobody thought of.
    let (mut states, mut by_mark) = (0, false);
    for kind in [durable, inline] {
        for first in WAYS {
            for second in WAYS {
                for third in WAYS {
                    let programs = [first, second, third].map(kind);
                    let explored = assert_holds(World {
                        programs: &programs,
                        without: None,
                        deaths: 1,
                        losses: 1,
                    });
                    states += explored.states;
                    by_mark |= explored.by_mark;
                }
            }
        }
    }
    println!("{states} states");
    // A model that never reaches what it is about proves nothing.
    assert!(by_mark && states > 100_000, "{states} states");
}

use Guard::*;
use Way::*;

#[test]
fn a_message_needs_its_token() {
    // Danger: whoever is late stores an older row.
    assert_needed(OwnToken, Breach::OldForGood, &[inline(Plain), inline(Plain)]);
}

#[test]
fn whoever_deletes_takes_the_token() {
    // Danger: a row that is late past the outbox is stored over a newer one.
    assert_needed(TakesToken, Breach::OldForGood, &[inline(Plain), inline(Spilled)]);
}

#[test]
fn an_unsure_message_yields_to_a_token() {
    // Danger: the row of a large transaction is stored behind a later commit.
    assert_needed(OnlyIfFree, Breach::Old, &[durable(Spilled), durable(Plain)]);
}

#[test]
fn an_unsure_message_leaves_a_mark() {
    // Danger: the later one's token is gone with a rollback, and the older row stays.
    let programs = [durable(Spilled), durable(Plain), durable(Early)];
    assert_needed(Mark, Breach::OldForGood, &programs);
}

#[test]
fn the_mark_is_for_what_comes_in_order() {
    // Danger: what is late past the outbox is stored over a newer row.
    assert_needed(InOrderOnly, Breach::OldForGood, &[inline(Plain), durable(Spilled)]);
}

#[test]
fn a_deletion_leaves_no_mark() {
    // Danger: a message of the outbox is stored over what went past it.
    let programs = [inline(Spilled), inline(Prepared), inline(Plain)];
    assert_needed(NoMarkByDeletion, Breach::OldForGood, &programs);
}

#[test]
fn nothing_goes_behind_an_unsure_message() {
    // Danger: both are sent again, and the older row is there until the newer one comes.
    assert_needed(Hold, Breach::Old, &[durable(Lost), durable(Plain)]);
}

#[test]
fn who_owes_is_paid_first() {
    // Danger: the debt takes away the row that its own transaction has just stored.
    assert_needed(OwingFirst, Breach::Absent, &[durable(Lost)]);
}

#[test]
fn who_pays_takes_a_mark_for_nobodys_token() {
    // Danger: the row of before an outage stays readable when the debt is paid.
    assert_needed(YieldSeesMark, Breach::Old, &[durable(Spilled), durable(Lost)]);
}

#[test]
fn who_lays_a_token_deletes_the_key() {
    // Danger: what arrived after an early deletion is still there when COMMIT has returned.
    assert_needed(LayDeletes, Breach::Old, &[durable(Spilled), durable(Early)]);
}
