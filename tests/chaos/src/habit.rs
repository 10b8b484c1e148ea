//! A session with a habit: one change, then the commit. It tells Redis ahead of it.
//!
//! Owns `habits` and `extras`: tables without named keys, for a transaction that names any tells at
//! its commit. Nobody else writes them, so no lock breaks the habit.

use std::sync::atomic::Ordering;
use std::time::Duration;

use fastrand::Rng;
use postgres::{Client, Error};

use crate::guards::Guard;
use crate::reader;
use crate::world::{Side, World};

/// What is asked of the two tables.
const KEYS: [&str; 2] = ["habits:x", "extras:x"];

/// Writes until the run is over.
pub fn write(world: &World, mut random: Rng) {
    while let Some(mut client) = world.insist(Side::Primary) {
        match go_on(world, &mut client, &mut random) {
            Ok(()) => return,
            Err(error) => world.tally.error(&error),
        }
    }
}

fn go_on(world: &World, client: &mut Client, random: &mut Rng) -> Result<(), Error> {
    // Long pauses break no habit here.
    client.batch_execute("SET statement_timeout = '10s'; SET pg_cache.ahead_ms = '60s'")?;
    let wants_late_commits = world.setup.without.is_some_and(Guard::wants_late_commits);
    let most_ms = if wants_late_commits { 1500 } else { 30 };
    while !world.tally.is_over() {
        let id = random.u32(..4);
        client.batch_execute("BEGIN")?;
        client.batch_execute(&format!("UPDATE habits SET n = n + 1 WHERE id = {id}"))?;
        world.tally.rest(Duration::from_millis(random.u64(..most_ms)));
        let end = match random.u32(..24) {
            0 | 1 => "UPDATE extras SET n = n + 1; COMMIT",
            2 => "ROLLBACK",
            _ => "COMMIT",
        };
        if let Err(error) = client.batch_execute(end) {
            if error.code().is_none() {
                return Err(error);
            }
            world.tally.error(&error);
            client.batch_execute("ROLLBACK")?;
        }
        world.tally.transactions.fetch_add(1, Ordering::Relaxed);
        world.tally.rest_for_reads(Duration::from_millis(random.u64(2..60)), random.u64(..200));
    }
    Ok(())
}

/// Asks for what is told ahead until the run is over: what is filled between telling and commit is
/// rare among all that readers ask.
pub fn read(world: &World, mut random: Rng) {
    let is_asked = |index: &usize| KEYS.contains(&world.questions[*index].key.as_str());
    let asked: Vec<usize> = (0..world.questions.len()).filter(is_asked).collect();
    reader::ask(world, Side::Primary, |session| {
        asked.iter().try_for_each(|index| session.check(*index, false, "beside a habit"))?;
        world.tally.rest(Duration::from_millis(random.u64(1..20)));
        Ok(())
    });
}
