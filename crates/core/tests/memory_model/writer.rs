//! Owns writers: a transaction from its snapshot to the return of its COMMIT.
//!
//! Invariant: what one backend does between two moments at which others could do something is one
//! step.

use crate::decide;
use crate::explore::{Outcome, Steps, Who, mark};
use crate::state::{Debt, Flight, Home, Snapshot, State, Writer, WriterAt};
use crate::world::{Guard, World};

pub fn steps(steps: &mut Steps<'_>, place: usize) {
    let (world, writer) = (steps.world, steps.from.writers[place]);
    let who = Who::Writer(place);
    match writer.at {
        WriterAt::New if is_next(steps, place) => {
            steps.add(who, "begins", |state, _| {
                let xid = state.assign();
                let snapshot = state.snapshot();
                let writer = &mut state.writers[place];
                (writer.xid, writer.snapshot, writer.at) = (xid, snapshot, WriterAt::Begun);
            });
        }
        WriterAt::Begun => steps.add(who, "takes P", |state, _| take_p(world, state, place)),
        WriterAt::List => steps.add(who, "lists itself", |state, _| list(world, state, place)),
        WriterAt::Delete => delete(steps, place),
        WriterAt::End => end(steps, place),
        WriterAt::Prepared => {
            steps.add(who, "is committed by somebody else", |state, outcome| {
                commit(world, state, outcome, place);
            });
            steps.add(who, "is rolled back by somebody else", |state, _| abort(state, place));
        }
        WriterAt::Confirm => confirm(steps, place),
        WriterAt::New | WriterAt::Over => {}
    }
    arrive(steps, place);
}

/// Writers of one kind are alike: the first of them begins first.
fn is_next(steps: &Steps<'_>, place: usize) -> bool {
    let kinds = steps.world.writers;
    place == 0
        || kinds[place] != kinds[place - 1]
        || steps.from.writers[place - 1].at != WriterAt::New
}

fn take_p(world: &World, state: &mut State, place: usize) {
    if world.has(Guard::FreshP) {
        state.writers[place].snapshot = state.snapshot();
    }
    let generation = state.generation_under(&state.writers[place].snapshot);
    let is_memory = state.home(generation) == Home::Memory;
    let writer = &mut state.writers[place];
    writer.generation = generation;
    writer.is_told_there = !is_memory;
    writer.has_listed = !world.has(Guard::Listing) || !is_memory && !world.has(Guard::ListAlways);
    go_on(world, writer, place);
}

/// The next thing that has to be done before the commit record.
fn go_on(world: &World, writer: &mut Writer, place: usize) {
    let lists = !writer.has_listed && world.has(Guard::ListFirst);
    let tells = world.writers[place].names || writer.is_told_there;
    let deletes = !writer.has_deleted && tells;
    writer.at = match (lists, deletes) {
        (true, true) if !world.has(Guard::DeleteBehind) => WriterAt::Delete,
        (true, _) => WriterAt::List,
        (false, true) => WriterAt::Delete,
        (false, false) => WriterAt::End,
    };
}

fn list(world: &World, state: &mut State, place: usize) {
    let Writer { xid, snapshot, .. } = state.writers[place];
    state.cell = decide::bump(world, &state.cell, xid, &snapshot);
    let now = state.generation_under(&state.snapshot());
    let is_over = state.committed.has(xid);
    let is_memory = state.home(now) == Home::Memory;
    let writer = &mut state.writers[place];
    writer.has_listed = true;
    if world.has(Guard::RegistrationLast) && !writer.has_deleted {
        writer.generation = now;
        writer.is_told_there = !is_memory;
    }
    match is_over {
        true => returned(state, place),
        false => go_on(world, writer, place),
    }
}

/// Sends the deletion of the key, or waits for it, as it must where it cannot be confirmed later.
fn delete(steps: &mut Steps<'_>, place: usize) {
    let (world, writer) = (steps.world, steps.from.writers[place]);
    let who = Who::Writer(place);
    let is_memory = steps.from.home(writer.generation) == Home::Memory;
    let waits = world.writers[place].prepares || !is_memory;
    for server in world.servers() {
        let is_proven = steps.from.is_proven(writer.generation, server);
        if !is_proven && world.has(Guard::WriterProof) {
            steps.add(who, "finds another server", |state, outcome| {
                outcome.marks |= mark::UNPROVEN;
                deleted(world, state, place, true);
            });
        } else {
            // In memory too: who finds no room for the name does, or knows another reason.
            steps.add(who, ["tells server 0", "tells server 1"][server as usize], |state, _| {
                let has_failed = !is_memory && !bump_there(state, place, server);
                if world.writers[place].names {
                    state.delete(world, server);
                }
                deleted(world, state, place, has_failed);
            });
        }
        if !waits && (is_proven || !world.has(Guard::WriterProof)) {
            let does = ["sends the deletion", "sends the deletion to server 1"][server as usize];
            steps.add(who, does, |state, _| {
                state.writers[place].flight = Flight::Sent(state.identity(server));
                deleted(world, state, place, false);
            });
        }
    }
    if steps.from.used.silences < world.silences {
        steps.add(who, "reaches no server", |state, _| {
            state.used.silences += 1;
            deleted(world, state, place, true);
        });
    }
}

/// In the same step as the deletion: the model of the table in Redis takes them apart. False: that
/// table is nobody's any more.
fn bump_there(state: &mut State, place: usize, server: u8) -> bool {
    let Writer { xid, snapshot, .. } = state.writers[place];
    let table = &mut state.data(server).table;
    *table = table.map(|found| decide::bump_there(&found, xid, &snapshot));
    table.is_some()
}

fn deleted(world: &World, state: &mut State, place: usize, has_failed: bool) {
    let writer = &mut state.writers[place];
    writer.has_deleted = true;
    writer.owes = has_failed && world.has(Guard::OweSilence);
    go_on(world, writer, place);
}

fn end(steps: &mut Steps<'_>, place: usize) {
    let (world, who) = (steps.world, Who::Writer(place));
    if world.writers[place].prepares {
        steps.add(who, "is prepared", |state, _| {
            let writer = &mut state.writers[place];
            writer.owes |= world.has(Guard::PrepareOwes);
            writer.at = WriterAt::Prepared;
            writer.snapshot = Snapshot::default();
        });
    } else {
        steps.add(who, "commits", |state, outcome| commit(world, state, outcome, place));
    }
    steps.add(who, "aborts", |state, _| abort(state, place));
}

fn commit(world: &World, state: &mut State, outcome: &mut Outcome, place: usize) {
    let writer = state.writers[place];
    state.commit(writer.xid, !world.asynchronous || writer.at == WriterAt::Prepared);
    if writer.owes {
        outcome.marks |= mark::OWED;
        state.debts[place] = Debt { owner: writer.xid, payer: 0 };
    }
    if !writer.has_listed {
        state.writers[place].at = WriterAt::List;
    } else if writer.flight == Flight::None || !world.has(Guard::Confirm) {
        returned(state, place);
    } else {
        state.writers[place].at = WriterAt::Confirm;
    }
}

fn abort(state: &mut State, place: usize) {
    state.abort(state.writers[place].xid);
    over(state, place, false);
}

fn returned(state: &mut State, place: usize) {
    over(state, place, true);
}

/// Keeps of a transaction that is over what it may yet have an effect by.
pub fn over(state: &mut State, place: usize, has_returned: bool) {
    let Writer { xid, flight, .. } = state.writers[place];
    let flight = if matches!(flight, Flight::Sent(_)) { flight } else { Flight::None };
    let at = WriterAt::Over;
    state.writers[place] = Writer { at, xid, flight, has_returned, ..Writer::default() };
}

/// Behind the commit: the answer, or the name goes to the worker.
fn confirm(steps: &mut Steps<'_>, place: usize) {
    let (world, writer) = (steps.world, steps.from.writers[place]);
    let who = Who::Writer(place);
    let registered = steps.from.registrations[writer.generation as usize].identity;
    let (is_hopeless, is_confirmed) = match writer.flight {
        Flight::Executed(by) => {
            let counts = by == registered || !world.has(Guard::WriterProof);
            (!counts, counts)
        }
        Flight::Sent(to) => (to != steps.from.identity(to.server), false),
        Flight::None => (true, false),
    };
    if is_confirmed {
        steps.add(who, "takes the answer", |state, _| returned(state, place));
    }
    if is_hopeless || steps.from.used.silences < world.silences {
        steps.add(who, "gets no answer", |state, outcome| {
            state.used.silences += u8::from(!is_hopeless);
            if world.has(Guard::LeaveNames) {
                outcome.marks |= mark::LEFT;
                state.lost |= 1 << place;
            }
            returned(state, place);
        });
    }
}

/// The deletion is carried out, whoever waits for it.
fn arrive(steps: &mut Steps<'_>, place: usize) {
    let (world, writer) = (steps.world, steps.from.writers[place]);
    let Flight::Sent(to) = writer.flight else { return };
    if to != steps.from.identity(to.server) {
        return;
    }
    steps.add(Who::Writer(place), "has its deletion carried out", |state, outcome| {
        state.delete(world, to.server);
        let is_over = writer.at == WriterAt::Over;
        outcome.marks |= if is_over { mark::LATE } else { 0 };
        state.writers[place].flight = if is_over { Flight::None } else { Flight::Executed(to) };
    });
}
