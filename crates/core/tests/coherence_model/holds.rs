//! Owns the configurations in which every promise must hold.
//!
//! Invariant: each is explored to its end, and names what it must have reached on the way: a world
//! in which nothing happens keeps every promise.

use crate::explore::{explore, mark};
use crate::world::*;

fn assert_holds(name: &str, world: &World, reached: u32) {
    let started = std::time::Instant::now();
    let explored = explore(world);
    println!("{name}: {} states in {:?}", explored.states, started.elapsed());
    if let Some(found) = explored.found {
        panic!("{name}: {:?} after {} states\n{}", found.breach, explored.states, found.way.join("\n"));
    }
    let missing = reached & !explored.marks;
    assert_eq!(missing, 0, "{name} never reaches {missing:#b} of {reached:#b}");
}

#[test]
fn calm() {
    let world = World { writers: &[PLAIN, PLAIN], readers: &[K0, K0], ..CALM };
    assert_holds("2 writers, 2 readers", &world, mark::HIT | mark::FILL | mark::FILL_REFUSED);
}

#[test]
fn loss() {
    let world = World { writers: &[PLAIN], readers: &[K0], losses: 1, makes: 1, ..CALM };
    assert_holds("1w 1r 1 loss 1 make", &world, mark::FILL);
}
