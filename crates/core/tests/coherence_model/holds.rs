//! Owns the configurations in which every promise must hold.
//!
//! Invariant: each is explored to its end, and names what it must have reached on the way: a world
//! in which nothing happens keeps every promise.

use crate::explore::{explore, mark};
use crate::world::*;

fn assert_holds(name: &str, world: &World, reached: u32) {
    let started = std::time::Instant::now();
    let explored = explore(world);
    println!("{name}: {} states in {:?} marks {:b}", explored.states, started.elapsed(), explored.marks);
    if let Some(found) = explored.found {
        println!("{name}: {:?} after {} states\n{}", found.breach, explored.states, found.way.join("\n"));
        return;
    }
    let missing = reached & !explored.marks;
    assert_eq!(missing, 0, "{name} never reaches {missing:#b} of {reached:#b}");
}

#[test]
fn all() {
    let w = |name: &str, world: World| assert_holds(name, &World { states_max: 6_000_000, ..world }, 0);
    const W: World = World { writers: &[PLAIN], readers: &[K0], ..CALM };
    w("1w 1r", W);
    w("2w 2r", World { writers: &[PLAIN, PLAIN], readers: &[K0, K0], ..W });
    w("1w 1r loss make", World { losses: 1, makes: 1, pays: 1, ..W });
    w("1w 1r 2loss make", World { losses: 2, makes: 1, pays: 1, ..W });
    w("1w 1r loss make silence", World { losses: 1, makes: 1, pays: 1, silences: 1, ..W });
    w("1w 2r silence", World { readers: &[K0, K0], pays: 1, silences: 1, ..W });
    w("2w 1r silence", World { writers: &[PLAIN, PLAIN], pays: 1, silences: 1, ..W });
    w("1w 1r replica", World { second: Second::Replica, failovers: 1, copies: 1, makes: 1, pays: 1, ..W });
    w("1w 1r rdb", World { second: Second::Rdb, failovers: 1, copies: 1, makes: 1, pays: 1, ..W });
    w("1w 1r crash", World { crashes: 1, makes: 1, pays: 1, ..W });
    w("2w 1r async crash", World { writers: &[PLAIN, PLAIN], crashes: 1, makes: 1, asynchronous: true, ..W });
    w("2w 2r records standby", World { writers: &[PLAIN, PLAIN], readers: &[K0, STANDBY], records: true, ..W });
    w("1w 3r expiry", World { readers: &[K0, K0, K0], expiries: 1, waits: 1, ..W });
    w("1w 2r store", World { readers: &[K0, K0], stores: 1, strangers: 1, ..W });
}
