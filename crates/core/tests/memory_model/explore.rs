//! Owns the search: every state that can be reached, breadth first, until a promise is broken.
//!
//! Invariant: the way that is reported is a shortest one. Of a state that was seen only a 64-bit
//! hash is kept: two states that share one would hide each other, which happens once in a million
//! explorations of five million states.

use crate::state::{ABSENT, State};
use crate::world::World;
use crate::{reader, trouble, worker, writer};
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A promise that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breach {
    /// S1: a hit is not what the query returns under the snapshot.
    Stale,
    /// S2: a program that reads the key finds something older than a commit that has returned.
    OldValue,
    /// S3: a value shows what is not committed.
    Uncommitted,
}

/// What happened on the way: proof that a world reaches what it is about.
pub mod mark {
    pub const HIT: u32 = 1;
    /// On a value that shows a writer.
    pub const HIT_CHANGED: u32 = 1 << 1;
    /// In a generation that the worker registered.
    pub const HIT_ANEW: u32 = 1 << 2;
    pub const FILL: u32 = 1 << 3;
    pub const FILL_REFUSED: u32 = 1 << 4;
    pub const COMPUTE: u32 = 1 << 5;
    pub const HELD: u32 = 1 << 6;
    pub const DEBT_SEEN: u32 = 1 << 7;
    pub const OWED: u32 = 1 << 8;
    pub const LEFT: u32 = 1 << 9;
    pub const ADOPTED: u32 = 1 << 10;
    pub const PAID: u32 = 1 << 11;
    pub const LATE: u32 = 1 << 12;
    pub const SWEPT: u32 = 1 << 13;
    pub const UNPROVEN: u32 = 1 << 14;
    /// A commit was lost by a crash.
    pub const COMMIT_LOST: u32 = 1 << 15;
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
    who: Who,
    does: &'static str,
    state: State,
    outcome: Outcome,
}

/// The steps that can be taken in a state.
pub struct Steps<'a> {
    pub world: &'a World,
    pub from: &'a State,
    all: Vec<Step>,
}

impl<'a> Steps<'a> {
    fn of(world: &'a World, from: &'a State, mut all: Vec<Step>) -> Vec<Step> {
        all.clear();
        let mut steps = Steps { world, from, all };
        (0..world.writers.len()).for_each(|place| writer::steps(&mut steps, place));
        (0..world.readers.len()).for_each(|place| reader::steps(&mut steps, place));
        worker::steps(&mut steps);
        trouble::steps(&mut steps);
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

#[derive(Debug)]
pub struct Explored {
    pub states: usize,
    pub marks: u32,
    /// A promise that was broken, and a shortest way to it.
    pub found: Option<(Breach, Vec<String>)>,
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

/// Of each state the place of the one before, and the step that leads here.
type Trail = Vec<(u32, Who, &'static str)>;

/// More states than this are no small world.
const STATES_MAX: usize = 5_000_000;

/// Goes every way there is, until it meets a breach.
pub fn explore(world: &World) -> Explored {
    let mut known: HashSet<u64, BuildHasherDefault<Same>> = HashSet::default();
    let mut trail: Trail = vec![(0, Who::Postgres, "begins")];
    let mut bytes = Bytes::default();
    let mut marks = 0;
    let (mut now, mut soon) = (vec![(0u32, State::first(world))], Vec::new());
    let mut steps = Vec::new();
    while !now.is_empty() {
        for (at, state) in now.drain(..) {
            steps = Steps::of(world, &state, steps);
            for Step { who, does, state, outcome } in &steps {
                marks |= outcome.marks;
                let here = (at, *who, *does);
                if let Some(breach) = outcome.breach.or_else(|| promise_broken(world, state)) {
                    trail.push(here);
                    let found = Some((breach, way(&trail)));
                    return Explored { states: trail.len(), marks, found };
                }
                bytes.0.clear();
                state.hash(&mut bytes);
                if known.insert(bytes.finish()) {
                    soon.push((trail.len() as u32, *state));
                    trail.push(here);
                }
            }
        }
        assert!(trail.len() <= STATES_MAX, "more than {STATES_MAX} states");
        std::mem::swap(&mut now, &mut soon);
    }
    Explored { states: trail.len(), marks, found: None }
}

/// What holds in every state, or does not.
fn promise_broken(world: &World, state: &State) -> Option<Breach> {
    let committed = state.committed_writers();
    for server in world.servers() {
        let value = state.servers[server as usize].data.entry.value;
        if value == ABSENT {
            continue;
        }
        if value & !committed != 0 {
            return Some(Breach::Uncommitted);
        }
        let returned = state.writers_where(|writer| writer.has_returned);
        let owed = state.debts_under(&state.snapshot()) | state.lost | state.unswept;
        let promised = returned & committed & world.naming() & !owed;
        if server == state.head && promised & !value != 0 {
            return Some(Breach::OldValue);
        }
    }
    None
}

/// Tells the way to the last state.
fn way(trail: &Trail) -> Vec<String> {
    let mut lines = Vec::new();
    let mut at = trail.len() - 1;
    while at > 0 {
        let (before, who, does) = trail[at];
        lines.push(match who {
            Who::Writer(place) => format!("writer {place} {does}"),
            Who::Reader(place) => format!("reader {place} {does}"),
            who => format!("{who:?} {does}"),
        });
        at = before as usize;
    }
    lines.reverse();
    lines
}
