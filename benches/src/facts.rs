//! What a reader must know to read the numbers: machine, versions, load.
//!
//! Owns the head of the report. The invariant: nothing that changes the numbers goes unsaid. Break
//! it and a number from a busy machine or a debug build stands beside a good one.

use std::fs;
use std::process::Command;

use pg_cache_testbed::Pair;
use serde_json::{Value, json};

use crate::Outcome;

/// Above this, something else runs.
const LOAD_QUIET: f64 = 0.5;

pub struct Facts {
    pub rounds: usize,
    pub date: String,
    pub machine: String,
    pub postgres: String,
    pub redis: String,
    /// What spoils the numbers of this run.
    pub doubts: Vec<String>,
}

pub fn collect(pair: &Pair, rounds: usize) -> Outcome<Facts> {
    let mut sql = pair.postgres.connect();
    // Before, it has no settings, fault points or not.
    sql.batch_execute("LOAD 'pg_cache'")?;
    let row = sql.query_one(
        "SELECT current_setting('server_version'), current_setting('shared_buffers'),
                current_setting('pg_cache.fault_point', true) IS NOT NULL,
                to_char(now(), 'YYYY-MM-DD HH24:MI TZ')",
        &[],
    )?;
    let (version, buffers): (String, String) = (row.get(0), row.get(1));
    let info: String = redis::cmd("INFO").arg("server").query(&mut pair.redis.client())?;
    let redis_version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
    let mut doubts = Vec::new();
    if row.get(2) {
        doubts.push("the extension has fault points: it is no release build".to_owned());
    }
    if cfg!(debug_assertions) {
        doubts.push("the harness is a debug build".to_owned());
    }
    let load = load_average();
    if load > LOAD_QUIET {
        doubts.push(format!("the machine was busy: load average {load}"));
    }
    Ok(Facts {
        rounds,
        date: row.get(3),
        machine: machine(),
        postgres: format!("{version}, shared_buffers {buffers}, autovacuum off"),
        redis: redis_version.unwrap_or("unknown").to_owned(),
        doubts,
    })
}

impl Facts {
    pub fn as_json(&self) -> Value {
        json!({
            "rounds": self.rounds, "date": self.date, "machine": self.machine,
            "postgres": self.postgres, "redis": self.redis, "doubts": self.doubts,
        })
    }
}

/// Of the last minute.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}

fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let is_virtual = cpuinfo.split_whitespace().any(|flag| flag == "hypervisor");
    let kind = if is_virtual { ", virtual" } else { "" };
    let kernel = Command::new("uname").args(["-srm"]).output();
    let kernel = kernel.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let model = model.unwrap_or("unknown processor");
    format!("{model}, {cores} cores{kind}, {}", kernel.unwrap_or_default())
}
