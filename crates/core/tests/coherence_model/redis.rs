//! Owns Redis: its scripts, what it loses, its replica and its RDB file, and other programs.
//!
//! Invariant: a script or command is one step, and everything else can come between two of them.

use crate::decide;
use crate::explore::{Breach, Outcome, Steps, Who};
use crate::reader;
use crate::state::{
    ABSENT, Data, Entry, FOREIGN, Judged, NO_DATA, NO_ENTRY, ReaderAt, Sidecar, Snapshot, State,
    Table, Xid,
};
use crate::world::{FIELDS, Guard, KEYS, READERS, Second, World};

/// The order of a BUMP.
pub struct Bump {
    pub xid: Xid,
    pub snapshot: Snapshot,
    pub tags: u8,
    /// The generation that it read is not alive: the table is no longer that one's.
    pub ends: bool,
}

/// Executes BUMP, on a stub where there is no table. Returns the table's generation.
pub fn bump(world: &World, found: &mut Option<Table>, order: &Bump, mine: u8) -> Option<u8> {
    let generation = found.as_ref().and_then(|table| table.generation);
    if generation != Some(mine) && !world.has(Guard::Spoil) {
        return generation;
    }
    let table = found.get_or_insert_default();
    if order.ends && world.has(Guard::OwnGeneration) {
        table.generation = None;
    }
    let generation = table.generation;
    // Whoever bumps a table of another generation than its own owes, so may be dropped by anybody;
    // in one of its own it is dropped by that generation's only.
    let drops = generation.is_none_or(|found| found == mine) || !world.has(Guard::OwnGeneration);
    for field in (0..FIELDS).filter(|field| order.tags & 1 << field != 0) {
        table.counter += 1;
        let cell = &mut table.cells[field];
        *cell = decide::bump(world, cell, table.counter, order, drops);
    }
    generation
}

/// DEL of value, sidecar and lease of these keys.
pub fn delete(world: &World, data: &mut Data, keys: u8) {
    for key in (0..KEYS).filter(|key| keys & 1 << key != 0) {
        data.entries[key] = NO_ENTRY;
        if world.has(Guard::DeleteLease) {
            data.leases[key] = 0;
        }
    }
}

/// The order of a FILL.
pub struct Fill {
    pub key: usize,
    pub token: u8,
    pub value: u8,
    pub generation: u8,
    pub versions: [u8; FIELDS],
    pub overtaken: bool,
}

pub fn fill(world: &World, data: &mut Data, order: &Fill, outcome: &mut Outcome) {
    use crate::explore::mark;
    let lease = &mut data.leases[order.key];
    if *lease != order.token && world.has(Guard::Token) {
        outcome.marks |= mark::FILL_REFUSED;
        return;
    }
    *lease = 0;
    let found = &mut data.entries[order.key];
    let is_foreign = found.value != ABSENT && found.sidecar.is_none();
    if is_foreign && world.has(Guard::FillSparesForeign) {
        outcome.marks |= mark::FOREIGN;
        return;
    }
    outcome.marks |= mark::FILL;
    outcome.breach = match (order.overtaken, is_foreign) {
        (true, _) => Some(Breach::Overwritten),
        (false, true) => Some(Breach::ForeignReplaced),
        _ => None,
    };
    let Fill { value, generation, versions, .. } = *order;
    *found = Entry { value, sidecar: Some(Sidecar { generation, value, versions }) };
}

pub fn steps(steps: &mut Steps<'_>) {
    losses(steps);
    expiries(steps);
    others(steps);
    match steps.world.second {
        Second::None => {}
        Second::Replica => replica(steps),
        Second::Rdb => rdb(steps),
    }
}

fn losses(steps: &mut Steps<'_>) {
    if steps.from.used.losses == steps.world.losses {
        return;
    }
    let head = steps.from.head as usize;
    let found = steps.from.servers[head].data;
    let mut lose = |does, step: &dyn Fn(&mut Data)| {
        steps.add(Who::Redis, does, |state, _| {
            state.used.losses += 1;
            step(&mut state.servers[head].data);
        });
    };
    if found.table.is_some() {
        lose("loses the tag table", &|data| data.table = None);
    }
    if found != NO_DATA {
        lose("loses everything", &|data| *data = NO_DATA);
    }
    for key in 0..KEYS {
        if found.entries[key].value != ABSENT {
            lose(["loses the value of key 0", "loses the value of key 1"][key], &|data| {
                data.entries[key].value = ABSENT;
            });
        }
        if found.entries[key].sidecar.is_some() {
            lose(["loses the sidecar of key 0", "loses the sidecar of key 1"][key], &|data| {
                data.entries[key].sidecar = None;
            });
        }
    }
}

fn expiries(steps: &mut Steps<'_>) {
    if steps.from.used.expiries == steps.world.expiries {
        return;
    }
    let head = steps.from.head as usize;
    for key in 0..KEYS {
        if steps.from.servers[head].data.leases[key] != 0 {
            steps.add(Who::Redis, "lets a lease expire", |state, _| {
                state.used.expiries += 1;
                state.servers[head].data.leases[key] = 0;
            });
        }
    }
}

/// Other writers under the first key: our own `redis_store` and `redis_del`, and strangers.
fn others(steps: &mut Steps<'_>) {
    let world = steps.world;
    let head = steps.from.head as usize;
    if steps.from.used.stores < world.stores {
        for (does, value) in [("stores under key 0", FOREIGN), ("deletes key 0", ABSENT)] {
            steps.add(Who::Redis, does, |state, _| {
                state.used.stores += 1;
                let data = &mut state.servers[head].data;
                data.entries[0] = Entry { value, sidecar: None };
                if world.has(Guard::StoreDeletesLease) {
                    data.leases[0] = 0;
                }
                for place in 0..READERS {
                    let reader = &mut state.readers[place];
                    let is_of_key = world.readers.get(place).is_some_and(|kind| kind.key == 0);
                    reader.overtaken |= reader.holds_lease && is_of_key;
                }
            });
        }
    }
    if steps.from.used.strangers < world.strangers {
        steps.add(Who::Redis, "is told by a stranger to SET key 0", |state, _| {
            state.used.strangers += 1;
            state.servers[head].data.entries[0].value = FOREIGN;
        });
    }
}

fn replica(steps: &mut Steps<'_>) {
    let (head, other) = (steps.from.head as usize, 1 - steps.from.head as usize);
    let behind = steps.from.servers[other];
    if behind.is_master {
        steps.add(Who::Redis, "demotes the old master", |state, _| {
            state.servers[other].is_master = false;
        });
        return;
    }
    if steps.from.used.failovers < steps.world.failovers {
        steps.add(Who::Redis, "promotes the replica", |state, _| {
            state.used.failovers += 1;
            state.epochs += 1;
            state.servers[other].is_master = true;
            state.servers[other].epoch = state.epochs;
            state.head = other as u8;
            state.is_unswept = true;
        });
    }
    let ahead = steps.from.servers[head];
    let is_behind = (ahead.data, ahead.epoch) != (behind.data, behind.epoch);
    if is_behind && steps.from.used.copies < steps.world.copies {
        steps.add(Who::Redis, "replicates", |state, _| {
            state.used.copies += 1;
            state.servers[other].data = ahead.data;
            state.servers[other].epoch = ahead.epoch;
        });
    }
}

fn rdb(steps: &mut Steps<'_>) {
    let world = steps.world;
    let (now, saved) = (steps.from.servers[0], steps.from.servers[1]);
    if steps.from.used.failovers < world.failovers {
        steps.add(Who::Redis, "restarts from its RDB", |state, _| {
            state.used.failovers += 1;
            state.epochs += 1;
            state.servers[0].data = saved.data;
            state.servers[0].epoch = state.epochs;
            state.is_unswept = true;
            cut(world, state);
        });
    }
    if now.data != saved.data && steps.from.used.copies < world.copies {
        steps.add(Who::Redis, "saves its RDB", |state, _| {
            state.used.copies += 1;
            state.servers[1].data = now.data;
        });
    }
}

/// Every connection ends: readers compute. Writers find out by the identity of what they reach.
fn cut(world: &World, state: &mut State) {
    for place in 0..world.readers.len() {
        let at = state.readers[place].at;
        if !matches!(at, ReaderAt::New | ReaderAt::Done) {
            state.readers[place].judged = Judged::Nothing;
            reader::done(world, state, place);
        }
    }
}
