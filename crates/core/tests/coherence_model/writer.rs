//! Owns writers: one transaction each, from its xid to its end.
//!
//! Invariant: what a transaction does in its own memory is done together with the next thing that
//! somebody else can notice; everything between two such things is a step of its own.

use crate::decide;
use crate::explore::{Breach, Outcome, Steps, Who, mark};
use crate::redis;
use crate::state::{ABSENT, Debt, Flight, State, Told, Writer, WriterAt};
use crate::world::{CATALOGUE, Guard, KEYS, Op, World};

const ALL_KEYS: u8 = (1 << KEYS) - 1;

pub fn steps(steps: &mut Steps<'_>, place: usize) {
    let (world, writer) = (steps.world, steps.from.writers[place]);
    let who = Who::Writer(place);
    match writer.at {
        WriterAt::New if is_next(steps, place) => {
            steps.add(who, "begins and writes", |state, outcome| {
                let xid = state.assign();
                let snapshot = state.snapshot();
                let at = WriterAt::Running;
                let begun = Writer { at, xid, snapshot, ..Writer::default() };
                state.writers[place] = begun;
                go_on(world, state, outcome, place);
            });
        }
        WriterAt::Running => {
            steps.add(who, "goes on", |state, outcome| go_on(world, state, outcome, place));
        }
        WriterAt::Lock => lock(steps, place),
        WriterAt::Look => look(steps, place),
        WriterAt::Messages => messages(steps, place),
        WriterAt::Bump => bump(steps, place),
        WriterAt::Delete => delete(steps, place),
        WriterAt::End | WriterAt::Prepared => end(steps, place),
        WriterAt::Recorded => {
            steps.add(who, "is visible", |state, _| commit(world, state, place));
        }
        WriterAt::Visible => {
            steps.add(who, "sends its messages and releases its locks", |state, _| {
                state.writers[place].at = WriterAt::Committed;
                forget(state, place);
            });
        }
        _ => {}
    }
    late(steps, place);
}

/// Writers of one program are alike: the first of them begins first.
fn is_next(steps: &Steps<'_>, place: usize) -> bool {
    let programs = steps.world.writers;
    place == 0
        || programs[place] != programs[place - 1]
        || steps.from.writers[place - 1].at != WriterAt::New
}

/// Goes through the program to the next thing that others can notice.
fn go_on(world: &World, state: &mut State, outcome: &mut Outcome, place: usize) {
    let program = world.writers[place];
    let has_notes = program.iter().any(|op| matches!(op, Op::Write(_) | Op::Name(_) | Op::Schema));
    let lock = |writer: &Writer| if writer.has_lock { WriterAt::Look } else { WriterAt::Lock };
    loop {
        let writer = &mut state.writers[place];
        match program.get(writer.op as usize) {
            Some(Op::Settle) => {
                writer.settles = true;
                writer.at = lock(writer);
                return;
            }
            Some(Op::Ahead) => {
                writer.tells_ahead = true;
                writer.at = WriterAt::Look;
                return;
            }
            Some(Op::Read(key)) if !world.has(Guard::OwnXid) => {
                read(world, state, outcome, place, *key);
            }
            Some(Op::RollBack) if !world.has(Guard::LockKept) => writer.has_lock = false,
            Some(Op::Prepare) | None => {
                writer.at = if has_notes { lock(writer) } else { WriterAt::End };
                return;
            }
            Some(_) => {}
        }
        state.writers[place].op += 1;
    }
}

/// What a transaction with an xid must not do: look, and fill what it sees.
fn read(world: &World, state: &mut State, outcome: &mut Outcome, place: usize, key: u8) {
    let seen = state.committed_writers(false) | 1 << place;
    let seen = seen & world.writers_of(key as usize);
    let entry = &mut state.servers[state.head as usize].data.entries[key as usize];
    if entry.value == ABSENT {
        entry.value = seen;
    } else if entry.value != seen {
        outcome.breach = Some(Breach::Stale);
    }
}

fn lock(steps: &mut Steps<'_>, place: usize) {
    let world = steps.world;
    let does = if world.has(Guard::LockFirst) { "takes the lock" } else { "takes P" };
    steps.add(Who::Writer(place), does, |state, _| {
        if world.has(Guard::LockFirst) {
            state.writers[place].has_lock = true;
        } else {
            state.writers[place].snapshot = state.snapshot();
        }
        state.writers[place].at = WriterAt::Look;
    });
    if steps.from.used.silences < world.silences {
        steps.add(Who::Writer(place), "gives up the lock", |state, outcome| {
            state.used.silences += 1;
            let writer = &mut state.writers[place];
            (writer.tags, writer.keys) = decide::owed(world, world.writers[place], writer);
            writer.keys_left = writer.keys;
            writer.owes = true;
            settled(world, state, outcome, place);
        });
    }
}

/// Takes P and reads the registration under it.
fn look(steps: &mut Steps<'_>, place: usize) {
    let world = steps.world;
    let does = if world.has(Guard::LockFirst) { "takes P" } else { "takes the lock" };
    steps.add(Who::Writer(place), does, |state, outcome| {
        if world.has(Guard::FreshP) && world.has(Guard::LockFirst) {
            state.writers[place].snapshot = state.snapshot();
        }
        let generation = state.generation_under(&state.writers[place].snapshot);
        let ends = generation < state.alive_from;
        let is_made = state.is_made(generation);
        let writer = &mut state.writers[place];
        writer.has_lock |= !writer.tells_ahead;
        writer.ends = ends;
        writer.generation = generation;
        (writer.tags, writer.keys) = decide::owed(world, world.writers[place], writer);
        writer.keys_left = writer.keys;
        writer.bumped = false;
        let is_ready = is_made && !ends && writer.tags != 0;
        let is_ready = is_ready && writer.tags & 1 << CATALOGUE == 0 && writer.keys == 0;
        if writer.tells_ahead && !is_ready || is_told(world, place, writer) {
            outcome.marks |= if writer.tells_ahead { 0 } else { mark::TOLD_AHEAD };
            // Nothing that was told ahead is worse than nothing.
            writer.keys_left = 0;
            writer.owes |= writer.tells_ahead;
            return settled(world, state, outcome, place);
        }
        writer.at = match writer.tags & 1 << CATALOGUE {
            0 if world.has(Guard::BumpFirst) => WriterAt::Bump,
            0 => WriterAt::Delete,
            _ => WriterAt::Messages,
        };
        if !is_made {
            // Nobody can use a generation that was not made, and who makes it waits for us; but
            // not for a prepared transaction.
            let writer = &mut state.writers[place];
            writer.keys_left = 0;
            writer.has_settled &= world.has(Guard::OwePreparedFresh);
            let owes = writer.owes;
            settled(world, state, outcome, place);
            if !world.has(Guard::OwePreparedFresh) && !owes {
                state.debts[place] = Debt::default();
            }
        }
    });
}

/// Whether the commit has nothing to tell any more.
fn is_told(world: &World, place: usize, writer: &Writer) -> bool {
    let is_prepared = world.writers[place].last() == Some(&Op::Prepare);
    writer.told.is_some_and(|told| {
        let is_covered = writer.tags & !told.tags == 0 && writer.keys == 0;
        (told.generation == writer.generation || !world.has(Guard::AheadGeneration))
            && (is_covered || !world.has(Guard::AheadCovers))
            && !is_prepared
            && !writer.settles
            && !writer.ends
    })
}

/// Whoever is complete in P and stands in the list is dropped from it: its messages must be sent.
fn messages(steps: &mut Steps<'_>, place: usize) {
    let (world, writer) = (steps.world, steps.from.writers[place]);
    let head = steps.from.head as usize;
    let listed = match steps.from.servers[head].data.table {
        Some(table) => table.cells[CATALOGUE as usize].xids,
        None => {
            return steps.add(Who::Writer(place), "finds no list", |state, _| {
                state.writers[place].at = WriterAt::Bump;
            });
        }
    };
    let is_due = |other: &Writer| {
        let is_dropped = listed.has(other.xid) && writer.snapshot.is_complete(other.xid);
        other.at == WriterAt::Visible && is_dropped
    };
    if !world.has(Guard::MessagesPass) || !steps.from.writers.iter().any(is_due) {
        steps.add(Who::Writer(place), "finds all messages sent", |state, _| {
            state.writers[place].at = WriterAt::Bump;
        });
    }
}

fn bump(steps: &mut Steps<'_>, place: usize) {
    let world = steps.world;
    for server in world.servers() {
        let is_stuck =
            !world.has(Guard::BumpFirst) && server != steps.from.writers[place].server as usize;
        if is_stuck {
            continue;
        }
        let does = ["bumps on server 0", "bumps on server 1"][server];
        steps.add(Who::Writer(place), does, |state, outcome| {
            state.writers[place].server = server as u8;
            if !state.servers[server].is_master {
                state.writers[place].owes = true;
                return settled(world, state, outcome, place);
            }
            let generation = state.writers[place].generation;
            let is_ours = bump_there(world, state, place);
            let is_proven = state.is_proven(generation, server as u8);
            let writer = &mut state.writers[place];
            let asks = if writer.tells_ahead { Guard::AheadProof } else { Guard::OweProof };
            let owes = !is_ours && world.has(Guard::OweGeneration) || !is_proven && world.has(asks);
            writer.owes |= owes;
            writer.bumped = true;
            if writer.keys_left == 0 {
                settled(world, state, outcome, place);
            } else {
                writer.at = WriterAt::Delete;
            }
        });
        silence(steps, place, server, Flight::Bump);
    }
}

/// Executes BUMP; whether the table is of the generation that the writer read.
fn bump_there(world: &World, state: &mut State, place: usize) -> bool {
    let writer = state.writers[place];
    let table = &mut state.servers[writer.server as usize].data.table;
    let Writer { xid, snapshot, tags, ends, .. } = writer;
    let order = redis::Bump { xid, snapshot, tags, ends };
    redis::bump(world, table, &order, writer.generation) == Some(writer.generation)
}

/// The client gives up on its commands; they may never arrive, or at any time later.
fn silence(steps: &mut Steps<'_>, place: usize, server: usize, flight: Flight) {
    let world = steps.world;
    if steps.from.used.silences == world.silences {
        return;
    }
    steps.add(Who::Writer(place), "gets no reply", |state, outcome| {
        state.used.silences += 1;
        let writer = &mut state.writers[place];
        writer.server = server as u8;
        writer.owes |= world.has(Guard::OweSilence);
        // Where the same transaction goes on, its late commands are not followed.
        writer.flight = if writer.settles || writer.tells_ahead { Flight::None } else { flight };
        settled(world, state, outcome, place);
    });
}

fn delete(steps: &mut Steps<'_>, place: usize) {
    let (world, writer) = (steps.world, steps.from.writers[place]);
    let key = writer.keys_left.trailing_zeros() as usize;
    steps.add(Who::Writer(place), ["deletes key 0", "deletes key 1", "has none"][key.min(2)], {
        move |state, outcome| {
            let server = &mut state.servers[writer.server as usize];
            if !server.is_master {
                state.writers[place].owes = true;
                return settled(world, state, outcome, place);
            }
            redis::delete(
                world,
                &mut server.data,
                writer.keys_left & writer.keys_left.wrapping_neg(),
            );
            let writer = &mut state.writers[place];
            writer.keys_left &= writer.keys_left.wrapping_sub(1);
            if writer.keys_left == 0 && !world.has(Guard::BumpFirst) && !writer.bumped {
                writer.at = WriterAt::Bump;
            } else if writer.keys_left == 0 {
                settled(world, state, outcome, place);
            }
        }
    });
    if writer.bumped {
        silence(steps, place, writer.server as usize, Flight::Delete);
    }
}

/// The pipeline is over, one way or the other.
fn settled(world: &World, state: &mut State, outcome: &mut Outcome, place: usize) {
    let writer = &mut state.writers[place];
    if writer.tells_ahead {
        let Writer { generation, tags, .. } = *writer;
        writer.told = (!writer.owes).then_some(Told { generation, tags });
        writer.tells_ahead = false;
        writer.owes = false;
        writer.op += 1;
        writer.at = WriterAt::Running;
        return;
    }
    if writer.settles {
        // What a settlement cannot delete is forgotten: its memory is what had to be freed.
        writer.is_coarse |= writer.owes && world.has(Guard::Coarse);
        writer.settles = false;
        writer.has_settled = true;
        writer.owes = false;
        writer.op += 1;
        writer.at = WriterAt::Running;
        return;
    }
    writer.at = WriterAt::End;
    let is_prepared = world.writers[place].last() == Some(&Op::Prepare);
    writer.owes |= is_prepared && world.has(Guard::OwePrepared);
    writer.is_coarse |= is_prepared && writer.has_settled && world.has(Guard::OwePreparedSettled);
    writer.owes |= writer.is_coarse;
    if writer.owes {
        outcome.marks |= mark::OWED;
        let writer = state.writers[place];
        // What was deleted on another server than the registered one is not deleted.
        let is_proven = state.is_proven(writer.generation, writer.server);
        let is_coarse = writer.is_coarse;
        state.debts[place] = Debt {
            tags: if is_coarse { 1 << CATALOGUE } else { writer.tags },
            keys: if is_coarse { ALL_KEYS } else { writer.keys },
            undeleted: match is_coarse {
                true => ALL_KEYS,
                false if is_proven => writer.keys_left,
                false => writer.keys,
            },
            is_coarse,
            payer: 0,
        };
    }
}

fn end(steps: &mut Steps<'_>, place: usize) {
    let (world, writer) = (steps.world, steps.from.writers[place]);
    let who = Who::Writer(place);
    if writer.at == WriterAt::End && world.writers[place].last() == Some(&Op::Prepare) {
        steps.add(who, "is prepared", |state, _| state.writers[place].at = WriterAt::Prepared);
        return;
    }
    if world.records {
        steps.add(who, "writes its commit record", |state, _| {
            state.writers[place].at = WriterAt::Recorded;
        });
    } else {
        steps.add(who, "commits", |state, _| commit(world, state, place));
    }
    steps.add(who, "aborts", |state, _| abort(state, place));
}

fn commit(world: &World, state: &mut State, place: usize) {
    let is_prepared = state.writers[place].at == WriterAt::Prepared;
    state.commit(state.writers[place].xid, !world.asynchronous || is_prepared);
    let changes_schema = world.schema_writers() & 1 << place != 0;
    state.writers[place].at = if changes_schema { WriterAt::Visible } else { WriterAt::Committed };
    forget(state, place);
}

/// The transaction never happened.
pub fn abort(state: &mut State, place: usize) {
    state.abort(state.writers[place].xid);
    state.debts[place] = Debt::default();
    state.writers[place].at = WriterAt::Aborted;
    forget(state, place);
}

/// Keeps of a transaction that is over what its late commands need.
pub fn forget(state: &mut State, place: usize) {
    let was = state.writers[place];
    let over = Writer { at: was.at, xid: was.xid, ..Writer::default() };
    state.writers[place] = match was.flight {
        Flight::None => Writer { has_lock: was.at == WriterAt::Visible, ..over },
        flight => Writer {
            flight,
            snapshot: was.snapshot,
            generation: was.generation,
            server: was.server,
            tags: was.tags,
            keys_left: was.keys_left,
            ..over
        },
    };
}

/// Commands that nobody waits for any more arrive.
fn late(steps: &mut Steps<'_>, place: usize) {
    let (world, writer) = (steps.world, steps.from.writers[place]);
    let server = writer.server as usize;
    if writer.flight == Flight::None || !steps.from.servers[server].is_master {
        return;
    }
    let is_over = matches!(writer.at, WriterAt::Committed | WriterAt::Aborted);
    let landed = move |state: &mut State| {
        if is_over {
            forget(state, place);
        }
    };
    if writer.flight == Flight::Bump {
        steps.add(Who::Writer(place), "has its late BUMP executed", move |state, outcome| {
            outcome.marks |= mark::LATE;
            bump_there(world, state, place);
            let is_last = writer.keys_left == 0;
            state.writers[place].flight = if is_last { Flight::None } else { Flight::Delete };
            landed(state);
        });
    } else {
        steps.add(Who::Writer(place), "has its late DEL executed", move |state, outcome| {
            outcome.marks |= mark::LATE;
            redis::delete(world, &mut state.servers[server].data, writer.keys_left);
            state.writers[place].flight = Flight::None;
            landed(state);
        });
    }
}
