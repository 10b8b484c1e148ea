//! What happens to PostgreSQL: processes that die, sessions that are ended, a standby promoted.

use std::time::Duration;

use fastrand::Rng;
use pg_cache_testbed::eventually;

use crate::world::{Side, World};

const UP_TIMEOUT: Duration = Duration::from_secs(60);

fn is_up(world: &World, side: Side) {
    eventually(UP_TIMEOUT, "PostgreSQL answers again", || {
        let client = world.connect(side);
        client.is_some_and(|mut client| client.batch_execute("SELECT 1").is_ok())
    });
}

fn kill_one(pids: &[u32], random: &mut Rng) {
    if pids.is_empty() {
        return;
    }
    let pid = pids[random.usize(..pids.len())];
    // SAFETY: kill() takes no pointers; a child of our postmaster, listed just now.
    let _ = unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
}

/// Any process of the server; the postmaster ends the others and recovers.
pub fn kill_backend(world: &World, random: &mut Rng) {
    let mut server = world.primary();
    kill_one(&server.children(), random);
    std::thread::sleep(Duration::from_millis(50));
    server.revive();
    is_up(world, Side::Primary);
}

pub fn kill_standby(world: &World, random: &mut Rng) {
    let mut standby = world.standby();
    let Some(server) = standby.as_mut() else { return };
    kill_one(&server.children(), random);
    // It may end by itself, which takes a moment.
    eventually(UP_TIMEOUT, "the standby answers again", || {
        std::thread::sleep(Duration::from_millis(50));
        server.revive();
        let client = world.connect(Side::Standby);
        client.is_some_and(|mut client| client.batch_execute("SELECT 1").is_ok())
    });
}

/// Postmaster and all: as if the machine had stopped, but for the disk.
pub fn crash(world: &World, _: &mut Rng) {
    let mut primary = world.primary();
    primary.crash();
    primary.start_again();
    is_up(world, Side::Primary);
}

pub fn restart(world: &World, _: &mut Rng) {
    world.primary().restart();
    is_up(world, Side::Primary);
}

pub fn terminate(world: &World, random: &mut Rng) {
    signal(world, random, "pg_terminate_backend");
}

pub fn cancel(world: &World, random: &mut Rng) {
    signal(world, random, "pg_cancel_backend");
}

fn signal(world: &World, random: &mut Rng, function: &str) {
    for _ in 0..random.u32(1..6) {
        let Some(mut client) = world.connect(Side::Primary) else { return };
        let _ = client.batch_execute(&format!(
            "SELECT {function}(pid) FROM pg_stat_activity \
              WHERE datname = current_database() AND pid <> pg_backend_pid() \
              ORDER BY random() LIMIT 2"
        ));
        world.tally.rest(Duration::from_millis(random.u64(..200)));
    }
}

/// The primary is gone for good; its standby takes over, on the same Redis.
pub fn promote_standby(world: &World) {
    let standby = world.standby();
    let Some(server) = standby.as_ref() else { return };
    world.weather.storm();
    world.weather.lose_history();
    world.primary().stop_now();
    server.promote();
    world.move_to_promoted();
    is_up(world, Side::Primary);
}
