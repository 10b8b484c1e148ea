//! Owns the background worker: it makes the tag table, pays debts, and sweeps.
//!
//! Invariant: it may begin at any time, so nothing depends on when it is woken.

use crate::explore::{Steps, Who, mark};
use crate::redis;
use crate::state::{
    Debt, GENERATIONS, Identity, NO_ENTRY, Registration, Snapshot, State, Table, Worker, WorkerAt,
    WriterAt,
};
use crate::world::{FIELDS, Guard, KEYS, Op, World};

pub fn steps(steps: &mut Steps<'_>) {
    let (world, worker) = (steps.world, steps.from.worker);
    match worker.at {
        WorkerAt::Idle => idle(steps),
        WorkerAt::PayBump
        | WorkerAt::PayAll
        | WorkerAt::PayDelete
        | WorkerAt::PayAllDelete
        | WorkerAt::PayCommit => pay(steps),
        _ => make_steps(steps),
    }
    if worker.at != WorkerAt::Idle && steps.from.used.deaths < world.deaths {
        steps.add(Who::Worker, "dies", |state, _| {
            state.used.deaths += 1;
            die(state);
        });
    }
    late_make(steps);
}

/// The way from a registration to a table.
fn make_steps(steps: &mut Steps<'_>) {
    let (world, worker) = (steps.world, steps.from.worker);
    match worker.at {
        WorkerAt::Register => {
            steps.add(Who::Worker, "commits the registration", |state, _| {
                state.commit(worker.xid, true);
                state.worker.at = WorkerAt::Claim;
            });
        }
        WorkerAt::Claim => claim(steps),
        WorkerAt::Lockers => {
            steps.add(Who::Worker, "asks who holds the lock", |state, _| {
                state.worker.lockers = holders(state);
                state.worker.at = WorkerAt::Wait;
            });
        }
        WorkerAt::Wait if worker.lockers & holders(steps.from) == 0 => {
            steps.add(Who::Worker, "finds them gone", |state, _| {
                let is_early = !world.has(Guard::BaseAfterLockers);
                state.worker.lockers = 0;
                state.worker.at = if is_early { WorkerAt::Next } else { WorkerAt::Base };
            });
        }
        WorkerAt::Base => {
            steps.add(Who::Worker, "begins the base", |state, _| {
                state.worker.base = state.assign();
                state.worker.at = WorkerAt::BaseCommit;
            });
        }
        WorkerAt::BaseCommit => {
            steps.add(Who::Worker, "commits the base", |state, _| {
                state.commit(worker.base, true);
                let is_early = !world.has(Guard::BaseAfterLockers);
                state.worker.at = if is_early { WorkerAt::Lockers } else { WorkerAt::Next };
            });
        }
        WorkerAt::Next if world.prunes => {
            steps.add(Who::Worker, "reads the next xid", |state, _| {
                state.worker.next = state.next;
                state.worker.at = WorkerAt::Make;
            });
        }
        WorkerAt::Next | WorkerAt::Make => {
            steps.add(Who::Worker, "makes the table", |state, _| {
                let is_made = make(world, state, &worker);
                state.worker = match is_made {
                    true => Worker::default(),
                    false => Worker { at: WorkerAt::Claim, base: 0, next: 0, nonce: 0, ..worker },
                };
            });
        }
        _ => {}
    }
}

/// The way from debts to none.
fn pay(steps: &mut Steps<'_>) {
    let (world, worker) = (steps.world, steps.from.worker);
    match worker.at {
        WorkerAt::PayBump => pay_bump(steps),
        WorkerAt::PayAll => {
            steps.add(Who::Worker, "commits the bump for all keys", |state, _| {
                state.commit(worker.xid, true);
                state.worker.at = WorkerAt::PayAllDelete;
            });
        }
        WorkerAt::PayDelete | WorkerAt::PayAllDelete => {
            steps.add(Who::Worker, "deletes the keys that are owed", |state, _| {
                let (_, keys) = sum(state, worker.debts);
                let server = &mut state.servers[worker.server as usize];
                if server.is_master {
                    redis::delete(world, &mut server.data, keys);
                    if worker.at == WorkerAt::PayAllDelete {
                        state.worker.xid = state.assign();
                    }
                    state.worker.at = WorkerAt::PayCommit;
                } else {
                    give_up(state);
                }
            });
        }
        WorkerAt::PayCommit => {
            steps.add(Who::Worker, "commits the payment", |state, outcome| {
                outcome.marks |= mark::PAID;
                for writer in (0..state.debts.len()).filter(|at| worker.debts & 1 << at != 0) {
                    state.debts[writer].payer = worker.xid;
                }
                state.commit(worker.xid, true);
                state.worker = Worker::default();
            });
        }
        _ => {}
    }
}

fn idle(steps: &mut Steps<'_>) {
    let world = steps.world;
    let newest = steps.from.generations - 1;
    for server in world.servers() {
        if !steps.from.servers[server].is_master {
            continue;
        }
        let made = steps.from.servers[server].data.table.and_then(|table| table.generation);
        if steps.from.used.makes < world.makes && (newest as usize) < GENERATIONS - 1 {
            let does = ["registers server 0", "registers server 1"][server];
            steps.add(Who::Worker, does, |state, _| register(state, server as u8));
        }
        let debts = steps.from.debts_under(&steps.from.snapshot());
        if steps.from.used.pays < world.pays && debts != 0 {
            let does = ["pays on server 0", "pays on server 1"][server];
            steps.add(Who::Worker, does, |state, _| {
                state.used.pays += 1;
                let xid = state.assign();
                let snapshot = state.snapshot();
                let debts = payable(state, &snapshot);
                let (at, server) = (WorkerAt::PayBump, server as u8);
                state.worker = Worker { at, xid, server, snapshot, debts, ..Worker::default() };
            });
        }
        let is_usable = newest >= steps.from.alive_from
            && steps.from.committed.has(steps.from.registrations[newest as usize].xid)
            && steps.from.is_proven(newest, server as u8);
        let is_ours = made == Some(newest) && is_usable;
        if steps.from.is_unswept && is_ours && server == steps.from.head as usize {
            steps.add(Who::Worker, "sweeps", |state, outcome| {
                outcome.marks |= mark::SWEPT;
                sweep(state, newest);
            });
        }
    }
}

fn register(state: &mut State, server: u8) {
    state.used.makes += 1;
    let xid = state.assign();
    let generation = state.generations;
    let identity = Identity { server, epoch: state.servers[server as usize].epoch };
    state.registrations[generation as usize] = Registration { xid, identity };
    state.generations += 1;
    let at = WorkerAt::Register;
    state.worker = Worker { at, xid, server, generation, ..Worker::default() };
}

/// Deletes entries of older generations. They may be what a failover brought back. Leases from
/// before have expired by then: a lease is short, and whoever took it may still send its FILL.
fn sweep(state: &mut State, generation: u8) {
    let data = &mut state.servers[state.head as usize].data;
    for key in 0..KEYS {
        let is_old = data.entries[key].sidecar.is_some_and(|found| found.generation < generation);
        if is_old {
            data.entries[key] = NO_ENTRY;
        }
        data.leases[key] = 0;
    }
    state.is_unswept = false;
}

fn claim(steps: &mut Steps<'_>) {
    let world = steps.world;
    let server = steps.from.worker.server as usize;
    if !steps.from.servers[server].is_master {
        steps.add(Who::Worker, "finds its server demoted", |state, _| {
            state.worker = Worker::default();
        });
        return;
    }
    steps.add(Who::Worker, "claims", |state, _| {
        state.used.claims += 1;
        let nonce = state.used.claims;
        let table = state.servers[server].data.table.get_or_insert_default();
        table.claim = nonce;
        table.claimed_at = table.counter;
        state.worker.nonce = nonce;
        let is_early = !world.has(Guard::BaseAfterLockers);
        state.worker.at = match (world.has(Guard::Lockers), is_early) {
            (false, _) | (_, true) => WorkerAt::Base,
            _ => WorkerAt::Lockers,
        };
    });
}

/// The writers that hold the lock, prepared ones excepted, as bits.
fn holders(state: &State) -> u8 {
    let holds = |place: &usize| {
        state.writers[*place].has_lock && state.writers[*place].at != WriterAt::Prepared
    };
    (0..state.writers.len()).filter(holds).fold(0, |bits, place| bits | 1 << place)
}

/// The script MAKE; whether the claim was still ours.
fn make(world: &World, state: &mut State, order: &Worker) -> bool {
    let server = &mut state.servers[order.server as usize];
    let found = &mut server.data.table;
    let is_ours = found.is_some_and(|table| table.claim == order.nonce);
    if !server.is_master || (!is_ours && world.has(Guard::Claim)) {
        return false;
    }
    let table = found.get_or_insert_default();
    for field in 0..FIELDS {
        let cell = &mut table.cells[field];
        let is_of_before = cell.version <= table.claimed_at || !world.has(Guard::PruneBefore);
        if world.prunes && is_of_before {
            cell.xids.0 &= (1 << order.next) - 1;
        }
        if !world.has(Guard::KeepLists) {
            cell.xids.0 = 0;
        }
    }
    let (generation, base) = (Some(order.generation), order.base);
    *table = Table { generation, base, claim: 0, claimed_at: 0, ..*table };
    for place in 0..state.writers.len() {
        // Nobody waited for a prepared transaction, and what it deleted may be filled again: only
        // its debt tells.
        if world.writers.get(place).is_some_and(|program| program.last() == Some(&Op::Prepare)) {
            state.debts[place].undeleted |= state.debts[place].keys;
        }
    }
    true
}

/// The worker is gone, with the transaction that it had open; a MAKE that it sent is on its way.
pub fn die(state: &mut State) {
    let worker = state.worker;
    if matches!(worker.at, WorkerAt::Make | WorkerAt::Next) {
        state.late_make = Some(worker);
    }
    for xid in [worker.xid, worker.base] {
        if state.running.has(xid) {
            state.abort(xid);
        }
    }
    state.worker = Worker::default();
}

/// The MAKE of a worker that died arrives.
fn late_make(steps: &mut Steps<'_>) {
    let world = steps.world;
    if let Some(order) = steps.from.late_make {
        steps.add(Who::Worker, "has its late MAKE executed", |state, outcome| {
            outcome.marks |= mark::LATE;
            make(world, state, &order);
            state.late_make = None;
        });
    }
}

/// Tags and keys of some debts together.
fn sum(state: &State, debts: u8) -> (u8, u8) {
    let chosen = (0..state.debts.len()).filter(|writer| debts & 1 << writer != 0);
    chosen.fold((0, 0), |(tags, keys), writer| {
        let Debt { tags: more_tags, keys: more_keys, .. } = state.debts[writer];
        (tags | more_tags, keys | more_keys)
    })
}

/// The debts that one payment is for: the debt of all keys is paid by itself, and last.
fn payable(state: &State, snapshot: &Snapshot) -> u8 {
    let seen = state.debts_under(snapshot);
    let is_coarse = |writer: &usize| state.debts[*writer].is_coarse;
    let coarse =
        (0..state.debts.len()).filter(is_coarse).fold(0, |bits, writer| bits | 1 << writer);
    if seen & !coarse != 0 { seen & !coarse } else { seen }
}

fn give_up(state: &mut State) {
    state.abort(state.worker.xid);
    state.worker = Worker::default();
}

/// BUMP with the worker's own xid: only the registered server and table take a payment.
fn pay_bump(steps: &mut Steps<'_>) {
    let (world, worker) = (steps.world, steps.from.worker);
    let generation = steps.from.generation_under(&worker.snapshot);
    steps.add(Who::Worker, "bumps what is owed", |state, _| {
        let is_proven = state.is_proven(generation, worker.server);
        let (tags, _) = sum(state, worker.debts);
        let server = &mut state.servers[worker.server as usize];
        if !server.is_master {
            return give_up(state);
        }
        let Worker { xid, snapshot, .. } = worker;
        let order = redis::Bump { xid, snapshot, tags, ends: false };
        let found = match world.has(Guard::PayBump) {
            true => redis::bump(world, &mut server.data.table, &order, generation),
            false => server.data.table.and_then(|table| table.generation),
        };
        let is_registered = found == Some(generation);
        if is_registered && (is_proven || !world.has(Guard::PayProof)) {
            let is_coarse = state.debts[worker.debts.trailing_zeros() as usize].is_coarse;
            state.worker.at = if is_coarse { WorkerAt::PayAll } else { WorkerAt::PayDelete };
        } else {
            give_up(state);
        }
    });
}
