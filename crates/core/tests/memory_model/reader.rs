//! Owns readers: one statement after another of a backend that calls `redis_cached` on the key.
//!
//! Invariant: the bucket in memory and Redis are looked at in steps of their own, because others
//! may do something between.

use crate::decide::{self, Verdict};
use crate::explore::{Breach, Outcome, Steps, Who, mark};
use crate::state::{ABSENT, Entry, Home, NEW_READER, NO_ENTRY, Reader, ReaderAt, State};
use crate::world::{Guard, READERS, Reading, World};
use pg_cache_core::fill::{Effect, Event, Fill};
use pg_cache_core::tagtable::Field;

pub fn steps(steps: &mut Steps<'_>, place: usize) {
    let (world, reader) = (steps.world, steps.from.readers[place]);
    let who = Who::Reader(place);
    match reader.at {
        ReaderAt::New if is_next(steps, place) => {
            steps.add(who, "takes S", |state, outcome| begin(world, state, outcome, place));
        }
        ReaderAt::List => {
            steps.add(who, "reads the list", |state, outcome| {
                let seen = bucket(world, state, &reader);
                match judged(world, &reader, seen.as_ref(), &NO_ENTRY, Guard::HitCheck, outcome) {
                    Verdict::Compute => done(world, state, place),
                    _ => {
                        state.readers[place].version = state.cell.version;
                        state.readers[place].at = ReaderAt::Entry;
                    }
                }
            });
        }
        ReaderAt::Entry => entry(steps, place),
        ReaderAt::Lease => {
            steps.add(who, "asks for the lease", |state, _| {
                let data = state.data(reader.server);
                let holds_lease = data.lease == 0;
                if holds_lease {
                    data.lease = token(place, &reader);
                }
                let (entry, at) = (data.entry, ReaderAt::ListAgain);
                state.readers[place] = Reader { holds_lease, entry, at, ..reader };
            });
        }
        ReaderAt::ListAgain => {
            steps.add(who, "reads the list again", |state, outcome| {
                look_again(world, state, outcome, place);
            });
        }
        ReaderAt::Fill => {
            steps.add(who, "fills", |state, outcome| fill(world, state, outcome, place));
        }
        ReaderAt::New | ReaderAt::Done => {}
    }
}

/// Readers of one kind are alike: the first of them begins first.
fn is_next(steps: &Steps<'_>, place: usize) -> bool {
    let kinds = steps.world.readers;
    let of = |place: usize| steps.from.readers[place];
    place == 0
        || kinds[place] != kinds[place - 1]
        || (of(place - 1).at, of(place - 1).calls) != (ReaderAt::New, 0)
}

fn token(place: usize, reader: &Reader) -> u8 {
    1 + place as u8 + reader.calls * READERS as u8
}

/// Takes S, or has it, and reads registration and debts under it.
fn begin(world: &World, state: &mut State, outcome: &mut Outcome, place: usize) {
    let reader = state.readers[place];
    let now = state.snapshot();
    let is_old = world.readers[place].keeps && reader.calls > 0;
    let snapshot = if is_old { reader.snapshot } else { now };
    let complete = state.writers_where(|writer| snapshot.is_complete(writer.xid));
    let expected = match is_old {
        true => reader.expected,
        false => state.committed_writers() & complete,
    };
    let generation = state.generation_under(&snapshot);
    state.readers[place] = Reader { snapshot, expected, generation, ..reader };
    if !state.is_alive(world, generation) {
        return done(world, state, place);
    }
    let debts = state.debts_under(&snapshot) | state.debts_under(&now);
    if debts != 0 && world.has(Guard::Debt) {
        outcome.marks |= mark::DEBT_SEEN;
        return done(world, state, place);
    }
    // A table in Redis comes with the entry.
    let is_memory = state.home(generation) == Home::Memory;
    state.readers[place].at = if is_memory { ReaderAt::List } else { ReaderAt::Entry };
}

/// The bucket, as of now.
fn bucket(world: &World, state: &State, reader: &Reader) -> Option<Field> {
    match state.home(reader.generation) {
        Home::Memory => decide::field(world, &state.cell, &reader.snapshot),
        Home::Redis if reader.generation > 0 => None,
        Home::Redis => {
            let table = state.servers[reader.server as usize].data.table;
            table.map(|found| decide::field_there(&found))
        }
    }
}

fn judged(
    world: &World,
    reader: &Reader,
    seen: Option<&Field>,
    entry: &Entry,
    check: Guard,
    outcome: &mut Outcome,
) -> Verdict {
    let Some(field) = seen else {
        outcome.marks |= mark::HELD;
        return Verdict::Compute;
    };
    let verdict = decide::judge(world, field, entry, reader.generation, &reader.snapshot, check);
    outcome.marks |= if verdict == Verdict::Compute { mark::COMPUTE } else { 0 };
    verdict
}

/// The entry, and the server's proof behind it.
fn entry(steps: &mut Steps<'_>, place: usize) {
    let (world, reader) = (steps.world, steps.from.readers[place]);
    for server in world.servers() {
        let does = ["reads the entry", "reads the entry on server 1"][server as usize];
        steps.add(Who::Reader(place), does, |state, outcome| {
            let is_proven = state.is_proven(reader.generation, server);
            if !is_proven && world.has(Guard::ReaderProof) {
                outcome.marks |= mark::UNPROVEN;
                return done(world, state, place);
            }
            let reader = Reader { server, ..reader };
            let seen = match state.home(reader.generation) {
                // All who were listed are complete.
                Home::Memory => Some(Field { version: reader.version.into(), xids: Vec::new() }),
                Home::Redis => bucket(world, state, &reader),
            };
            let found = state.data(server).entry;
            state.readers[place].server = server;
            match judged(world, &reader, seen.as_ref(), &found, Guard::HitCheck, outcome) {
                Verdict::Hit => serve(world, state, outcome, place, &found),
                Verdict::Miss => state.readers[place].at = ReaderAt::Lease,
                Verdict::Compute => done(world, state, place),
            }
        });
    }
}

/// Behind the lease: `Fill` decides, for one who waits for nobody.
fn look_again(world: &World, state: &mut State, outcome: &mut Outcome, place: usize) {
    let Reader { holds_lease, entry, version, .. } = state.readers[place];
    let reader = state.readers[place];
    let seen = bucket(world, state, &reader);
    let mut verdict = judged(world, &reader, seen.as_ref(), &entry, Guard::FillCheck, outcome);
    let mut now = seen.map_or(0, |field| field.version as u8);
    if !world.has(Guard::LookAgain) {
        (verdict, now) = (Verdict::Miss, version);
    }
    if verdict == Verdict::Compute {
        release(state, place);
        return done(world, state, place);
    }
    let hit = verdict == Verdict::Hit;
    let event = if holds_lease { Event::Leased { hit } } else { Event::Taken { hit } };
    match Fill::new(0, 0).step(event, 0, 0) {
        Effect::Compute { fill: true } => {
            if world.has(Guard::Flush) {
                state.durable = state.finished;
            }
            state.readers[place].version = now;
            state.readers[place].entry = NO_ENTRY;
            state.readers[place].at = ReaderAt::Fill;
        }
        Effect::Serve | Effect::ServeAndRelease => {
            release(state, place);
            serve(world, state, outcome, place, &entry);
        }
        _ => done(world, state, place),
    }
}

fn serve(world: &World, state: &mut State, outcome: &mut Outcome, place: usize, found: &Entry) {
    let reader = state.readers[place];
    assert_ne!(found.value, ABSENT);
    outcome.marks |= mark::HIT;
    outcome.marks |= if reader.generation > 0 { mark::HIT_ANEW } else { 0 };
    outcome.marks |= if found.value != 0 { mark::HIT_CHANGED } else { 0 };
    if found.value != reader.expected {
        outcome.breach = Some(Breach::Stale);
    }
    done(world, state, place);
}

fn release(state: &mut State, place: usize) {
    let reader = state.readers[place];
    let data = state.data(reader.server);
    if reader.holds_lease && data.lease == token(place, &reader) {
        data.lease = 0;
    }
}

fn fill(world: &World, state: &mut State, outcome: &mut Outcome, place: usize) {
    let reader = state.readers[place];
    let data = state.data(reader.server);
    if data.lease == token(place, &reader) || !world.has(Guard::Token) {
        let Reader { expected, generation, version, .. } = reader;
        data.lease = 0;
        data.entry = Entry { value: expected, generation, version };
        outcome.marks |= mark::FILL;
    } else {
        outcome.marks |= mark::FILL_REFUSED;
    }
    done(world, state, place);
}

/// The statement is over.
pub fn done(world: &World, state: &mut State, place: usize) {
    let was = state.readers[place];
    let Reading { calls: all, keeps } = world.readers[place];
    let calls = was.calls + 1;
    state.readers[place] = match (calls < all, keeps) {
        (true, true) => {
            Reader { calls, snapshot: was.snapshot, expected: was.expected, ..NEW_READER }
        }
        (true, false) => Reader { calls, ..NEW_READER },
        (false, _) => Reader { at: ReaderAt::Done, ..NEW_READER },
    };
}

/// The backend is gone.
pub fn die(state: &mut State, place: usize) {
    state.readers[place] = Reader { at: ReaderAt::Done, ..NEW_READER };
}
