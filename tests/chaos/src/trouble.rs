//! Troubles: what happens to the servers while readers and writers work.
//!
//! Owns the list and the order, which follows from the seed. The invariant: one trouble at a time,
//! and it leaves the servers usable. Break it and a run ends in errors that prove nothing.

mod failover;
mod late_writer;
mod postgres_troubles;
mod redis_troubles;

use std::time::Duration;

use fastrand::Rng;

use crate::plain;
use crate::world::World;

pub use postgres_troubles::promote_standby;

pub struct Trouble {
    pub name: &'static str,
    weight: u32,
    /// S2 has its limit while it lasts, and until all is settled again.
    storm: bool,
    run: fn(&World, &mut Rng),
    /// Only in a run without a guard: it needs the fault points.
    needs_faults: bool,
}

const fn calm(name: &'static str, weight: u32, run: fn(&World, &mut Rng)) -> Trouble {
    Trouble { name, weight, storm: false, run, needs_faults: false }
}

const fn storm(name: &'static str, weight: u32, run: fn(&World, &mut Rng)) -> Trouble {
    Trouble { name, weight, storm: true, run, needs_faults: false }
}

const fn with_faults(name: &'static str, run: fn(&World, &mut Rng)) -> Trouble {
    Trouble { name, weight: 3, storm: true, run, needs_faults: true }
}

pub const TROUBLES: &[Trouble] = &[
    calm("kill_backend", 3, postgres_troubles::kill_backend),
    calm("kill_standby", 1, postgres_troubles::kill_standby),
    calm("crash", 2, postgres_troubles::crash),
    calm("restart", 1, postgres_troubles::restart),
    calm("terminate", 3, postgres_troubles::terminate),
    calm("cancel", 3, postgres_troubles::cancel),
    calm("flushall", 3, redis_troubles::flush_all),
    calm("delete_keys", 5, redis_troubles::delete_keys),
    calm("foreign_values", 5, redis_troubles::foreign_values),
    calm("delete_table", 2, redis_troubles::delete_table),
    calm("full", 2, redis_troubles::full),
    calm("evicting", 2, redis_troubles::evicting),
    calm("remember", 3, redis_troubles::remember),
    // No BUMP can be done: as if it could not be reached.
    storm("break_table", 1, redis_troubles::break_table),
    // Whoever remembers the dead server owes for a while, also when the new one is up.
    storm("restart_empty", 3, redis_troubles::restart_empty),
    storm("restart_old", 3, redis_troubles::restart_old),
    storm("freeze", 3, redis_troubles::freeze),
    storm("cutting", 4, redis_troubles::cutting),
    storm("fail_over", 2, failover::fail_over),
    storm("promoted_by_hand", 2, failover::promoted_by_hand),
    storm("rolled_back", 2, failover::rolled_back),
    storm("lagging_master", 2, failover::lagging_master),
    with_faults("between_tables", late_writer::between_tables),
    with_faults("before_an_old_table", late_writer::before_an_old_table),
];

/// Makes trouble until the run is over.
pub fn make(world: &World, mut random: Rng, until: Duration) {
    let chosen: Vec<&Trouble> = TROUBLES.iter().filter(|trouble| wanted(world, trouble)).collect();
    let sum: u32 = chosen.iter().map(|trouble| trouble.weight).sum();
    while sum > 0 && !world.tally.is_over() && world.tally.elapsed() < until {
        let most_ms = if world.setup.without.is_some() { 600 } else { 2000 };
        world.tally.rest(Duration::from_millis(random.u64(100..most_ms)));
        let mut left = random.u32(..sum);
        for trouble in &chosen {
            if left < trouble.weight {
                happen(world, &mut random, trouble);
                break;
            }
            left -= trouble.weight;
        }
    }
}

fn wanted(world: &World, trouble: &Trouble) -> bool {
    match &world.setup.only {
        Some(names) => names.iter().any(|name| name == trouble.name),
        None => !trouble.needs_faults,
    }
}

fn happen(world: &World, random: &mut Rng, trouble: &Trouble) {
    if world.tally.is_over() {
        return;
    }
    if std::env::var_os("CHAOS_VERBOSE").is_some() {
        eprintln!("{:8.3} s {}", world.tally.elapsed().as_secs_f64(), trouble.name);
    }
    world.tally.action(trouble.name);
    if trouble.storm {
        world.weather.storm();
    }
    (trouble.run)(world, random);
    if trouble.storm && world.setup.tracked {
        plain::settle(world);
    } else {
        world.weather.calm_down();
    }
}
