//! Owns an exhaustive model of readers that miss one key: the real `Fill` drives each of them
//! against a model Redis, and every order in which their commands can arrive, with deaths, expiry
//! and late messages, is explored.
//!
//! Invariant: with all rules in force no order breaks a promise, and each rule taken away has an
//! order that does. A rule whose removal is not found here is either useless or not modelled.

mod model;

use model::{Breach, Label, Rules, Seen, State, World};
use std::collections::HashSet;
use std::rc::Rc;

const RULES: Rules = Rules {
    lease_is_nx: true,
    looks_again: true,
    fill_checks_token: true,
    release_checks_token: true,
};

/// Nothing expires and nobody dies.
const CALM: World = World {
    rules: RULES,
    entry_ms: 100,
    lease_ms: 100,
    fill_wait_ms: 100,
    begin_ms_max: 1,
    end_ms: 3,
    deaths_max: 0,
    late_fill: false,
};

/// Everything expires soon, one filler dies, and another's message is late.
const STORM: World = World {
    rules: RULES,
    entry_ms: 2,
    lease_ms: 1,
    fill_wait_ms: 3,
    begin_ms_max: 2,
    end_ms: 5,
    deaths_max: 1,
    late_fill: true,
};

/// What an exploration found.
struct Explored {
    states: usize,
    seen: Seen,
    /// The steps of a shortest way to a breach that was looked for.
    counterexample: Option<Vec<String>>,
}

/// A state, the place of the state before it, and the step between them.
type Trail = Vec<(Rc<State>, usize, Label)>;

/// Goes every way there is, breadth first, until it meets a breach that `is_wanted`.
fn explore(world: World, is_wanted: impl Fn(Breach) -> bool) -> Explored {
    let first = Rc::new(State::first(&world));
    let mut known = HashSet::from([first.clone()]);
    let mut trail = vec![(first, 0, ("begins", None))];
    let mut seen = Seen::default();
    let mut at = 0;
    while at < trail.len() {
        let state = trail[at].0.clone();
        let steps = state.next(&world);
        if steps.is_empty() && state.is_stuck(&world) && is_wanted(Breach::Stuck) {
            let counterexample = Some(steps_to(&trail, at));
            return Explored { states: trail.len(), seen, counterexample };
        }
        for (label, mut next) in steps {
            seen.add(std::mem::take(&mut next.seen));
            let breach = next.breach.take();
            next.normalize();
            let next = Rc::new(next);
            let is_new = known.insert(next.clone());
            let is_found = breach.is_some_and(&is_wanted);
            if is_new || is_found {
                trail.push((next, at, label));
            }
            if is_found {
                let counterexample = Some(steps_to(&trail, trail.len() - 1));
                return Explored { states: trail.len(), seen, counterexample };
            }
        }
        at += 1;
    }
    Explored { states: trail.len(), seen, counterexample: None }
}

fn steps_to(trail: &Trail, mut at: usize) -> Vec<String> {
    let mut steps = Vec::new();
    while at > 0 {
        let (_, before, (name, reader)) = &trail[at];
        let reader = reader.map(|reader| &trail[*before].0.readers[reader]);
        steps.push(format!("{name}: {reader:?}"));
        at = *before;
    }
    steps.reverse();
    steps
}

/// A world with one rule taken away has a way to `breach`.
fn assert_needed(world: World, rules: Rules, breach: Breach) {
    let explored = explore(World { rules, ..world }, |found| found == breach);
    let steps = explored.counterexample;
    assert!(steps.is_some(), "{rules:?} never leads to {breach:?} in {} states", explored.states);
}

#[test]
fn a_query_runs_once_while_nothing_expires() {
    // Danger: a popular key expires, and every client runs its query at once.
    let explored = explore(CALM, |_| true);
    assert_eq!(explored.counterexample, None);
    assert!(explored.seen.served_by_another && explored.seen.lease_given_back);
}

#[test]
fn no_order_of_events_breaks_a_promise() {
    // Danger: deaths, expiry and late messages come in an order that nobody thought of.
    let explored = explore(STORM, |_| true);
    assert_eq!(explored.counterexample, None);
    // A model that never reaches what it is about proves nothing.
    let everything = Seen {
        takeover: true,
        late_fill_refused: true,
        lease_given_back: true,
        deadline: true,
        served_by_another: true,
    };
    assert_eq!(explored.seen, everything);
    assert!(explored.states > 50_000, "{} states", explored.states);
}

#[test]
fn without_nx_two_compute_at_once() {
    // Danger: a rule that this model cannot miss is a rule that it does not test.
    let rules = Rules { lease_is_nx: false, ..RULES };
    assert_needed(STORM, rules, Breach::TwoFillers);
    assert_needed(CALM, rules, Breach::ComputedTwice);
}

#[test]
fn without_the_second_look_a_filled_entry_is_computed_again() {
    // Danger: as above.
    let rules = Rules { looks_again: false, ..RULES };
    assert_needed(CALM, rules, Breach::ComputedTwice);
}

#[test]
fn without_the_token_in_the_fill_an_older_value_replaces_a_newer() {
    // Danger: as above.
    let rules = Rules { fill_checks_token: false, ..RULES };
    assert_needed(STORM, rules, Breach::OlderOverNewer);
}

#[test]
fn without_the_token_in_the_release_two_compute_at_once() {
    // Danger: as above.
    let rules = Rules { release_checks_token: false, ..RULES };
    assert_needed(STORM, rules, Breach::TwoFillers);
}
