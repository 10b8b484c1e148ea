//! One layout's measurement: all cases in turns, round after round.
//!
//! Owns the clock and the proof. The invariant: the cases of a round are measured within the same
//! moment of the machine's life, and the cache counted exactly the hits and fills that were called.
//! Break it and drift, or a miss, passes for a property of the code.

use std::time::{Duration, Instant};

use pg_cache_testbed::Pair;

use crate::Outcome;
use crate::cases::{self, Case, Connections, Counts};
use crate::entries::Entries;
use crate::flights::Flights;
use crate::samples::Samples;

/// glibc returns freed memory to the system after each call, and page faults make 1 MB three times
/// slower, cached or plain, until a process has once freed a block as large as a sort or a hash
/// takes. The flights queries do that to a backend: without their data results must be the same.
const SETTLE_ALLOCATOR: &str = "SELECT length(repeat('x', 24000000))";

/// A case and its times.
pub struct Measured {
    pub case: Case,
    pub samples: Samples,
    calls: u64,
}

pub fn measure(
    pair: &Pair,
    entries: &Entries,
    flights: &Flights,
    rounds: usize,
) -> Outcome<Vec<Measured>> {
    let mut connections = Connections::open(pair)?;
    connections.sql.batch_execute(SETTLE_ALLOCATOR)?;
    let mut measured: Vec<Measured> = cases::all(&mut connections, entries, flights, rounds)?
        .into_iter()
        .map(|case| Measured { case, samples: Samples::default(), calls: 0 })
        .collect();
    // Fills what no layout has filled yet, connects to Redis, plans; and PostgreSQL settles on a
    // generic plan after five calls.
    for each in &mut measured {
        for _ in 0..if each.case.pace.measured > 1 { 10 } else { 1 } {
            (each.case.call)(&mut connections)?;
        }
    }
    let before = Counted::read(&mut connections)?;
    for number in 0..rounds {
        for each in measured.iter_mut().filter(|each| number % each.case.pace.every == 0) {
            each.round(number, &mut connections)?;
        }
    }
    let counted = Counted::read(&mut connections)?.since(&before);
    let called = |counts: Counts| -> u64 {
        measured.iter().filter(|each| each.case.counts == counts).map(|each| each.calls).sum()
    };
    let expected = Counted { hits: called(Counts::Hit), fills: called(Counts::Fill) };
    if counted != expected {
        let why = format!("the cache counted {counted:?} where the cases made {expected:?}");
        return Err(why.into());
    }
    Ok(measured)
}

impl Measured {
    fn round(&mut self, number: usize, connections: &mut Connections) -> Outcome<()> {
        let pace = self.case.pace;
        for _ in 0..pace.unmeasured {
            (self.case.call)(connections)?;
        }
        let mut times = vec![Duration::ZERO; pace.measured];
        for time in &mut times {
            let start = Instant::now();
            (self.case.call)(connections)?;
            *time = start.elapsed();
        }
        self.calls += (pace.unmeasured + pace.measured) as u64;
        self.samples.add_round(number, &times);
        Ok(())
    }
}

/// What the backend of these connections counted.
#[derive(PartialEq, Eq, Debug)]
struct Counted {
    hits: u64,
    fills: u64,
}

impl Counted {
    fn read(connections: &mut Connections) -> Outcome<Counted> {
        let row = connections.sql.query_one(
            "SELECT coalesce(sum(hits), 0)::bigint, coalesce(sum(fills), 0)::bigint
             FROM redis_stat_cached",
            &[],
        )?;
        let count = |column| u64::try_from(row.get::<_, i64>(column));
        Ok(Counted { hits: count(0)?, fills: count(1)? })
    }

    fn since(&self, before: &Counted) -> Counted {
        Counted { hits: self.hits - before.hits, fills: self.fills - before.fills }
    }
}
