//! Owns what befalls PostgreSQL: its WAL reaches the disk, or it crashes.
//!
//! Invariant: after a crash nothing is left in PostgreSQL but what was on disk; what was sent to
//! Redis before is still on its way.

use crate::explore::{Steps, Who};
use crate::state::{Debt, Flight, NEVER, ReaderAt, State, Writer, WriterAt, Xid, Xids};
use crate::world::{READERS, WRITERS, World};
use crate::{reader, worker, writer};

pub fn steps(steps: &mut Steps<'_>) {
    let world = steps.world;
    if world.asynchronous && steps.from.durable != steps.from.finished {
        steps.add(Who::Postgres, "flushes WAL", |state, _| state.durable = state.finished);
    }
    if steps.from.used.bystanders < world.bystanders {
        steps.add(Who::Postgres, "runs another transaction", |state, _| {
            state.used.bystanders += 1;
            let xid = state.assign();
            state.commit(xid, !world.asynchronous);
        });
    }
    if steps.from.used.restores < world.restores {
        steps.add(Who::Postgres, "is restored from a cold backup", |state, _| {
            state.used.restores += 1;
            state.durable = Xids(0b110);
            state.is_unswept = true;
            for place in 0..WRITERS {
                if !matches!(state.writers[place].at, WriterAt::New) {
                    state.lost |= 1 << place;
                }
            }
            crash(world, state, 3);
            state.used.crashes -= 1;
        });
    }
    if steps.from.used.crashes < world.crashes {
        let after_all = steps.from.next;
        let durable = steps.from.durable.iter().max().unwrap_or(0) + 1;
        let prepared = steps.from.writers.iter().filter(|one| one.at == WriterAt::Prepared);
        let after_disk = prepared.map(|one| one.xid + 1).max().unwrap_or(0).max(durable);
        steps.add(Who::Postgres, "crashes", |state, _| crash(world, state, after_all));
        if after_disk != after_all {
            steps.add(Who::Postgres, "crashes and forgets xids", |state, _| {
                crash(world, state, after_disk);
            });
        }
    }
}

fn crash(world: &World, state: &mut State, next: Xid) {
    state.used.crashes += 1;
    let lost = state.committed.0 & !state.durable.0;
    state.committed.0 &= state.durable.0;
    for place in 0..WRITERS {
        let was = state.writers[place];
        let is_over = matches!(was.at, WriterAt::Committed | WriterAt::Visible);
        let is_lost = is_over && lost & 1 << was.xid != 0;
        match was.at {
            WriterAt::New | WriterAt::Prepared | WriterAt::Aborted => {}
            WriterAt::Committed if !is_lost => {}
            WriterAt::Visible if !is_lost => {
                state.writers[place].at = WriterAt::Committed;
                writer::forget(state, place);
            }
            // Its xid may be given out again, so it must not stand for this transaction any more.
            _ => lose(state, place, was),
        }
    }
    for generation in 0..state.generations as usize {
        let row = &mut state.registrations[generation];
        if !state.committed.has(row.xid) {
            row.xid = NEVER;
        }
    }
    for place in 0..READERS {
        // A FILL that was sent arrives all the same; a standby goes on.
        let stays = world.readers.get(place).is_none_or(|kind| kind.standby);
        if !stays
            && !matches!(state.readers[place].at, ReaderAt::New | ReaderAt::Fill | ReaderAt::Done)
        {
            reader::done(world, state, place);
        }
    }
    worker::die(state);
    state.finished = state.durable;
    state.next = next;
    state.alive_from = state.generations;
}

/// The transaction never happened; what it had sent to Redis may still arrive.
fn lose(state: &mut State, place: usize, was: Writer) {
    let flight = match was.at {
        WriterAt::Bump if !was.settles => Flight::Bump,
        WriterAt::Delete if was.bumped && !was.settles => Flight::Delete,
        _ => was.flight,
    };
    state.writers[place].flight = flight;
    state.running.remove(was.xid);
    state.debts[place] = Debt::default();
    state.writers[place].at = WriterAt::Aborted;
    writer::forget(state, place);
    if flight == Flight::None {
        state.writers[place].xid = NEVER;
    }
}
