//! Owns the background worker: it registers generations, takes over what was left to it, pays debts
//! and sweeps.
//!
//! Invariant: it may begin at any time, so nothing depends on when it is woken.

use crate::decide;
use crate::explore::{Steps, Who, mark};
use crate::state::{
    Debt, GENERATIONS, Home, NO_ENTRY, Reader, ReaderAt, Registration, State, Worker, WorkerAt,
};
use crate::world::{Guard, WRITERS, World};

pub fn steps(steps: &mut Steps<'_>) {
    let (world, worker) = (steps.world, steps.from.worker);
    match worker.at {
        WorkerAt::Idle => idle(steps),
        WorkerAt::Remember | WorkerAt::Register => register(steps),
        WorkerAt::Adopt | WorkerAt::Forget => adopt(steps),
        WorkerAt::PayList | WorkerAt::PayDelete | WorkerAt::PayCommit => pay(steps),
    }
    if worker.at != WorkerAt::Idle && steps.from.used.deaths < world.deaths {
        steps.add(Who::Worker, "dies", |state, _| {
            state.used.deaths += 1;
            give_up(state);
        });
    }
}

/// Whether everybody can use the newest generation.
fn is_usable(world: &World, state: &State) -> bool {
    let newest = state.generations - 1;
    let table = state.servers[state.head as usize].data.table;
    let has_table = newest > 0 || state.home(newest) == Home::Memory || table.is_some();
    has_table
        && state.is_alive(world, newest)
        && state.is_proven(newest, state.head)
        && state.home(newest) == state.wanted
}

fn idle(steps: &mut Steps<'_>) {
    let (world, from) = (steps.world, steps.from);
    if from.lost != 0 {
        steps.add(Who::Worker, "writes down what was left", |state, _| {
            let (debts, xid) = (state.lost, state.assign());
            if !world.has(Guard::ForgetLast) {
                state.lost = 0;
            }
            state.worker = Worker { at: WorkerAt::Adopt, xid, debts, ..Worker::default() };
        });
    }
    if !is_usable(world, from) {
        // What was sent before a crash arrives first.
        let is_late =
            |reader: &Reader| reader.at == ReaderAt::Fill && reader.generation < from.alive_from;
        if from.readers.iter().any(is_late) {
            return;
        }
        assert!((from.generations as usize) < GENERATIONS, "more generations than there are");
        steps.add(Who::Worker, "finds that it has to register", |state, _| {
            let identity = state.identity(state.head);
            let registration = Registration { xid: 0, identity, home: state.wanted };
            let first = world.has(Guard::RememberFirst);
            let at = if first { WorkerAt::Remember } else { WorkerAt::Register };
            let generation = state.generations;
            state.worker = Worker { at, generation, registration, ..Worker::default() };
        });
        return;
    }
    let snapshot = from.snapshot();
    let debts = from.debts_under(&snapshot);
    if debts != 0 {
        steps.add(Who::Worker, "begins to pay", |state, _| {
            let (xid, generation) = (state.assign(), state.generations - 1);
            let (at, snapshot) = (WorkerAt::PayList, state.snapshot());
            let worker = Worker { at, xid, snapshot, generation, debts, ..Worker::default() };
            state.worker = worker;
            go_on(world, state);
        });
    }
    sweep(steps);
}

fn register(steps: &mut Steps<'_>) {
    let (world, worker) = (steps.world, steps.from.worker);
    let identity = worker.registration.identity;
    let first = world.has(Guard::RememberFirst);
    if worker.at == WorkerAt::Register {
        steps.add(Who::Worker, "registers a generation", |state, _| {
            let xid = state.assign();
            state.commit(xid, true);
            let registration = Registration { xid, ..worker.registration };
            state.registrations[worker.generation as usize] = registration;
            state.generations += 1;
            state.worker = match first {
                true => Worker::default(),
                false => Worker { at: WorkerAt::Remember, ..worker },
            };
        });
    } else if identity != steps.from.identity(identity.server) {
        steps.add(Who::Worker, "finds another server", |state, _| give_up(state));
    } else {
        steps.add(Who::Worker, "has Redis remember the generation", |state, _| {
            let remembered = &mut state.data(identity.server).remembered;
            *remembered |= 1 << worker.generation;
            if worker.registration.home == Home::Memory && world.has(Guard::EndTable) {
                state.data(identity.server).table = None;
            }
            let remembered = &mut state.data(identity.server).remembered;
            if world.has(Guard::RememberFormer) {
                *remembered |= 1 << (worker.generation - 1);
            }
            state.worker = match first {
                true => Worker { at: WorkerAt::Register, ..worker },
                false => Worker::default(),
            };
        });
    }
}

fn adopt(steps: &mut Steps<'_>) {
    let (world, worker) = (steps.world, steps.from.worker);
    if worker.at == WorkerAt::Adopt {
        steps.add(Who::Worker, "commits what was left as debts", |state, outcome| {
            outcome.marks |= mark::ADOPTED;
            state.commit(worker.xid, true);
            for place in places(worker.debts) {
                state.debts[place] = Debt { owner: worker.xid, payer: 0 };
            }
            state.worker = match world.has(Guard::ForgetLast) {
                true => Worker { at: WorkerAt::Forget, debts: worker.debts, ..Worker::default() },
                false => Worker::default(),
            };
        });
    } else {
        steps.add(Who::Worker, "forgets what was left", |state, _| {
            state.lost &= !worker.debts;
            state.worker = Worker::default();
        });
    }
}

fn places(debts: u8) -> impl Iterator<Item = usize> {
    (0..WRITERS).filter(move |place| debts & 1 << place != 0)
}

/// The next thing that has to be done before a payment is committed.
fn go_on(world: &World, state: &mut State) {
    let worker = &mut state.worker;
    worker.has_listed |= !world.has(Guard::PayBump);
    worker.at = match (worker.has_listed, worker.has_deleted) {
        (false, false) if !world.has(Guard::PayDeleteBehind) => WorkerAt::PayDelete,
        (false, _) => WorkerAt::PayList,
        (true, false) => WorkerAt::PayDelete,
        (true, true) => WorkerAt::PayCommit,
    };
}

fn pay(steps: &mut Steps<'_>) {
    let (world, worker) = (steps.world, steps.from.worker);
    match worker.at {
        WorkerAt::PayList => {
            steps.add(Who::Worker, "lists itself in the place of who owes", |state, _| {
                state.cell = decide::bump(world, &state.cell, worker.xid, &worker.snapshot);
                let is_memory = state.home(worker.generation) == Home::Memory;
                let there = state.registrations[worker.generation as usize].identity;
                let table = &mut state.data(there.server).table;
                if let Some(found) = table.filter(|_| !is_memory) {
                    *table = Some(decide::bump_there(&found, worker.xid, &worker.snapshot));
                }
                state.worker.has_listed = true;
                go_on(world, state);
            });
        }
        WorkerAt::PayDelete => {
            for server in world.servers() {
                let is_proven = steps.from.is_proven(worker.generation, server);
                let is_lost = !is_proven && server == steps.from.head;
                if is_lost && world.has(Guard::PayProof) {
                    steps.add(Who::Worker, "finds another server", |state, _| give_up(state));
                } else if is_proven || !world.has(Guard::PayProof) {
                    let does = ["deletes what is owed", "deletes it on server 1"];
                    steps.add(Who::Worker, does[server as usize], |state, _| {
                        state.delete(world, server);
                        state.worker.has_deleted = true;
                        go_on(world, state);
                    });
                }
            }
        }
        _ => {
            steps.add(Who::Worker, "commits the payment", |state, outcome| {
                outcome.marks |= mark::PAID;
                state.commit(worker.xid, true);
                for place in places(worker.debts) {
                    state.debts[place].payer = worker.xid;
                }
                state.worker = Worker::default();
            });
        }
    }
}

/// Deletes what former generations left, as far as Redis remembers them.
fn sweep(steps: &mut Steps<'_>) {
    let (world, from) = (steps.world, steps.from);
    let newest = from.generations - 1;
    let server = from.head;
    let data = from.servers[server as usize].data;
    let former = data.remembered & !(1 << newest);
    let is_former = data.entry != NO_ENTRY && former & 1 << data.entry.generation != 0;
    if !is_former && from.unswept == 0 && (former == 0 || world.has(Guard::RememberLong)) {
        return;
    }
    steps.add(Who::Worker, "sweeps", |state, outcome| {
        if is_former && world.has(Guard::Sweep) {
            outcome.marks |= mark::SWEPT;
            let data = state.data(server);
            (data.entry, data.lease) = (NO_ENTRY, 0);
        }
        if !world.has(Guard::RememberLong) {
            state.data(server).remembered &= !former;
        }
        state.unswept = 0;
    });
}

/// Its transaction is undone.
pub fn give_up(state: &mut State) {
    if state.worker.xid != 0 && state.running.has(state.worker.xid) {
        state.abort(state.worker.xid);
    }
    state.worker = Worker::default();
}
