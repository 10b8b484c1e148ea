//! Owns the search: every state that can be reached, breadth first, until a promise is broken.
//!
//! Invariant: the way that is reported is a shortest one, and it is made by going it once more. Of
//! a state that was seen only a 64-bit hash is kept: two states that share one would hide each
//! other, which happens once in a million explorations of five million states.

use crate::state::State;
use crate::world::World;
use crate::{postgres, reader, redis, worker, writer};
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A promise that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breach {
    /// S1: a hit is not what the query returns under the snapshot.
    Stale,
    /// S2: a program that reads the key finds something older than the last commit.
    OldValue,
    /// S3: a value shows what is not committed.
    Uncommitted,
    /// Something computed earlier replaced what a writer of ours stored or deleted.
    Overwritten,
    /// It replaced what another program had put there.
    ForeignReplaced,
}

/// What happened on the way: proof that a world reaches what it is about.
pub mod mark {
    pub const HIT: u32 = 1;
    pub const FILL: u32 = 1 << 1;
    pub const FILL_REFUSED: u32 = 1 << 2;
    pub const COMPUTE: u32 = 1 << 3;
    pub const DEBT_SEEN: u32 = 1 << 4;
    pub const OWED: u32 = 1 << 5;
    pub const PAID: u32 = 1 << 6;
    pub const LATE: u32 = 1 << 7;
    pub const UNPROVEN: u32 = 1 << 8;
    /// A hit in a generation that the worker made.
    pub const HIT_ANEW: u32 = 1 << 9;
    pub const SERVED_WAITER: u32 = 1 << 10;
    pub const SWEPT: u32 = 1 << 11;
    pub const FOREIGN: u32 = 1 << 12;
    pub const SCHEMA_SEEN: u32 = 1 << 13;
    pub const NOT_ALIVE: u32 = 1 << 14;
    /// A hit on a value that shows a writer.
    pub const HIT_CHANGED: u32 = 1 << 15;
    /// A commit had nothing to tell any more.
    pub const TOLD_AHEAD: u32 = 1 << 16;
}

/// Who does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Writer(usize),
    Reader(usize),
    Worker,
    Redis,
    Postgres,
}

/// What a step leads to, besides a state.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    pub marks: u32,
    pub breach: Option<Breach>,
}

pub struct Step {
    pub who: Who,
    pub does: &'static str,
    pub state: State,
    pub outcome: Outcome,
}

/// The steps that can be taken in a state.
pub struct Steps<'a> {
    pub world: &'a World,
    pub from: &'a State,
    pub all: Vec<Step>,
}

impl<'a> Steps<'a> {
    fn of(world: &'a World, from: &'a State, mut all: Vec<Step>) -> Vec<Step> {
        all.clear();
        let mut steps = Steps { world, from, all };
        (0..world.writers.len()).for_each(|place| writer::steps(&mut steps, place));
        (0..world.readers.len()).for_each(|place| reader::steps(&mut steps, place));
        worker::steps(&mut steps);
        redis::steps(&mut steps);
        postgres::steps(&mut steps);
        steps.all
    }

    pub fn add(
        &mut self,
        who: Who,
        does: &'static str,
        step: impl FnOnce(&mut State, &mut Outcome),
    ) {
        let mut state = *self.from;
        let mut outcome = Outcome::default();
        step(&mut state, &mut outcome);
        self.all.push(Step { who, does, state, outcome });
    }
}

/// A promise that was broken, and a shortest way to it.
#[derive(Debug)]
pub struct Found {
    pub breach: Breach,
    pub way: Vec<String>,
}

#[derive(Debug)]
pub struct Explored {
    pub states: usize,
    pub marks: u32,
    pub found: Option<Found>,
}

/// Collects the bytes of a state.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn finish(&self) -> u64 {
        let (chunks, rest) = self.0.as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let words = chunks.iter().chain([&last]).map(|word| u64::from_le_bytes(*word));
        words.fold(0x9e37_79b9_7f4a_7c15, |hash, word| {
            let product = u128::from(hash ^ word) * 0xa076_1d64_78bd_642f;
            (product >> 64) as u64 ^ product as u64
        })
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn write_isize(&mut self, discriminant: isize) {
        self.0.push(discriminant as u8);
    }

    fn write_usize(&mut self, _length_of_an_array: usize) {}
}

/// Hashes what is a hash already.
#[derive(Default)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes are hashed")
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// The place of the state before, and which of its steps leads here.
type Trail = Vec<(u32, u8)>;

/// Goes every way there is, until it meets a breach.
pub fn explore(world: &World) -> Explored {
    let mut known: HashSet<u64, BuildHasherDefault<Same>> = HashSet::default();
    let mut trail: Trail = vec![(0, 0)];
    let mut bytes = Bytes::default();
    let mut marks = 0;
    let (mut now, mut soon) = (vec![(0u32, State::first(world))], Vec::new());
    let mut steps = Vec::new();
    while !now.is_empty() {
        for (at, state) in now.drain(..) {
            steps = Steps::of(world, &state, steps);
            for (which, step) in steps.iter().enumerate() {
                marks |= step.outcome.marks;
                let breach = step.outcome.breach.or_else(|| promise_broken(world, &step.state));
                if let Some(breach) = breach {
                    trail.push((at, which as u8));
                    let way = way(world, &trail);
                    let found = Some(Found { breach, way });
                    return Explored { states: trail.len(), marks, found };
                }
                bytes.0.clear();
                step.state.hash(&mut bytes);
                if known.insert(bytes.finish()) {
                    soon.push((trail.len() as u32, step.state));
                    trail.push((at, which as u8));
                }
            }
        }
        assert!(trail.len() <= world.states_max, "more than {} states", world.states_max);
        std::mem::swap(&mut now, &mut soon);
    }
    Explored { states: trail.len(), marks, found: None }
}

/// What holds in every state, or does not.
fn promise_broken(world: &World, state: &State) -> Option<Breach> {
    use crate::state::{ABSENT, FOREIGN};
    let (visible, recorded) = (state.committed_writers(false), state.committed_writers(true));
    for key in 0..crate::world::KEYS {
        let of = world.writers_of(key);
        for server in world.servers() {
            let value = state.servers[server].data.entries[key].value;
            if value == ABSENT || value == FOREIGN {
                continue;
            }
            let excused = if state.is_unswept { state.lost } else { 0 };
            if value & !recorded & !excused != 0 {
                return Some(Breach::Uncommitted);
            }
            let is_promised = world.named & 1 << key != 0
                && server == state.head as usize
                && !state.is_unswept
                && !is_owed(state, key);
            if is_promised && visible & of & !value != 0 {
                return Some(Breach::OldValue);
            }
        }
    }
    None
}

/// Whether a committed writer could not delete this key, and nobody has paid for it yet.
fn is_owed(state: &State, key: usize) -> bool {
    let now = state.snapshot();
    let debts = state.debts_under(&now);
    let owes = |writer: usize| debts & 1 << writer != 0;
    (0..state.debts.len())
        .any(|writer| owes(writer) && state.debts[writer].undeleted & 1 << key != 0)
}

/// Goes the way to the last state once more, and tells of it.
fn way(world: &World, trail: &Trail) -> Vec<String> {
    let mut places = Vec::new();
    let mut at = trail.len() - 1;
    while at > 0 {
        places.push(trail[at].1);
        at = trail[at].0 as usize;
    }
    let mut state = State::first(world);
    let mut lines = Vec::new();
    for which in places.iter().rev() {
        let step = Steps::of(world, &state, Vec::new()).swap_remove(*which as usize);
        let who = match step.who {
            Who::Writer(place) => format!("writer {place} (xid {})", step.state.writers[place].xid),
            Who::Reader(place) => format!("reader {place}"),
            who => format!("{who:?}"),
        };
        lines.push(format!("{who} {}", step.does));
        state = step.state;
    }
    lines
}
