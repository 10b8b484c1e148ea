//! One run: servers, readers, writers, troubles, an end.
//!
//! Owns the threads. The invariant: everything a run decides by chance follows from its seed, but
//! for the interleaving of the processes; and no run outlasts its time by more than a minute.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use fastrand::Rng;

use crate::world::{Setup, Side, World};
use crate::{habit, named, plain, reader, replay, trouble, verify, writer};

/// Beyond the end a run may wait for statements that hang and servers that stop.
const EXTRA_TIME_MAX: Duration = Duration::from_secs(60);

/// Long enough to read what the promoted server serves.
const AFTER_PROMOTION: Duration = Duration::from_secs(8);

/// What a thread does until the run is over.
type Work = Box<dyn FnOnce(&World, Rng) + Send>;

/// What a run came to.
pub struct Outcome {
    pub line: String,
    pub report: String,
    pub reads: u64,
    pub standby_reads: u64,
    pub verified: u64,
    pub hits: u64,
    pub named_checks: u64,
    pub looks: u64,
    pub violations: u64,
    pub details: Vec<String>,
}

pub fn run(setup: Setup) -> Outcome {
    let (alive, watched) = channel::<()>();
    let limit = setup.time + EXTRA_TIME_MAX;
    let seed = setup.seed;
    std::thread::spawn(move || {
        if watched.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            eprintln!("the run of seed {seed} hangs: not over after {limit:?}");
            std::process::abort();
        }
    });
    let world = Arc::new(World::start(setup));
    let mut seeds = Rng::with_seed(seed);
    let mut threads = Vec::new();
    let mut start = |work: Work| {
        let (world, random) = (world.clone(), seeds.fork());
        threads.push(std::thread::spawn(move || work(&world, random)));
    };
    start(Box::new(troubles));
    start(Box::new(plain::poll));
    start(Box::new(writer::change));
    for which in 0..named::WRITERS {
        start(Box::new(move |world, random| named::write(world, which, random)));
    }
    start(Box::new(habit::write));
    start(Box::new(habit::read));
    for _ in 0..world.setup.writers {
        start(Box::new(writer::write));
    }
    for _ in 0..world.setup.readers {
        start(Box::new(|world, random| reader::read(world, Side::Primary, random)));
    }
    start(Box::new(verify::prove));
    if world.setup.standby {
        start(Box::new(replay::watch));
        for _ in 0..world.setup.standby_readers {
            start(Box::new(|world, random| reader::read(world, Side::Standby, random)));
        }
    }
    world.tally.rest(world.setup.time);
    world.tally.end();
    for thread in threads {
        if let Err(panic) = thread.join() {
            world.tally.violation(format!("a thread of the harness failed: {}", words(&*panic)));
        }
    }
    verify::once(&world, Side::Primary);
    drop(alive);
    outcome(&world)
}

fn troubles(world: &World, random: Rng) {
    let time = world.setup.time;
    if !world.setup.standby {
        return trouble::make(world, random, time);
    }
    trouble::make(world, random, time.saturating_sub(AFTER_PROMOTION));
    if !world.tally.is_over() {
        world.tally.action("promote_standby");
        trouble::promote_standby(world);
    }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
}

fn outcome(world: &World) -> Outcome {
    use std::sync::atomic::Ordering::Relaxed;
    let tally = &world.tally;
    Outcome {
        line: tally.line(world.setup.seed),
        report: tally.report(),
        reads: tally.reads.load(Relaxed),
        standby_reads: tally.standby_reads.load(Relaxed),
        verified: tally.verified.load(Relaxed),
        hits: tally.hits(),
        named_checks: tally.named_checks.load(Relaxed),
        looks: tally.looks.load(Relaxed),
        violations: tally.violations(),
        details: tally.violation_details(),
    }
}
