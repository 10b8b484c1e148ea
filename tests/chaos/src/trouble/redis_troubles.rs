//! What happens to Redis: it dies, forgets, remembers, hangs, fills up, is written by others.

use std::time::Duration;

use fastrand::Rng;
use pg_cache_testbed::{Proxy, Redis};

use crate::ledger::ROWS;
use crate::questions::user_key;
use crate::world::{World, lock};

fn rest(world: &World, random: &mut Rng, ms: std::ops::Range<u64>) {
    world.tally.rest(Duration::from_millis(random.u64(ms)));
}

fn names(redis: &Redis, pattern: &str) -> Vec<String> {
    let names = redis.cli(&["--raw", "KEYS", pattern]);
    names.lines().map(str::to_owned).collect()
}

fn some(names: &[String], random: &mut Rng) -> Option<String> {
    (!names.is_empty()).then(|| names[random.usize(..names.len())].clone())
}

pub fn flush_all(world: &World, random: &mut Rng) {
    let how = if random.bool() { "SYNC" } else { "ASYNC" };
    world.redis().cli(&["FLUSHALL", how]);
}

/// Single keys, values and sidecars and leases.
pub fn delete_keys(world: &World, random: &mut Rng) {
    let redis = world.redis();
    for pattern in ["*", "pgc:e:*", "pgc:l:*", "user:*"] {
        if let Some(name) = some(&names(&redis, pattern), random) {
            // The tag table has a trouble of its own.
            if !name.starts_with("pgc:t:") {
                redis.cli(&["DEL", &name]);
            }
        }
    }
}

/// Another program writes where ours do.
pub fn foreign_values(world: &World, random: &mut Rng) {
    let redis = world.redis();
    redis.cli(&["SET", &user_key(random.usize(..ROWS)), "another program's", "PX", "3000"]);
    for pattern in ["pgc:e:*", "pgc:l:*", "items*"] {
        if let Some(name) = some(&names(&redis, pattern), random) {
            let value = ["", "[]", "x"][random.usize(..3)];
            redis.cli(&["SET", &name, value, "PX", "3000"]);
        }
    }
}

pub fn delete_table(world: &World, _: &mut Rng) {
    let redis = world.redis();
    for name in names(&redis, "pgc:t:*") {
        redis.cli(&["DEL", &name]);
    }
}

/// The tag table is of another type for a while.
pub fn break_table(world: &World, random: &mut Rng) {
    let redis = world.redis();
    for name in names(&redis, "pgc:t:*") {
        redis.cli(&["SET", &name, "broken"]);
        rest(world, random, 50..500);
        redis.cli(&["DEL", &name]);
    }
}

/// No memory, and nothing may go.
pub fn full(world: &World, random: &mut Rng) {
    limited(world, random, "noeviction");
}

/// No memory, and what has a ttl goes.
pub fn evicting(world: &World, random: &mut Rng) {
    limited(world, random, "volatile-lru");
}

fn limited(world: &World, random: &mut Rng, policy: &str) {
    let redis = world.redis();
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", policy]);
    let info = redis.cli(&["INFO", "memory"]);
    let used = info.lines().find_map(|line| line.trim().strip_prefix("used_memory:"));
    let used: u64 = used.and_then(|text| text.parse().ok()).unwrap_or(2_000_000);
    redis.cli(&["CONFIG", "SET", "maxmemory", &(used - used / 50).to_string()]);
    rest(world, random, 300..1500);
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
}

/// For `restart_old`.
pub fn remember(world: &World, _: &mut Rng) {
    let snapshot = world.redis().snapshot();
    *lock(&world.earlier) = Some(snapshot);
}

pub fn restart_empty(world: &World, random: &mut Rng) {
    let mut redis = world.redis();
    redis.stop();
    rest(world, random, 0..800);
    redis.start_again();
}

/// It holds what it held some time ago: values, lists and all.
pub fn restart_old(world: &World, random: &mut Rng) {
    let mut redis = world.redis();
    let earlier = lock(&world.earlier).take();
    let earlier = match earlier {
        Some(earlier) => earlier,
        None => {
            let now = redis.snapshot();
            rest(world, random, 300..1500);
            now
        }
    };
    redis.stop();
    rest(world, random, 0..500);
    redis.start_again_from(&earlier);
}

/// SIGSTOP for about as long as the time limits, or much longer.
pub fn freeze(world: &World, random: &mut Rng) {
    let redis = world.redis();
    redis.freeze();
    rest(world, random, 50..1500);
    redis.thaw();
}

/// Backends reach Redis through a relay that cuts replies in the middle and comes late.
pub fn cutting(world: &World, random: &mut Rng) {
    let redis = world.redis();
    let proxy = Proxy::unix(redis.socket());
    proxy.disturb(random.u64(..), random.u32(20..400), random.u32(50..400), 300);
    world.open_door_to(proxy.path());
    // Who is connected directly connects anew.
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    rest(world, random, 1000..3000);
    if random.bool() {
        proxy.stall(true);
        rest(world, random, 100..600);
    }
    world.open_door_to(redis.socket());
}
