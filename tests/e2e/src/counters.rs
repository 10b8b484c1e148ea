//! The counters of both sides: what pg_cache says it did, and what Redis says it was asked.
//!
//! Owns no state. The invariant: reading them changes none of them. Break it and a test that says
//! "no command was sent" proves nothing.

use std::collections::BTreeMap;

use pg_cache_testbed::Redis;
use postgres::Client;

use crate::Scene;

/// The sums over `redis_stat_cached`, for one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub hits: i64,
    pub misses: i64,
    pub fills: i64,
    pub bytes_read: i64,
    pub bytes_filled: i64,
    pub reasons: BTreeMap<String, i64>,
}

impl Counters {
    /// What this backend counted since it began.
    pub fn of(client: &mut Client) -> Counters {
        let sums = client
            .query_one(
                "SELECT coalesce(sum(hits), 0)::bigint, coalesce(sum(misses), 0)::bigint,
                        coalesce(sum(fills), 0)::bigint, coalesce(sum(bytes_read), 0)::bigint,
                        coalesce(sum(bytes_filled), 0)::bigint FROM redis_stat_cached",
                &[],
            )
            .unwrap();
        let reasons = client
            .query(
                "SELECT r.key, sum(r.value::bigint)::bigint
                 FROM redis_stat_cached, jsonb_each_text(reasons) AS r GROUP BY 1",
                &[],
            )
            .unwrap();
        Counters {
            hits: sums.get(0),
            misses: sums.get(1),
            fills: sums.get(2),
            bytes_read: sums.get(3),
            bytes_filled: sums.get(4),
            reasons: reasons
                .iter()
                .map(|row| (row.get(0), row.get(1)))
                .filter(|(_, count): &(String, i64)| *count != 0)
                .collect(),
        }
    }

    /// What was counted after `earlier`.
    pub fn since(&self, earlier: &Counters) -> Counters {
        let mut reasons = BTreeMap::new();
        for (reason, count) in &self.reasons {
            let grown = count - earlier.reason(reason);
            if grown != 0 {
                reasons.insert(reason.clone(), grown);
            }
        }
        Counters {
            hits: self.hits - earlier.hits,
            misses: self.misses - earlier.misses,
            fills: self.fills - earlier.fills,
            bytes_read: self.bytes_read - earlier.bytes_read,
            bytes_filled: self.bytes_filled - earlier.bytes_filled,
            reasons,
        }
    }

    /// How often `reason` was counted.
    pub fn reason(&self, reason: &str) -> i64 {
        self.reasons.get(reason).copied().unwrap_or(0)
    }
}

/// What `work` made this backend count.
pub fn counted<T>(client: &mut Client, work: impl FnOnce(&mut Client) -> T) -> (T, Counters) {
    let before = Counters::of(client);
    let result = work(client);
    let after = Counters::of(client);
    (result, after.since(&before))
}

/// How many commands each Redis command name was called since `forget_commands`, without those
/// that looking itself makes.
pub fn commands(redis: &Redis) -> BTreeMap<String, u64> {
    let mut calls = commands_and_proofs(redis);
    calls.remove("info");
    calls
}

/// The same with INFO, by which a connection is proved. It counts those looks too that were made
/// before this one.
pub fn commands_and_proofs(redis: &Redis) -> BTreeMap<String, u64> {
    let mut calls = BTreeMap::new();
    for line in redis.cli(&["INFO", "commandstats"]).lines() {
        let Some((name, rest)) = line.trim().split_once(':') else { continue };
        let Some(name) = name.strip_prefix("cmdstat_") else { continue };
        let count = rest.split(',').find_map(|field| field.strip_prefix("calls="));
        let count: u64 = count.unwrap_or("0").parse().unwrap();
        let own = ["config", "command", "auth", "hello"];
        if count > 0 && !own.iter().any(|prefix| name.starts_with(prefix)) {
            calls.insert(name.to_owned(), count);
        }
    }
    calls
}

/// How often a command was refused before it ran.
pub fn refusals(redis: &Redis, command: &str) -> u64 {
    let told = redis.cli(&["INFO", "commandstats"]);
    let head = format!("cmdstat_{command}:");
    let line = told.lines().find(|line| line.starts_with(&head)).unwrap_or_default();
    let count = line.split(',').find_map(|field| field.strip_prefix("rejected_calls="));
    count.map_or(0, |count| count.trim().parse().unwrap())
}

/// Begins the counting of `commands` anew, once nobody of ours asks of his own accord.
pub fn forget_commands(scene: &Scene) {
    scene.quiet();
    scene.redis.cli(&["CONFIG", "RESETSTAT"]);
}

/// The names of all keys that match, sorted; without what a registered database always has there.
pub fn keys(redis: &Redis, pattern: &str) -> Vec<String> {
    let mut client = redis.client();
    let mut names: Vec<String> = redis::cmd("KEYS").arg(pattern).query(&mut client).unwrap();
    let own = ["pgc:t:", "pgc:g:", "pgc:f:"];
    names.retain(|name| !own.iter().any(|own| name.starts_with(own)));
    names.sort();
    names
}

/// The bytes under `key`.
pub fn value(redis: &Redis, key: &str) -> Option<Vec<u8>> {
    redis::cmd("GET").arg(key).query(&mut redis.client()).unwrap()
}
