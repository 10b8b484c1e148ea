//! Owns the configurations in which every promise must hold.
//!
//! Invariant: each is explored to its end, and names what it must have reached on the way: a world
//! in which nothing happens keeps every promise.

use crate::explore::{explore, mark};
use crate::world::*;

fn assert_holds(name: &str, world: &World, reached: u32) {
    let started = std::time::Instant::now();
    let explored = explore(world);
    println!(
        "{name}: {} states in {:?} marks {:b}",
        explored.states,
        started.elapsed(),
        explored.marks
    );
    if let Some(found) = explored.found {
        println!(
            "{name}: {:?} after {} states\n{}",
            found.breach,
            explored.states,
            found.way.join("\n")
        );
        return;
    }
    let missing = reached & !explored.marks;
    assert_eq!(missing, 0, "{name} never reaches {missing:#b} of {reached:#b}");
}

#[test]
fn all() {
    let w =
        |name: &str, world: World| assert_holds(name, &World { states_max: 6_000_000, ..world }, 0);
    const W: World = World { writers: &[PLAIN], readers: &[K0], ..CALM };
    w("2w 2r", World { writers: &[PLAIN, PLAIN], readers: &[K0, K0], filled: true, ..W });
    w(
        "2w 2r standby records",
        World {
            writers: &[PLAIN, PLAIN],
            readers: &[K0, STANDBY],
            records: true,
            filled: true,
            ..W
        },
    );
    w(
        "2w standby crash",
        World {
            writers: &[PLAIN, PLAIN],
            crashes: 1,
            bystanders_before: 1,
            bystanders: 1,
            readers: &[STANDBY],
            ..W
        },
    );
    w(
        "2w standby crash async",
        World {
            writers: &[PLAIN, PLAIN],
            crashes: 1,
            asynchronous: true,
            bystanders_before: 1,
            bystanders: 1,
            readers: &[STANDBY],
            ..W
        },
    );
    w(
        "1w standby crash make pays",
        World {
            crashes: 1,
            makes: 1,
            pays: 1,
            asynchronous: true,
            bystanders_before: 1,
            bystanders: 1,
            readers: &[STANDBY],
            ..W
        },
    );
    w(
        "1w 2r crash make async",
        World {
            crashes: 1,
            makes: 1,
            asynchronous: true,
            bystanders_before: 1,
            readers: &[TWICE],
            ..W
        },
    );
    w("1w 1r restore", World { restores: 1, makes: 1, bystanders: 1, readers: &[TWICE], ..W });
    const DDL: &[Op] = &[Op::Schema];
    w(
        "2w standby crash pays",
        World {
            writers: &[PLAIN, PLAIN],
            crashes: 1,
            bystanders_before: 1,
            bystanders: 1,
            silences: 1,
            readers: &[STANDBY],
            ..W
        },
    );
    w("2ddl 1r3", World { writers: &[DDL, DDL], readers: &[THRICE], named: 0, ..W });
    w("ddl 2r2", World { writers: &[DDL], readers: &[TWICE, TWICE], named: 0, ..W });
    w(
        "ddl loss make",
        World { writers: &[DDL], readers: &[TWICE], named: 0, losses: 1, makes: 1, ..W },
    );
    const PREPARE: &[Op] = &[Op::Write(A), Op::Name(0), Op::Prepare];
    w("prepare loss make pay", World { writers: &[PREPARE], losses: 1, makes: 1, pays: 1, ..W });
    w("prepare fresh", World { writers: &[PREPARE], is_fresh: true, makes: 1, pays: 1, ..W });
    w(
        "has lost",
        World { writers: &[DDL], readers: &[TWICE], named: 0, has_lost: true, makes: 1, ..W },
    );
    w(
        "prunes",
        World {
            makes: 1,
            prunes: true,
            pays: 1,
            filled: true,
            readers: &[TWICE],
            bystanders: 1,
            ..W
        },
    );
    w(
        "prunes crash",
        World { makes: 1, prunes: true, filled: true, crashes: 1, bystanders_before: 1, ..W },
    );
    w("expiry", World { readers: &[K0, K0, K0], expiries: 1, waits: 1, ..W });
    w("stores", World { readers: &[K0, K0], stores: 1, strangers: 1, losses: 1, ..W });
    w(
        "loss 2r make silence",
        World { readers: &[TWICE], losses: 1, makes: 1, pays: 1, silences: 1, ..W },
    );
    w(
        "failback",
        World {
            second: Second::Replica,
            failovers: 2,
            copies: 1,
            makes: 1,
            pays: 0,
            filled: true,
            ..W
        },
    );
}
