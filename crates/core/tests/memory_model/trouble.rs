//! Owns what befalls PostgreSQL and Redis, and what an administrator does to both.
//!
//! Invariant: after a crash nothing is left in PostgreSQL but what was on disk, and nothing at all
//! in shared memory; what was sent to Redis before is still on its way, but has arrived before the
//! next run's worker asks Redis for anything. (Ids are not given out again in this model: nothing
//! that outlives a crash holds one, but what is on disk.)

use crate::explore::{Outcome, Steps, Who, mark};
use crate::state::{Cell, Debt, Home, NO_DATA, ReaderAt, State, Writer, WriterAt, Xids};
use crate::world::{READERS, WRITERS, World};
use crate::{reader, worker, writer};

/// Nobody's key can be vouched for until the sweep.
const EVERYBODY: u8 = 0xff;

pub fn steps(steps: &mut Steps<'_>) {
    let (world, used) = (steps.world, steps.from.used);
    if world.asynchronous && steps.from.durable != steps.from.finished {
        steps.add(Who::Postgres, "flushes WAL", |state, _| state.durable = state.finished);
    }
    if used.crashes < world.crashes {
        steps.add(Who::Postgres, "crashes", |state, outcome| crash(world, state, outcome));
    }
    if used.switches < world.switches {
        steps.add(Who::Postgres, "is told to keep the table elsewhere", |state, _| {
            state.used.switches += 1;
            state.wanted = match state.wanted {
                Home::Redis => Home::Memory,
                Home::Memory => Home::Redis,
            };
        });
    }
    if used.moves < world.moves {
        steps.add(Who::Postgres, "is told to use server 1", |state, _| {
            state.used.moves += 1;
            state.head = 1;
            state.unswept = EVERYBODY;
        });
    }
    redis(steps);
}

fn redis(steps: &mut Steps<'_>) {
    let (world, from) = (steps.world, steps.from);
    let (used, head) = (from.used, from.head);
    let data = from.servers[head as usize].data;
    if used.losses < world.losses && data != NO_DATA {
        steps.add(Who::Redis, "loses everything", |state, _| {
            state.used.losses += 1;
            *state.data(head) = NO_DATA;
        });
    }
    if used.expiries < world.expiries && data.lease != 0 {
        steps.add(Who::Redis, "lets the lease expire", |state, _| {
            state.used.expiries += 1;
            state.data(head).lease = 0;
        });
    }
    if used.saves < world.saves && used.restarts < world.restarts {
        steps.add(Who::Redis, "saves what it has", |state, _| {
            state.used.saves += 1;
            state.saved = data;
        });
    }
    if used.restarts < world.restarts {
        steps.add(Who::Redis, "restarts from what it saved", |state, _| {
            state.used.restarts += 1;
            *state.data(0) = state.saved;
            state.servers[0].epoch += 1;
            state.unswept = EVERYBODY;
            for place in 0..world.readers.len() {
                let at = state.readers[place].at;
                if !matches!(at, ReaderAt::New | ReaderAt::List | ReaderAt::Done) {
                    reader::done(world, state, place);
                }
            }
        });
    }
}

fn crash(world: &World, state: &mut State, outcome: &mut Outcome) {
    state.used.crashes += 1;
    let lost = Xids(state.committed.0 & !state.durable.0);
    outcome.marks |= if lost.0 != 0 { mark::COMMIT_LOST } else { 0 };
    state.committed.0 &= state.durable.0;
    state.unswept |= std::mem::take(&mut state.lost);
    worker::give_up(state);
    for place in 0..WRITERS {
        let Writer { at, xid, .. } = state.writers[place];
        let was_committed = state.committed.has(xid);
        match at {
            WriterAt::New | WriterAt::Prepared => {}
            WriterAt::Over if was_committed => {}
            // The client was not told, and will ask: what was to be confirmed is to be swept.
            _ if was_committed => {
                state.unswept |= 1 << place;
                writer::over(state, place, true);
            }
            _ => {
                state.running.remove(xid);
                writer::over(state, place, false);
            }
        }
        if !state.committed.has(state.debts[place].owner) {
            state.debts[place] = Debt::default();
        }
    }
    for place in 0..READERS.min(world.readers.len()) {
        let is_sent = state.readers[place].at == ReaderAt::Fill;
        let has_begun = state.readers[place].at != ReaderAt::New || world.readers[place].keeps;
        if !is_sent && has_begun && state.readers[place].at != ReaderAt::Done {
            reader::die(state, place);
        }
    }
    state.finished = state.durable;
    state.cell = Cell::default();
    state.alive_from = state.generations;
}
