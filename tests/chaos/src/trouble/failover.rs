//! Another Redis takes over, while clients stay with the old one, and gives back.
//!
//! Owns the second server for the time of one trouble.

use std::time::Duration;

use fastrand::Rng;
use pg_cache_testbed::{Proxy, Redis, eventually};

use crate::world::World;

const TIMEOUT: Duration = Duration::from_secs(20);

fn port(redis: &Redis) -> u16 {
    redis.port().expect("it was started with a port")
}

fn rest(world: &World, random: &mut Rng, ms: std::ops::Range<u64>) {
    world.tally.rest(Duration::from_millis(random.u64(ms)));
}

/// A replica of `master` with all its data.
fn replica_of(master: &Redis) -> Redis {
    let replica = Redis::start_tcp(&["--repl-diskless-sync-delay", "0"]);
    master.cli(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    replica.follow(port(master));
    replica
}

/// Gives the part of the master from one to the other, in order.
fn hand_over(from: &Redis, to: &Redis) {
    let port = port(to).to_string();
    eventually(TIMEOUT, "the replica takes over", || {
        // Refused until the replica has acknowledged its copy, and while it is under way.
        from.cli(&["FAILOVER", "TO", "127.0.0.1", &port, "FORCE", "TIMEOUT", "3000"]);
        std::thread::sleep(Duration::from_millis(30));
        to.is_master()
    });
}

fn drop_half(redis: &Redis, random: &mut Rng) {
    for client in redis.cli(&["CLIENT", "LIST", "TYPE", "normal"]).lines() {
        let id = client.split(' ').find_map(|word| word.strip_prefix("id="));
        if let Some(id) = id.filter(|_| random.bool()) {
            redis.cli(&["CLIENT", "KILL", "ID", id]);
        }
    }
}

/// FAILOVER, and back again. Clients of the demoted one keep their connections.
pub fn fail_over(world: &World, random: &mut Rng) {
    let first = world.redis();
    let second = replica_of(&first);
    hand_over(&first, &second);
    world.follow(&second);
    rest(world, random, 300..2500);
    eventually(TIMEOUT, "the old master follows", || first.follows());
    hand_over(&second, &first);
    world.follow(&first);
    rest(world, random, 100..500);
}

/// REPLICAOF NO ONE on the replica: two masters, until the old one is told.
pub fn promoted_by_hand(world: &World, random: &mut Rng) {
    let first = world.redis();
    let second = replica_of(&first);
    second.cli(&["REPLICAOF", "NO", "ONE"]);
    world.follow(&second);
    rest(world, random, 500..2500);
    first.follow(port(&second));
    rest(world, random, 100..1500);
    hand_over(&second, &first);
    world.follow(&first);
    rest(world, random, 100..500);
}

/// Nobody hears of the second server before the first one is told to follow it: it keeps its
/// clients, its run_id and its generation, and goes back by a moment.
pub fn rolled_back(world: &World, random: &mut Rng) {
    let first = world.redis();
    let second = replica_of(&first);
    second.cli(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    second.cli(&["REPLICAOF", "NO", "ONE"]);
    rest(world, random, 100..600);
    first.follow(port(&second));
    rest(world, random, 10..300);
    hand_over(&second, &first);
    rest(world, random, 100..500);
}

/// The demoted master has the new one's data, and then hears no more of it: it answers its clients
/// with old lists of the generation that counts.
pub fn lagging_master(world: &World, random: &mut Rng) {
    let first = world.redis();
    let second = replica_of(&first);
    second.cli(&["REPLICAOF", "NO", "ONE"]);
    let relay = Proxy::tcp(port(&second));
    first.follow(relay.port());
    world.follow(&second);
    rest(world, random, 1000..2000);
    // The new master is registered by now. Half of its clients find themselves with the old one.
    world.open_door_to(first.socket());
    drop_half(&second, random);
    rest(world, random, 30..100);
    relay.stall(true);
    world.open_door_to(second.socket());
    rest(world, random, 1000..2500);
    relay.stall(false);
    first.follow(port(&second));
    hand_over(&second, &first);
    world.follow(&first);
    rest(world, random, 100..500);
}
