//! Readers: every kind of snapshot that a query can run under.
//!
//! Owns the ways of holding one. An entry that is right for a new snapshot is wrong for an old one,
//! and the other way round: each way below has broken a cache that looked only at the newest state.

use std::time::Duration;

use postgres::Error;

use crate::questions::{Needs, draw};
use crate::session::Session;
use crate::world::{Side, World};

/// Checks by one way before the next is drawn.
const CHECKS: u32 = 40;

type Way = fn(&mut Session<'_>, &mut fastrand::Rng) -> Result<(), Error>;

const ON_A_PRIMARY: &[(u32, Way)] = &[
    (10, one_by_one),
    (4, long_read_committed),
    (6, old_snapshot),
    (2, read_only),
    (2, exported),
    (3, cursor),
    (1, serializable),
];

const ON_A_STANDBY: &[(u32, Way)] =
    &[(10, one_by_one), (4, long_read_committed), (6, old_snapshot), (3, cursor), (2, exported)];

/// Asks until the run is over.
pub fn read(world: &World, side: Side, mut random: fastrand::Rng) {
    let ways = if side == Side::Standby { ON_A_STANDBY } else { ON_A_PRIMARY };
    ask(world, side, |session| pick(ways, &mut random)(session, &mut random));
}

/// Runs rounds of questions until the run is over, in one session for as long as it lives.
pub fn ask(
    world: &World,
    side: Side,
    mut round: impl FnMut(&mut Session<'_>) -> Result<(), Error>,
) {
    while !world.tally.is_over() {
        let Some(mut session) = Session::open(world, side) else {
            world.tally.rest(Duration::from_millis(50));
            continue;
        };
        while !world.tally.is_over() {
            let done = round(&mut session).and_then(|()| session.count());
            if let Err(error) = done {
                world.tally.error(&error);
                if session.client.batch_execute("ROLLBACK").is_err() {
                    break;
                }
            }
        }
        let _ = session.count();
    }
}

fn pick(ways: &[(u32, Way)], random: &mut fastrand::Rng) -> Way {
    let sum: u32 = ways.iter().map(|(weight, _)| weight).sum();
    let mut left = random.u32(..sum);
    for (weight, way) in ways {
        if left < *weight {
            return *way;
        }
        left -= weight;
    }
    ways[0].1
}

fn one_by_one(session: &mut Session<'_>, random: &mut fastrand::Rng) -> Result<(), Error> {
    for _ in 0..CHECKS {
        let index = draw(&session.world.questions, random);
        session.check(index, false, "read committed")?;
    }
    Ok(())
}

fn long_read_committed(session: &mut Session<'_>, random: &mut fastrand::Rng) -> Result<(), Error> {
    inside(session, random, "BEGIN ISOLATION LEVEL READ COMMITTED", "long read committed")
}

fn old_snapshot(session: &mut Session<'_>, random: &mut fastrand::Rng) -> Result<(), Error> {
    inside(session, random, "BEGIN ISOLATION LEVEL REPEATABLE READ", "repeatable read")
}

fn read_only(session: &mut Session<'_>, random: &mut fastrand::Rng) -> Result<(), Error> {
    inside(session, random, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "read only")
}

fn serializable(session: &mut Session<'_>, random: &mut fastrand::Rng) -> Result<(), Error> {
    inside(session, random, "BEGIN ISOLATION LEVEL SERIALIZABLE", "serializable")
}

/// A few questions again and again, with pauses in which others commit.
fn inside(
    session: &mut Session<'_>,
    random: &mut fastrand::Rng,
    begin: &str,
    how: &str,
) -> Result<(), Error> {
    session.begin();
    session.client.batch_execute(begin)?;
    let few: Vec<usize> = (0..4).map(|_| draw(&session.world.questions, random)).collect();
    for _ in 0..random.u32(4..CHECKS) {
        let index = few[random.usize(..few.len())];
        session.check(index, true, how)?;
        if random.u32(..4) == 0 {
            session.world.tally.rest(Duration::from_millis(random.u64(..30)));
        }
    }
    session.client.batch_execute("COMMIT")
}

/// The snapshot of one session, used by another when others have committed.
fn exported(session: &mut Session<'_>, random: &mut fastrand::Rng) -> Result<(), Error> {
    let world = session.world;
    let Some(mut owner) = world.connect(session.side) else { return Ok(()) };
    let mark = world.mark(session.side);
    owner.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ")?;
    let name: String = owner.query_one("SELECT pg_export_snapshot()", &[])?.get(0);
    for _ in 0..random.u32(1..4) {
        world.tally.rest(Duration::from_millis(random.u64(..40)));
        session.begin_from(mark);
        session.client.batch_execute(&format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{name}'"
        ))?;
        for _ in 0..5 {
            let index = draw(&world.questions, random);
            session.check(index, true, "exported snapshot")?;
        }
        session.client.batch_execute("COMMIT")?;
    }
    owner.batch_execute("COMMIT")
}

/// A cursor keeps the snapshot that it was opened with, also under READ COMMITTED.
fn cursor(session: &mut Session<'_>, random: &mut fastrand::Rng) -> Result<(), Error> {
    let world = session.world;
    let index = draw(&world.questions, random);
    let question = &world.questions[index];
    if question.needs != Needs::Nothing {
        return Ok(());
    }
    session.begin();
    let declare = format!("BEGIN; DECLARE c CURSOR FOR {}", question.check_by_rows());
    session.client.batch_execute(&declare)?;
    for _ in 0..5 {
        let rows = session.client.query("FETCH 1 FROM c", &[])?;
        session.judge_rows(index, &rows)?;
        world.tally.rest(Duration::from_millis(random.u64(..30)));
    }
    session.client.batch_execute("COMMIT")
}
