//! The testbed: private PostgreSQL and Redis servers for tests, the demo and the benchmarks.
//!
//! It owns the whole life of every server it starts. The invariant: nothing that the machine
//! itself runs is ever touched (no TCP port unless asked for, no system cluster, no file outside a
//! temporary directory), and no server outlives the process that started it, however that process
//! ends: `Drop` stops it when a test passes or panics, and the kernel stops it when the process is
//! killed (`PR_SET_PDEATHSIG`, see [`process`]). Break that and one red test poisons the next run.
//!
//! Which PostgreSQL is used is said by the environment: `PG_CACHE_PREFIX` is the `bin` directory of
//! a private prefix that `testbed prefix` made (see [`Cluster`]), `PG_MAJOR` its major version.
//! Everything here panics when it cannot do its work, with the server's own log in the message.

mod cluster;
pub mod fake;
pub mod postgres_server;
pub mod process;
pub mod proxy;
pub mod redis_server;
pub mod regress;
mod standby;
mod tampered;

use std::time::{Duration, Instant};

pub use cluster::Cluster;
pub use postgres_server::Postgres;
pub use proxy::Proxy;
pub use redis_server::Redis;

/// A PostgreSQL and the Redis its backends use: `pg_cache.url` stands in `postgresql.conf`.
pub struct Pair {
    // Declared first, dropped first: backends must not see their Redis vanish while they still run.
    pub postgres: Postgres,
    pub redis: Redis,
}

impl Pair {
    /// Both servers with their defaults.
    pub fn start() -> Pair {
        Pair::start_with(&[], &[])
    }

    /// Both servers, `conf` added to `postgresql.conf` (after `pg_cache.url`, so it may override
    /// it) and `redis_args` to the command line of redis-server. The database `test` is registered.
    pub fn start_with(conf: &[(&str, &str)], redis_args: &[&str]) -> Pair {
        let redis = Redis::start_with(redis_args);
        let url = redis.url();
        let mut all = vec![("pg_cache.url", url.as_str())];
        all.extend_from_slice(conf);
        let postgres = Postgres::start_with(&all);
        postgres.register("test");
        Pair { postgres, redis }
    }
}

/// Polls `done` every 5 ms until it is true; panics naming `what` when `timeout` has passed.
#[track_caller]
pub fn eventually(timeout: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        if start.elapsed() >= timeout {
            panic!("not within {timeout:?}: {what}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
