//! Writers: they run scripts, and look through the cache in the middle of their own transactions.
//!
//! Owns the pauses and the bookkeeping around changes of the catalogue. A transaction that has
//! written sees its own rows, which no entry may hold and no hit may hide.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fastrand::Rng;
use postgres::{Client, Error};

use crate::changes::CHANGES;
use crate::guards::Guard;
use crate::questions::{Needs, draw};
use crate::ways::{Script, WAYS, Way};
use crate::world::{Mark, Side, World, lock};

const SESSION: &str = "SET statement_timeout = '10s'; SET lock_timeout = '300ms'; \
                       SET idle_in_transaction_session_timeout = '20s'";
const PREPARED_MAX: usize = 4;

/// Behind all that this session has committed, in bytes of log.
const POSITION: &str = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint";

/// Writes rows until the run is over.
pub fn write(world: &World, mut random: Rng) {
    while let Some(mut client) = world.insist(Side::Primary) {
        let mut step = || -> Result<(), Error> {
            client.batch_execute(SESSION)?;
            find_prepared(world, &mut client)?;
            while !world.tally.is_over() {
                settings(world, &mut client, &mut random)?;
                let way = pick(WAYS, &mut random);
                let script = (way.script)(&mut random);
                let mark = Some(world.mark(Side::Primary));
                perform(world, &mut client, &mut random, &script, mark)?;
                world.tally.transactions.fetch_add(1, Ordering::Relaxed);
                end_a_prepared_one(world, &mut client, &mut random)?;
                let pause = Duration::from_millis(random.u64(5..80));
                world.tally.rest_for_reads(pause, random.u64(..200));
            }
            Ok(())
        };
        if step().is_ok() {
            return;
        }
    }
}

/// Changes the catalogue until the run is over.
pub fn change(world: &World, mut random: Rng) {
    while let Some(mut client) = world.insist(Side::Primary) {
        let mut step = || -> Result<(), Error> {
            client.batch_execute(SESSION)?;
            while !world.tally.is_over() {
                let often = world.setup.changes.is_some();
                let most_ms = if often { 150 } else { 1200 };
                world.tally.rest(Duration::from_millis(random.u64(50..most_ms)));
                let change = pick_by(CHANGES, |change| change.way.weight, &mut random);
                let way = &change.way;
                if !way.name.contains(world.setup.changes.as_deref().unwrap_or_default()) {
                    continue;
                }
                let script = (way.script)(&mut random);
                if world.setup.without.is_some_and(Guard::wants_late_messages) {
                    let pause_ms = random.u32(20..300);
                    client.batch_execute(&format!(
                        "SET pg_cache.fault_point = 'commit.ended:sleep_{pause_ms}'"
                    ))?;
                }
                let tracking = way.name == "tracking off and on";
                if tracking && !world.setup.tracked {
                    continue;
                }
                let alone = tracking
                    .then(|| world.blinking.write().unwrap_or_else(PoisonError::into_inner));
                world.changes.begin(change.touches);
                let done = change_once(world, &mut client, &mut random, &script, alone.is_some());
                world.changes.end();
                drop(alone);
                world.tally.transactions.fetch_add(1, Ordering::Relaxed);
                done?;
                let row = client.query_one(POSITION, &[])?;
                world.changes.logged(u64::try_from(row.get::<_, i64>(0)).unwrap_or(u64::MAX));
            }
            Ok(())
        };
        if step().is_ok() {
            return;
        }
    }
}

fn change_once(
    world: &World,
    client: &mut Client,
    random: &mut Rng,
    script: &Script,
    tracking: bool,
) -> Result<(), Error> {
    // Nobody else changes the catalogue: a difference in here has no excuse.
    let mut result = perform(world, client, random, script, None);
    if tracking {
        // Readers come back only when it is tracked for certain.
        while !world.tally.is_over() && !tracked_again(client) {
            match world.insist(Side::Primary) {
                Some(new) => *client = new,
                None => break,
            }
            world.tally.rest(Duration::from_millis(50));
            result = client.batch_execute(SESSION);
        }
    }
    result
}

fn tracked_again(client: &mut Client) -> bool {
    let again = client.batch_execute("ROLLBACK; SELECT redis_track('blinking')");
    again.is_ok()
}

/// What differs from one transaction to the next.
fn settings(world: &World, client: &mut Client, random: &mut Rng) -> Result<(), Error> {
    let lost = world.setup.without.is_some_and(Guard::wants_lost_commits);
    let synchronous = if lost || random.u32(..3) == 0 { "off" } else { "on" };
    client.batch_execute(&format!("SET synchronous_commit = {synchronous}"))?;
    if !world.setup.without.is_some_and(Guard::wants_slow_commits) {
        return Ok(());
    }
    // It has the guard then, and the others have not.
    let pause_ms = if random.u32(..8) == 0 { random.u32(300..800) } else { random.u32(5..60) };
    let fault = match random.bool() {
        true => format!("SET pg_cache.fault_point = 'commit.settled:sleep_{pause_ms}'"),
        false => "RESET pg_cache.fault_point".to_owned(),
    };
    client.batch_execute(&fault)
}

/// Runs a script. An error of the server ends it, and only a lost connection is one of ours.
/// `mark`: where it began among the changes of the catalogue, unless it is one itself.
fn perform(
    world: &World,
    client: &mut Client,
    random: &mut Rng,
    script: &Script,
    mark: Option<Mark>,
) -> Result<(), Error> {
    for statement in script {
        let (optional, sql) = match statement.strip_prefix('?') {
            Some(sql) => (true, sql),
            None => (false, statement.as_str()),
        };
        // One that may fail must not take the transaction with it.
        let inside = optional && sql.starts_with("SET LOCAL");
        if inside {
            client.batch_execute("SAVEPOINT optional")?;
        }
        let begun = world.tally.elapsed();
        let result = client.batch_execute(sql);
        if mark.is_none() {
            let error = result.as_ref().err().map(|error| error.to_string());
            let error = error.as_deref().unwrap_or("done");
            let ended = world.tally.elapsed();
            world.changes.tell(format!("{begun:.3?} to {ended:.3?}: {sql}: {error}"));
        }
        if let Err(error) = result {
            if error.code().is_none() {
                world.tally.error(&error);
                return Err(error);
            }
            if inside {
                client.batch_execute("ROLLBACK TO optional")?;
            } else if !optional {
                world.tally.error(&error);
                return client.batch_execute("ROLLBACK");
            }
        }
        if let Some(name) = sql.strip_prefix("PREPARE TRANSACTION ") {
            lock(&world.prepared).push(name.to_owned());
            continue;
        }
        if random.u32(..3) == 0 && !look_inside(world, client, random, mark)? {
            return client.batch_execute("ROLLBACK");
        }
        if random.u32(..4) == 0 {
            world.tally.rest(Duration::from_millis(random.u64(..8)));
        }
    }
    Ok(())
}

/// Reads through the cache where one's own changes are visible, too. False: it failed.
fn look_inside(
    world: &World,
    client: &mut Client,
    random: &mut Rng,
    mark: Option<Mark>,
) -> Result<bool, Error> {
    let question = &world.questions[draw(&world.questions, random)];
    // Row security does not bind the superuser that writes, and who is tracked is not known here.
    if question.needs != Needs::Nothing || question.key.starts_with("secrets") {
        return Ok(true);
    }
    let row = match client.query_one(&question.check(), &[]) {
        Ok(row) => row,
        Err(error) => {
            world.tally.error(&error);
            return if error.code().is_some() { Ok(false) } else { Err(error) };
        }
    };
    world.tally.reads.fetch_add(1, Ordering::Relaxed);
    let same: bool = row.get(0);
    if !same && mark.is_some_and(|mark| world.changed_since(mark, &question.key)) {
        world.tally.vanished();
    } else if !same {
        let text = |column| row.get::<_, Option<String>>(column).unwrap_or_else(|| "null".into());
        world.tally.violation(format!(
            "S1: {} (writer in its own transaction)\n  \
             query:    {}\n  cached:   {}\n  computed: {}",
            question.key,
            question.query,
            text(1),
            text(2)
        ));
    }
    Ok(true)
}

/// A connection may be lost between PREPARE and its answer: nobody would end that transaction.
fn find_prepared(world: &World, client: &mut Client) -> Result<(), Error> {
    let rows = client
        .query("SELECT quote_literal(gid) FROM pg_prepared_xacts WHERE gid LIKE 'p%'", &[])?;
    let mut prepared = lock(&world.prepared);
    for row in rows {
        let name: String = row.get(0);
        if !prepared.contains(&name) {
            prepared.push(name);
        }
    }
    Ok(())
}

/// Somebody else than who prepared it, usually.
fn end_a_prepared_one(world: &World, client: &mut Client, random: &mut Rng) -> Result<(), Error> {
    let name = {
        let mut prepared = lock(&world.prepared);
        let many = prepared.len() >= PREPARED_MAX;
        if prepared.is_empty() || !(many || random.u32(..3) == 0) {
            return Ok(());
        }
        let index = random.usize(..prepared.len());
        prepared.swap_remove(index)
    };
    let how = if random.u32(..4) == 0 { "ROLLBACK" } else { "COMMIT" };
    match client.batch_execute(&format!("{how} PREPARED {name}")) {
        Err(error) if error.code().is_none() => {
            // It may stand there still: somebody tries again.
            lock(&world.prepared).push(name);
            Err(error)
        }
        Err(error) => {
            world.tally.error(&error);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

fn pick<'a>(ways: &'a [Way], random: &mut Rng) -> &'a Way {
    pick_by(ways, |way| way.weight, random)
}

fn pick_by<'a, T>(all: &'a [T], weight: fn(&T) -> u32, random: &mut Rng) -> &'a T {
    let mut left = random.u32(..all.iter().map(&weight).sum::<u32>());
    for one in all {
        if left < weight(one) {
            return one;
        }
        left -= weight(one);
    }
    &all[0]
}
