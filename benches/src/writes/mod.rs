//! What keeping the cache exact costs the writers.
//!
//! Owns a server of its own that writes as a real one does (fsync on), with one database for each
//! way to keep what is cached right. The invariant: the ways take turns in each round, and Redis
//! counted exactly the bumps and deletions that the committed transactions owe. Break it and a
//! trigger that did nothing looks cheap.

mod bulk;
mod events;
mod pgbench;
mod relay;
mod report;
mod single;

use std::fs;
use std::time::Duration;

use pg_cache_testbed::{Pair, Postgres, eventually};
use serde_json::{Value, json};

use crate::Outcome;
use crate::affinity;
use crate::samples::quantile;

/// Branches of pgbench; 100,000 accounts each.
const SCALE: u32 = 10;

/// One way to keep what is cached right, in a database of its own.
#[derive(Clone, Copy)]
pub struct Way {
    pub id: &'static str,
    pub title: &'static str,
    /// For a table whose key is `aid`.
    setup: fn(table: &str) -> String,
    /// Whether the tag table is in shared memory.
    in_memory: bool,
    /// What each committed transaction asks of Redis.
    bumps: u64,
    deletes: u64,
}

pub const PLAIN: Way = Way {
    id: "plain",
    title: "without",
    setup: |_| String::new(),
    in_memory: false,
    bumps: 0,
    deletes: 0,
};

pub const TRACKED: Way = Way {
    id: "tracked",
    title: "redis_track(t)",
    setup: |table| format!("SELECT redis_track('{table}')"),
    bumps: 1,
    ..PLAIN
};

pub const GROUPED: Way = Way {
    id: "grouped",
    title: "redis_track(t, '{aid}')",
    setup: |table| format!("SELECT redis_track('{table}', '{{aid}}')"),
    bumps: 1,
    ..PLAIN
};

pub const INVALIDATED: Way = Way {
    id: "invalidated",
    title: "redis_invalidate('account:{aid}')",
    setup: |table| {
        format!(
            "CREATE TRIGGER keys AFTER INSERT OR UPDATE OR DELETE ON {table}
             FOR EACH ROW EXECUTE FUNCTION redis_invalidate('account:{{aid}}')"
        )
    },
    bumps: 1,
    deletes: 1,
    ..PLAIN
};

/// The same with the tag table in the server's memory: Redis is told of keys alone.
pub const TRACKED_IN_MEMORY: Way = Way {
    id: "tracked_in_memory",
    title: "redis_track(t), in memory",
    in_memory: true,
    bumps: 0,
    ..TRACKED
};

pub const GROUPED_IN_MEMORY: Way = Way {
    id: "grouped_in_memory",
    title: "redis_track(t, '{aid}'), in memory",
    in_memory: true,
    bumps: 0,
    ..GROUPED
};

pub const INVALIDATED_IN_MEMORY: Way = Way {
    id: "invalidated_in_memory",
    title: "redis_invalidate('account:{aid}'), in memory",
    in_memory: true,
    bumps: 0,
    ..INVALIDATED
};

pub const WAYS: [Way; 7] = [
    PLAIN,
    TRACKED,
    GROUPED,
    INVALIDATED,
    TRACKED_IN_MEMORY,
    GROUPED_IN_MEMORY,
    INVALIDATED_IN_MEMORY,
];

/// One thing done in all the ways that it is measured in, the plain one first.
pub struct Row {
    pub what: String,
    pub results: Vec<Result>,
}

pub struct Result {
    pub way: &'static str,
    pub id: &'static str,
    /// Transactions in a second, or seconds, by round.
    pub rounds: Vec<f64>,
    /// Against the plain way, in the same round.
    pub ratios: Vec<f64>,
    pub goal: Option<Goal>,
    /// What the backend's memory grew by, in kB, at most.
    pub grown_kb: Option<u64>,
}

/// The order of a round: another way begins each time, so that a drift spares none.
pub fn turns(ways: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..ways).map(move |place| (place + round) % ways)
}

#[derive(Clone, Copy)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// Ratios to the first way, the plain one, of the round that all of them were measured in last.
pub fn compare(results: &mut [Result]) {
    let plain = results.first().and_then(|result| result.rounds.last()).copied();
    for result in results {
        let last = result.rounds.last().copied();
        result.ratios.push(last.unwrap_or(f64::NAN) / plain.unwrap_or(f64::NAN));
    }
}

impl Result {
    pub fn new(way: &Way, goal: Option<Goal>) -> Result {
        let (rounds, ratios) = (Vec::new(), Vec::new());
        Result { way: way.title, id: way.id, rounds, ratios, goal, grown_kb: None }
    }

    pub fn median(&self) -> f64 {
        quantile(self.rounds.iter().copied(), 0.5)
    }

    pub fn ratio(&self, part: f64) -> f64 {
        quantile(self.ratios.iter().copied(), part)
    }
}

pub fn run(rounds: usize) -> Outcome<Value> {
    let settings = [
        ("autovacuum", "off"),
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("checkpoint_timeout", "1h"),
        ("max_wal_size", "20GB"),
        ("pg_cache.commit_timeout_ms", "10000"),
        ("shared_preload_libraries", "pg_cache"),
    ];
    let pair = Pair::start_with(&settings, &[]);
    for way in &WAYS {
        prepare(&pair.postgres, way)?;
    }
    report::print_head(rounds);
    let mut rows = vec![bulk::measure(&pair, rounds)?];
    report::print(&rows[0]);
    let layouts = affinity::layouts()?;
    for case in pgbench::all(&layouts) {
        let row = pgbench::measure(&pair, &layouts, &case, rounds)?;
        report::print(&row);
        rows.push(row);
    }
    events::prepare(&pair)?;
    let row = events::measure(&pair, rounds)?;
    report::print(&row);
    rows.push(row);
    let (row, trips) = single::measure(&pair, rounds)?;
    report::print(&row);
    single::print(&trips);
    rows.push(row);
    let relayed = relay::measure(&pair, rounds)?;
    nothing_is_owed(&pair.postgres)?;
    Ok(json!({
        "rows": report::as_json(&rows), "trips": single::as_json(&trips), "relay": relayed,
    }))
}

fn prepare(postgres: &Postgres, way: &Way) -> Outcome<()> {
    let mut admin = postgres.connect_as("postgres", "postgres");
    admin.batch_execute(&format!("CREATE DATABASE {}", way.id))?;
    let home = if way.in_memory { "memory" } else { "redis" };
    admin.batch_execute(&format!("ALTER DATABASE {} SET pg_cache.tag_table = '{home}'", way.id))?;
    postgres.create_extension(way.id);
    postgres.register(way.id);
    pgbench::initialise(postgres, way.id, SCALE)?;
    let mut sql = postgres.connect_as("postgres", way.id);
    bulk::create(&mut sql)?;
    for table in ["pgbench_accounts", "bulk"] {
        sql.batch_execute(&(way.setup)(table))?;
    }
    sql.batch_execute("VACUUM ANALYZE")?;
    sql.batch_execute("CHECKPOINT")?;
    // The first change of a page behind a checkpoint puts all of it into the log. Done now for each
    // of them: or the ways that are fast, or measured more often, have it behind them first.
    sql.batch_execute("UPDATE pgbench_accounts SET abalance = 0 WHERE aid % 30 = 0")?;
    Ok(())
}

/// What Redis was asked by committing transactions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    bumps: u64,
    deletes: u64,
}

impl Asked {
    pub fn so_far(pair: &Pair) -> Outcome<Asked> {
        let text: String =
            redis::cmd("INFO").arg("commandstats").query(&mut pair.redis.client())?;
        let calls = |name: &str| {
            let head = format!("cmdstat_{name}:calls=");
            let rest = text.lines().find_map(|line| line.strip_prefix(&head));
            rest.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
        };
        Ok(Asked { bumps: calls("evalsha"), deletes: calls("del") })
    }

    /// Fails unless it is what so many transactions of this way ask.
    pub fn prove(before: Asked, pair: &Pair, way: &Way, transactions: u64) -> Outcome<()> {
        let now = Asked::so_far(pair)?;
        let (bumps, deletes) = (now.bumps - before.bumps, now.deletes - before.deletes);
        // The script is loaded by the first who misses it, and then asked for again.
        let slack = if way.bumps > 0 { 64 } else { 0 };
        let expected = (way.bumps * transactions, way.deletes * transactions);
        if bumps.abs_diff(expected.0) > slack || deletes != expected.1 {
            let asked = format!("{bumps} bumps and {deletes} deletions");
            return Err(format!("{}: {asked} of {transactions} transactions", way.title).into());
        }
        Ok(())
    }
}

fn nothing_is_owed(postgres: &Postgres) -> Outcome<()> {
    for way in &WAYS {
        let mut sql = postgres.connect_as("postgres", way.id);
        let owed: i64 = sql.query_one("SELECT count(*) FROM redis_debt", &[])?.get(0);
        if owed > 0 {
            return Err(format!("{}: {owed} debts: Redis was not told in time", way.id).into());
        }
    }
    Ok(())
}

/// Processor time of a process so far, in microseconds, as its scheduler counts it: ticks miss what
/// sleeps between them.
pub fn process_us(process: u32) -> Outcome<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/schedstat"))?;
    let ns: f64 = text.split(' ').next().ok_or("no time")?.parse()?;
    Ok(ns / 1000.0)
}

/// Waits until the backends of all connections have ended.
pub fn await_ends(pair: &Pair) {
    let is_there = |process: &u32| {
        let read = |name: &str| fs::read(format!("/proc/{process}/{name}")).unwrap_or_default();
        // One that has ended has no command line any more, until the postmaster looks.
        let (title, stat) = (read("cmdline"), read("stat"));
        let ended = String::from_utf8_lossy(&stat).contains(") Z ");
        ended || String::from_utf8_lossy(&title).contains("[local]")
    };
    eventually(Duration::from_secs(30), "its backends have ended", || {
        !pair.postgres.children().iter().any(is_there)
    });
}
