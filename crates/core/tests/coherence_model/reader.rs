//! Owns readers: one statement after another of a backend that calls `redis_cached` on one key.
//!
//! Invariant: a command of a pipeline is a step of its own, because commands of others may come
//! between; what the backend makes of the replies is part of the last of them.

use crate::decide::{self, Verdict};
use crate::explore::{Breach, Outcome, Steps, Who, mark};
use crate::redis;
use crate::state::{Judged, NEW_READER, Reader, ReaderAt, State, WriterAt, Xids};
use crate::world::{FIELDS, Guard, READERS, World};
use pg_cache_core::fill::{Effect, Event};

pub fn steps(steps: &mut Steps<'_>, place: usize) {
    let (world, reader) = (steps.world, steps.from.readers[place]);
    let who = Who::Reader(place);
    match reader.at {
        ReaderAt::New if is_next(steps, place) => {
            steps.add(who, "takes S", |state, outcome| begin(world, state, outcome, place));
        }
        ReaderAt::Values => {
            for server in world.servers() {
                let does = ["reads values on server 0", "reads values on server 1"][server];
                steps.add(who, does, |state, _| {
                    let entry = state.servers[server].data.entries[key(world, place)];
                    let is_proven = state.is_proven(state.readers[place].generation, server as u8);
                    let reader = &mut state.readers[place];
                    reader.server = server as u8;
                    (reader.entry, reader.is_proven) = (entry, is_proven);
                    reader.at = ReaderAt::Tags;
                });
            }
        }
        ReaderAt::Tags => tags(steps, place, Guard::HitCheck),
        ReaderAt::TagsAgain => tags(steps, place, Guard::FillCheck),
        ReaderAt::Proof | ReaderAt::ProofAgain => {
            steps.add(who, "reads the proof", |state, outcome| {
                let reader = state.readers[place];
                let is_proven = state.is_proven(reader.generation, reader.server);
                state.readers[place].is_proven = is_proven;
                act(world, state, outcome, place);
            });
        }
        ReaderAt::Lease => lease(steps, place),
        ReaderAt::Fill => {
            steps.add(who, "fills", |state, outcome| fill(world, state, outcome, place));
        }
        _ => {}
    }
}

fn key(world: &World, place: usize) -> usize {
    world.readers[place].key as usize
}

/// Readers of one kind are alike: the first of them begins first.
fn is_next(steps: &Steps<'_>, place: usize) -> bool {
    let kinds = steps.world.readers;
    let of = |place: usize| steps.from.readers[place];
    place == 0
        || kinds[place] != kinds[place - 1]
        || (of(place - 1).at, of(place - 1).calls) != (ReaderAt::New, 0)
}

/// Takes S, and reads registration and debts under it.
fn begin(world: &World, state: &mut State, outcome: &mut Outcome, place: usize) {
    let kind = &world.readers[place];
    let snapshot = if kind.standby { state.standby_snapshot() } else { state.snapshot() };
    let generation = state.generation_under(&snapshot);
    let tags = world.wanted(kind.key).iter().fold(0, |bits, field| bits | 1 << field);
    let debts = state.debts_under(&snapshot);
    let is_owed = (0..state.debts.len())
        .any(|writer| debts & 1 << writer != 0 && state.debts[writer].tags & tags != 0);
    let is_alive = kind.standby || generation >= state.alive_from;
    if is_owed && world.has(Guard::Debt) {
        outcome.marks |= mark::DEBT_SEEN;
        return done(world, state, place);
    }
    if !is_alive && world.has(Guard::Alive) {
        outcome.marks |= mark::NOT_ALIVE;
        return done(world, state, place);
    }
    let complete = |writer: &usize| snapshot.is_complete(state.writers[*writer].xid);
    let complete =
        (0..state.writers.len()).filter(complete).fold(0, |bits, writer| bits | 1 << writer);
    let committed = state.committed_writers(kind.standby) & complete;
    let expected = committed & world.writers_of(key(world, place));
    let reader = &mut state.readers[place];
    (reader.snapshot, reader.generation, reader.expected) = (snapshot, generation, expected);
    reader.at = ReaderAt::Values;
}

/// Reads the tag table and has the fence judge.
fn tags(steps: &mut Steps<'_>, place: usize, check: Guard) {
    let (world, reader) = (steps.world, steps.from.readers[place]);
    let data = &steps.from.servers[reader.server as usize].data;
    let mut verdict = decide::look(world, &reader, world.readers[place].key, data, check);
    let mut informed = reader;
    if let Verdict::Catalogue { version, xids } = verdict {
        if is_locked(steps.from, xids) && world.has(Guard::CatalogueWait) {
            return;
        }
        let sent = |writer: &usize| steps.from.writers[*writer].at == WriterAt::Committed;
        let sent = (0..world.writers.len()).filter(sent).fold(0, |bits, place| bits | 1 << place);
        informed.plan = sent & world.schema_writers();
        informed.seen = Some((reader.generation, version));
        verdict = decide::look(world, &informed, world.readers[place].key, data, check);
    }
    let (judged, versions) = match verdict {
        _ if check == Guard::FillCheck && !world.has(Guard::LookAgain) => {
            (Judged::Miss, reader.versions)
        }
        Verdict::Hit => (Judged::Hit, [0; FIELDS]),
        Verdict::Miss(versions) => (Judged::Miss, versions),
        Verdict::Foreign => (Judged::Foreign, [0; FIELDS]),
        Verdict::Compute | Verdict::Catalogue { .. } => (Judged::Compute, [0; FIELDS]),
    };
    steps.add(Who::Reader(place), "reads tags", |state, outcome| {
        if informed.seen != reader.seen && reader.seen.is_some() {
            outcome.marks |= mark::SCHEMA_SEEN;
        }
        if judged == Judged::Compute {
            outcome.marks |= mark::COMPUTE;
        }
        state.readers[place] = Reader { judged, versions, ..informed };
        let moves = world.failovers > 0 && world.has(Guard::ProofLast);
        if moves && judged != Judged::Compute {
            let is_first = reader.at == ReaderAt::Tags;
            let proof = if is_first { ReaderAt::Proof } else { ReaderAt::ProofAgain };
            state.readers[place].at = proof;
        } else {
            act(world, state, outcome, place);
        }
    });
}

/// Whether one of these transactions has not let go of its locks.
fn is_locked(state: &State, xids: Xids) -> bool {
    let holds = |at| matches!(at, WriterAt::Visible | WriterAt::Recorded);
    state.writers.iter().any(|writer| holds(writer.at) && xids.has(writer.xid))
}

/// Does what the judgement allows.
fn act(world: &World, state: &mut State, outcome: &mut Outcome, place: usize) {
    let reader = state.readers[place];
    if !reader.is_proven && world.has(Guard::ReaderProof) {
        outcome.marks |= mark::UNPROVEN;
        return done(world, state, place);
    }
    let is_first = matches!(reader.at, ReaderAt::Tags | ReaderAt::Proof);
    match reader.judged {
        Judged::Nothing => unreachable!("nothing was judged"),
        Judged::Foreign => {
            outcome.marks |= mark::FOREIGN;
            release(world, state, place);
            done(world, state, place);
        }
        Judged::Compute => {
            release(world, state, place);
            done(world, state, place);
        }
        Judged::Hit if is_first => serve(world, state, outcome, place),
        Judged::Miss if is_first => {
            assert_eq!(decide::fill_step(world, 0, Event::Missed), Effect::Lease);
            state.readers[place].at = ReaderAt::Lease;
        }
        Judged::Hit | Judged::Miss => act_again(world, state, outcome, place),
    }
}

/// After the look behind the lease, `Fill` decides.
fn act_again(world: &World, state: &mut State, outcome: &mut Outcome, place: usize) {
    let reader = state.readers[place];
    let hit = reader.judged == Judged::Hit;
    let event = if reader.holds_lease { Event::Leased { hit } } else { Event::Taken { hit } };
    match decide::fill_step(world, reader.pauses, event) {
        Effect::Compute { fill: true } => {
            if world.has(Guard::Flush) {
                state.durable = state.finished;
            }
            state.readers[place].at = ReaderAt::Fill;
        }
        Effect::Compute { fill: false } => done(world, state, place),
        Effect::Serve => {
            outcome.marks |= mark::SERVED_WAITER;
            serve(world, state, outcome, place);
        }
        Effect::ServeAndRelease => {
            release(world, state, place);
            serve(world, state, outcome, place);
        }
        Effect::Wait { .. } => {
            state.readers[place].pauses += 1;
            let next = decide::fill_step(world, reader.pauses + 1, Event::Waited);
            assert_eq!(next, Effect::Lease);
            state.readers[place].at = ReaderAt::Lease;
        }
        Effect::Lease => unreachable!("a lease after a lease"),
    }
}

fn serve(world: &World, state: &mut State, outcome: &mut Outcome, place: usize) {
    let reader = state.readers[place];
    outcome.marks |= mark::HIT;
    if reader.generation > 0 {
        outcome.marks |= mark::HIT_ANEW;
    }
    if reader.entry.value != 0 {
        outcome.marks |= mark::HIT_CHANGED;
    }
    if reader.entry.value != reader.expected {
        outcome.breach = Some(Breach::Stale);
    }
    done(world, state, place);
}

/// SET NX, and the values behind it.
fn lease(steps: &mut Steps<'_>, place: usize) {
    let (world, reader) = (steps.world, steps.from.readers[place]);
    let server = reader.server as usize;
    if !steps.from.servers[server].is_master {
        return;
    }
    steps.add(Who::Reader(place), "asks for the lease", |state, _| {
        let data = &mut state.servers[server].data;
        let lease = &mut data.leases[key(world, place)];
        let is_free = *lease == 0;
        if is_free {
            *lease = token(place, reader.calls);
        }
        let reader = &mut state.readers[place];
        reader.holds_lease = is_free;
        reader.overtaken = false;
        reader.entry = data.entries[key(world, place)];
        reader.at = ReaderAt::TagsAgain;
    });
}

fn token(place: usize, calls: u8) -> u8 {
    1 + place as u8 + calls * READERS as u8
}

fn release(world: &World, state: &mut State, place: usize) {
    let reader = state.readers[place];
    let server = &mut state.servers[reader.server as usize];
    let lease = &mut server.data.leases[key(world, place)];
    if server.is_master && reader.holds_lease && *lease == token(place, reader.calls) {
        *lease = 0;
    }
}

fn fill(world: &World, state: &mut State, outcome: &mut Outcome, place: usize) {
    let reader = state.readers[place];
    let server = &mut state.servers[reader.server as usize];
    if server.is_master {
        let schema = world.schema_writers();
        let order = redis::Fill {
            key: key(world, place),
            token: token(place, reader.calls),
            value: reader.expected & !schema
                | reader.plan & schema & world.writers_of(key(world, place)),
            generation: reader.generation,
            versions: reader.versions,
            overtaken: reader.overtaken,
        };
        redis::fill(world, &mut server.data, &order, outcome);
    }
    done(world, state, place);
}

/// The statement is over; the backend keeps what it knows of the schema.
pub fn done(world: &World, state: &mut State, place: usize) {
    let was = state.readers[place];
    let calls = was.calls + 1;
    let over = Reader { calls, plan: was.plan, seen: was.seen, ..NEW_READER };
    state.readers[place] = if calls < world.readers[place].calls {
        over
    } else {
        Reader { at: ReaderAt::Done, ..NEW_READER }
    };
}
